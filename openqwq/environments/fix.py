"""Write f(x) = a * x + b from one example; after a failing program another one is shown, and there is one more try.

The programs run in the sandbox. On average 3.2 pairs (a, b) fit one example: one try passes 38%, a second one without
feedback 69%, with it all.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any

from openqwq.agents import Move, Step, Toolbox, tool_of
from openqwq.sandbox import BaseSandbox, Limits, find_sandbox
from openqwq.types import ToolCall, Verdict

LIMITS = Limits(wall_s=2.0, cpu_s=2.0, output_bytes=1 << 16)
FACTORS, SUMMANDS, INPUTS = range(1, 10), range(10), range(2, 5)
SHOWN_CHARACTERS = 200


def submit(code: Annotated[str, "a Python program that defines f(x)"]) -> str:
    """Run the tests of f; a failing one is shown."""
    raise NotImplementedError("the environment answers")


class Fix:
    """max_turns: tries. feedback: False says only that a program fails. sandbox: as `find_sandbox` takes it."""

    name = "fix"

    def __init__(self, max_turns: int = 2, *, feedback: bool = True, sandbox: BaseSandbox | str = ""):
        self.max_turns, self.feedback, self._where = max_turns, feedback, sandbox

    @cached_property
    def tools(self) -> Toolbox:
        return Toolbox([tool_of(submit)])

    def task(self, seed: int) -> Mapping[str, Any]:
        source = random.Random(f"fix/{seed}")
        x, other = source.sample(INPUTS, 2)
        return {"a": source.choice(FACTORS), "b": source.choice(SUMMANDS), "x": x, "other": other}

    def prompt(self, task: Mapping[str, Any]) -> str:
        y = task["a"] * task["x"] + task["b"]
        return (
            f"f(x) = a * x + b with whole a from 1 to 9 and b from 0 to 9, and f({task['x']}) = {y}. "
            f"Submit a Python function f; there are {self.max_turns} tries."
        )

    def reset(self, task: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**task, "tries": 0, "passed": False}

    def step(self, state: Mapping[str, Any], call: ToolCall) -> Step:
        inputs = [state["x"], state["other"], 0, 1, 17]
        tests = [{"args": [x], "expected": state["a"] * x + state["b"]} for x in inputs]
        sandbox = find_sandbox(self._where)
        result = sandbox.judge(call.arguments["code"], entry_point="f", tests=tests, limits=LIMITS)
        passed = result.verdict == "passed"
        state = {**state, "tries": state["tries"] + 1, "passed": passed}
        if result.verdict == "infra_error":
            return Step(state, result.reason, failed=True)
        text = "passed" if passed else self._told(state, result.verdict, result.reason)
        return Step(state, text, over=passed)

    def _told(self, state: Mapping[str, Any], verdict: str, reason: str) -> str:
        if not self.feedback:
            return "failed"
        if verdict != "wrong_answer":
            return f"failed: {reason[:SHOWN_CHARACTERS]}"
        return f"failed: f({state['other']}) = {state['a'] * state['other'] + state['b']}"

    def verdict(self, state: Mapping[str, Any], answer: str) -> Verdict:
        details = {"tries": state["tries"]}
        return Verdict.correct(details=details) if state["passed"] else Verdict.wrong("tests fail", details=details)

    def reference(self, task: Mapping[str, Any], observations: Sequence[str]) -> Move:
        """A pair that fits all examples shown so far."""
        points = [(task["x"], task["a"] * task["x"] + task["b"])]
        for observation in observations:
            x, y = observation.removeprefix("failed: f(").split(") = ")
            points.append((int(x), int(y)))
        pairs = [(a, b) for a in FACTORS for b in SUMMANDS if all(a * x + b == y for x, y in points)]
        a, b = pairs[0]
        return ToolCall("submit", {"code": f"def f(x):\n    return {a} * x + {b}"})
