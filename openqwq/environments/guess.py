"""Guess a hidden number; each guess is answered with low, high or found.

With answers hidden at most `max_turns` of `largest` numbers are found: 16% of 1 to 31 in 5.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any

from openqwq.agents import Move, Step, Toolbox, tool_of
from openqwq.types import ToolCall, Verdict


def guess(n: Annotated[int, "the number"]) -> str:
    """Guess the hidden number; the answer says whether the guess is low, high or right."""
    raise NotImplementedError("the environment answers")


class Guess:
    """largest: of the numbers from 1 on. max_turns: guesses. feedback: False hides whether a guess is low or high."""

    name = "guess"

    def __init__(self, largest: int = 31, max_turns: int = 5, *, feedback: bool = True):
        self.largest, self.max_turns, self.feedback = largest, max_turns, feedback

    @cached_property
    def tools(self) -> Toolbox:
        return Toolbox([tool_of(guess)])

    def task(self, seed: int) -> Mapping[str, Any]:
        return {"number": random.Random(f"guess/{seed}").randint(1, self.largest)}

    def prompt(self, task: Mapping[str, Any]) -> str:
        return f"Find the hidden number between 1 and {self.largest} with at most {self.max_turns} guesses."

    def reset(self, task: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"number": task["number"], "guesses": [], "found": False}

    def step(self, state: Mapping[str, Any], call: ToolCall) -> Step:
        n = call.arguments["n"]
        found = n == state["number"]
        word = "found" if found else "low" if n < state["number"] else "high"
        word = word if found or self.feedback else "wrong"
        return Step({**state, "guesses": [*state["guesses"], n], "found": found}, f"{n}: {word}", over=found)

    def verdict(self, state: Mapping[str, Any], answer: str) -> Verdict:
        details = {"guesses": len(state["guesses"])}
        if state["found"]:
            return Verdict.correct(details=details)
        return Verdict.wrong("the number was not found", details=details)

    def reference(self, task: Mapping[str, Any], observations: Sequence[str]) -> Move:
        """Bisection."""
        low, high = 1, self.largest
        for observation in observations:
            n, word = observation.split(": ")
            if word == "low":
                low = int(n) + 1
            elif word == "high":
                high = int(n) - 1
        return ToolCall("guess", {"n": (low + high) // 2})
