r"""An answer's formulas as trees.

Public: `parse`, `Tree`. A tree is a nested tuple whose
first item is its kind: ("num", Fraction), ("sym", name), ("const", "pi" | "e" | "i" | "inf"), ("neg", a), ("add", a,
b, ...), ("mul", a, b, ...), ("div", a, b) for `a/b`, ("frac", a, b) for `\frac{a}{b}`, ("pow", a, b), ("fn", name, a,
...), ("deg", a). Nothing is evaluated while reading, and nothing that is read is ever handed to an evaluator of text.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

from .spelling import FUNCTIONS

Tree = tuple[Any, ...]

MAX_DEPTH = 40
"""Deeper nesting is no answer; the parser's recursion stays far from the interpreter's limit."""

_GREEK_TEXT = """
    alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau
    upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega ell hbar
"""
GREEK = frozenset(_GREEK_TEXT.split())
_ACCENTS = frozenset(["overline", "vec", "hat", "tilde", "overrightarrow", "widehat", "mathbb", "dot"])
_TOKEN = re.compile(
    r"(?P<rep>\d*\.\d*\\overline\{\d+\})|(?P<num>\d+(?:\.\d+)?[eE][+-]?\d{1,3}(?!\d)|\d{1,3}(?:,\d{3})+(?![\d,])(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+)"
    r"|\\text\{(?P<word>[^{}]*)\}|\\(?P<cmd>[A-Za-z]+)|(?P<op>\\[{}|%$]|\S)"
)
_ENDS = {"(": ")", "[": "]", "{": "}", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil"}


class Unreadable(Exception):
    """The text is no formula that this reader knows."""


@lru_cache(maxsize=4096)
def parse(text: str) -> Tree | None:
    """The tree of a formula in the one spelling; None when it is none."""
    try:
        parser = _Parser(text)
        tree = parser.sum()
        return tree if parser.at == len(parser.tokens) else None
    except Unreadable:
        return None


class _Parser:
    def __init__(self, text: str):
        self.tokens: list[tuple[str, str]] = []
        for match in _TOKEN.finditer(text):
            kind = match.lastgroup or "op"
            self.tokens.append((kind, match[kind]) if kind != "cmd" else ("cmd", f"\\{match['cmd']}"))
        self.at, self.depth, self.bars = 0, 0, 0

    def peek(self, offset: int = 0) -> tuple[str, str]:
        at = self.at + offset
        return self.tokens[at] if at < len(self.tokens) else ("end", "")

    def take(self, value: str) -> None:
        if self.peek()[1] != value:
            raise Unreadable
        self.at += 1

    def sum(self) -> Tree:
        """Terms joined by + and -, to the end of the group."""
        terms = [self.signed()]
        while self.peek()[1] in ("+", "-"):
            terms.append(self.signed())
        return terms[0] if len(terms) == 1 else ("add", *terms)

    def signed(self) -> Tree:
        negative = False
        while self.peek()[1] in ("+", "-"):
            negative ^= self.peek()[1] == "-"
            self.at += 1
        term = self.product()
        return ("neg", term) if negative else term

    def product(self) -> Tree:
        left, num_operators = self.juxtaposed(), 0
        while (operator := self.peek()[1]) in ("\\times", "\\cdot", "*", "/", "\\div"):
            num_operators += 1
            if num_operators > MAX_DEPTH:  # each makes the tree a level deeper
                raise Unreadable
            self.at += 1
            sign = self.peek()[1] if self.peek()[1] in ("+", "-") else ""
            self.at += bool(sign)
            if operator in ("/", "\\div"):
                coefficient = left[0] == "num" and self.peek()[0] == "num"
                left = ("div", left, self.power() if coefficient else self.juxtaposed())
                if coefficient and self.starts_factor():  # `1/2x` is half an x, `1/x y` one over x y
                    left = ("mul", left, self.juxtaposed())
            else:
                left = ("mul", left, self.juxtaposed())
            left = ("neg", left) if sign == "-" else left
        return left

    def juxtaposed(self) -> Tree:
        factors = [self.mixed_number() or self.power()]
        while self.starts_factor():
            if self.peek()[0] in ("num", "rep") and self.tokens[self.at - 1][0] in ("num", "rep"):
                raise Unreadable  # "2 3" is no product
            factors.append(self.power())
        return factors[0] if len(factors) == 1 else ("mul", *factors)

    def mixed_number(self) -> Tree | None:
        r"""`2\frac{1}{2}` and `2 1/2`: a whole number before a proper fraction of whole numbers."""
        if self.peek()[0] != "num" or not self.peek()[1].isdigit():
            return None
        start, whole = self.at, int(self.peek()[1])
        self.at += 1
        if self.peek()[1] == "\\frac":
            self.at += 1
            numerator, denominator = self.argument(), self.argument()
        elif [self.peek(i)[0] for i in range(3)] == ["num", "op", "num"] and self.peek(1)[1] == "/":
            numerator, denominator = _number(self.peek()[1]), _number(self.peek(2)[1])
            self.at += 3
        else:
            self.at = start
            return None
        if numerator[0] == denominator[0] == "num" and _is_proper(numerator[1], denominator[1]):
            return ("num", whole + numerator[1] / denominator[1])
        self.at = start
        return None

    def starts_factor(self) -> bool:
        kind, value = self.peek()
        if kind in ("num", "rep", "word"):
            return True
        if kind == "cmd":
            return value not in ("\\times", "\\cdot", "\\div", "\\rfloor", "\\rceil", "\\circ")
        return value in ("(", "[", "{") or value.isalpha() or (value == "|" and not self.bars)

    def power(self) -> Tree:
        base = self.postfixed(self.atom())
        if self.peek()[1] != "^":
            return base
        self.at += 1
        return self.postfixed(("pow", base, self.exponent()))

    def exponent(self) -> Tree:
        if self.peek()[1] in ("+", "-"):
            sign = self.peek()[1]
            self.at += 1
            return ("neg", self.atom()) if sign == "-" else self.atom()
        if self.peek()[1] in ("'", "*", "\\circ", "^"):
            raise Unreadable
        return self.atom()

    def postfixed(self, base: Tree) -> Tree:
        while True:
            if self.peek()[1] == "!" and self.peek(1)[1] != "!":
                self.at, base = self.at + 1, ("fn", "factorial", base)
            elif self.peek()[1] == "^" and self.peek(1)[1] == "\\circ":
                self.at += 2
                return ("deg", base)
            else:
                return base

    def atom(self) -> Tree:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable
        tree = self.simple()
        self.depth -= 1
        return tree

    def simple(self) -> Tree:
        kind, value = self.peek()
        self.at += 1
        if kind == "num":
            return _number(value)
        if kind == "rep":
            return ("num", _repeating(value))
        if kind == "cmd":
            return self.command(value)
        if value in ("(", "[", "{"):
            return self.group(value)
        if value == "|":
            return self.absolute()
        if kind == "word" and len(value) > 1:
            raise Unreadable
        if value.isalpha():
            return self.symbol(value)
        raise Unreadable

    def group(self, opening: str) -> Tree:
        bars, self.bars = self.bars, 0
        inside = self.sum()
        self.take(_ENDS[opening])
        self.bars = bars
        return inside

    def absolute(self) -> Tree:
        self.bars += 1
        inside = self.sum()
        self.take("|")
        self.bars -= 1
        return ("fn", "abs", inside)

    def symbol(self, name: str) -> Tree:
        if self.peek()[1] == "_":
            self.at += 1
            name = f"{name}_{self.raw_argument()}"
        elif name in ("e", "i"):
            return ("const", name)
        return ("sym", name)

    def raw_argument(self) -> str:
        """The tokens of the next argument, joined."""
        if self.peek()[1] != "{":
            self.at += 1
            return self.tokens[self.at - 1][1] if self.at <= len(self.tokens) else ""
        start, depth = self.at + 1, 0
        while True:
            kind, value = self.peek()
            depth += {"{": 1, "}": -1}.get(value, 0)
            self.at += 1
            if kind == "end":
                raise Unreadable
            if depth == 0:
                return "".join(text for _, text in self.tokens[start : self.at - 1])

    def argument(self) -> Tree:
        r"""A group, or one token; of a number its first digit, as TeX reads `\frac12`."""
        kind, value = self.peek()
        if kind == "num" and value.isdigit() and len(value) > 1:
            self.tokens[self.at] = ("num", value[1:])
            return _number(value[0])
        return self.atom()

    def command(self, name: str) -> Tree:
        plain = name[1:]
        if plain == "frac":
            return ("frac", self.argument(), self.argument())
        if plain == "sqrt":
            return self.root()
        if plain in FUNCTIONS:
            return self.function(plain)
        if plain == "pi":
            return ("const", "pi")
        if plain == "infty":
            return ("const", "inf")
        if plain in GREEK:
            return self.symbol(name)
        if plain == "binom":
            return ("fn", "binom", self.argument(), self.argument())
        if plain in ("lfloor", "lceil"):
            return ("fn", "floor" if plain == "lfloor" else "ceil", self.group(name))
        if plain in _ACCENTS:
            return self.symbol(f"{name}{{{self.raw_argument()}}}")
        raise Unreadable

    def root(self) -> Tree:
        index: Tree = ("num", Fraction(2))
        if self.peek()[1] == "[":
            self.at += 1
            index = self.group("[")
        return ("fn", "root", self.atom(), index)

    def function(self, name: str) -> Tree:
        base: Tree | None = None
        power: Tree | None = None
        while self.peek()[1] in ("^", "_"):
            if self.peek()[1] == "_" and name == "log":
                self.at += 1
                base = self.argument()
            elif self.peek()[1] == "^":
                self.at += 1
                power = self.exponent()
            else:
                raise Unreadable
        if power == ("neg", ("num", Fraction(1))) and name in ("sin", "cos", "tan"):
            name, power = f"arc{name}", None
        inside = self.function_argument()
        tree: Tree = ("fn", name, inside, base) if base else ("fn", name, inside)
        return ("pow", tree, power) if power else tree

    def function_argument(self) -> Tree:
        if self.peek()[1] in ("(", "[", "{", "|"):
            return self.postfixed(self.atom())
        sign = self.peek()[1] == "-"
        self.at += sign
        factors = [self.power()]
        while self.starts_factor() and self.peek()[1][1:] not in FUNCTIONS and self.peek()[1] != "(":
            factors.append(self.power())
        inside = factors[0] if len(factors) == 1 else ("mul", *factors)
        if self.peek()[1] == "/" and all(factor[0] in ("num", "const") for factor in factors):
            self.at += 1
            inside = ("div", inside, self.power())
        return ("neg", inside) if sign else inside


def _number(text: str) -> Tree:
    return ("num", Fraction(text.replace(",", "").rstrip(".") or "0"))


def _is_proper(numerator: Fraction, denominator: Fraction) -> bool:
    return numerator.denominator == denominator.denominator == 1 and 0 < numerator < denominator


def _repeating(text: str) -> Fraction:
    whole, fixed, period = re.match(r"(\d*)\.(\d*)\\overline\{(\d+)\}", text).groups()  # type: ignore[union-attr]
    shift = 10 ** len(fixed)
    return Fraction(int(whole + fixed or 0), shift) + Fraction(int(period), (10 ** len(period) - 1) * shift)
