"""The generated pretraining corpus: the tiny recipe's stand-in for the text that a base model has read.

Documents of six sorts: single arithmetic facts and tables, facts about animals, small pieces of Python with
their meaning or their output, one-rule instructions with an obeying text, lists that are repeated, and
problem statements with the numbers that stand in them or a bare answer. No document holds a reasoning
chain, a chat turn, or the text of a held-out problem.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from random import Random

from openqwq.config import SourceConfig
from openqwq.errors import UserError
from openqwq.types import Problem

from .chains.facts import LEGS, plural_legs
from .chains.tiny_teachers import teach
from .keys import item_key, item_rng
from .sources.build import ProblemSource
from .sources.gym import GymSource
from .sources.instructions import TOPICS, draw_rules, instruction_prompt, write_text
from .sources.python_functions import WORDINGS, Task, draw_task

DOCUMENT_SHARES = {
    "arithmetic": 0.38,
    "animals": 0.05,
    "programs": 0.12,
    "instructions": 0.13,
    "lists": 0.15,
    "statements": 0.17,
}
"""Share of each sort among the documents; a recipe's `config = {shares = {...}}` changes it."""

SEPARATORS = ("\n", "\n\n", " ", "\n> ", "\n---\n", "\nA: ", " -> ", "\n\n### Answer\n")
"""What stands between a task and what follows it: many forms, so that no single one is needed."""

LINES_PER_DOCUMENT = 10
"""Facts in one document: long enough to fill a training sequence, short enough to mix sorts."""

MAX_DRAWS = 1000
"""Draws of a text that is not held out, before the source counts as held out as a whole."""


class CorpusSource:
    """Generated documents; options: `shares` by sort, `statements` (names of the problem sources to state)."""

    def __init__(self, name: str, config: SourceConfig, problems: Mapping[str, ProblemSource], exclude: frozenset[str]):
        options = dict(config.config)
        self.name = name
        self._shares = {**DOCUMENT_SHARES, **options.pop("shares", {})}
        names = options.pop("statements", [])
        if options:
            hint = "it takes `shares` and `statements`"
            raise UserError(f"source.{name}.config has the unknown key `{min(options)}`", hint=hint)
        unknown = sorted(set(self._shares) - set(DOCUMENT_SHARES)) + sorted(set(names) - set(problems))
        if unknown:
            known = ", ".join(DOCUMENT_SHARES)
            raise UserError(
                f"source.{name}.config names the unknown `{unknown[0]}`", hint=f"sorts of documents: {known}"
            )
        if not names:
            self._shares["statements"] = 0.0
        self._problems = [_with_plain_answer(name, problems[n]) for n in names]
        suffixes = {"", *(getattr(source, "suffix", "") for source in problems.values())}
        self._exclude = frozenset(text.removesuffix(suffix) for text in exclude for suffix in suffixes)

    def document(self, seed: int, index: int) -> str:
        """The document of this index."""
        rng = item_rng("corpus", self.name, seed, index)
        sort = rng.choices(list(self._shares), weights=list(self._shares.values()))[0]
        if sort == "statements":
            return self._statements(rng)
        return _WRITERS[sort](rng, self._exclude)

    def documents(self, seed: int, start: int = 0) -> Iterator[str]:
        """Documents without end, from index `start`."""
        return (self.document(seed, index) for index in count(start))

    def _statements(self, rng: Random) -> str:
        return "\n".join(self._statement(rng) for _ in range(3))

    def _statement(self, rng: Random) -> str:
        """A problem with its numbers or its answer, or, where a single fact solves it, with that fact."""
        source = rng.choice(self._problems)
        for _ in range(MAX_DRAWS):
            problem = source.problem("corpus", item_key("corpus", source.name, rng.getrandbits(48)))
            if problem.prompt.removesuffix(source.suffix) not in self._exclude:
                return f"{problem.prompt}{rng.choice(SEPARATORS)}{_remark(problem, rng)}\n"
        raise UserError(
            f"source `{self.name}` cannot state problems of `{source.name}`: all that were drawn are held out",
            hint=f"widen the config of `{source.name}`, or evaluate on fewer of its problems",
        )


def _remark(problem: Problem, rng: Random) -> str:
    thinking, _ = teach(problem, rng)
    if "\n" not in thinking:
        return thinking
    if rng.random() < 0.2:
        return f"Answer: {problem.answer['entry']['answer']}"
    expression = re.findall(r"\d+(?: [-+*] \d+)+", problem.prompt)
    if expression and rng.random() < 0.4:
        return f"In short: {expression[-1].replace(' ', '')}"
    numbers = re.findall(r"\d+(?: [a-z]+(?: [a-z]+)*)?(?=[,?])|\d+", problem.prompt)
    return f"Numbers: {', '.join(numbers)}"


def _with_plain_answer(name: str, source: ProblemSource) -> GymSource:
    if not isinstance(source, GymSource):
        raise UserError(
            f"source.{name}.config: `statements` names `{source.name}`, whose problems have no answer in words",
            hint='name sources of type "reasoning_gym"',
        )
    return source


def plain_prompt(text: str) -> str:
    """A problem as the corpus states it, for a base model that knows no chat format."""
    return f"{text}\nAnswer:"


def arithmetic_fact(rng: Random) -> str:
    """One true line such as `37+48=85` or `37=30+7`, often in words too or with a second fact on the same numbers."""
    if rng.random() < 0.05:
        a = rng.randint(11, 99)
        return f"{a}={a - a % 10}+{a % 10}"
    operator, a, b, result = _operation(rng)
    fact = f"{a}{operator}{b}={result}"
    if rng.random() < 0.3:
        return fact
    if rng.random() < 0.6:
        return f"{rng.choice(_WORDS[operator]).format(a=a, b=b)} {fact}"
    if operator in "+*":
        return f"{fact}, {b}{operator}{a}={result}"
    return f"{fact}, {result}+{b}={a}" if operator == "-" else f"{a}, {b}: {fact}"


_WORDS = {
    "+": ("Add {b} to {a}.", "{a} and {b} make", "{a} plus {b}:"),
    "-": ("Take {b} from {a}.", "{a} less {b} is", "{a} minus {b}:"),
    "*": ("{a} times {b}:", "Multiply {a} by {b}.", "{b} of {a} are"),
    "/": ("Divide {a} by {b}.", "{a} over {b}:"),
    "%": ("The remainder of {a} by {b}:", "{a} modulo {b}:"),
}


def _operation(rng: Random) -> tuple[str, int, int, int]:
    """Operator, operands and result, of the sizes that the tiny recipe's problems lead to."""
    match rng.choices(("add", "subtract", "large", "times", "tens", "modulo", "divide"), (5, 10, 2, 4, 3, 8, 3))[0]:
        case "add":
            a, b = _number(rng), rng.randint(0, 99)
            return "+", a, b, a + b
        case "subtract":
            a, b = _number(rng), rng.randint(0, 99)
            return "-", a, b, a - b
        case "large":
            a, b = 10 * rng.randint(1, 890), rng.randint(1, 891)
            return "+", a, b, a + b
        case "times":
            a, b = rng.randint(1, 99), rng.randint(0, 9)
            a, b = (a, b) if rng.random() < 0.8 else (rng.randint(1, 12), rng.choice((10, 12, 14)))
            return "*", a, b, a * b
        case "tens":
            a, b = rng.randint(1, 99), 10 * rng.randint(1, 9)
            return "*", a, b, a * b
        case "modulo":
            a, b = rng.randint(1, 60), rng.choice((rng.randint(1, 60), rng.randint(2, 20)))
            a, b = (max(a, b), min(a, b)) if rng.random() < 0.6 else (a, b)
            return "%", a, b, a % b
        case _:
            a, b = rng.randint(1, 20), rng.randint(1, 20) * rng.choice((1, 1, -1))
            return "/", a * b, b, a


def _number(rng: Random) -> int:
    low, high = rng.choice(((0, 9), (0, 99), (0, 99), (-99, 99), (0, 300), (-200, 400)))
    return rng.randint(low, high)


def _arithmetic(rng: Random, exclude: frozenset[str]) -> str:
    if rng.random() < 0.15:
        return _table(rng)
    return "\n".join(arithmetic_fact(rng) for _ in range(LINES_PER_DOCUMENT)) + "\n"


def _table(rng: Random) -> str:
    """A table such as that of 7, a count up, or running totals."""
    a, step = rng.randint(1, 99), rng.randint(1, 40)
    match rng.choice(("times", "count", "totals", "totals", "left")):
        case "times":
            return "\n".join(f"{a}*{b}={a * b}" for b in range(10)) + "\n"
        case "count":
            return " ".join(str(a + step * i) for i in range(12)) + "\n"
        case "totals":
            return "\n".join(f"{a + step * i}+{step}={a + step * (i + 1)}" for i in range(8)) + "\n"
        case _:
            return "\n".join(f"{a - step * i}-{step}={a - step * (i + 1)}" for i in range(8)) + "\n"


def _lists(rng: Random, exclude: frozenset[str]) -> str:
    """Lists of numbers or words, said again, backwards, or in part: what most texts teach by repeating themselves."""
    lines = []
    for _ in range(4):
        words = [w for nouns, _ in TOPICS.values() for w in nouns]
        items = [str(rng.randint(0, 99)) if rng.random() < 0.7 else rng.choice(words) for _ in range(rng.randint(2, 9))]
        how, said = rng.choice(
            (
                ("again", items),
                ("again", items),
                ("again", [*items, *items]),
                ("backwards", items[::-1]),
                ("first", items[:1]),
                ("last", items[-1:]),
                ("without the first", items[1:]),
            )
        )
        lines.append(f"List: {', '.join(items)}\n{how}: {', '.join(said)}")
    return "\n".join(lines) + "\n"


def _animals(rng: Random, exclude: frozenset[str]) -> str:
    lines = []
    for _ in range(LINES_PER_DOCUMENT // 2):
        animal = rng.choice(list(LEGS))
        number = rng.randint(1, 12)
        lines.append(f"A {animal} has {LEGS[animal]} legs.")
        name = plural_legs(animal) if number > 1 else animal
        legs = f"{plural_legs(animal)}: {number}*{LEGS[animal]}={number * LEGS[animal]}"
        lines.append(f"How many legs have {number} {name}?\n{legs}" if rng.random() < 0.5 else legs)
    return "\n".join(lines) + "\n"


def _programs(rng: Random, exclude: frozenset[str]) -> str:
    return "\n".join(rng.choice((_piece, _piece, _run))(rng, exclude) for _ in range(4))


def _piece(rng: Random, exclude: frozenset[str]) -> str:
    """A task of one or two parts in words, then its code; tasks of three parts are left to RL."""
    for _ in range(MAX_DRAWS):
        task = draw_task(rng)
        match rng.choice(("keep", "change", "keep-gather", "change-gather")):
            case "keep":
                task = Task(task.keep, "none", "list", task.keep_k)
            case "change":
                task = Task("all", task.change, "list", 0, task.change_k)
            case "keep-gather":
                task = Task(task.keep, "none", task.gather, task.keep_k)
            case _:
                task = Task("all", task.change, task.gather, 0, task.change_k)
        words = task.words(rng.choice(WORDINGS))
        if words not in exclude:
            return f"{rng.choice(('', '# '))}{words}{rng.choice(SEPARATORS)}{task.code()}\n"
    raise UserError("the corpus cannot state small programs: all of them are held out", hint="evaluate on fewer")


def _run(rng: Random, exclude: frozenset[str]) -> str:
    """A program and what it gives for an input."""
    task = draw_task(rng)
    xs = [rng.randint(-9, 12) for _ in range(rng.randint(2, 5))]
    return f"{task.code()}\nf({xs}) == {task.reference(xs)}\n"


def _instructions(rng: Random, exclude: frozenset[str]) -> str:
    documents: list[str] = []
    while len(documents) < 3:
        topic = rng.choice(list(TOPICS))
        rules = draw_rules(rng, topic, rng.randint(0, 1))
        prompt = instruction_prompt(topic, rules)
        if not rules or prompt not in exclude:
            documents.append(f"{prompt}{rng.choice(SEPARATORS)}{write_text(topic, rules, rng)}\n")
    return "\n".join(documents)


_WRITERS: dict[str, Callable[[Random, frozenset[str]], str]] = {
    "arithmetic": _arithmetic,
    "animals": _animals,
    "programs": _programs,
    "instructions": _instructions,
    "lists": _lists,
}
