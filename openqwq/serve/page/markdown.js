// Markdown to elements: headings, lists, tables, quotes, code, emphasis, links, TeX. Nothing is ever read as HTML.
import { make } from "./dom.js";
import { mathElement } from "./math.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+-]*)[^`]*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const KEYWORDS = new Set(("and as async await break case class const continue def del do elif else enum except export extends " +
  "finally fn for from function if impl import in interface is lambda let match new None not null or pass raise return " +
  "self static struct switch this throw True False true false try type use var void while with yield").split(" "));
const TOKENS = /("""[\s\S]*?"""|'''[\s\S]*?'''|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`)|(\/\/[^\n]*|#[^\n]*|\/\*[\s\S]*?\*\/)|\b(\d[\w.]*)\b|\b([A-Za-z_]\w*)\b/g;

/** The top-level blocks of a text, as their sources: what stands before the last one no longer changes. */
export function splitBlocks(text) {
  const blocks = [];
  let lines = [];
  let fence = "";
  let math = false;
  const close = () => {
    if (lines.length) blocks.push(lines.join("\n"));
    lines = [];
  };
  for (const line of text.split("\n")) {
    const marker = line.match(FENCE)?.[1];
    if (fence) {
      lines.push(line);
      if (marker && marker[0] === fence[0] && marker.length >= fence.length && line.trim() === marker) { fence = ""; close(); }
    } else if (marker) {
      close();
      fence = marker;
      lines.push(line);
    } else {
      if (!math && !line.trim() && !lines.some((l) => ITEM.test(l))) { close(); continue; }
      if (!math && !line.trim() && lines.at(-1)?.trim() === "") { close(); continue; }
      if (!math && lines.length && lines.at(-1).trim() === "" && !ITEM.test(line) && !/^\s{2,}/.test(line)) close();
      lines.push(line);
      const marks = line.match(/\$\$/g)?.length ?? 0;
      if (marks % 2) math = !math;
      if (/\\\[/.test(line) && !/\\\]/.test(line)) math = true;
      else if (/\\\]/.test(line)) math = false;
    }
  }
  close();
  return blocks;
}

/** Shows a growing text in an element; only blocks that changed are made again. */
export class MarkdownView {
  constructor(element) {
    this.element = element;
    this.sources = [];
  }

  show(text) {
    const blocks = splitBlocks(text);
    let same = 0;
    while (same < blocks.length && blocks[same] === this.sources[same]) same++;
    while (this.element.children.length > same) this.element.lastChild.remove();
    for (const source of blocks.slice(same)) this.element.append(blockElement(source));
    this.sources = blocks;
  }
}

function blockElement(source) {
  const lines = source.split("\n");
  const fence = lines[0].match(FENCE);
  if (fence) return codeElement(lines, fence[1], fence[2]);
  const math = source.trim().match(/^(?:\$\$([\s\S]+?)\$\$|\\\[([\s\S]+?)\\\])$/);
  if (math) return mathElement((math[1] ?? math[2]).trim(), true);
  const heading = source.match(/^(#{1,6})\s+(.*?)\s*#*$/);
  if (heading && lines.length === 1) return make(`h${Math.min(heading[1].length, 4)}`, {}, inline(heading[2]));
  if (/^ {0,3}([-*_])(\s*\1){2,}\s*$/.test(source)) return make("hr");
  if (lines.every((line) => line.startsWith(">"))) return quoteElement(lines);
  if (lines.length > 1 && lines[0].includes("|") && /^\s*\|?\s*:?-+:?\s*(\|\s*:?-*:?\s*)*\|?\s*$/.test(lines[1])) return tableElement(lines);
  if (ITEM.test(lines[0])) return listElement(lines);
  const first = lines.findIndex((line, i) => i > 0 && (ITEM.test(line) || /^#{1,6}\s/.test(line)));
  if (first > 0 || (heading && lines.length > 1)) {
    const cut = heading || /^#{1,6}\s/.test(lines[0]) ? 1 : first;
    return make("div", {}, blockElement(lines.slice(0, cut).join("\n")), blockElement(lines.slice(cut).join("\n")));
  }
  return make("p", {}, inline(source));
}

function codeElement(lines, fence, language) {
  const closed = lines.length > 1 && lines.at(-1).trim().startsWith(fence);
  const text = lines.slice(1, closed ? -1 : undefined).join("\n");
  const copy = make("button", { class: "quiet copy", type: "button", click: () => navigator.clipboard?.writeText(text) }, "Copy");
  return make("pre", { tabindex: 0 }, copy, make("code", language ? { "data-language": language } : {}, highlighted(text)));
}

function highlighted(text) {
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(TOKENS)) {
    const [whole, string, comment, number, word] = match;
    const kind = string ? "s" : comment ? "c" : number ? "n" : KEYWORDS.has(word) ? "k" : "";
    if (!kind) continue;
    parts.push(text.slice(end, match.index), make("span", { class: kind }, whole));
    end = match.index + whole.length;
  }
  return [...parts, text.slice(end)];
}

function quoteElement(lines) {
  const quote = make("blockquote");
  for (const source of splitBlocks(lines.map((line) => line.replace(/^> ?/, "")).join("\n"))) quote.append(blockElement(source));
  return quote;
}

function tableElement(lines) {
  const cells = (line) => line.trim().replace(/^\||(?<!\\)\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
  const sides = cells(lines[1]).map((rule) => (rule.endsWith(":") ? (rule.startsWith(":") ? "center" : "right") : null));
  const style = (i) => (sides[i] ? { style: `text-align: ${sides[i]}` } : {});
  const row = (line, tag) => make("tr", {}, cells(line).map((cell, i) => make(tag, style(i), inline(cell))));
  return make("table", {}, make("thead", {}, row(lines[0], "th")), make("tbody", {}, lines.slice(2).map((line) => row(line, "td"))));
}

function listElement(lines) {
  const [, indent, bullet] = lines[0].match(ITEM);
  const ordered = /\d/.test(bullet);
  const list = make(ordered ? "ol" : "ul", ordered && parseInt(bullet) !== 1 ? { start: parseInt(bullet) } : {});
  let item = [];
  const close = () => {
    if (!item.length) return;
    const [head, ...rest] = item;
    const width = Math.min(...rest.filter((line) => line.trim()).map((line) => line.match(/^\s*/)[0].length), 8);
    const body = rest.map((line) => line.slice(Number.isFinite(width) ? width : 0)).join("\n");
    const blocks = splitBlocks(body).map(blockElement);
    list.append(make("li", {}, inline(head), blocks));
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

const INLINE = new RegExp([
  /(?<code>(?<ticks>`+)(?<codeText>[^`]|[^`][\s\S]*?[^`])\k<ticks>(?!`))/,
  /(?<math>\$\$(?<m1>[\s\S]+?)\$\$|\\\[(?<m2>[\s\S]+?)\\\]|\\\((?<m3>[\s\S]+?)\\\)|\$(?<m4>(?![\s$])(?:\\.|[^$\\\n])*?[^\s\\$])\$(?!\d))/,
  /(?<boxed>\\boxed\{(?:[^{}]|\{[^{}]*\})*\})/,
  /(?<link>\[(?<label>[^\]\n]+)\]\((?<href>https?:\/\/[^\s)]+)\))/,
  /(?<strong>\*\*(?=\S)(?<strongText>[\s\S]*?\S)\*\*)/,
  /(?<em>(?<![\w*])[*_](?=[^\s*_])(?<emText>[^*_\n]*?[^\s*_])[*_](?![\w*]))/,
  /(?<strike>~~(?<strikeText>\S[^~\n]*?)~~)/,
  /(?<escape>\\(?<escaped>[\\`*_{}[\]()#+\-.!|$~]))/,
].map((part) => part.source).join("|"), "g");

/** The parts of a line of text, as texts and elements. */
export function inline(text) {
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(INLINE)) {
    parts.push(text.slice(end, match.index));
    end = match.index + match[0].length;
    parts.push(inlineElement(match.groups));
  }
  return [...parts, text.slice(end)];
}

function inlineElement(g) {
  if (g.code) return make("code", {}, g.codeText);
  if (g.math) return mathElement((g.m1 ?? g.m2 ?? g.m3 ?? g.m4).trim(), g.m1 !== undefined || g.m2 !== undefined);
  if (g.boxed) return mathElement(g.boxed, false);
  if (g.link) return make("a", { href: g.href, rel: "noreferrer noopener", target: "_blank" }, inline(g.label));
  if (g.strong) return make("strong", {}, inline(g.strongText));
  if (g.em) return make("em", {}, inline(g.emText));
  if (g.strike) return make("s", {}, inline(g.strikeText));
  return g.escaped;
}
