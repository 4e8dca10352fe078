// The ideas of the recipe and the papers before them: drag, zoom, click. Everything shown comes from map.json.
// A text's numbers are links: [shown](source), or {file path} for a figure of benchmarks/results, read from there.
import { find, make } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 42;
const NARROW = 600;

function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const MARK = /\[([^\]]+)\]\(([^)]+)\)|\{(\w+) ([^}]+)\}/g;
const results = {}; // by name; those that this server has

function result(name) {
  if (typeof results[name] === "string") results[name] = fetch(results[name]).then((answer) => answer.json());
  return results[name];
}

/** The value at a path such as `table/arm=tiny,kind=math/before`; undefined where it leads nowhere. */
function valueAt(data, path) {
  const matches = (row, key) => key.split(",").every((pair) => pair === `${pair.split("=")[0]}=${row[pair.split("=")[0]]}`);
  return path.split("/").reduce((value, key) => (key.includes("=") ? value?.find((row) => matches(row, key)) : value?.[key]), data);
}

const figure = (value) => (Number.isInteger(value) || Math.abs(value) >= 100 ? Math.round(value).toLocaleString("en") : value.toFixed(1));
const link = (text, href) => make("a", { href, rel: "noreferrer noopener", target: "_blank" }, text);

/** A text as a paragraph; null where a figure of it is not to be had here. */
async function paragraph(text) {
  const parts = [];
  let end = 0;
  for (const mark of text.matchAll(MARK)) {
    const [whole, shown, source, file, path] = mark;
    parts.push(text.slice(end, mark.index));
    end = mark.index + whole.length;
    const value = file && valueAt(await result(file), path);
    if (file && typeof value !== "number") return null;
    parts.push(file ? link(figure(value), `page/results/${file}.json`) : link(shown, source));
  }
  return make("p", {}, parts, text.slice(end));
}

export async function start(offered) {
  for (const name of offered.results) results[name] = `page/results/${name}.json`;
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

  /** On a narrow screen the whole map is too small to read: show the part around a node. */
  const centre = (node) => {
    const shown = picture.getBoundingClientRect();
    if (!shown.width || shown.width >= NARROW) return;
    box.w = shown.width * 1.4; box.h = shown.height * 1.4;
    box.x = node.x - box.w / 2; box.y = node.y - box.h / 2;
    view();
  };

  let latest = "";
  const choose = async (id) => {
    const node = byId[id];
    latest = id;
    centre(node);
    for (const one of data.nodes) one.group.classList.toggle("chosen", one === node);
    for (const { from, to, path } of edges) path.classList.toggle("lit", from === id || to === id);
    const near = edges.flatMap(({ from, to }) => (from === id ? [to] : to === id ? [from] : []));
    const paragraphs = await Promise.all(node.text.map(paragraph));
    if (latest !== id) return; // another was chosen meanwhile
    aside.replaceChildren(
      make("h2", {}, node.title), ...paragraphs.filter(Boolean),
      ...(node.links ?? []).map(([title, href]) => make("p", {}, link(title, href))),
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
