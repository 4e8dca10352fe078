r"""One spelling for the many ways to typeset an answer: Unicode, fonts, colours, sizes, blanks, Markdown.

Public: `spell`. Typography never changes a value, so all of it goes: `\textbf{**½**}`, `\color{red}{\tfrac12}` and
`\frac{1}{2}` come out alike. Words set as text stay marked, one by one, `\text{cm}`: they may be units.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from itertools import groupby

MAX_FRAMES = 10
"""So many pairs of braces around an answer are typography; more are an attack on the reader."""
_FUNCTIONS_TEXT = """
    sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh ln log lg exp
"""
FUNCTIONS = frozenset(_FUNCTIONS_TEXT.split())
_LETTERS = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho varsigma sigma tau "
    "upsilon phi chi psi omega"
)
_GREEK = {chr(0x3B1 + i): f"\\{name} " for i, name in enumerate(_LETTERS.split())} | {
    "Γ": "\\Gamma ", "Δ": "\\Delta ", "Θ": "\\Theta ", "Λ": "\\Lambda ", "Σ": "\\Sigma ", "Φ": "\\Phi ",
    "Ω": "\\Omega ", "\u2126": "\\Omega ", "µ": "\\mu ", "ϕ": "\\phi ", "ϵ": "\\epsilon ",
}  # fmt: skip
_SYMBOLS = {
    "−": "-", "–": "-", "—": "-", "‒": "-", "‐": "-", "‑": "-", "﹣": "-", "×": "\\times ", "✕": "\\times ",
    "·": "\\cdot ", "⋅": "\\cdot ", "∙": "\\cdot ", "•": "\\cdot ", "∗": "*", "÷": "\\div ", "⁄": "/", "∕": "/",
    "∞": "\\infty ", "°": "^\\circ ", "º": "^\\circ ",
    "˚": "^\\circ ", "℃": "^\\circ \\text{C}", "℉": "^\\circ \\text{F}", "′": "'",
    "″": "''", "≤": "\\le ", "⩽": "\\le ", "≦": "\\le ", "≥": "\\ge ", "⩾": "\\ge ", "≧": "\\ge ", "≠": "\\ne ",
    "≈": "\\approx ", "≡": "\\equiv ", "∪": "\\cup ", "∩": "\\cap ", "∈": "\\in ", "∉": "\\notin ", "∅": "\\emptyset ",
    "Ø": "\\emptyset ", "±": "\\pm ", "∓": "\\mp ", "ℝ": "\\mathbb{R}", "ℤ": "\\mathbb{Z}", "ℕ": "\\mathbb{N}",
    "ℚ": "\\mathbb{Q}", "ℂ": "\\mathbb{C}", "∖": "\\setminus ", "∣": "|", "∶": ":", "。": ".", "、": ",", "“": '"',
    "”": '"', "‘": "'", "’": "'", "∧": "\\land ", "∨": "\\lor ", "⌊": "\\lfloor ", "⌋": "\\rfloor ", "⌈": "\\lceil ",
    "⌉": "\\rceil ", "…": "\\ldots ", "⋯": "\\ldots ", "∠": "\\angle ", "⟨": "(", "⟩": ")", "\u00ad": "", "\u200b": "",
    "\u200c": "", "\u200d": "", "\u2060": "", "\u2061": "", "\u2062": "", "\ufeff": "",
}  # fmt: skip
_ROOTS = {"√": "\\sqrt", "∛": "\\sqrt[3]", "∜": "\\sqrt[4]"}
_ROOT = re.compile(r"([√∛∜])\s*(\d+(?:\.\d+)?)?")
_COMBINED = re.compile("((?:\\d[\u0305\u0304])+)|(\\d)\u0307")

_SAME = {
    "dfrac": "\\frac", "tfrac": "\\frac", "cfrac": "\\frac", "dbinom": "\\binom", "tbinom": "\\binom", "leq": "\\le ",
    "leqslant": "\\le ", "leqq": "\\le ", "geq": "\\ge ", "geqslant": "\\ge ", "geqq": "\\ge ", "lt": "<", "gt": ">",
    "neq": "\\ne ", "ast": "*", "vert": "|", "lvert": "|", "rvert": "|", "mid": "|", "lbrace": "\\{", "rbrace": "\\}",
    "lbrack": "[", "rbrack": "]", "lparen": "(", "rparen": ")", "degree": "^\\circ ", "textdegree": "^\\circ ",
    "varnothing": "\\emptyset ", "smallsetminus": "\\setminus ", "backslash": "\\setminus ", "dots": "\\ldots ",
    "cdots": "\\ldots ", "dotsc": "\\ldots ", "dotsb": "\\ldots ", "bar": "\\overline", "land": "\\text{and}",
    "wedge": "\\text{and}", "lor": "\\text{or}", "vee": "\\text{or}", "pounds": "£", "euro": "€", "yen": "¥",
    "textdollar": "\\$", "textsterling": "£", "texteuro": "€", "colon": ":", "tg": "\\tan ", "ctg": "\\cot ",
    "arctg": "\\arctan ", "lg": "\\log_{10} ", "Bbb": "\\mathbb", "R": "\\mathbb{R}", "reals": "\\mathbb{R}",
    "Re": "\\mathbb{R}", "quad": " ", "qquad": " ", "enspace": " ", "enskip": " ", "thinspace": " ", "medspace": " ",
    "thickspace": " ", "space": " ", "nobreakspace": " ", "hfill": " ", "prime": "'", "percent": "\\%",
    "lnot": "\\neg ", "infin": "\\infty ", "langle": "(", "rangle": ")",
}  # fmt: skip
_SIGNS = dict.fromkeys(" ,;:>()[]\n\t", " ") | {c: f"\\{c}" for c in "{}%$|"} | dict.fromkeys("!-/", "")
_SIGNS |= {"\\": "\\\\ ", "&": "&", "_": "_", "#": "#"}
_SWITCHES_TEXT = """
    left right middle big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr displaystyle textstyle
    scriptstyle scriptscriptstyle limits nolimits strut mathstrut null tiny scriptsize footnotesize small
    normalsize large Large LARGE huge Huge bf it rm sf tt sl sc em bfseries itshape mdseries rmfamily sffamily
    ttfamily upshape boldmath unboldmath centering noindent relax protect allowbreak nobreak nonumber notag
    negthinspace
"""
_SWITCHES = frozenset(_SWITCHES_TEXT.split())
_UNWRAPPED_TEXT = """
    bm boldsymbol pmb mathbf mathit mathtt mathsf mathnormal mathcal underline uline ensuremath boxed fbox
    framebox mathbin mathrel mathop mathord mathpunct mathopen mathclose mathinner smash emph bold Large large
"""
_UNWRAPPED = frozenset(_UNWRAPPED_TEXT.split())
_TEXTS_TEXT = """
    text textrm textnormal textup textbf textit textsf texttt textsl textsc textmd mathrm mbox hbox operatorname
    makebox
"""
_TEXTS = frozenset(_TEXTS_TEXT.split())
_DROPPED = {
    "hspace": 1, "vspace": 1, "mspace": 1, "phantom": 1, "hphantom": 1, "vphantom": 1, "label": 1, "tag": 1,
    "color": 1, "textcolor": 1, "colorbox": 1, "fcolorbox": 2, "rule": 2,
}  # fmt: skip
_TOKEN = re.compile(r"\\(?P<name>[A-Za-z]+)\*?|\\(?P<sign>.)|(?P<brace>[{}])|(?P<rest>[^\\{}]+|\\)", re.DOTALL)
_OPTIONS = re.compile(r"\s*(?:\[[^\]]*\])?\s*")
_SKIP = re.compile(r"\\(?:kern|mkern|hskip|mskip)\s*-?[\d.]+\s*(?:em|ex|pt|mu|mm|cm)")
_WORD = re.compile(r"[^\W\d_][^\W\d_.'’-]*(?:[.'’-][^\W\d_]+)*\.?")
_DOLLAR = re.compile(r"(?<!\\)\$")
_DROPPED_COMMA = re.compile(r"(?<=\d)(?:\{,\}|,\\!\s*|\\,\\!)(?=\d)")

_CLEANING: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    (re.compile(r"\{\s*\}"), " "),
    (re.compile(r"\{\s*([:=<>,;+|/-])\s*\}"), r"\1"),
    (re.compile(r"\^\s*\{\s*\\circ\s*\}|\\circ(?![A-Za-z])(?<!\^\\circ)"), r"^\\circ"),
    (re.compile(r"\{\s*\^\\circ\s*\}"), r"^\\circ"),
    (re.compile(r"\^\s*\{\s*('+)\s*\}"), r"\1"),
    (re.compile(r"(?<!\\)%"), r"\\%"),
    (re.compile(r"(?<=\d)\""), "''"),
    (re.compile(r"\\not\s*="), r"\\ne "),
    (re.compile(r"(?<![\d)])!="), r"\\ne "),
    (re.compile(r"<="), r"\\le "),
    (re.compile(r">="), r"\\ge "),
    (re.compile(r"(?<![\\A-Za-z{])infinity(?![A-Za-z])"), r"\\infty "),
    (re.compile(r"(?<![\\A-Za-z{])(sqrt|pi|sin|cos|tan|ln|log|theta)(?![A-Za-z])"), r"\\\1 "),
    (re.compile(r"\\overline\s*(\d)"), r"\\overline{\1}"),
    (re.compile(r"(?<=[.\d])\\dot\s*\{?\s*(\d)\s*\}?(?:(\d*)\\dot\s*\{?\s*(\d)\s*\}?)?"), r"\\overline{\1\2\3}"),
    (re.compile(r"\s*(\\text\{[^{}]*\})\s*"), r" \1 "),
    (re.compile(r"\s+(?=\{)"), ""),
    (re.compile(r"\s+"), " "),
    (re.compile(r"(?<![\d.,])(\d{1,3})((?: \d{3})+)(?![\d/])"), lambda m: m[1] + m[2].replace(" ", "")),
]
_ELLIPSIS = re.compile(r"(?<![\d.])(\d{0,20}\.\d{1,40})(?:\s*\\ldots|\.\.\.+)")
_PERIOD = re.compile(r"(\d*\.\d*?)(?:(\d)\2{2,}|(\d{2,12}?)\3+)")
_BRACKETED_PERIOD = re.compile(r"([+-]?\s*\d*\.\d*)\s*\((\d+)\)(?=\s*(?:\\%)?$)")
_PREFACE = re.compile(
    r"\A(?:\\text\{)?(?:(?:so|thus|hence|therefore)\b[ ,}]*(?:\\text\{)?)?(?:(?:the|my)\}? (?:\\text\{)?)?"
    r"(?:(?:final|correct)\}? (?:\\text\{)?)?answer\}?\s*(?::|=|(?:\\text\{)?is\}?\s*:?)\s*",
    re.IGNORECASE,
)
_CLOSING = re.compile(r"(?:[\s.,;]|(?<!\\)\$|\*|__|`|\\\\)+\Z")
_OPENING = re.compile(r"(?:[\s=]|(?<!\\)\$|\*|__|`|\\(?:approx|therefore)(?![A-Za-z]))+")
_QUOTED = re.compile(r"``|(?<!\d)''|\"")
_QUOTES = "\"'`"


@lru_cache(maxsize=4096)
def spell(text: str) -> str:
    """The answer in the one spelling; spelling twice changes nothing."""
    if not text.isascii():
        text = _from_unicode(text)
    if len(dollars := _DOLLAR.findall(text)) % 2 and re.match(r"\s*-?\s*\$\s*-?[\d.]", text):
        text = text.replace("$", "\\$", 1)
    elif dollars:
        text = _DOLLAR.sub(" ", text)
    text = _flatten(_DROPPED_COMMA.sub("", _SKIP.sub(" ", text)).replace("~", " "))
    for pattern, replacement in _CLEANING:
        text = pattern.sub(replacement, text)
    text = _trim(_ELLIPSIS.sub(_with_period, text))
    return _BRACKETED_PERIOD.sub(r"\1\\overline{\2}", text)


def _from_unicode(text: str) -> str:
    text = unicodedata.normalize("NFC", text)
    text = _COMBINED.sub(lambda m: f"\\overline{{{re.sub(r'[^0-9]', '', m[1])}}}" if m[1] else f"\\dot{{{m[2]}}}", text)
    text = _ROOT.sub(lambda m: _ROOTS[m[1]] + (f"{{{m[2]}}}" if m[2] else " "), text)
    return "".join(_spell_run(kind, "".join(run)) for kind, run in groupby(text, _script))


def _script(character: str) -> str:
    """ "^" for superscripts, "_" for subscripts, "" for all others."""
    if character.isascii() or character in "ªº":
        return ""
    kind = unicodedata.decomposition(character).partition(" ")[0]
    return {"<super>": "^", "<sub>": "_"}.get(kind, "")


def _spell_run(kind: str, run: str) -> str:
    if kind:
        return f"{kind}{{{''.join(_spell_character(c) for c in unicodedata.normalize('NFKC', run))}}}"
    return "".join(map(_spell_character, run))


def _spell_character(character: str) -> str:
    if character.isascii():
        return character
    known = _SYMBOLS.get(character) or _GREEK.get(character)
    if known is not None or character in _SYMBOLS:
        return known or ""
    if unicodedata.decomposition(character).startswith("<fraction>"):
        numerator, _, denominator = unicodedata.normalize("NFKC", character).partition("⁄")
        return f"\\frac{{{numerator}}}{{{denominator}}}"
    plain = unicodedata.normalize("NFKC", character)
    if plain != character and len(plain) == 1:
        return _spell_character(plain)
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    return " " if character.isspace() else character


def _flatten(text: str) -> str:
    """The text without typographic commands, each word of a text command marked by itself."""
    tokens = list(_TOKEN.finditer(text))
    out: list[str] = []
    closers: list[str] = []
    group = "{"  # what the next group is: "{" itself, "text", or "" for one that is unwrapped
    position, depth = 0, 0
    while position < len(tokens):
        token = tokens[position]
        position += 1
        if (name := token["name"]) is not None:
            group = "text" if name in _TEXTS else "" if name in _UNWRAPPED else "{"
            if name in _DROPPED:
                position = _skip_groups(tokens, position, _DROPPED[name])
                group = "" if name.endswith(("textcolor", "box")) else "{"
            elif name not in _TEXTS and name not in _UNWRAPPED:
                out.append("" if name in _SWITCHES else _SAME.get(name, token[0].rstrip("*") + " "))
        elif token["brace"] == "{":
            depth += group == "text"
            out.append("{" if group == "{" and not depth else " ")
            closers.append(group)
            group = "{"
        elif token["brace"]:
            closed = closers.pop() if closers else "{"
            out.append("}" if closed == "{" and not depth else " " if closed == "text" else "")
            depth -= closed == "text"
        elif token["sign"] is not None:
            out.append(_SIGNS.get(token["sign"], token["sign"]))
        else:
            out.append(_WORD.sub(_mark_word, _QUOTED.sub(" ", token[0])) if depth else token[0])
            group = group if token[0].isspace() else "{"
    return "".join(out)


def _skip_groups(tokens: list[re.Match[str]], position: int, number: int) -> int:
    """Where the text goes on after so many groups and the options before them."""
    for _ in range(number):
        ahead = position
        while ahead < len(tokens) and tokens[ahead]["rest"] and _OPTIONS.fullmatch(tokens[ahead][0]):
            ahead += 1
        if ahead >= len(tokens) or tokens[ahead]["brace"] != "{":
            return position
        depth, position = 1, ahead + 1
        while depth and position < len(tokens):
            depth += {"{": 1, "}": -1}.get(tokens[position]["brace"] or "", 0)
            position += 1
    return position


def _mark_word(match: re.Match[str]) -> str:
    word = match[0]
    if word in FUNCTIONS:
        return f"\\{word} "
    if word in ("e", "i"):
        return word
    end = "." if word.endswith(".") and "." not in word[:-1] and len(word) > 1 else ""
    return f"\\text{{{word.removesuffix(end)}}}{end}"


def _with_period(match: re.Match[str]) -> str:
    r"""`0.333\ldots` as `0.\overline{3}`; as it stands where the digits show no period."""
    shown = _PERIOD.fullmatch(match[1])
    return f"{shown[1]}\\overline{{{shown[2] or shown[3]}}}" if shown else match[0]


def _trim(text: str) -> str:
    """The text without what only frames it: braces, Markdown, quotes, a full stop, a leading equals sign."""
    for _ in range(MAX_FRAMES):
        before = text
        text = _PREFACE.sub("", _CLOSING.sub("", text), count=1)
        text = text[opening.end() :] if (opening := _OPENING.match(text)) else text
        if text.startswith("{") and _closing_brace(text) == len(text) - 1:
            text = text[1:-1]
        elif len(text) > 2 and text[0] in _QUOTES and text[-1] in _QUOTES:
            text = text.strip(_QUOTES)
        if text == before:
            break
    return text


def _closing_brace(text: str) -> int:
    """Where the brace that opens a text is closed; -1 if nowhere."""
    depth = 0
    for match in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.start() if match[0] == "}" else -1
    return -1
