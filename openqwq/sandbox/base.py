"""The face that every sandbox shows, whether its jails are here or behind a service.

Public: BaseSandbox.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from .spec import Comparison, JudgeResult, Limits, Mode, RunResult, Submission

Self = TypeVar("Self", bound="BaseSandbox")


class BaseSandbox(ABC):
    """Runs and judges untrusted programs. A context manager; may be used from many threads."""

    @abstractmethod
    def capabilities(self) -> dict[str, Any]:
        """What protects programs there, and which languages can be run; for `openqwq doctor` and for logs."""

    @abstractmethod
    def judge_many(self, submissions: Sequence[Submission]) -> list[JudgeResult]:
        """Judge programs in parallel; results in the order of the submissions."""

    @abstractmethod
    def close(self) -> None:
        """Let go of everything that is held for programs."""

    @abstractmethod
    def _run_one(self, submission: Submission, stdin: str) -> RunResult: ...

    def run(
        self,
        code: str,
        stdin: str = "",
        limits: Limits | None = None,
        *,
        language: str = "python",
        files: Mapping[str, bytes] | None = None,
    ) -> RunResult:
        """Run a program, its files beside it, and return what it wrote and how it ended.

        Raises UserError for a language that is not available, and for files that cannot be placed there.
        """
        return self._run_one(
            Submission(code=code, limits=limits or Limits(), language=language, files=files or {}), stdin
        )

    def judge(
        self,
        code: str,
        mode: Mode = "function",
        entry_point: str = "",
        tests: Sequence[Any] = (),
        limits: Limits | None = None,
        *,
        restart: bool = False,
        compare: Comparison = "typed",
        tolerance: float = 0.0,
        language: str = "python",
        files: Mapping[str, bytes] | None = None,
    ) -> JudgeResult:
        """Judge one program; see `Submission` for the arguments. Raises UserError as `run` does."""
        submission = Submission(
            code=code,
            mode=mode,
            entry_point=entry_point,
            tests=tests,
            limits=limits or Limits(),
            restart=restart,
            compare=compare,
            tolerance=tolerance,
            language=language,
            files=files or {},
        )
        return self.judge_many([submission])[0]

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
