// The parts of a line of text: code, TeX, links, emphasis. One pass over the text for each level of nesting.
import { make } from "./dom.js";
import { mathElement } from "./math.js";

const MAX_NESTING = 6; // emphasis and links within each other; deeper ones are shown as text
const MARKS = /[\\`$[*_~]/g;
const HREF = /https?:\/\/[^\s)]{1,2000}\)/y;
const ESCAPED = "\\`*_{}[]()#+-.!|$~";
const isSpace = (character) => character === undefined || /\s/.test(character);
const isWord = (character) => character !== undefined && /\w/.test(character);

/** The parts of a text, as texts and elements. */
export function inline(text, depth = 0) {
  if (depth > MAX_NESTING) return [text];
  const line = new Line(text, depth);
  const parts = [];
  let plain = 0;
  for (let at = line.mark(0); at < text.length;) {
    const found = line.at(at);
    if (found) {
      parts.push(text.slice(plain, at), found.element);
      at = plain = found.end;
    } else at++;
    at = line.mark(at);
  }
  return [...parts, text.slice(plain)];
}

class Line {
  constructor(text, depth) {
    this.text = text;
    this.depth = depth;
    this.next = new Map(); // mark: the last place that was found, and from where
  }

  /** The next place from here on where something may begin. */
  mark(from) {
    MARKS.lastIndex = from;
    return MARKS.exec(this.text)?.index ?? this.text.length;
  }

  /** Where a mark stands next; asked from left to right, each character is looked at once a mark. */
  find(mark, from) {
    const known = this.next.get(mark);
    if (known && known.from <= from && (known.at < 0 || known.at >= from)) return known.at;
    const at = this.text.indexOf(mark, from);
    this.next.set(mark, { from, at });
    return at;
  }

  /** The element that begins at a place, and where it ends; null where none does. */
  at(at) {
    const { text } = this;
    switch (text[at]) {
      case "`": return this.code(at);
      case "$": return text[at + 1] === "$" ? this.between(at, "$$", "$$", true) ?? this.dollars(at) : this.dollars(at);
      case "[": return this.link(at);
      case "~": return text[at + 1] === "~" ? this.strike(at) : null;
      case "\\": return this.backslash(at);
      default: return (text.startsWith("**", at) ? this.strong(at) : null) ?? this.emphasis(at);
    }
  }

  code(at) {
    this.runs ??= runsOf(this.text);
    const run = this.runs.get(at);
    if (!run) return null; // within a run
    if (run.twin === undefined) return { element: this.text.slice(at, run.end), end: run.end };
    return { element: make("code", {}, this.text.slice(run.end, run.twin)), end: this.runs.get(run.twin).end };
  }

  between(at, open, close, display) {
    const end = this.find(close, at + open.length);
    if (end <= at + open.length) return null;
    return { element: mathElement(this.text.slice(at + open.length, end).trim(), display), end: end + close.length };
  }

  /** `$x$`: on one line, no space within the dollars, no digit behind them. */
  dollars(at) {
    const { text } = this;
    if (isSpace(text[at + 1]) || text[at + 1] === "$") return null;
    let end = at + 1;
    while (end < text.length && text[end] !== "$" && text[end] !== "\n") end += text[end] === "\\" ? 2 : 1;
    if (text[end] !== "$" || isSpace(text[end - 1]) || /\d/.test(text[end + 1] ?? "")) return null;
    return { element: mathElement(text.slice(at + 1, end).trim(), false), end: end + 1 };
  }

  link(at) {
    const close = this.find("](", at + 1);
    const label = this.text.slice(at + 1, close);
    if (close <= at + 1 || this.breaks(at + 1, close)) return null;
    HREF.lastIndex = close + 2;
    const href = HREF.exec(this.text)?.[0].slice(0, -1);
    if (!href) return null;
    const element = make("a", { href, rel: "noreferrer noopener", target: "_blank" }, inline(label, this.depth + 1));
    return { element, end: close + 3 + href.length };
  }

  /** Whether a label would hold a bracket or a line end. */
  breaks(from, to) {
    return ["]", "\n"].some((mark) => {
      const place = this.find(mark, from);
      return place >= 0 && place < to;
    });
  }

  strike(at) {
    const end = this.find("~", at + 2);
    const bad = end <= at + 2 || this.text[end + 1] !== "~" || isSpace(this.text[at + 2]);
    const broken = this.find("\n", at + 2);
    if (bad || (broken >= 0 && broken < end)) return null;
    return { element: make("s", {}, inline(this.text.slice(at + 2, end), this.depth + 1)), end: end + 2 };
  }

  backslash(at) {
    const { text } = this;
    const next = text[at + 1];
    if (next === "[" || next === "(") {
      const found = this.between(at, `\\${next}`, next === "[" ? "\\]" : "\\)", next === "[");
      if (found) return found;
    }
    if (text.startsWith("\\boxed{", at)) {
      this.braces ??= bracesOf(text);
      const end = this.braces.get(at + 6);
      if (end !== undefined) return { element: mathElement(text.slice(at, end + 1), false), end: end + 1 };
    }
    return next !== undefined && ESCAPED.includes(next) ? { element: next, end: at + 2 } : null;
  }

  strong(at) {
    this.closers ??= strongClosers(this.text);
    if (isSpace(this.text[at + 2])) return null;
    while (this.closers.length && this.closers.at(-1) < at + 3) this.closers.pop();
    const end = this.closers.at(-1);
    if (end === undefined) return null;
    return { element: make("strong", {}, inline(this.text.slice(at + 2, end), this.depth + 1)), end: end + 2 };
  }

  /** `*x*` or `_x_`: no mark or line end within, not in the middle of a word. */
  emphasis(at) {
    const { text } = this;
    if (isWord(text[at - 1]) || text[at - 1] === "*" || isSpace(text[at + 1])) return null;
    let end = at + 1;
    while (end < text.length && !"*_\n".includes(text[end])) end++;
    if (end === at + 1 || end === text.length || text[end] === "\n" || isSpace(text[end - 1])) return null;
    if (isWord(text[end + 1]) || text[end + 1] === "*") return null;
    return { element: make("em", {}, inline(text.slice(at + 1, end), this.depth + 1)), end: end + 1 };
  }
}

/** Runs of backticks by where they begin: where each ends, and where the next one of its length begins. */
function runsOf(text) {
  const runs = new Map();
  const open = new Map(); // length: the last run of it
  for (const match of text.matchAll(/`+/g)) {
    const run = { end: match.index + match[0].length, twin: undefined };
    const former = open.get(match[0].length);
    if (former) former.twin = match.index;
    open.set(match[0].length, run);
    runs.set(match.index, run);
  }
  return runs;
}

/** Where each opening brace is closed. */
function bracesOf(text) {
  const pairs = new Map();
  const open = [];
  for (let i = 0; i < text.length; i++) {
    if (text[i] === "\\") i++;
    else if (text[i] === "{") open.push(i);
    else if (text[i] === "}" && open.length) pairs.set(open.pop(), i);
  }
  return pairs;
}

/** Where `**` stands behind a text, the last one first. */
function strongClosers(text) {
  const found = [];
  for (let at = text.indexOf("**"); at >= 0; at = text.indexOf("**", at + 1)) if (at > 0 && !isSpace(text[at - 1])) found.push(at);
  return found.reverse();
}
