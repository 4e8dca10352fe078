"""Sums of several numbers with a tool that adds two of them; the answer is one boxed number."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from openqwq.agents import Move, Step, Toolbox, tool_of
from openqwq.types import ToolCall, Verdict

BOXED = re.compile(r"\\boxed\{\s*(-?[0-9]{1,30})\s*\}")


def add(a: int, b: int) -> str:
    """The sum of two whole numbers."""
    raise NotImplementedError("the environment answers")


class Calc:
    """terms: fewest and most numbers of a sum, each of two digits. available: False takes the tool away."""

    name = "calc"

    def __init__(self, terms: tuple[int, int] = (5, 6), max_turns: int = 8, *, available: bool = True):
        self.terms, self.max_turns, self.available = terms, max_turns, available

    @cached_property
    def tools(self) -> Toolbox:
        return Toolbox([tool_of(add)])

    def task(self, seed: int) -> Mapping[str, Any]:
        source = random.Random(f"calc/{seed}")
        return {"terms": [source.randint(10, 99) for _ in range(source.randint(*self.terms))]}

    def prompt(self, task: Mapping[str, Any]) -> str:
        return f"What is {' + '.join(map(str, task['terms']))}? Put the number into \\boxed{{}}."

    def reset(self, task: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"sum": sum(task["terms"]), "calls": 0}

    def step(self, state: Mapping[str, Any], call: ToolCall) -> Step:
        a, b = call.arguments["a"], call.arguments["b"]
        text = f"{a} + {b} = {a + b}" if self.available else "unavailable"
        return Step({**state, "calls": state["calls"] + 1}, text)

    def verdict(self, state: Mapping[str, Any], answer: str) -> Verdict:
        boxes = BOXED.findall(answer)
        details = {"calls": state["calls"]}
        if len(set(boxes)) != 1:
            return Verdict.wrong("the answer has not one boxed number", details=details)
        if int(boxes[0]) != state["sum"]:
            return Verdict.wrong("another number", extracted=boxes[0], details=details)
        return Verdict.correct(extracted=boxes[0], details=details)

    def reference(self, task: Mapping[str, Any], observations: Sequence[str]) -> Move:
        """Adds the terms one by one."""
        total = int(observations[-1].rpartition(" = ")[2]) if observations else task["terms"][0]
        used = len(observations) + 1
        if used == len(task["terms"]):
            return f"\\boxed{{{total}}}"
        return ToolCall("add", {"a": total, "b": task["terms"][used]})
