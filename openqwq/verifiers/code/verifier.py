"""Programs, judged by hidden tests that run in the sandbox.

Public: `CodeVerifier`. `problem.answer` is
`{"mode": "function", "entry_point": "f", "tests": [{"args": [[1, 2]], "expected": 3}, ...]}`,
`{"mode": "asserts", "entry_point": "f", "tests": ["assert f([1, 2]) == 3", ...]}` or
`{"mode": "stdio", "tests": [{"stdin": "1 2\\n", "stdout": "3\\n"}, ...], "language": "cpp"}`; `code_tasks.py` reads
rows of HumanEval, MBPP and LiveCodeBench as well. Programs are in Python unless a task on stdin names another language,
or "any": then a program is in the language that its fence names.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, ClassVar

from openqwq.errors import UserError
from openqwq.sandbox import BaseSandbox, JudgeResult, Limits, Submission, check_place, find_sandbox
from openqwq.sandbox.spec import LANGUAGES
from openqwq.types import Problem, Verdict

from ..base import Verifier
from .program import find_program
from .tasks import ANY, TaskError, read_task

MAX_CODE_CHARACTERS = 65_536
"""Longer "programs" are runaway text."""
CONTEST_MEMORY_MIB = 1024
"""Contests allow programs 256 to 1024 MiB."""
CACHED_VERDICTS = 65_536
"""A small model writes the same program often; an entry takes about 1 kB."""


class CodeVerifier(Verifier):
    """Correct when every test passes.

    wall_s:     seconds for loading the program, and again for each test.
    cpu_s:      processor seconds over all tests; 0: four times `wall_s`.
    memory_mib, processes, output_bytes, tmp_mib: what a program may use, as `openqwq.sandbox.Limits` says.
    tolerance:  error of a number with decimals in what a program prints, where the task names none.
    partial:    the score is the share of passed tests (a program that ends early goes on with the next test).
    language:   of programs on stdin whose task names none; "any": the one that the fence names.
    sandbox:    where programs run: a sandbox, "bubblewrap", "gvisor", or a service's address (its token is in the
                environment variable OPENQWQ_SANDBOX_TOKEN); by default the one that the process shares.
    """

    name: ClassVar[str] = "code"
    version: ClassVar[str] = "3"

    def __init__(
        self,
        *,
        format_free: bool = False,
        wall_s: float = 5.0,
        cpu_s: float = 0.0,
        memory_mib: int = CONTEST_MEMORY_MIB,
        processes: int = Limits().processes,
        output_bytes: int = Limits().output_bytes,
        tmp_mib: int = Limits().tmp_mib,
        tolerance: float = 1e-6,
        partial: bool = False,
        language: str = "python",
        sandbox: BaseSandbox | str = "",
    ):
        super().__init__(format_free=format_free)
        if language not in (*LANGUAGES, ANY):
            raise UserError(f"option `language` of verifier `code` is {language!r}, not one of {_choices()}")
        self.limits = Limits(
            wall_s=wall_s,
            cpu_s=cpu_s or 4 * wall_s,
            memory_mib=memory_mib,
            processes=processes,
            output_bytes=output_bytes,
            tmp_mib=tmp_mib,
        )
        self.tolerance = tolerance
        self.partial = partial
        self.language = language
        check_place(sandbox)
        self._sandbox = sandbox
        self._cache: OrderedDict[str, JudgeResult] = OrderedDict()

    def __call__(self, problem: Problem, completion: str) -> Verdict:
        return self.verify_many([(problem, completion)])[0]

    def verify_many(self, pairs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        """One verdict for each pair, in order; equal programs with equal tests are judged once."""
        verdicts: list[Verdict | None] = [None] * len(pairs)
        waiting: dict[str, tuple[Submission, list[int]]] = {}
        for i, (problem, completion) in enumerate(pairs):
            made = self._submission(problem, completion)
            if isinstance(made, Verdict):
                verdicts[i] = made
            else:
                waiting.setdefault(_key(problem.answer, made), (made, []))[1].append(i)
        results = self._judge({key: submission for key, (submission, _) in waiting.items()})
        for key, (submission, indices) in waiting.items():
            verdict = self._verdict(results[key], submission.code)
            for i in indices:
                verdicts[i] = verdict
        return [verdict for verdict in verdicts if verdict is not None]

    def _submission(self, problem: Problem, completion: str) -> Submission | Verdict:
        """What to run, or the verdict where there is nothing to run."""
        try:
            task = read_task(problem.answer)
        except TaskError as error:
            return Verdict.unjudged(str(error))
        language = task.language or (self.language if task.mode == "stdio" else "python")
        program = find_program(
            completion,
            LANGUAGES if language == ANY else (language,),
            format_free=self.format_free,
            opened=problem.thinking_opened,
            entry_point=task.entry_point,
            reads_input=task.has_input,
        )
        if program is None:
            return Verdict.wrong("no program in the answer")
        code = program.code
        if len(code) > MAX_CODE_CHARACTERS:
            return Verdict.wrong(f"more than {MAX_CODE_CHARACTERS} characters of code")
        if not code.strip():
            return Verdict.wrong("the program is empty", extracted=code)
        if task.entry_point and not re.search(rf"\b{re.escape(task.entry_point)}\b", code):
            return Verdict.wrong(f"the program does not define `{task.entry_point}`", extracted=code)
        return Submission(
            code=task.wrap(code),
            mode=task.mode,  # type: ignore[arg-type]
            entry_point=task.entry_point,
            tests=task.tests,
            limits=self.limits,
            restart=self.partial,
            compare="json",
            tolerance=self.tolerance if task.tolerance is None else task.tolerance,
            language=program.language,
        )

    def _judge(self, submissions: dict[str, Submission]) -> dict[str, JudgeResult]:
        results = {key: self._cache[key] for key in submissions if key in self._cache}
        new = {key: submission for key, submission in submissions.items() if key not in results}
        if new:
            results |= self._run(new)
        for key, result in results.items():
            if result.verdict not in ("timeout", "infra_error"):  # these may be the machine's doing, so ask again
                self._cache[key] = result
                self._cache.move_to_end(key)
        while len(self._cache) > CACHED_VERDICTS:
            self._cache.popitem(last=False)
        return results

    def _run(self, submissions: dict[str, Submission]) -> dict[str, JudgeResult]:
        """Each submission's result; a language that the sandbox has no toolchain for is our fault, not the model's."""
        sandbox = find_sandbox(self._sandbox)
        results: dict[str, JudgeResult] = {}
        if any(submission.language != "python" for submission in submissions.values()):
            there = sandbox.capabilities()["languages"]
            for key, submission in submissions.items():
                if submission.language not in there:
                    reason = f"the sandbox runs no {submission.language} (see `openqwq doctor`)"
                    results[key] = JudgeResult(verdict="infra_error", reason=reason)
        runnable = [key for key in submissions if key not in results]
        judged = sandbox.judge_many([submissions[key] for key in runnable])
        return results | dict(zip(runnable, judged, strict=True))

    def _verdict(self, result: JudgeResult, code: str) -> Verdict:
        unjudged = [test.reason for test in result.tests if test.verdict == "infra_error"]
        if result.verdict == "infra_error" or (self.partial and unjudged):
            return Verdict.unjudged(result.reason if result.verdict == "infra_error" else unjudged[0], extracted=code)
        details = {"passed": result.num_passed, "tests": [test.verdict for test in result.tests]}
        if result.verdict == "passed":
            return Verdict.correct(extracted=code, details=details)
        score = result.num_passed / len(result.tests) if self.partial and result.tests else 0.0
        return Verdict.wrong(f"{result.verdict}: {result.reason}", score=score, extracted=code, details=details)


def _choices() -> str:
    return ", ".join((*LANGUAGES, ANY))


def _key(answer: Any, submission: Submission) -> str:
    """Equal for equal judgements; the submission's own tests are the answer's."""
    parts = [CodeVerifier.version, answer, submission.code, submission.language]
    text = json.dumps(parts, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
