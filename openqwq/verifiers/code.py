"""Programs, judged by hidden tests that run in the sandbox.

Public: `CodeVerifier`, `extract_code`. `problem.answer` is
`{"mode": "function", "entry_point": "f", "tests": [{"args": [[1, 2]], "expected": 3}, ...]}`,
`{"mode": "asserts", "entry_point": "f", "tests": ["assert f([1, 2]) == 3", ...]}` or
`{"mode": "stdio", "tests": [{"stdin": "1 2\\n", "stdout": "3\\n"}, ...]}`; `code_tasks.py` reads rows of
HumanEval, MBPP and LiveCodeBench as well.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, ClassVar

from openqwq.sandbox import JudgeResult, Limits, Sandbox, Submission, default_sandbox
from openqwq.types import Problem, Verdict
from openqwq.verifiers.base import THINK_CLOSE, Verifier, answer_part
from openqwq.verifiers.code_tasks import TaskError, read_task

MAX_CODE_CHARACTERS = 65_536
"""Longer "programs" are runaway text."""
CACHED_VERDICTS = 65_536
"""A small model writes the same program often; an entry takes about 1 kB."""
FENCE = "```"
PYTHON = ("", "python", "py", "python3")


class CodeVerifier(Verifier):
    """Correct when every test passes.

    wall_s:     seconds for loading the program, and again for each test.
    memory_mib: memory of the program and everything that it starts.
    partial:    the score is the share of passed tests (a program that ends early goes on with the next test).
    sandbox:    where programs run; by default the one that the process shares.
    """

    name: ClassVar[str] = "code"

    def __init__(
        self,
        *,
        format_free: bool = False,
        wall_s: float = 5.0,
        memory_mib: int = 256,
        partial: bool = False,
        sandbox: Sandbox | None = None,
    ):
        super().__init__(format_free=format_free)
        self.limits = Limits(wall_s=wall_s, cpu_s=4 * wall_s, memory_mib=memory_mib)
        self.partial = partial
        self._sandbox = sandbox
        self._cache: OrderedDict[str, JudgeResult] = OrderedDict()

    def __call__(self, problem: Problem, completion: str) -> Verdict:
        return self.verify_many([(problem, completion)])[0]

    def verify_many(self, pairs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        """One verdict for each pair, in order; equal programs with equal tests are judged once."""
        verdicts: list[Verdict | None] = [None] * len(pairs)
        waiting: dict[str, tuple[Submission, list[int]]] = {}
        for i, (problem, completion) in enumerate(pairs):
            made = self._submission(problem.answer, completion)
            if isinstance(made, Verdict):
                verdicts[i] = made
            else:
                waiting.setdefault(_key(problem.answer, made.code), (made, []))[1].append(i)
        results = self._judge({key: submission for key, (submission, _) in waiting.items()})
        for key, (submission, indices) in waiting.items():
            verdict = self._verdict(results[key], submission.code)
            for i in indices:
                verdicts[i] = verdict
        return [verdict for verdict in verdicts if verdict is not None]

    def _submission(self, answer: Any, completion: str) -> Submission | Verdict:
        """What to run, or the verdict where there is nothing to run."""
        try:
            task = read_task(answer)
        except TaskError as error:
            return Verdict.unjudged(str(error))
        code = extract_code(completion, format_free=self.format_free)
        if code is None:
            return Verdict.wrong("no program in the answer")
        if len(code) > MAX_CODE_CHARACTERS:
            return Verdict.wrong(f"more than {MAX_CODE_CHARACTERS} characters of code")
        if not re.search(rf"\b{re.escape(task.entry_point)}\b", code):
            return Verdict.wrong(f"the program does not define `{task.entry_point}`", extracted=code)
        return Submission(
            code=task.wrap(code),
            mode=task.mode,  # type: ignore[arg-type]
            entry_point=task.entry_point,
            tests=task.tests,
            limits=self.limits,
            restart=self.partial,
        )

    def _judge(self, submissions: dict[str, Submission]) -> dict[str, JudgeResult]:
        results = {key: self._cache[key] for key in submissions if key in self._cache}
        new = [key for key in submissions if key not in results]
        if new:
            sandbox = self._sandbox or default_sandbox()
            judged = sandbox.judge_many([submissions[key] for key in new])
            results |= dict(zip(new, judged, strict=True))
        for key, result in results.items():
            if result.verdict not in ("timeout", "infra_error"):  # these may be the machine's doing, so ask again
                self._cache[key] = result
                self._cache.move_to_end(key)
        while len(self._cache) > CACHED_VERDICTS:
            self._cache.popitem(last=False)
        return results

    def _verdict(self, result: JudgeResult, code: str) -> Verdict:
        if result.verdict == "infra_error":
            return Verdict.unjudged(result.reason, extracted=code)
        details = {"passed": result.num_passed, "tests": [test.verdict for test in result.tests]}
        if result.verdict == "passed":
            return Verdict.correct(extracted=code, details=details)
        score = result.num_passed / len(result.tests) if self.partial and result.tests else 0.0
        return Verdict.wrong(f"{result.verdict}: {result.reason}", score=score, extracted=code, details=details)


def extract_code(completion: str, *, format_free: bool = False) -> str | None:
    """The program of a completion, or None.

    Strict: the last Python (or unnamed) fenced block of the answer part; none when a fence is left open.
    format_free: the last such block anywhere, closed or not, else the text from the last `def ` on.
    """
    if not format_free:
        answer = answer_part(completion)
        if answer is None:
            return None
        blocks, left_open = _fenced_blocks(answer)
        return blocks[-1] if blocks and left_open is None else None
    blocks, left_open = _fenced_blocks(completion)
    if left_open is not None:
        blocks.append(left_open.partition(THINK_CLOSE)[0])
    if blocks:
        return blocks[-1]
    start = completion.rfind("def ")
    return completion[start:].partition(THINK_CLOSE)[0] if start >= 0 else None


def _fenced_blocks(text: str) -> tuple[list[str], str | None]:
    """The closed Python blocks of a Markdown text, and what stands in a block that is never closed."""
    blocks: list[str] = []
    lines: list[str] | None = None
    language = ""
    for line in text.split("\n"):  # `splitlines` would cut at form feeds inside of the program too
        mark = line.strip()
        if lines is None:
            if mark.startswith(FENCE):
                lines, language = [], mark[len(FENCE) :].strip().lower()
        elif mark == FENCE:
            if language in PYTHON:
                blocks.append("\n".join(lines) + "\n")
            lines = None
        else:
            lines.append(line)
    return blocks, None if lines is None else "\n".join(lines) + "\n"


def _key(answer: Any, code: str) -> str:
    text = json.dumps([CodeVerifier.version, answer, code], sort_keys=True, default=repr)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
