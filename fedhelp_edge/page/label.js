// Labelling without a reload. A key is never dropped: it waits until its picture is on the screen, and its choice waits until the
// program has saved it. Without this script each button is a form.
addEventListener("DOMContentLoaded", () => {
  const root = document.querySelector(".stage[data-index]")
  if (!root) return
  const AHEAD = 12, find = selector => document.querySelector(selector)
  const waiting = [], unsaved = [], past = [], pictures = new Map(), broken = new Set()
  const image = root.querySelector("img"), zoom = zoomable(root, [image])
  let index = Number(root.dataset.index), shown = false, saving = false, state

  addEventListener("keydown", event => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.repeat) return
    if (event.key === "+" || event.key === "=") zoom.by(1.5)
    else if (event.key === "-") zoom.by(1 / 1.5)
    else if (document.querySelector(`[data-key="${CSS.escape(event.key)}"]`)) press(event.key)
    else return
    event.preventDefault()
  })
  addEventListener("click", event => {
    const button = event.target.closest("button[data-key]")
    if (!button) return
    event.preventDefault()
    press(button.dataset.key)
  })
  addEventListener("beforeunload", event => { if (unsaved.length) event.preventDefault() })

  function press(key) {
    waiting.push(key)
    drain()
  }
  function drain() {
    while (state && shown && waiting.length) act(waiting.shift())
  }
  function act(key) {
    const button = find(`[data-key="${CSS.escape(key)}"]`)
    if (key === "ArrowLeft") go(Math.max(0, index - 1))
    else if (key === "ArrowRight") go(Math.min(state.labels.length - 1, index + 1))
    else if (key === "Backspace") {
      if (!past.length) return
      const [at, label] = past.pop()
      set(at, label)
      go(at)
    } else if (broken.has(index)) return
    else if (button.value !== state.labels[index]) {
      past.push([index, state.labels[index]])
      set(index, button.value)
      button.value === "" ? go(index) : onward()
    } else onward()
  }
  function onward() {
    const next = open(index)
    next === undefined ? finish() : go(next)
  }
  function open(after) {  // the next picture without a class that is not put aside
    const count = state.labels.length
    for (let step = 1; step <= count; step++) {
      const at = (after + step) % count
      if (state.labels[at] === "" && !broken.has(at)) return at
    }
  }
  function set(at, label) {
    state.labels[at] = label
    unsaved.push([at, label])
    save()
  }
  async function save() {
    if (saving) return
    saving = true
    while (unsaved.length) {
      const part = unsaved.slice(0, 40)
      const body = new URLSearchParams(part.map(([at, label]) => ["set", `${at + 1}:${label}`]))
      const response = await fetch("save", { method: "POST", body }).catch(() => null)
      if (response?.ok) unsaved.splice(0, part.length)
      else await new Promise(done => setTimeout(done, 1000))
      find("[role=status]").textContent = response?.ok ? "" : state.texts.unsaved
    }
    saving = false
  }
  async function finish() {
    shown = false
    while (unsaved.length) await new Promise(done => setTimeout(done, 50))
    location.href = "end"
  }
  function picture(at) {
    if (!pictures.has(at)) {
      if (pictures.size > 4 * AHEAD) pictures.delete(pictures.keys().next().value)
      pictures.set(at, fetch(`picture/${at + 1}`).then(response => response.json()).then(answer => {
        if (answer.error) broken.add(at)
        return answer
      }))
    }
    return pictures.get(at)
  }
  async function go(at) {
    index = at
    shown = false
    zoom.reset()
    root.classList.add("waiting")
    write()
    const { src, width, height, error } = await picture(at).catch(() => { pictures.delete(at); return {} })
    if (index !== at) return
    root.hidden = find(".classes").hidden = !src
    find(".problem").textContent = error ?? ""
    if (src) {
      Object.assign(image, { src, width, height })
      image.style.aspectRatio = `${width}/${height}`
      root.style.setProperty("--aspect", width / height)
      await image.decode().catch(() => {})
      if (index !== at) return
    }
    root.classList.remove("waiting")
    shown = true
    let ahead = at
    for (let count = 0; count < AHEAD; count++) {
      ahead = open(ahead)
      if (ahead === undefined) break
      picture(ahead)
    }
    drain()
  }
  function write() {
    const { texts, labels, names, classes } = state, label = labels[index], total = labels.length
    const fill = (text, values) => text.replace(/{(\w+)}/g, (all, name) => values[name])
    const values = { number: index + 1, total, file: names[index], name: classes[label] }
    values.done = labels.filter(each => each !== "" && each !== "unsure").length
    find("h1").textContent = document.title = fill(texts.title, values)
    find(".done").textContent = fill(texts.progress, values)
    const caption = fill(label === "" ? texts.open : label === "unsure" ? texts.put_aside : texts.called, values)
    find(".caption").textContent = image.alt = caption
    for (const button of document.querySelectorAll("button[name=class]")) {
      if (button.value === "") button.hidden = label === ""
      else button.setAttribute("aria-pressed", button.value === label)
    }
    find("[data-key=ArrowLeft]").disabled = index === 0
    find("[data-key=ArrowRight]").disabled = index === total - 1
    find("[data-key=Backspace]").disabled = !past.length
    history.replaceState(null, "", `${index + 1}`)
  }

  fetch("state").then(response => response.json()).then(answer => {
    state = answer
    for (const button of document.querySelectorAll("button[data-key]")) button.hidden = button.disabled = false
    go(index)
  })
})
