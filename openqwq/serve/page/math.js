// TeX as models write it, to MathML, which browsers draw themselves. What is not known here is shown as its source.

const NAMESPACE = "http://www.w3.org/1998/Math/MathML";
const LETTERS = "alpha α beta β gamma γ delta δ epsilon ϵ varepsilon ε zeta ζ eta η theta θ vartheta ϑ iota ι kappa κ lambda λ mu μ nu ν xi ξ pi π rho ρ sigma σ tau τ upsilon υ phi ϕ varphi φ chi χ psi ψ omega ω Gamma Γ Delta Δ Theta Θ Lambda Λ Xi Ξ Pi Π Sigma Σ Upsilon Υ Phi Φ Psi Ψ Omega Ω infty ∞ ell ℓ hbar ℏ partial ∂ nabla ∇ emptyset ∅ varnothing ∅ aleph ℵ Re ℜ Im ℑ";
const OPERATORS = "cdot · times × div ÷ pm ± mp ∓ ast ∗ star ⋆ circ ∘ bullet • leq ≤ le ≤ geq ≥ ge ≥ neq ≠ ne ≠ equiv ≡ approx ≈ sim ∼ simeq ≃ cong ≅ propto ∝ in ∈ notin ∉ ni ∋ subset ⊂ subseteq ⊆ supset ⊃ supseteq ⊇ cup ∪ cap ∩ setminus ∖ land ∧ lor ∨ wedge ∧ vee ∨ neg ¬ lnot ¬ forall ∀ exists ∃ to → rightarrow → leftarrow ← Rightarrow ⇒ Leftarrow ⇐ Leftrightarrow ⇔ leftrightarrow ↔ implies ⟹ iff ⟺ mapsto ↦ ldots … dots … cdots ⋯ vdots ⋮ mid ∣ parallel ∥ perp ⊥ angle ∠ triangle △ therefore ∴ because ∵ oplus ⊕ otimes ⊗ prime ′ ll ≪ gg ≫ lfloor ⌊ rfloor ⌋ lceil ⌈ rceil ⌉ langle ⟨ rangle ⟩ lvert | rvert | vert | Vert ‖ degree °";
const BIG = "sum ∑ prod ∏ int ∫ iint ∬ oint ∮ bigcup ⋃ bigcap ⋂ coprod ∐";
const FUNCTIONS = new Set("sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln exp lim max min sup inf det dim gcd lcm deg arg ker Pr mod".split(" "));
const SPACES = { ",": "0.17em", ":": "0.22em", ";": "0.28em", " ": "0.33em", "!": "-0.17em", quad: "1em", qquad: "2em" };
const SYNONYMS = { dfrac: "frac", tfrac: "frac", cfrac: "frac", dbinom: "binom" };
const FONTS = { mathbb: "double-struck", mathbf: "bold", mathcal: "script", mathrm: "normal", boldsymbol: "bold" };
const MAX_LENGTH = 5_000; // characters; what is longer is no formula
const MAX_NESTING = 40; // formulas within each other; browsers lay out no thousands
const table = (text) => new Map(text.split(" ").reduce((rows, word, i, all) => (i % 2 ? rows : [...rows, [word, all[i + 1]]]), []));
const letters = table(LETTERS);
const operators = table(OPERATORS);
const big = table(BIG);
const DOUBLE = { R: "ℝ", N: "ℕ", Z: "ℤ", Q: "ℚ", C: "ℂ", P: "ℙ", E: "𝔼" };

function node(tag, ...children) {
  const element = document.createElementNS(NAMESPACE, tag);
  element.append(...children.flat());
  return element;
}

const row = (children) => (children.length === 1 ? children[0] : node("mrow", children));

/** A formula; its source in a code element where it cannot be read. */
export function mathElement(source, display) {
  try {
    if (source.length > MAX_LENGTH) throw new Error("too long");
    const reader = new Reader(source);
    const math = node("math", row(reader.list(() => false)));
    if (display) math.setAttribute("display", "block");
    math.setAttribute("aria-label", source);
    return math;
  } catch {
    const code = document.createElement("code");
    code.textContent = source;
    return code;
  }
}

class Reader {
  constructor(source) {
    this.depth = 0;
    this.tokens = source.match(/\\[A-Za-z]+\*?|\\[\s\S]|\d+(?:\.\d+)?|\s+|[\s\S]/g) ?? [];
    this.position = 0;
  }

  get next() {
    while (/^\s+$/.test(this.tokens[this.position] ?? "")) this.position++;
    return this.tokens[this.position];
  }

  take(wanted) {
    const token = this.next;
    if (token === undefined || (wanted && token !== wanted)) throw new Error(`no ${wanted ?? "token"}`);
    this.position++;
    return token;
  }

  list(ends) {
    const found = [];
    while (this.next !== undefined && !ends(this.next)) found.push(this.scripted());
    return found;
  }

  scripted() {
    const isBig = big.has(this.next.slice(1)) || ["\\lim", "\\max", "\\min"].includes(this.next);
    let base = this.atom();
    let below;
    const marks = [];
    while (["^", "_", "'"].includes(this.next)) {
      const mark = this.take();
      if (mark === "_") below = this.atom();
      else marks.push(mark === "'" ? node("mo", "′") : this.atom());
    }
    const above = marks.length ? row(marks) : null;
    const [both, under, over] = isBig ? ["munderover", "munder", "mover"] : ["msubsup", "msub", "msup"];
    if (below && above) base = node(both, base, below, above);
    else if (below) base = node(under, base, below);
    else if (above) base = node(over, base, above);
    return base;
  }

  atom() {
    if (this.depth === MAX_NESTING) throw new Error("nested too deeply");
    this.depth++;
    const found = this.oneAtom();
    this.depth--;
    return found;
  }

  oneAtom() {
    const token = this.take();
    if (token === "{") return this.group();
    if (token.startsWith("\\")) return this.command(token.slice(1));
    if (/^\d/.test(token)) return node("mn", token);
    if (/^[A-Za-z]$/.test(token)) return node("mi", token);
    if (token === "}" || token === "^" || token === "_") throw new Error("misplaced");
    if (token === "~") return this.space("0.33em");
    return /\p{L}/u.test(token) ? node("mi", token) : node("mo", token === "-" ? "−" : token);
  }

  group() {
    const inside = this.list((token) => token === "}");
    this.take("}");
    return node("mrow", inside);
  }

  space(width) {
    const space = node("mspace");
    space.setAttribute("width", width);
    return space;
  }

  /** The characters of a braced text, as they stand. */
  raw() {
    this.take("{");
    let depth = 1;
    let text = "";
    while (this.position < this.tokens.length) {
      const token = this.tokens[this.position++];
      depth += token === "{" ? 1 : token === "}" ? -1 : 0;
      if (!depth) return text;
      text += token;
    }
    throw new Error("unclosed");
  }

  command(given) {
    const name = SYNONYMS[given] ?? given;
    if (letters.has(name)) return node("mi", letters.get(name));
    if (operators.has(name)) return node("mo", operators.get(name));
    if (big.has(name)) return node("mo", big.get(name));
    if (FUNCTIONS.has(name)) return node("mi", name);
    if (name in SPACES) return this.space(SPACES[name]);
    if ("{}%$#&_|".includes(name)) return node("mo", name === "|" ? "‖" : name);
    if (name === "frac") return node("mfrac", this.atom(), this.atom());
    if (name === "binom") return this.fenced("(", this.thin(this.atom(), this.atom()), ")");
    if (name === "sqrt") return this.root();
    if (["text", "textbf", "textit", "mbox", "operatorname"].includes(name)) return node("mtext", this.raw());
    if (name in FONTS) return this.styled(FONTS[name]);
    if (["left", "right", "big", "Big", "bigl", "bigr", "Bigl", "Bigr", "displaystyle", "limits"].includes(name)) return this.delimiter(name);
    if (name === "boxed" || name === "fbox") return this.boxed();
    if (["overline", "bar", "hat", "vec", "tilde", "dot"].includes(name)) return this.accent(name);
    if (["pmod", "bmod"].includes(name)) return name === "bmod" ? node("mo", "mod") : this.fenced("(", node("mrow", node("mi", "mod"), this.space("0.3em"), this.atom()), ")");
    if (name === "begin") return this.environment();
    if (name === "\\") return this.space("1em");
    throw new Error(`\\${name}`);
  }

  thin(above, below) {
    const fraction = node("mfrac", above, below);
    fraction.setAttribute("linethickness", "0");
    return fraction;
  }

  fenced(open, inside, close) {
    return node("mrow", node("mo", open), inside, node("mo", close));
  }

  root() {
    if (this.next !== "[") return node("msqrt", this.atom());
    this.take("[");
    const index = row(this.list((token) => token === "]"));
    this.take("]");
    return node("mroot", this.atom(), index);
  }

  styled(variant) {
    const text = this.raw();
    if (variant === "double-struck") return node("mi", [...text].map((c) => DOUBLE[c] ?? c).join(""));
    const element = node("mi", text);
    if (variant === "normal") element.setAttribute("mathvariant", "normal");
    if (variant === "bold") element.setAttribute("style", "font-weight: bold");
    return element;
  }

  delimiter(name) {
    if (name === "displaystyle" || name === "limits") return this.space("0em");
    const token = this.take();
    if (token === ".") return this.space("0em");
    const text = token.startsWith("\\") ? (operators.get(token.slice(1)) ?? token.slice(1)) : token;
    return node("mo", text === "|" && token === "\\|" ? "‖" : text);
  }

  boxed() {
    const box = node("mrow", this.atom());
    box.setAttribute("class", "boxed");
    box.setAttribute("style", "border: 1px solid; padding: 0.15em 0.3em");
    return box;
  }

  accent(name) {
    const mark = { overline: "‾", bar: "‾", hat: "^", vec: "→", tilde: "~", dot: "˙" }[name];
    const over = node("mover", this.atom(), node("mo", mark));
    over.setAttribute("accent", "true");
    return over;
  }

  environment() {
    const name = this.raw();
    const fences = { pmatrix: "()", bmatrix: "[]", vmatrix: "||", cases: "{ ", matrix: "  ", aligned: "  ", align: "  ", "align*": "  ", array: "  " }[name];
    if (!fences) throw new Error(name);
    if (name === "array") this.raw();
    const rows = [];
    for (;;) {
      const cells = [];
      do {
        if (this.next === "&") this.take();
        cells.push(node("mtd", this.list((t) => t === "&" || t === "\\\\" || t === "\\end")));
      } while (this.next === "&");
      if (cells.length > 1 || cells[0].childNodes.length) rows.push(node("mtr", cells));
      if (this.next !== "\\\\") break;
      this.take();
    }
    this.take("\\end");
    if (this.raw() !== name) throw new Error("unbalanced");
    return this.fenced(fences[0].trim(), node("mtable", rows), fences[1].trim());
  }
}
