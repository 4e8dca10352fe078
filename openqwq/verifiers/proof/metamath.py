"""A proof checker for Metamath: reads a database, and verifies proofs of the theorems that it states.

Public: `Database`, `ProofError`, `DatabaseError`. After the Metamath book (Megill and Wheeler, 2019), chapter 4 and
appendix B: constants, variables, hypotheses, disjoint-variable conditions, axioms, theorems, normal and compressed
proofs. Not read: file inclusion (`$[`). The database is trusted: what it states is so, its own proofs are only kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

Symbols = tuple[str, ...]
_COMMENT = re.compile(r"(?:^|(?<=\s))\$\((?=\s).*?\s\$\)(?=\s|$)", re.DOTALL)
MAX_STACK_SYMBOLS = 1_000_000
"""Bounds what one proof may build; the longest proofs of set.mm stay far below."""


class DatabaseError(ValueError):
    """The database or the statement cannot be read: the task's fault."""


class ProofError(ValueError):
    """The proof does not prove the statement."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A `$f` (a variable's type) or `$e` (something assumed) statement."""

    symbols: Symbols
    is_floating: bool


@dataclass(frozen=True, slots=True)
class Assertion:
    """An axiom or theorem with what it needs, and the scope that a proof of it stands in.

    hypotheses: the mandatory ones, in order, by label.
    disjoint:   pairs of its variables that must stay disjoint wherever it is applied.
    in_force:   all disjoint pairs of its scope, which a proof of it may rely on.
    """

    symbols: Symbols
    hypotheses: Mapping[str, Hypothesis]
    disjoint: frozenset[tuple[str, str]]
    in_force: frozenset[tuple[str, str]]


@dataclass(slots=True)
class _Scope:
    variables: set[str] = field(default_factory=set)
    hypotheses: dict[str, Hypothesis] = field(default_factory=dict)
    disjoint: set[tuple[str, str]] = field(default_factory=set)


class Database:
    """Axioms and theorems in their order; `proofs` holds what stands for each theorem's proof, be it `?`.

    Raises DatabaseError for a text that is no database.
    """

    def __init__(self, text: str):
        self.constants: set[str] = set()
        self.variables: set[str] = set()
        self.assertions: dict[str, Assertion] = {}
        self.proofs: dict[str, str] = {}
        self._scopes = [_Scope()]
        try:
            self._read(iter(_COMMENT.sub(" ", text).split()))
        except StopIteration:
            raise DatabaseError("the database ends inside a statement") from None
        if len(self._scopes) != 1:
            raise DatabaseError("a block is left open")

    def verify(self, label: str, proof: str) -> None:
        """Return when the proof proves the theorem of that label from what stands before it.

        proof: labels, or the compressed form "( labels ) LETTERS".
        Raises ProofError otherwise, and DatabaseError where the database states no such theorem.
        """
        if label not in self.proofs:
            raise DatabaseError(f"the database states no theorem {label!r}")
        goal = self.assertions[label]
        stack = _run(self._steps(proof.split(), label), self.variables, goal.in_force)
        if stack != [goal.symbols]:
            raise ProofError("the proof ends in another statement" if len(stack) == 1 else "the proof has loose ends")

    def _read(self, tokens: Iterator[str]) -> None:
        label = ""
        for token in tokens:
            if token == "${":
                self._scopes.append(_Scope())
            elif token == "$}":
                if len(self._scopes) == 1:
                    raise DatabaseError("a block ends that was never opened")
                self._scopes.pop()
            elif not token.startswith("$"):
                if label:
                    raise DatabaseError(f"no statement follows the label {label!r}")
                label = token
            else:
                self._read_statement(token, label, _until(tokens, "$."))
                label = ""
        if label:
            raise DatabaseError(f"no statement follows the label {label!r}")

    def _read_statement(self, keyword: str, label: str, symbols: list[str]) -> None:
        if keyword in ("$a", "$p", "$e", "$f") and (
            not label or label in self.assertions or label in self._hypotheses()
        ):
            raise DatabaseError(f"the label {label!r} is missing or taken")
        if keyword == "$c":
            self.constants.update(symbols)
        elif keyword == "$v":
            self._scopes[-1].variables.update(symbols)
            self.variables.update(symbols)
        elif keyword == "$d":
            self._scopes[-1].disjoint.update(_pairs(symbols))
        elif keyword in ("$e", "$f"):
            self._add_hypothesis(label, symbols, is_floating=keyword == "$f")
        elif keyword == "$a":
            self.assertions[label] = self._make_assertion(symbols)
        elif keyword == "$p" and "$=" in symbols:
            end = symbols.index("$=")
            self.assertions[label] = self._make_assertion(symbols[:end])
            self.proofs[label] = " ".join(symbols[end + 1 :])
        else:
            raise DatabaseError(f"{keyword} cannot be read here")

    def _add_hypothesis(self, label: str, symbols: Sequence[str], *, is_floating: bool) -> None:
        if is_floating and (len(symbols) != 2 or symbols[1] not in self._variables()):
            raise DatabaseError(f"{label} gives no variable its type")
        self._check_symbols(symbols)
        self._scopes[-1].hypotheses[label] = Hypothesis(tuple(symbols), is_floating)

    def _make_assertion(self, symbols: Sequence[str]) -> Assertion:
        """An assertion in the present scope: only hypotheses whose variables occur in it are mandatory."""
        self._check_symbols(symbols)
        found, variables = self._hypotheses(), self._variables()
        used = {s for h in found.values() if not h.is_floating for s in h.symbols} | set(symbols)
        used &= variables
        kept = {label: h for label, h in found.items() if not h.is_floating or h.symbols[1] in used}
        if used - {h.symbols[1] for h in kept.values() if h.is_floating}:
            raise DatabaseError("a variable has no type")
        in_force = frozenset().union(*(scope.disjoint for scope in self._scopes))
        return Assertion(tuple(symbols), kept, frozenset(pair for pair in in_force if used.issuperset(pair)), in_force)

    def _check_symbols(self, symbols: Sequence[str]) -> None:
        if not symbols or symbols[0] not in self.constants:
            raise DatabaseError("a statement begins with no constant")
        if unknown := [s for s in symbols if s not in self.constants and s not in self._variables()]:
            raise DatabaseError(f"the symbol {unknown[0]!r} is unknown")

    def _variables(self) -> set[str]:
        return set().union(*(scope.variables for scope in self._scopes))

    def _hypotheses(self) -> dict[str, Hypothesis]:
        return {label: hypothesis for scope in self._scopes for label, hypothesis in scope.hypotheses.items()}

    def _steps(self, tokens: list[str], goal: str) -> Iterator[Hypothesis | Assertion | int | None]:
        """A proof's steps: statements to apply, None to save the top of the stack, a number to recall a saved one."""
        mandatory = self.assertions[goal].hypotheses
        known: dict[str, Hypothesis | Assertion] = {**self._scopes[0].hypotheses, **mandatory}
        for label, assertion in self.assertions.items():
            if label == goal:
                break
            known[label] = assertion
        if tokens[:1] != ["("]:
            labels: list[str] = tokens
            codes: Iterator[int | None] = iter(range(len(tokens)))
        else:
            if ")" not in tokens:
                raise ProofError("the labels of a compressed proof are left open")
            end = tokens.index(")")
            if set(mandatory) & set(tokens[1:end]):
                raise ProofError("a compressed proof names a mandatory hypothesis")
            labels, codes = [*mandatory, *tokens[1:end]], _decompress("".join(tokens[end + 1 :]))
        if unknown := [label for label in labels if label not in known]:
            raise ProofError(f"there is no {unknown[0][:100]!r}")
        for code in codes:
            yield code if code is None else known[labels[code]] if code < len(labels) else code - len(labels)


def _until(tokens: Iterator[str], end: str) -> list[str]:
    found = []
    while (token := next(tokens)) != end:
        found.append(token)
    return found


def _pairs(variables: Sequence[str]) -> Iterator[tuple[str, str]]:
    return ((min(a, b), max(a, b)) for a, b in combinations(variables, 2))


def _decompress(letters: str) -> Iterator[int | None]:
    """Numbers from 0 on and None for `Z`; A to T are the last digit in base 20, U to Y the others in base 5."""
    number = 0
    for letter in letters:
        if "A" <= letter <= "T":
            yield 20 * number + ord(letter) - ord("A")
            number = 0
        elif "U" <= letter <= "Y":
            number = 5 * number + ord(letter) - ord("U") + 1
            if number > 10**9:
                raise ProofError("a number in the compressed proof is too large")
        elif letter == "Z" and not number:
            yield None
        else:
            raise ProofError(f"{letter!r} cannot stand in a compressed proof here")
    if number:
        raise ProofError("the compressed proof ends inside a number")


def _run(
    steps: Iterator[Hypothesis | Assertion | int | None], variables: set[str], disjoint: frozenset[tuple[str, str]]
) -> list[Symbols]:
    """The stack after all steps."""
    stack: list[Symbols] = []
    saved: list[Symbols] = []
    size = 0
    for step in steps:
        if step is None:
            if not stack:
                raise ProofError("nothing to save")
            saved.append(stack[-1])
            continue
        if isinstance(step, int):
            if step >= len(saved):
                raise ProofError("a step is recalled that was never saved")
            stack.append(saved[step])
        elif isinstance(step, Hypothesis):
            stack.append(step.symbols)
        else:
            needed = len(step.hypotheses)
            if needed > len(stack):
                raise ProofError("a step lacks its hypotheses")
            given = stack[len(stack) - needed :]
            del stack[len(stack) - needed :]
            size -= sum(map(len, given))
            stack.append(_apply(step, given, variables, disjoint))
        size += len(stack[-1])
        if size > MAX_STACK_SYMBOLS:
            raise ProofError("the proof builds too much")
    return stack


def _apply(step: Assertion, given: list[Symbols], variables: set[str], disjoint: frozenset[tuple[str, str]]) -> Symbols:
    """What follows from the given statements by this assertion."""
    values: dict[str, Symbols] = {}
    for hypothesis, statement in zip(step.hypotheses.values(), given, strict=True):
        if hypothesis.is_floating:
            if statement[0] != hypothesis.symbols[0]:
                raise ProofError("a variable stands for something of another type")
            values[hypothesis.symbols[1]] = statement[1:]
        elif _substitute(hypothesis.symbols, values) != statement:
            raise ProofError("a hypothesis is not what the step needs")
    for first, second in step.disjoint:
        for a in variables.intersection(values[first]):
            for b in variables.intersection(values[second]):
                if (min(a, b), max(a, b)) not in disjoint:
                    raise ProofError(f"{a} and {b} may not be disjoint")
    return _substitute(step.symbols, values)


def _substitute(symbols: Symbols, values: Mapping[str, Symbols]) -> Symbols:
    return tuple(s for symbol in symbols for s in values.get(symbol, (symbol,)))
