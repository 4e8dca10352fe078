"""Tool calls in Hermes' form, compared with acceptable ones as the Berkeley function-calling leaderboard does.

Public: `ToolCallVerifier`. `problem.answer` is `{"functions": [...], "calls": [...]}`: the functions on offer with
their JSON schemas, and for each call that must be made `{name: {argument: [acceptable values]}}`. No calls: none is
right, and the answer must not make one. These are BFCL's `function` and `ground_truth` as they stand in its files.
`tool_call_rules.py` has the comparison.
"""

from __future__ import annotations

from typing import Any, ClassVar

from openqwq.tokenizer.parse import parse_tool_calls
from openqwq.types import Problem, ToolCall, Verdict

from ..base import Verifier, answer_part
from .rules import TaskError, find_mismatch


class ToolCallVerifier(Verifier):
    """Correct when the answer makes exactly the expected calls, in any order; calls drafted in the thinking are none.

    underscores: function names are written with underscores for dots, as for APIs that take no dots in names.
    """

    name: ClassVar[str] = "tool_call"

    def __init__(self, *, format_free: bool = False, underscores: bool = False):
        super().__init__(format_free=format_free)
        self.underscores = underscores

    def __call__(self, problem: Problem, completion: str) -> Verdict:
        try:
            functions, expected = problem.answer["functions"], problem.answer["calls"]
        except (TypeError, KeyError):
            return Verdict.unjudged("unreadable task: it needs `functions` and `calls`")
        answer = answer_part(completion, opened=problem.thinking_opened, format_free=self.format_free)
        if answer is None:
            return Verdict.wrong("thinking not closed")
        text, calls, errors = parse_tool_calls(answer)
        details = {
            "calls": [{"name": call.name, "arguments": call.arguments} for call in calls],
            "errors": list(errors),
        }
        if errors:
            return Verdict.wrong("malformed tool call", details=details)
        if not expected and not calls:
            return Verdict.correct() if text.strip() else Verdict.wrong("empty answer")
        try:
            mismatch = self._compare(functions, expected, calls)
        except TaskError as error:
            return Verdict.unjudged(f"unreadable task: {error}", details=details)
        return Verdict.wrong(mismatch, details=details) if mismatch else Verdict.correct(details=details)

    def _compare(self, functions: Any, expected: Any, calls: tuple[ToolCall, ...]) -> str:
        if not expected:
            return "a call where none is right"
        made = [(call.name, dict(call.arguments)) for call in calls]
        return find_mismatch(functions, expected, made, underscores=self.underscores)
