"""Small Python functions asked for in words: keep some numbers of a list, change each, bring them together.

A problem is a triple (keep, change, gather). The model sees one of several wordings; the tests are
run in the sandbox, and their expected values come from `reference`, which computes with plain Python
and never sees the model's code. The words and the expressions of the parts are public, so that the
pretraining corpus and the cold-start teacher speak of the same things.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from openqwq.config import SourceConfig
from openqwq.errors import UserError
from openqwq.types import Message, Problem

KEEP = {
    "all": ("the numbers", ""),
    "even": ("the even numbers", "x % 2 == 0"),
    "odd": ("the odd numbers", "x % 2 == 1"),
    "positive": ("the positive numbers", "x > 0"),
    "negative": ("the negative numbers", "x < 0"),
    "above": ("the numbers above {k}", "x > {k}"),
    "below": ("the numbers below {k}", "x < {k}"),
    "multiple": ("the multiples of {k}", "x % {k} == 0"),
}
CHANGE = {
    "none": ("", "x"),
    "double": ("double them", "x * 2"),
    "square": ("square them", "x * x"),
    "negate": ("negate them", "-x"),
    "absolute": ("make them absolute", "abs(x)"),
    "add": ("add {k} to them", "x + {k}"),
    "subtract": ("subtract {k} from them", "x - {k}"),
    "times": ("multiply them by {k}", "x * {k}"),
}
GATHER = {
    "sum": ("their sum", "sum({items})"),
    "count": ("how many there are", "len([{items}])"),
    "largest": ("the largest or 0", "max(({items}), default=0)"),
    "smallest": ("the smallest or 0", "min(({items}), default=0)"),
    "list": ("the list", "[{items}]"),
    "sorted": ("the sorted list", "sorted({items})"),
    "reversed": ("the reversed list", "[{items}][::-1]"),
}
WORDINGS = (
    "Write a Python function f(xs): take {keep} in xs, {change}return {gather}.",
    "In Python, define f(xs). Keep {keep} of xs, {change}return {gather}.",
    "Given a list xs, take {keep}, {change}return {gather}. Write f(xs) in Python.",
)


@dataclass(frozen=True)
class Task:
    """One function: which numbers to keep, what to do to each, what to return; k where a part needs it."""

    keep: str
    change: str
    gather: str
    keep_k: int = 0
    change_k: int = 0

    def words(self, wording: str) -> str:
        """The task in words, e.g. "... take the even numbers in xs, double them, return their sum."."""
        change = CHANGE[self.change][0].format(k=self.change_k)
        return wording.format(
            keep=KEEP[self.keep][0].format(k=self.keep_k),
            change=f"{change}, " if change else "",
            gather=GATHER[self.gather][0],
        )

    def parts(self) -> tuple[str, str, str]:
        """The Python condition ("" for none), the expression of x, and the gathering call's pattern."""
        condition = KEEP[self.keep][1].format(k=self.keep_k)
        return condition, CHANGE[self.change][1].format(k=self.change_k), GATHER[self.gather][1]

    def code(self) -> str:
        """A right program."""
        condition, expression, gather = self.parts()
        items = f"{expression} for x in xs" + (f" if {condition}" if condition else "")
        return f"def f(xs):\n    return {gather.format(items=items)}"

    def reference(self, xs: list[int]) -> int | list[int]:
        """The right result, computed without the program's text."""
        kept = [x for x in xs if _keeps(self.keep, self.keep_k, x)]
        changed = [_change(self.change, self.change_k, x) for x in kept]
        return _gather(self.gather, changed)


def draw_task(rng: Random) -> Task:
    """A random task; all kinds of parts are equally likely."""
    return Task(
        keep=rng.choice(list(KEEP)),
        change=rng.choice(list(CHANGE)),
        gather=rng.choice(list(GATHER)),
        keep_k=rng.randint(2, 9),
        change_k=rng.randint(2, 9),
    )


def draw_tests(task: Task, rng: Random, count: int) -> list[dict[str, Any]]:
    """Hidden tests: the empty list, then in turn short lists and lists with numbers to keep and to leave.

    Numbers around 0 and around the condition's k are frequent, and a short list often holds nothing to keep, so that
    a program that is wrong only there fails.
    """
    edges = [-1, 0, 1, task.keep_k - 1, task.keep_k, task.keep_k + 1, 2 * task.keep_k, -task.keep_k]
    lists: list[list[int]] = [[]]
    while len(lists) < count:
        if len(lists) % 3 == 1:
            lists.append(rng.sample(edges, rng.randint(1, 3)))
            continue
        xs = rng.sample(edges, 4) + [rng.randint(-12, 20) for _ in range(rng.randint(3, 6))]
        rng.shuffle(xs)
        kept = [_keeps(task.keep, task.keep_k, x) for x in xs]
        if any(kept) and (task.keep == "all" or not all(kept)):
            lists.append(xs)
    return [{"args": [xs], "expected": task.reference(xs)} for xs in lists]


class FunctionSource:
    """Code problems; options: `tests` (hidden tests a problem, default 8)."""

    def __init__(self, name: str, config: SourceConfig):
        options = dict(config.config)
        self.name = name
        self.kind = config.kind or "code"
        self.verifier = config.verifier or "code"
        self.suffix = config.prompt_suffix
        self.tests = options.pop("tests", 8)
        if options:
            raise UserError(f"source.{name}.config has the unknown key `{min(options)}`", hint="it takes `tests`")
        if not isinstance(self.tests, int) or self.tests < 2:
            raise UserError(f"source.{name}.config: `tests` is {self.tests!r}, but it must be a whole number from 2 on")

    def problem(self, split: str, key: int) -> Problem:
        """A task in words with hidden tests."""
        rng = Random(key)
        task = draw_task(rng)
        text = task.words(rng.choice(WORDINGS)) + self.suffix
        answer = {"entry_point": "f", "mode": "function", "tests": draw_tests(task, rng, self.tests)}
        return Problem(
            id=f"{self.name}/{split}/{key:x}",
            source=self.name,
            kind=self.kind,
            messages=(Message("user", text),),
            verifier=self.verifier,
            answer=answer,
            metadata={"task": task.__dict__},
        )


def _keeps(keep: str, k: int, x: int) -> bool:
    match keep:
        case "even":
            return x % 2 == 0
        case "odd":
            return x % 2 == 1
        case "positive":
            return x > 0
        case "negative":
            return x < 0
        case "above":
            return x > k
        case "below":
            return x < k
        case "multiple":
            return x % k == 0
    return True


def _change(change: str, k: int, x: int) -> int:
    match change:
        case "double":
            return 2 * x
        case "square":
            return x**2
        case "negate":
            return -x
        case "absolute":
            return abs(x)
        case "add":
            return x + k
        case "subtract":
            return x - k
        case "times":
            return k * x
    return x


def _gather(gather: str, items: list[int]) -> int | list[int]:
    match gather:
        case "sum":
            return sum(items)
        case "count":
            return len(items)
        case "largest":
            return max(items) if items else 0
        case "smallest":
            return min(items) if items else 0
        case "sorted":
            return sorted(items)
        case "reversed":
            return list(reversed(items))
    return list(items)
