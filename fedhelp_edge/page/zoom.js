// Zoom by wheel, and move by dragging, all images of a stage alike. `factor` zooms about the middle, or about a point.
function zoomable(stage, images) {
  let scale = 1, x = 0, y = 0, last
  const box = () => stage.firstElementChild.getBoundingClientRect()
  function draw() {
    const { width, height } = box()
    x = Math.min(0, Math.max(x, width * (1 - scale)))
    y = Math.min(0, Math.max(y, height * (1 - scale)))
    for (const image of images) image.style.transform = `translate(${x}px, ${y}px) scale(${scale})`
    stage.classList.toggle("near", scale > 1)
    stage.dispatchEvent(new Event("zoomed"))
  }
  function move(across, down) {
    x += across
    y += down
    draw()
  }
  function by(factor, at) {
    const { width, height } = box(), [left, top] = at ?? [width / 2, height / 2], before = scale
    scale = Math.min(16, Math.max(1, scale * factor))
    x = left - (left - x) * scale / before
    y = top - (top - y) * scale / before
    draw()
  }
  function reset() { scale = 1; draw() }
  stage.addEventListener("wheel", event => {
    const { left, top } = (event.target.closest(".pane") ?? stage).getBoundingClientRect()
    event.preventDefault()
    by(Math.exp(-event.deltaY / 400), [event.clientX - left, event.clientY - top])
  }, { passive: false })
  stage.addEventListener("pointerdown", event => {
    last = event
    stage.setPointerCapture(event.pointerId)
    event.preventDefault()
  })
  stage.addEventListener("pointermove", event => {
    if (!event.buttons || !last) return
    const across = event.clientX - last.clientX, down = event.clientY - last.clientY
    last = event
    if (event.buttons === 2 || event.shiftKey) {
      stage.dispatchEvent(new CustomEvent("adjust", { detail: [across, down] }))
    } else move(across, down)
  })
  stage.addEventListener("contextmenu", event => event.preventDefault())
  addEventListener("resize", draw)
  return { by, move, reset, draw }
}
