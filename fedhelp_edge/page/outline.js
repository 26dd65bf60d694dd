// Outlining. `labels` has a byte for each pixel of the slice on the screen: its class, 0 for the background. A picture has one slice.
// A change replaces a box of it, and is a step that undo takes back. Each step is sent to the program, which saves it.
addEventListener("DOMContentLoaded", () => {
  const find = selector => document.querySelector(selector)
  const stage = find(".stage")
  if (!stage) return
  const STEPS = 200, NEAR = 9, PRESETS = [[1, 1], [1, 2], [2.5, 1], [0.6, 2.5]]  // of undo; pixels; brightness, contrast
  const [image, canvas] = stage.querySelectorAll("img, canvas"), marks = stage.querySelector("svg")
  const zoom = zoomable(stage, [image, canvas]), context = canvas.getContext("2d"), reach = find("[name=size]"), chosen = find("[name=slice]")
  const pictures = new Map(), unsaved = new Map()
  let failing = new Set()  // images of which a change was not saved
  let state, index = Number(stage.dataset.index), slice = 0, slices = 1, shown = false, saving = false, proposing = false
  let width, height, labels, past, future  // of the slice on the screen
  let steps = new Map(), target = 0, loads = 0, loading = false, rolled = 0, windows = false, windowed = 0  // of a volume
  let tool = "polygon", painted = 1, line = [], stroke = null, cursor, byKeys = false, preset = 0, light = PRESETS[0]

  // --- the mask
  const whole = () => [0, 0, width, height]  // left, top, right, bottom
  function cut([left, top, right, bottom]) {
    const part = new Uint8Array((right - left) * (bottom - top))
    for (let y = top; y < bottom; y++) part.set(labels.subarray(y * width + left, y * width + right), (y - top) * (right - left))
    return part
  }
  function put(box, part) {
    const [left, top, right, bottom] = box
    for (let y = top; y < bottom; y++) {
      labels.set(part.subarray((y - top) * (right - left), (y - top + 1) * (right - left)), y * width + left)
    }
    repaint(box)
  }
  function clamp([left, top, right, bottom]) {
    return [Math.max(0, left), Math.max(0, top), Math.min(width, right), Math.min(height, bottom)]
  }
  function around(points, margin) {  // the box of pixels that these points touch
    const xs = points.map(([x]) => x), ys = points.map(([, y]) => y), { min, max } = Math
    const low = [min(...xs), min(...ys)].map(at => Math.floor(at - margin))
    const high = [max(...xs), max(...ys)].map(at => Math.ceil(at + margin) + 1)
    return clamp([...low, ...high])
  }
  function repaint(box) {
    const [left, top, right, bottom] = clamp([box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1])
    if (right <= left || bottom <= top) return
    const pixels = context.createImageData(right - left, bottom - top)
    for (let y = top, to = 0; y < bottom; y++) for (let x = left; x < right; x++, to += 4) {
      const at = y * width + x, label = labels[at]
      if (!label) continue
      const isEdge = x > 0 && labels[at - 1] !== label || x < width - 1 && labels[at + 1] !== label ||
        y > 0 && labels[at - width] !== label || y < height - 1 && labels[at + width] !== label
      pixels.data.set(state.colours[label], to)
      pixels.data[to + 3] = isEdge ? 255 : 80
    }
    context.putImageData(pixels, left, top)
  }
  function step(box, change) {  // a change that undo takes back
    if (stroke) lift()
    const before = cut(box)
    change()
    const after = cut(box)
    if (before.every((label, at) => label === after[at])) return
    remember(box, before, after)
  }
  function remember(box, before, after) {
    past.push({ box, before, after })
    if (past.length > STEPS) past.shift()
    future = []
    repaint(box)
    save("draft")
  }
  function undo(from, to, side) {
    if (stroke) lift()
    const change = from.pop()
    if (!change) return
    to.push(change)
    put(change.box, change[side])
    save("draft")
  }
  function fill(points) {  // pixels whose middle is inside, by the rule of even and odd
    const box = around(points, 0)
    step(box, () => {
      for (let y = box[1]; y < box[3]; y++) {
        const crossings = []
        points.forEach(([x, from], at) => {
          const [next, to] = points[(at + 1) % points.length], middle = y + 0.5
          if (from <= middle !== to <= middle) crossings.push(x + (middle - from) * (next - x) / (to - from))
        })
        crossings.sort((one, other) => one - other)
        for (let pair = 0; pair + 1 < crossings.length; pair += 2) {
          const [first, last] = [crossings[pair], crossings[pair + 1]].map(x => Math.min(width, Math.max(0, Math.ceil(x - 0.5))))
          labels.fill(painted, y * width + first, y * width + last)
        }
      }
    })
  }
  function paint(from, to) {  // a disc along a line
    const radius = reach.value / 2, label = tool === "eraser" ? 0 : painted, box = around([from, to], radius)
    const [dx, dy] = [to[0] - from[0], to[1] - from[1]], length = dx * dx + dy * dy
    for (let y = box[1]; y < box[3]; y++) for (let x = box[0]; x < box[2]; x++) {
      const across = x + 0.5 - from[0], down = y + 0.5 - from[1]
      const part = length ? Math.min(1, Math.max(0, (across * dx + down * dy) / length)) : 0
      if ((across - part * dx) ** 2 + (down - part * dy) ** 2 <= radius * radius) labels[y * width + x] = label
    }
    const [x, y] = to.map(Math.floor)
    if (x >= 0 && x < width && y >= 0 && y < height) labels[y * width + x] = label
    stroke.box = stroke.box.map((edge, at) => at < 2 ? Math.min(edge, box[at]) : Math.max(edge, box[at]))
    repaint(box)
  }
  function lower(at) {
    stroke = { before: labels.slice(), box: [width, height, 0, 0], last: at }
    paint(at, at)
  }
  function drag(at) {
    paint(stroke.last, at)
    stroke.last = at
  }
  function lift() {
    const { before, box } = stroke, after = cut(box), now = labels
    stroke = null
    labels = before
    const old = cut(box)
    labels = now
    if (old.some((label, at) => label !== after[at])) remember(box, old, after)
    write()
  }
  function close() {
    if (line.length > 2) fill(line)
    drop()
  }
  function drop() {
    line = []
    write()
  }

  // --- what lies over the picture, in pixels of the screen
  function box() { return canvas.getBoundingClientRect() }
  function scales() { return [box().width / width, box().height / height] }  // pixels of a volume need not be square
  function place(event) {
    const { left, top } = box(), [across, down] = scales()
    return [(event.clientX - left) / across, (event.clientY - top) / down]
  }
  function mark() {
    if (!labels) return
    const inside = box(), outside = stage.getBoundingClientRect(), [across, down] = scales()
    const project = ([x, y]) => [inside.left - outside.left + x * across, inside.top - outside.top + y * down]
    let path = ""
    if (line.length) {
      const points = [...line, ...(cursor ? [cursor] : [])].map(project)
      path += `M${points.map(point => point.join(" ")).join("L")}`
      const [x, y] = points[0]
      path += `M${x - 4} ${y - 4}h8v8h-8z`
    }
    if (cursor) {
      const [x, y] = project(cursor), radius = Math.max(0.5, reach.value / 2), wide = radius * across, high = radius * down
      if (tool === "brush" || tool === "eraser") path += `M${x - wide} ${y}a${wide} ${high} 0 1 0 ${2 * wide} 0a${wide} ${high} 0 1 0 ${-2 * wide} 0`
      if (byKeys) path += `M${x - 12} ${y}h24M${x} ${y - 12}v24`
    }
    marks.innerHTML = path && `<path class="under" d="${path}"/><path class="over" d="${path}"/>`
  }
  function look([brightness, contrast]) {
    light = [brightness, contrast]
    image.style.filter = `brightness(${brightness}) contrast(${contrast})`
  }

  // --- the mouse, a pen or a finger
  let tracing = false  // an outline is drawn with the button held down
  let pointer  // the one that is down: another finger or the heel of the hand draws nothing
  for (const kind of ["pointerdown", "pointermove", "pointerup", "pointercancel"]) stage.addEventListener(kind, event => {
    if (pointer !== undefined && pointer !== event.pointerId) event.stopImmediatePropagation()
    else pointer = event.buttons ? event.pointerId : undefined
  }, { capture: true })
  function isNear(one, other) { return Math.hypot(...scales().map((size, axis) => (one[axis] - other[axis]) * size)) < NEAR }
  canvas.addEventListener("pointerdown", event => {
    stage.focus({ preventScroll: true })
    if (!shown || event.button || tool === "move") return
    event.preventDefault()
    event.stopPropagation()
    canvas.setPointerCapture(event.pointerId)
    byKeys = false
    cursor = place(event)
    if (tool !== "polygon") { if (!stroke) lower(cursor) }
    else if (line.length > 2 && isNear(cursor, line[0])) close()
    else {
      tracing = !line.length
      line.push(cursor)
    }
    write()
  })
  canvas.addEventListener("pointermove", event => {
    if (!shown) return
    cursor = place(event)
    byKeys = false
    if (event.buttons & 1 && tool !== "move") {
      event.stopPropagation()
      for (const each of event.getCoalescedEvents?.() ?? [event]) {
        const at = place(each)
        if (stroke) drag(at)
        else if (tracing && !isNear(at, line.at(-1))) line.push(at)
      }
    }
    mark()
  })
  canvas.addEventListener("pointerup", () => {
    if (stroke) lift()
    if (tracing && line.length > 2) close()
    tracing = false
  })
  canvas.addEventListener("pointercancel", () => { if (stroke) lift(); tracing = false })
  canvas.addEventListener("pointerleave", () => { if (!byKeys) { cursor = null; mark() } })
  canvas.addEventListener("dblclick", () => { if (line.length) close() })
  stage.addEventListener("adjust", ({ detail: [across, down] }) => {
    look([Math.min(8, Math.max(0.1, light[0] * Math.exp(-down / 200))), Math.min(8, Math.max(0.2, light[1] * Math.exp(across / 200)))])
  })
  stage.addEventListener("zoomed", mark)
  stage.addEventListener("wheel", event => {  // before it zooms
    if (slices === 1 || event.ctrlKey) return
    event.preventDefault()
    event.stopImmediatePropagation()
    rolled += event.deltaY / (event.deltaMode ? 3 : 100)
    turn(Math.trunc(rolled))
    rolled -= Math.trunc(rolled)
  }, { capture: true, passive: false })
  chosen?.addEventListener("input", () => { turn(chosen.value - 1 - target); write() })
  reach.addEventListener("input", mark)

  // --- keys and buttons
  const actions = {
    u: () => undo(past, future, "before"), r: () => undo(future, past, "after"),
    h: () => { canvas.hidden = !canvas.hidden }, c: relight, ",": () => turn(-1), ".": () => turn(1), n: () => suggest("between"),
    "+": () => zoom.by(1.5), "-": () => zoom.by(1 / 1.5), w: () => zoom.reset(),
    m: () => suggest("propose"), PageUp: () => leave(index - 1), PageDown: () => leave(index + 1), d: finish,
  }
  function press(button) {
    if (button.disabled || !shown && !["PageUp", "PageDown", ",", "."].includes(button.dataset.key)) return
    if (button.dataset.class) painted = Number(button.dataset.class)
    else if (button.dataset.tool) {
      if (line.length) return say(state.texts.open_line)
      if (stroke) lift()
      tool = button.dataset.tool
    } else actions[button.dataset.key]()
    write()
  }
  addEventListener("click", event => {
    const button = event.target.closest("button[data-key]")
    if (button) press(button)
  })
  find(".panel").addEventListener("mousedown", event => {  // the keys stay with the picture
    if (event.target.closest("button")) event.preventDefault()
  })
  addEventListener("keydown", event => {
    const { key } = event, isControl = event.target.closest?.("button, input, a, summary")
    if (event.altKey || event.metaKey && key !== "z") return
    if (event.ctrlKey || event.metaKey) {
      const name = key === "y" || key === "Z" ? "r" : key === "z" ? "u" : ""
      if (!name) return
      press(find(`[data-key="${name}"]`))
    } else if (key === "[" || key === "]") {
      reach.value = Number(reach.value) + (key === "]" ? 1 : -1) * Math.max(1, Math.round(reach.value / 8))
      mark()
    } else if (isControl && ["Enter", " ", "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"].includes(key)) return
    else if (!byKey(key, event.shiftKey)) {
      const button = find(`[data-key="${CSS.escape(key === "=" ? "+" : key)}"]`)
      if (!button || event.repeat && !"ur+-,.".includes(key)) return
      press(button)
    }
    event.preventDefault()
  })
  function byKey(key, isFar) {  // drawing without a mouse
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key]
    if (!shown || !way && ![" ", "Enter", "Backspace", "Escape"].includes(key)) return false
    if (way && tool === "move") zoom.move(...way.map(side => -40 * side))
    else if (way) {
      const lengths = scales().map(size => Math.max(1, Math.round(1 / size)) * (isFar ? 10 : 1))
      const from = cursor ?? [Math.floor(width / 2) + 0.5, Math.floor(height / 2) + 0.5]
      cursor = from.map((at, axis) => Math.min([width, height][axis] - 0.5, Math.max(0.5, Math.floor(at) + 0.5 + lengths[axis] * way[axis])))
      byKeys = true
      if (stroke) drag(cursor)
      follow()
    } else if (key === " " && cursor && tool === "polygon") line.push(cursor)
    else if (key === " " && cursor && tool !== "move") stroke ? lift() : lower(cursor)
    else if (key === "Enter") line.length ? close() : stroke && lift()
    else if (key === "Backspace") line.pop()
    else if (key === "Escape") drop()
    mark()
    return true
  }
  function follow() {  // the cross stays in sight
    const { left, top } = box(), outside = stage.getBoundingClientRect(), [wide, high] = scales()
    const away = (at, low, length) => Math.max(0, low + 20 - at) - Math.max(0, at - low - length + 20)
    const across = away(left + cursor[0] * wide, outside.left, outside.width)
    const down = away(top + cursor[1] * high, outside.top, outside.height)
    if (across || down) zoom.move(across, down)
  }

  // --- masks and pictures come and go
  async function pack(bytes) {
    return new Response(new Blob([bytes]).stream().pipeThrough(new CompressionStream("deflate"))).arrayBuffer()
  }
  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0))
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))
    return new Uint8Array(await new Response(stream).arrayBuffer())
  }
  addEventListener("beforeunload", event => { if (unsaved.size || stroke || line.length) event.preventDefault() })
  const address = (at, to) => to === undefined ? `${at + 1}` : `${at + 1}/${to + 1}`  // of an image, or of one of its slices
  function save(kind) {
    const to = address(index, slice)
    unsaved.delete(to)  // what is done comes after the drafts of all slices
    unsaved.set(to, { kind, at: index, labels: labels.slice() })
    send()
  }
  async function send() {  // the changes of an image in their order; other images do not wait for one that fails
    if (saving) return
    saving = true
    while (unsaved.size) {
      const failed = new Set()
      for (const [to, change] of unsaved) {
        if (failed.has(change.at)) continue
        const body = await pack(change.labels), unanswered = { note: state.texts.unsaved }
        const answer = await fetch(`${change.kind}/${to}`, { method: "POST", body }).then(response => response.json()).catch(() => unanswered)
        if ("state" in answer) {
          if (unsaved.get(to) === change) unsaved.delete(to)
          state.states[change.at] = answer.state
        } else {
          say(answer.note)
          failed.add(change.at)
        }
        write()
      }
      if (failing.size && !failed.size) say("")
      failing = failed
      if (failing.size) await new Promise(done => setTimeout(done, 1000))
    }
    saving = false
  }
  async function saved(at) {  // of an image, or of all; others are tried first too, since the program has one volume in memory
    while ([...unsaved.values()].some(change => at === undefined || change.at === at || !failing.has(change.at))) await new Promise(done => setTimeout(done, 30))
  }
  function say(text) { find("[role=status]").textContent = text }
  async function suggest(what) {  // by a model, or by the neighbours of a slice
    const to = address(index, slice), isHere = () => shown && to === address(index, slice)
    const isModel = what === "propose"
    if (isModel && proposing) return
    proposing ||= isModel
    say(proposing ? state.texts.busy : "")
    if (!isModel) await saved(index)
    const answer = await fetch(`${what}/${to}`, { method: "POST", body: "" }).then(response => response.json()).catch(() => null)
    if (isModel) proposing = false
    if (!isHere()) return say(proposing ? state.texts.busy : "")
    say(answer ? answer.note : state.texts.unsaved)
    if (!answer?.mask) return
    const suggested = await unpack(answer.mask)
    if (isHere()) step(whole(), () => labels.set(suggested))
    write()
  }
  function turn(count) {  // to another slice; those that are passed meanwhile are left out
    if (!count) return
    if (line.length) return say(state.texts.open_line)
    if (stroke) lift()
    target = Math.min(slices - 1, Math.max(0, target + count))
    if (!loading && target !== slice) go(index, target)
  }
  async function relight() {  // the next window of a CT, or the next brightness and contrast
    if (!windows) return look(PRESETS[preset = (preset + 1) % PRESETS.length])
    windowed = (windowed + 1) % state.windows.length
    const where = () => view(index, slice), asked = where()
    const got = await fetch(`picture/${asked}`).then(response => response.json()).catch(() => ({ error: state.texts.unsaved }))
    if (loading || asked !== where()) return
    if (got.src) image.src = got.src
    else say(got.error)
  }
  function leave(at) {
    if (line.length) return say(state.texts.open_line)
    if (stroke) lift()
    if (at >= 0 && at < state.states.length) go(at)
  }
  async function finish() {
    if (line.length) return say(state.texts.open_line)
    if (stroke) lift()
    save("done")
    state.states[index] = "done"
    const next = open(index)
    if (next !== undefined) return go(next)
    [shown, loading] = [false, true]
    const load = ++loads
    await saved()
    if (load === loads) location.href = "end"
  }
  function open(after) {  // the next picture that is not done
    const count = state.states.length
    for (let far = 1; far <= count; far++) {
      const at = (after + far) % count
      if (state.states[at] !== "done") return at
    }
  }
  const view = (at, to) => address(at, to) + (windowed && to !== undefined ? `/${state.windows[windowed][0]}` : "")
  function picture(at, to) {
    const where = view(at, to)
    if (!pictures.has(where)) {
      pictures.set(where, saved(at).then(() => fetch(`picture/${where}`)).then(response => response.json()))
    }
    return [where, pictures.get(where)]
  }
  async function go(at, to) {  // to an image, or to another slice of the one on the screen
    const isSame = to !== undefined, load = ++loads  // a later one replaces this one
    if (isSame) steps.set(slice, [past, future])
    else [steps, slices, windowed, windows, cursor] = [new Map(), 1, 0, false, null]
    index = at
    loading = true
    shown = false
    labels = null
    line = []
    stage.classList.toggle("waiting", !isSame)
    say(proposing ? state.texts.busy : "")
    write()
    const [where, asked] = picture(at, to), got = await asked.catch(() => ({ error: state.texts.unsaved }))
    pictures.delete(where)  // it is drawn on from now on
    if (load !== loads) return
    stage.hidden = !got.src
    find(".problem").textContent = got.error
    if (!got.src) {
      [loading, target] = [false, slice]
      return write()
    }
    const drawn = await unpack(got.mask)
    image.src = got.src
    await image.decode().catch(() => {})
    if (load !== loads) return
    const isFirst = !past, longer = Math.max(got.width, got.height);
    [width, height, labels, slice, slices, windows] = [got.width, got.height, drawn, got.slice, got.slices, got.windows];
    [past, future] = steps.get(slice) ?? [[], []]
    if (!isSame) target = slice
    Object.assign(canvas, { width, height })
    stage.style.setProperty("--aspect", got.aspect)
    reach.max = Math.max(8, longer >> 2)
    if (isFirst) reach.value = longer / 24
    stage.classList.remove("waiting")
    if (!isSame) zoom.reset()
    repaint(whole())
    loading = false
    shown = true
    write()
    if (target !== slice) return go(index, target)
    const next = open(at)
    if (next !== undefined && next !== at && slices === 1) picture(next)
  }
  function write() {
    const { texts, states, names } = state, total = states.length
    const text = (template, values) => template.replace(/{(\w+)}/g, (all, name) => values[name])
    find("h1").textContent = document.title = text(texts.title, { number: index + 1, total })
    find(".done").textContent = text(texts.progress, { done: states.filter(each => each === "done").length, total })
    const word = texts.states[["", "draft", "done"].indexOf(states[index])]
    find(".caption").textContent = `${names[index]}: ${word}${windowed ? `, ${state.windows[windowed][1]}` : ""}`
    if (chosen) {
      Object.assign(chosen, { max: slices, value: target + 1 })
      find(".position").textContent = text(texts.slice, { number: target + 1, count: slices })
      find("[data-key=\",\"]").disabled = target === 0
      find("[data-key=\".\"]").disabled = target === slices - 1
    }
    for (const button of document.querySelectorAll("[data-class]")) button.setAttribute("aria-pressed", Number(button.dataset.class) === painted)
    for (const button of document.querySelectorAll("[data-tool]")) button.setAttribute("aria-pressed", button.dataset.tool === tool)
    find("[data-key=h]").setAttribute("aria-pressed", canvas.hidden)
    find("[data-key=u]").disabled = !past?.length
    find("[data-key=r]").disabled = !future?.length
    find("[data-key=PageUp]").disabled = index === 0
    find("[data-key=PageDown]").disabled = index === total - 1
    stage.classList.toggle("moving", tool === "move")
    stage.setAttribute("aria-busy", !shown)
    history.replaceState(null, "", `${index + 1}`)
    mark()
  }

  fetch("state").then(response => response.json()).then(answer => {
    state = answer
    find(".desk").hidden = false
    go(index)
  })
})
