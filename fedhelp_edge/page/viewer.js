// The viewer: one answer at a time, zoom, pan, brightness and contrast, heat-map or outlines over the image, slices and
// frames by wheel and keys. Without it the page shows all answers below each other.
addEventListener("DOMContentLoaded", () => {
  const WINDOWS = { stored: [1, 0], contrast: [2, -0.5], dark: [2.5, 0], bright: [2.5, -1.5] }  // slope, intercept
  const PRESETS = ["lung", "bone", "soft", "brain"]
  const sections = [...document.querySelectorAll("section")], links = [...document.querySelectorAll("nav a")]
  const viewers = sections.map(prepare)
  let shown = 0

  function prepare(section, number) {
    const pair = section.querySelector(".pair"), tools = section.querySelector(".tools")
    if (!pair) return {}
    const images = [...pair.querySelectorAll("img")], [image, heat] = images
    const slider = tools.querySelector("[type=range]"), select = tools.querySelector("select")
    const slices = section.querySelector("[name=slice]"), { address } = pair.dataset
    const filter = document.createElementNS("http://www.w3.org/2000/svg", "svg")
    filter.innerHTML = `<filter id="window-${number}" color-interpolation-filters="sRGB"><feComponentTransfer>
      <feFuncR type="linear"/><feFuncG type="linear"/><feFuncB type="linear"/></feComponentTransfer></filter>`
    filter.classList.add("filter")
    filter.setAttribute("aria-hidden", "true")
    section.append(filter)
    image.style.filter = `url(#window-${number})`
    pair.classList.add("laid")
    tools.hidden = false
    const zoom = zoomable(pair, images)
    let slope = 1, intercept = 0, inverted = false, beside = false
    let hounsfield = "stored", isAsking = false, rolled = 0

    function draw() {
      for (const part of filter.querySelectorAll("[type=linear]")) {
        part.setAttribute("slope", inverted ? -slope : slope)
        part.setAttribute("intercept", inverted ? 1 - intercept : intercept)
      }
      if (heat) heat.style.opacity = beside ? 1 : slider.value / 100
      pair.classList.toggle("beside", beside)
      press("beside", beside)
      press("invert", inverted)
      zoom.draw()
    }
    function press(name, on) { tools.querySelector(`[data-do=${name}]`)?.setAttribute("aria-pressed", on) }
    const actions = {
      in: () => zoom.by(1.5), out: () => zoom.by(1 / 1.5),
      beside: () => { if (heat) { beside = !beside; draw() } },
      invert: () => { inverted = !inverted; draw() },
      heat: () => { if (heat) { slider.value = slider.value > 0 ? 0 : slider.defaultValue; beside = false; draw() } },
      whole: () => {
        zoom.reset();
        [slope, intercept] = WINDOWS.stored
        inverted = false
        choose("stored")
      },
      print: () => print(),
    }
    const turns = { up: -1, down: 1, back: -10, on: 10, top: -Infinity, bottom: Infinity }
    if (slices) for (const [name, count] of Object.entries(turns)) actions[name] = () => turn(count)
    PRESETS.forEach((preset, index) => { actions[index + 1] = () => choose(preset) })
    function choose(name) {  // the file's own window, changed by the filter; or one of Hounsfield units, which the server draws
      if (![...select.options].some(option => option.value === name)) return
      select.value = name;
      [slope, intercept] = WINDOWS[name] ?? WINDOWS.stored
      const before = hounsfield
      hounsfield = PRESETS.includes(name) ? name : "stored"
      if (hounsfield !== before) ask()
      draw()
    }
    function turn(count) {
      slices.value = Math.min(slices.max, Math.max(1, Number(slices.value) + count))
      ask()
    }
    async function ask() {  // for the picture that is wanted now: those that were passed meanwhile are left out
      if (isAsking) return
      isAsking = true
      const wanted = () => `${address}${(slices?.value ?? 1) - 1}-${hounsfield}`
      for (let got; got !== wanted();) {
        got = wanted()
        const response = await fetch(got).catch(() => null)
        const status = section.querySelector(".steps [role=status]")
        if (status) status.textContent = response?.ok ? "" : status.dataset.gone
        if (!response?.ok) break
        const drawn = await response.json()
        await Promise.all([[image, drawn.image], [heat, drawn.over]].map(([target, source]) => {
          if (target) target.src = source
          return target?.decode()
        }))
        if (heat && drawn.alt) heat.alt = drawn.alt
        section.querySelector("figcaption").textContent = drawn.caption
        if (slices) section.querySelector(".position").textContent = drawn.position
        if (drawn.about) section.querySelector(".about").innerHTML = drawn.about
      }
      isAsking = false
    }
    if (slices) {
      slices.hidden = false
      section.querySelector(".links").hidden = true
      slices.addEventListener("input", ask)
      pair.addEventListener("wheel", event => {  // before it zooms
        if (event.ctrlKey) return
        event.preventDefault()
        event.stopImmediatePropagation()
        rolled += event.deltaY / (event.deltaMode ? 3 : 100)
        turn(Math.trunc(rolled))
        rolled -= Math.trunc(rolled)
      }, { capture: true, passive: false })
    }
    slider?.addEventListener("input", draw)
    tools.addEventListener("click", event => actions[event.target.closest("button")?.dataset.do]?.())
    select.addEventListener("change", () => choose(select.value))
    pair.addEventListener("adjust", ({ detail: [across, down] }) => {  // as in viewers of radiology
      slope = Math.min(8, Math.max(0.2, slope * Math.exp(across / 200)))
      intercept = Math.min(2, Math.max(-7, intercept - down / 300))
      draw()
    })
    pair.addEventListener("dblclick", actions.whole)
    draw()
    return actions
  }

  function show(number, focus = true) {
    if (!sections[number]) return
    shown = number
    sections.forEach((section, index) => { section.hidden = index !== number })
    links.forEach((link, index) => link.toggleAttribute("aria-current", index === number))
    if (focus) sections[number].querySelector("h2").focus({ preventScroll: true })
  }
  links.forEach((link, index) => {
    const image = sections[index].querySelector("img")
    if (image) link.prepend(Object.assign(new Image(), { src: image.src, alt: "" }))
    link.addEventListener("click", event => { event.preventDefault(); show(index) })
  })
  show(0, false)  // its heading has the focus already

  const keys = {
    "+": "in", "=": "in", "-": "out", "0": "whole", b: "beside", h: "heat", i: "invert",
    ArrowUp: "up", ArrowDown: "down", Home: "top", End: "bottom", PageUp: "back", PageDown: "on",
    1: "1", 2: "2", 3: "3", 4: "4",
  }
  const steps = { n: 1, ArrowRight: 1, PageDown: 1, p: -1, ArrowLeft: -1, PageUp: -1 }
  addEventListener("keydown", event => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.target.matches("input, select")) return
    const action = viewers[shown]?.[keys[event.key]], step = steps[event.key]
    if (!action && !step) return
    event.preventDefault()
    action ? action() : show(shown + step)
  })

  const form = document.querySelector("form")
  form.addEventListener("submit", () => {
    const status = form.querySelector("[role=status]")
    status.textContent = status.dataset.busy
  })
  addEventListener("dragover", event => { event.preventDefault(); form.classList.add("over") })
  addEventListener("dragleave", event => { if (!event.relatedTarget) form.classList.remove("over") })
  addEventListener("drop", event => {
    event.preventDefault()
    form.classList.remove("over")
    send([...event.dataTransfer.items].map(item => item.webkitGetAsEntry()).filter(entry => entry))
  })
  async function send(entries) {  // files, and what is in folders, as of a DICOM series
    const chosen = new DataTransfer()
    while (entries.length) {
      const entry = entries.shift()
      if (entry.isFile) chosen.items.add(await new Promise((done, failed) => entry.file(done, failed)))
      else entries.push(...await contents(entry.createReader()))
    }
    if (!chosen.files.length) return
    form.elements.file.files = chosen.files
    form.requestSubmit()
  }
  async function contents(reader) {  // a reader gives some entries each time
    const entries = []
    for (let part; (part = await new Promise((done, failed) => reader.readEntries(done, failed))).length;) entries.push(...part)
    return entries
  }
})
