// Markdown to elements: headings, lists, tables, quotes, code, emphasis, links, TeX. Nothing is ever read as HTML.
// Any text takes time in proportion to its length: no pattern here can go back and forth, and nesting has bounds.
import { codeElement } from "./code.js";
import { make } from "./dom.js";
import { inline } from "./inline.js";
import { mathElement } from "./math.js";

const MAX_NESTING = 12; // quotes and lists within each other; deeper ones are shown as text
const FENCE = /^ {0,3}(`{3,}|~{3,})(.*)$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(\S.*|)$/;
const HEADING = /^(#{1,6})\s+(.*)$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;

/** The marker and language of a line that opens or closes a code block. */
function fenceOf(line) {
  const [, marker, rest] = line.match(FENCE) ?? [];
  if (!marker || (marker[0] === "`" && rest.includes("`"))) return null;
  return { marker, language: rest.trim().match(/^[\w+-]*/)[0], bare: !rest.trim() };
}

/** The top-level blocks of a text, each with where it starts: what stands before the last one no longer changes. */
export function splitBlocks(text) {
  const blocks = [];
  let lines = [];
  let start = 0;
  let place = 0;
  let hasItem = false;
  let fence = "";
  let math = false;
  const close = () => {
    if (lines.length) blocks.push({ source: lines.join("\n"), start });
    lines = [];
    hasItem = math = false;
  };
  const keep = (line) => {
    if (!lines.length) start = place;
    lines.push(line);
    hasItem ||= ITEM.test(line);
  };
  for (const line of text.split("\n")) {
    const found = fenceOf(line);
    const blank = !line.trim();
    if (fence) {
      lines.push(line);
      if (found?.bare && found.marker[0] === fence[0] && found.marker.length >= fence.length) { fence = ""; close(); }
    } else if (found) {
      close();
      fence = found.marker;
      start = place;
      lines = [line];
    } else if (math) {
      keep(line);
    } else if (HEADING.test(line)) {
      close();
      keep(line);
      close();
    } else if (blank && (!hasItem || lines.at(-1).trim() === "")) {
      close();
    } else {
      if (lines.length && lines.at(-1).trim() === "" && !ITEM.test(line) && !/^\s{2,}/.test(line)) close();
      keep(line);
    }
    if (!fence) math = mathGoesOn(line, math);
    place += line.length + 1;
  }
  close();
  return blocks;
}

/** Whether a display formula is open behind a line. */
function mathGoesOn(line, math) {
  let open = math;
  if (((line.split("$$").length - 1) % 2) === 1) open = !open;
  if (line.includes("\\[") && !line.includes("\\]")) return true;
  return line.includes("\\]") ? false : open;
}

/** Shows a growing text in an element: what is settled is neither read nor made again. */
export class MarkdownView {
  constructor(element) {
    this.element = element;
    this.clear();
  }

  clear() {
    this.element.replaceChildren();
    this.settled = ""; // the text before the last block
    this.numSettled = 0; // elements that it became
    this.last = null; // the last block's source
  }

  show(text) {
    if (!text.startsWith(this.settled)) this.clear();
    const blocks = splitBlocks(text.slice(this.settled.length));
    if (blocks.length === 1 && blocks[0].source === this.last) return;
    while (this.element.childNodes.length > this.numSettled) this.element.lastChild.remove();
    blocks.forEach(({ source, start }, i) => {
      if (i === blocks.length - 1) {
        this.settled = text.slice(0, this.settled.length + start);
        this.numSettled = this.element.childNodes.length;
        this.last = source;
      }
      this.element.append(...blockElements(source));
    });
    if (!blocks.length) this.last = null;
  }
}

/** The elements of one block; its source as it stands where the browser can make nothing of it. */
function blockElements(source) {
  try {
    return elementsOf(source, 0);
  } catch {
    return [make("p", { class: "source" }, source)];
  }
}

/** The elements of a block that starts with what its first line says, and goes on with other kinds behind it. */
function elementsOf(source, depth) {
  const lines = source.split("\n");
  const fence = fenceOf(lines[0]);
  if (fence) return [codeElement(lines, fence.marker, fence.language)];
  const formula = displayFormula(source.trim());
  if (formula !== null) return [mathElement(formula, true)];
  const found = [];
  for (let at = 0; at < lines.length;) {
    const end = partEnd(lines, at);
    found.push(partElement(lines.slice(at, end), depth));
    at = end;
  }
  return found;
}

function displayFormula(source) {
  for (const [open, close] of [["$$", "$$"], ["\\[", "\\]"]]) {
    if (source.length > 4 && source.startsWith(open) && source.indexOf(close, 2) === source.length - 2) return source.slice(2, -2).trim();
  }
  return null;
}

const isTable = (lines, at) => at + 1 < lines.length && lines[at].includes("|") && isDivider(lines[at + 1]);

function isDivider(line) {
  const cells = cellsOf(line);
  return line.includes("-") && cells.every((cell) => /^:?-*:?$/.test(cell)) && /^:?-/.test(cells[0]);
}

/** Where the part that begins at a line ends. */
function partEnd(lines, at) {
  let end = at + 1;
  const line = lines[at];
  if (HEADING.test(line) || RULE.test(line)) return end;
  if (ITEM.test(line)) return lines.length;
  if (line.startsWith(">")) while (end < lines.length && lines[end].startsWith(">")) end++;
  else if (isTable(lines, at)) while (end < lines.length && lines[end].includes("|")) end++;
  else while (end < lines.length && !lines[end].startsWith(">") && !HEADING.test(lines[end]) && !ITEM.test(lines[end])) end++;
  return end;
}

function partElement(lines, depth) {
  const heading = lines[0].match(HEADING);
  if (heading) return make(`h${Math.min(heading[1].length, 4)}`, {}, inline(withoutMarks(heading[2])));
  if (RULE.test(lines[0]) && lines.length === 1) return make("hr");
  if (isTable(lines, 0)) return tableElement(lines);
  if (depth < MAX_NESTING && lines[0].startsWith(">")) return quoteElement(lines, depth);
  if (depth < MAX_NESTING && ITEM.test(lines[0])) return listElement(lines, depth);
  return make("p", {}, inline(lines.join("\n")));
}

/** A heading's text without the `#` that may close it. */
function withoutMarks(text) {
  let end = text.trimEnd().length;
  while (text[end - 1] === "#") end--;
  return text.slice(0, end).trimEnd();
}

const nested = (source, depth) => splitBlocks(source).flatMap((block) => elementsOf(block.source, depth + 1));

function quoteElement(lines, depth) {
  return make("blockquote", {}, nested(lines.map((line) => line.replace(/^> ?/, "")).join("\n"), depth));
}

/** The cells of a table's line; `\|` is a bar in a cell. */
function cellsOf(line) {
  const text = line.trim();
  const cells = [""];
  for (let i = text.startsWith("|") ? 1 : 0; i < text.length; i++) {
    if (text[i] === "\\" && text[i + 1] === "|") cells[cells.length - 1] += text[++i];
    else if (text[i] === "|") cells.push("");
    else cells[cells.length - 1] += text[i];
  }
  if (cells.length > 1 && cells.at(-1) === "") cells.pop();
  return cells.map((cell) => cell.trim());
}

function tableElement(lines) {
  const sides = cellsOf(lines[1]).map((rule) => (rule.endsWith(":") ? (rule.startsWith(":") ? "center" : "right") : null));
  const style = (i) => (sides[i] ? { style: `text-align: ${sides[i]}` } : {});
  const row = (line, tag) => make("tr", {}, cellsOf(line).map((cell, i) => make(tag, style(i), inline(cell))));
  return make("table", {}, make("thead", {}, row(lines[0], "th")), make("tbody", {}, lines.slice(2).map((line) => row(line, "td"))));
}

function listElement(lines, depth) {
  const [, indent, bullet] = lines[0].match(ITEM);
  const ordered = /\d/.test(bullet);
  const list = make(ordered ? "ol" : "ul", ordered && parseInt(bullet) !== 1 ? { start: parseInt(bullet) } : {});
  let item = [];
  const close = () => {
    if (!item.length) return;
    const [head, ...rest] = item;
    const indents = rest.filter((line) => line.trim()).map((line) => line.length - line.trimStart().length);
    const width = indents.reduce((least, one) => Math.min(least, one), 8);
    list.append(make("li", {}, inline(head), nested(rest.map((line) => line.slice(indents.length ? width : 0)).join("\n"), depth)));
    item = [];
  };
  for (const line of lines) {
    const match = line.match(ITEM);
    if (match && match[1].length <= indent.length) {
      close();
      item = [match[3]];
    } else item.push(line);
  }
  close();
  return list;
}
