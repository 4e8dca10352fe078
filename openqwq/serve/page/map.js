// The ideas of the recipe and the papers before them: drag, zoom, click. Everything shown comes from map.json.
import { find, make } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 42;

function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export async function start() {
  const data = await (await fetch("page/map.json")).json();
  const byId = Object.fromEntries(data.nodes.map((node) => [node.id, node]));
  const picture = svg("svg", { role: "group", "aria-label": "Ideas and papers" });
  const aside = make("aside", { "aria-live": "polite" });
  find("#map").replaceChildren(make("div", { class: "map" }, make("div", { style: "min-height: 0" }, picture), aside));
  const width = (node) => 28 + node.title.length * 7.6;
  const box = { x: 0, y: 0, w: data.width, h: data.height };
  const view = () => picture.setAttribute("viewBox", `${box.x} ${box.y} ${box.w} ${box.h}`);
  const edges = data.edges.map(([from, to]) => ({ from, to, path: svg("path", { class: "edge" }) }));
  const drawEdges = () => edges.forEach(({ from, to, path }) => {
    const a = byId[from], b = byId[to], bend = (b.y - a.y) / 2;
    path.setAttribute("d", `M${a.x} ${a.y}C${a.x} ${a.y + bend} ${b.x} ${b.y - bend} ${b.x} ${b.y}`);
  });

  const choose = (id) => {
    const node = byId[id];
    for (const one of data.nodes) one.group.classList.toggle("chosen", one === node);
    for (const { from, to, path } of edges) path.classList.toggle("lit", from === id || to === id);
    const near = edges.flatMap(({ from, to }) => (from === id ? [to] : to === id ? [from] : []));
    aside.replaceChildren(
      make("h2", {}, node.title), ...node.text.map((text) => make("p", {}, text)),
      ...(node.links ?? []).map(([title, href]) => make("p", {}, make("a", { href, rel: "noreferrer noopener", target: "_blank" }, title))),
      make("p", { class: "note" }, "Connected with"),
      make("div", { class: "row" }, near.map((other) => make("button", { class: "quiet", type: "button", click: () => choose(other) }, byId[other].title))));
  };

  for (const node of data.nodes) {
    const w = width(node);
    node.group = svg("g", { class: `node ${node.kind}`, tabindex: 0, role: "button", "aria-label": node.title, "data-id": node.id },
      svg("rect", { x: -w / 2, y: -HEIGHT / 2, width: w, height: HEIGHT, rx: 8 }), svg("text", {}));
    node.group.lastChild.textContent = node.title;
    node.place = () => node.group.setAttribute("transform", `translate(${node.x} ${node.y})`);
    node.group.addEventListener("click", () => choose(node.id));
    node.group.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(node.id); }
    });
    node.place();
  }
  picture.append(...edges.map((edge) => edge.path), ...data.nodes.map((node) => node.group));
  drawEdges();
  view();
  moveAndZoom(picture, box, view, byId, drawEdges);
  choose(data.nodes[0].id);
}

function moveAndZoom(picture, box, view, byId, drawEdges) {
  const scale = () => {
    const shown = picture.getBoundingClientRect();
    return Math.max(box.w / shown.width, box.h / shown.height);
  };
  const pointers = new Map();
  let held = null;
  const zoom = (factor, clientX, clientY) => {
    const shown = picture.getBoundingClientRect();
    const fx = (clientX - shown.left) / shown.width, fy = (clientY - shown.top) / shown.height;
    const w = Math.min(Math.max(box.w * factor, 200), 6000), h = (w / box.w) * box.h;
    box.x += (box.w - w) * fx; box.y += (box.h - h) * fy; box.w = w; box.h = h;
    view();
  };
  picture.addEventListener("pointerdown", (event) => {
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
    held = byId[event.target.closest(".node")?.dataset.id] ?? null;
  });
  picture.addEventListener("pointermove", (event) => {
    const last = pointers.get(event.pointerId);
    if (!last) return;
    const step = scale(), dx = (event.clientX - last[0]) * step, dy = (event.clientY - last[1]) * step;
    if (pointers.size === 2) {
      const [a, b] = [...pointers.values()];
      const before = Math.hypot(a[0] - b[0], a[1] - b[1]);
      pointers.set(event.pointerId, [event.clientX, event.clientY]);
      const [c, d] = [...pointers.values()];
      const after = Math.hypot(c[0] - d[0], c[1] - d[1]);
      if (after > 0) zoom(before / after, (c[0] + d[0]) / 2, (c[1] + d[1]) / 2);
      return;
    }
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
    if (held) { held.x += dx; held.y += dy; held.place(); drawEdges(); }
    else { box.x -= dx; box.y -= dy; view(); }
  });
  for (const kind of ["pointerup", "pointercancel", "pointerleave"]) picture.addEventListener(kind, (event) => { pointers.delete(event.pointerId); held = null; });
  picture.addEventListener("wheel", (event) => { event.preventDefault(); zoom(1.0015 ** event.deltaY, event.clientX, event.clientY); }, { passive: false });
}
