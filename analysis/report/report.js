"use strict";
/* The map of documents: a canvas, because 15,000 SVG marks are slow; everything else on the page is plain HTML. */
(() => {
  const element = document.getElementById("map-data");
  if (!element) return;
  const data = JSON.parse(element.textContent);
  const get = (id) => document.getElementById(id);
  const canvas = get("map-canvas"), tip = get("map-tip"), context = canvas.getContext("2d");
  const n = data.x.length, scale = 65535, COLORS = 8, SHAPES = 5;
  const shown = new Uint8Array(n).fill(1), inLasso = new Uint8Array(n);
  const lowered = data.excerpt.map((text) => text.toLowerCase());
  let view = { x: 0.5, y: 0.5, zoom: 1 }, selected = -1, frame = 0, lasso = null;

  const colorOf = (index) => getComputedStyle(document.documentElement).getPropertyValue(`--c${index % COLORS}`);
  const kind = () => get("map-color").value;
  const span = () => (Math.min(canvas.clientWidth, canvas.clientHeight) - 24) * view.zoom;
  const toPixel = ([x, y]) => [canvas.clientWidth / 2 + (x - view.x) * span(), canvas.clientHeight / 2 - (y - view.y) * span()];
  const toMap = ([x, y]) => [view.x + (x - canvas.clientWidth / 2) / span(), view.y - (y - canvas.clientHeight / 2) / span()];
  const pixel = (i) => toPixel([data.x[i] / scale, data.y[i] / scale]);

  const median = (values) => values.sort((a, b) => a - b)[values.length >> 1] / scale;
  const medians = data.clusters.map((_, group) => {
    const of = (values) => median(values.filter((_, i) => data.cluster[i] === group));
    return data.cluster.includes(group) ? [of(data.x), of(data.y)] : null;
  });

  const line = (points) => { points.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y))); context.closePath(); };

  /* A shape beside each colour, as in the figures (analysis.figures.palette): colour is never the only sign. */
  function mark(x, y, shape, r) {
    if (shape === 1) context.rect(x - 0.9 * r, y - 0.9 * r, 1.8 * r, 1.8 * r);
    else if (shape === 2) line([[x, y - 1.3 * r], [x + 1.2 * r, y + r], [x - 1.2 * r, y + r]]);
    else if (shape === 3) line([[x, y - 1.3 * r], [x + 1.3 * r, y], [x, y + 1.3 * r], [x - 1.3 * r, y]]);
    else if (shape === 4) { context.rect(x - 1.3 * r, y - 0.5 * r, 2.6 * r, r); context.rect(x - 0.5 * r, y - 1.3 * r, r, 2.6 * r); }
    else { context.moveTo(x + r, y); context.arc(x, y, r, 0, 7); }
  }

  /* The number of each cluster at its median: above eight clusters a colour stands for two, told apart by shape alone. */
  function numbers() {
    if (kind() !== "cluster") return;
    const css = getComputedStyle(document.body);
    context.font = "bold 13px " + css.fontFamily; context.textAlign = "center"; context.textBaseline = "middle"; context.lineWidth = 4;
    medians.forEach((place, group) => {
      if (!place || !get("map-cluster").querySelectorAll("input")[group].checked) return;
      const [x, y] = toPixel(place);
      context.strokeStyle = css.backgroundColor; context.strokeText(group, x, y);
      context.fillStyle = css.color; context.fillText(group, x, y);
    });
  }

  function draw() {
    frame = 0;
    const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    canvas.width = width * ratio; canvas.height = height * ratio;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const labels = data[kind()], names = data[kind() + "s"], radius = Math.min(6, (n > 4000 ? 2.5 : 3.2) + Math.log2(view.zoom) / 2);
    context.globalAlpha = 0.7;
    for (let group = 0; group < names.length; group++) {
      context.fillStyle = colorOf(group);
      context.beginPath();
      for (let i = 0; i < n; i++) {
        if (!shown[i] || labels[i] !== group) continue;
        const [x, y] = pixel(i);
        if (x > -9 && y > -9 && x < width + 9 && y < height + 9) mark(x, y, group % SHAPES, radius);
      }
      context.fill();
    }
    context.globalAlpha = 1;
    numbers();
    if (lasso) {
      context.strokeStyle = getComputedStyle(document.body).color; context.lineWidth = 1.5; context.setLineDash([5, 4]);
      context.beginPath(); line(lasso.map(toPixel)); context.stroke(); context.setLineDash([]);
    }
    if (selected < 0 || !shown[selected]) { tip.hidden = true; return; }
    const [x, y] = pixel(selected);
    context.strokeStyle = getComputedStyle(document.body).color; context.lineWidth = 2;
    context.beginPath(); context.arc(x, y, radius + 4, 0, 7); context.stroke();
    tip.hidden = false;
    tip.style.left = Math.max(0, Math.min(x + 12, width - tip.offsetWidth - 4)) + "px";
    tip.style.top = (y + 14 + tip.offsetHeight > height ? Math.max(0, y - tip.offsetHeight - 10) : y + 14) + "px";
  }
  const redraw = () => { if (!frame) frame = requestAnimationFrame(draw); };

  function select(i) {
    if (i === selected) return;
    selected = i;
    if (i >= 0) {
      tip.textContent = "";
      const head = document.createElement("strong");
      head.textContent = `cluster ${data.clusters[data.cluster[i]]} · ${data.sources[data.source[i]]}`;
      tip.append(head, data.excerpt[i]);
      tip.dataset.document = data.document_id[i];
    }
    redraw();
  }

  function nearest(x, y, reach) {
    let best = -1, least = reach * reach;
    for (let i = 0; i < n; i++) {
      if (!shown[i]) continue;
      const [px, py] = pixel(i), distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance < least) { least = distance; best = i; }
    }
    return best;
  }

  function filter() {
    const ticked = (id) => [...get(id).querySelectorAll("input")].map((box) => box.checked);
    const clusters = ticked("map-cluster"), sources = ticked("map-source");
    const words = get("map-find").value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (let i = 0; i < n; i++) {
      shown[i] = clusters[data.cluster[i]] && sources[data.source[i]] && words.every((word) => lowered[i].includes(word)) ? 1 : 0;
      count += shown[i];
    }
    const chosen = chosenDocuments().length;
    get("map-count").textContent = `${count.toLocaleString("en")} of ${n.toLocaleString("en")} points shown`
      + (lasso ? `, ${chosen.toLocaleString("en")} selected` : "");
    get("map-save").textContent = `Download ${chosen.toLocaleString("en")} as JSONL`;
    get("map-save").disabled = chosen === 0;
    if (selected >= 0 && !shown[selected]) select(-1);
    redraw();
  }

  /* The documents shown, or those of them inside the line. */
  function chosenDocuments() {
    const found = [];
    for (let i = 0; i < n; i++) if (shown[i] && (!lasso || inLasso[i])) found.push(i);
    return found;
  }

  /* Even-odd rule: a point is inside if a ray from it crosses the line an odd number of times. */
  function enclose() {
    for (let i = 0; i < n; i++) {
      const x = data.x[i] / scale, y = data.y[i] / scale;
      let inside = 0;
      for (let a = 0, b = lasso.length - 1; a < lasso.length; b = a++) {
        const [ax, ay] = lasso[a], [bx, by] = lasso[b];
        if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) inside ^= 1;
      }
      inLasso[i] = inside;
    }
    filter();
  }

  function save() {
    const lines = chosenDocuments().map((i) => JSON.stringify({
      document_id: data.document_id[i], cluster: Number(data.clusters[data.cluster[i]]), source: data.sources[data.source[i]], excerpt: data.excerpt[i],
    }));
    const link = document.createElement("a"), address = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "application/jsonl" }));
    link.href = address; link.download = "documents.jsonl"; link.click();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
  }

  function zoom(factor) { view.zoom = Math.max(0.5, Math.min(60, view.zoom * factor)); redraw(); }

  function boxes(id, names, prefix) {
    if (names.length > 2) for (const [text, value] of [["all", true], ["none", false]]) {
      const button = document.createElement("button");
      button.type = "button"; button.textContent = text;
      button.addEventListener("click", () => { get(id).querySelectorAll("input").forEach((box) => { box.checked = value; }); filter(); });
      get(id).append(button);
    }
    names.forEach((name) => {
      const label = document.createElement("label"), box = document.createElement("input"), swatch = document.createElement("span");
      box.type = "checkbox"; box.checked = true; box.addEventListener("change", filter);
      swatch.className = "swatch";
      label.append(box, " ", swatch, prefix + name);
      get(id).append(label);
    });
  }
  function recolor() {
    for (const id of ["cluster", "source"])
      get("map-" + id).querySelectorAll(".swatch").forEach((swatch, i) => {
        swatch.hidden = id !== kind(); swatch.className = `swatch s${i % SHAPES}`; swatch.style.background = `var(--c${i % COLORS})`;
      });
    redraw();
  }

  let drag = null;
  const selecting = () => get("map-lasso").getAttribute("aria-pressed") === "true";
  const inside = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  canvas.addEventListener("pointerdown", (event) => {
    drag = inside(event); canvas.setPointerCapture(event.pointerId);
    if (selecting()) { lasso = [toMap(drag)]; select(-1); } else select(nearest(...drag, 14));
  });
  canvas.addEventListener("pointerup", () => {
    drag = null;
    if (!selecting()) return;
    if (lasso && lasso.length < 3) lasso = null; /* a click clears the selection */
    if (lasso) enclose(); else filter();
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = inside(event);
    if (!drag) { select(nearest(x, y, 10)); return; }
    if (selecting()) { lasso.push(toMap([x, y])); redraw(); return; }
    view.x -= (x - drag[0]) / span(); view.y += (y - drag[1]) / span(); drag = [x, y];
    redraw();
  });
  canvas.addEventListener("pointerleave", () => { if (document.activeElement !== canvas) select(-1); });
  canvas.addEventListener("wheel", (event) => {
    if (document.activeElement !== canvas && !event.ctrlKey) return; /* the page scrolls past a map nobody clicked */
    event.preventDefault(); zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2);
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
    if (event.key in steps) {
      let i = selected;
      for (let tries = 0; tries < n; tries++) { i = (i + steps[event.key] + n) % n; if (shown[i]) { select(i); break; } }
    } else if (event.key === "+" || event.key === "=") zoom(1.3);
    else if (event.key === "-") zoom(1 / 1.3);
    else if (event.key === "Escape") select(-1);
    else return;
    event.preventDefault();
  });
  get("map-in").addEventListener("click", () => zoom(1.5));
  get("map-out").addEventListener("click", () => zoom(1 / 1.5));
  get("map-reset").addEventListener("click", () => { view = { x: 0.5, y: 0.5, zoom: 1 }; lasso = null; select(-1); filter(); });
  get("map-lasso").addEventListener("click", () => get("map-lasso").setAttribute("aria-pressed", String(!selecting())));
  get("map-save").addEventListener("click", save);
  get("map-color").addEventListener("change", recolor);
  get("map-find").addEventListener("input", filter);
  window.addEventListener("resize", redraw);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  boxes("map-cluster", data.clusters, "");
  boxes("map-source", data.sources, "");
  recolor();
  filter();
})();
