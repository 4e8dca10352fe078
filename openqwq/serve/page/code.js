// Code blocks, with strings, comments, numbers and common keywords in colour. One pass, whatever the text.
import { make } from "./dom.js";

const KEYWORDS = new Set(("and as async await break case class const continue def del do elif else enum except export extends " +
  "finally fn for from function if impl import in interface is lambda let match new None not null or pass raise return " +
  "self static struct switch this throw True False true false try type use var void while with yield").split(" "));
const WORD = /\d[\w.]*|[A-Za-z_]\w*/y;
const MAX_COLOURED = 50_000; // characters; longer blocks, which are data rather than programs, stay plain

export function codeElement(lines, fence, language) {
  const closed = lines.length > 1 && lines.at(-1).trim().startsWith(fence);
  const text = lines.slice(1, closed ? -1 : undefined).join("\n");
  const copy = make("button", { class: "quiet copy", type: "button", click: () => navigator.clipboard?.writeText(text) }, "Copy");
  const shown = text.length > MAX_COLOURED ? [text] : coloured(text);
  return make("pre", { tabindex: 0 }, copy, make("code", language ? { "data-language": language } : {}, shown));
}

function coloured(text) {
  const parts = [];
  const ends = new Ends(text);
  let plain = 0;
  for (let at = 0; at < text.length;) {
    const [kind, end] = pieceAt(text, at, ends);
    if (kind) {
      parts.push(text.slice(plain, at), make("span", { class: kind }, text.slice(at, end)));
      plain = end;
    }
    at = end;
  }
  return [...parts, text.slice(plain)];
}

/** The class of the piece at a place, empty for plain text, and where the piece ends. */
function pieceAt(text, at, ends) {
  const two = text.slice(at, at + 2);
  const three = text.slice(at, at + 3);
  let end = -1;
  if (three === '"""' || three === "'''") end = ends.after(three, at + 3);
  if (end < 0 && "\"'`".includes(text[at])) end = ends.ofString(text[at], at + 1);
  if (end >= 0) return ["s", end];
  if (two === "//" || text[at] === "#") return ["c", ends.ofLine(at)];
  if (two === "/*" && (end = ends.after("*/", at + 2)) >= 0) return ["c", end];
  WORD.lastIndex = at;
  const word = WORD.exec(text)?.[0];
  if (!word) return ["", at + 1];
  return [/\d/.test(word[0]) ? "n" : KEYWORDS.has(word) ? "k" : "", at + word.length];
}

/** Where things end. What was looked for in vain is not looked for again. */
class Ends {
  constructor(text) {
    this.text = text;
    this.vain = {}; // mark: up to where there is none
  }

  after(mark, from) {
    if (this.vain[mark]) return -1;
    const found = this.text.indexOf(mark, from);
    if (found < 0) this.vain[mark] = true;
    return found < 0 ? -1 : found + mark.length;
  }

  ofLine(from) {
    const found = this.text.indexOf("\n", from);
    return found < 0 ? this.text.length : found;
  }

  ofString(quote, from) {
    if (from <= (this.vain[quote] ?? -1)) return -1;
    let at = from;
    while (at < this.text.length && this.text[at] !== quote && (quote === "`" || this.text[at] !== "\n")) at += this.text[at] === "\\" ? 2 : 1;
    if (this.text[at] === quote) return at + 1;
    this.vain[quote] = at;
    return -1;
  }
}
