"""Answers to tasks of the `verifiers` library, rewarded by the environment's own functions in a worker process.

Public: `EnvironmentVerifier`. `problem.answer` is `{"environment": name, "args": {...}, "task": {...}}`, as sources of
type "verifiers" make it: the task's whole data, so that a worker loads no data set.
"""

from __future__ import annotations

import json
import math
from typing import Any, ClassVar

from openqwq.tokenizer import parse_completion
from openqwq.types import Problem, Verdict

from ..base import answer_part, why_no_answer
from ..workers.verifier import WorkerVerifier


class EnvironmentVerifier(WorkerVerifier):
    """The environment's reward over `full_reward` is the score, within [0, 1]; correct is what reaches it.

    full_reward: the reward of a perfect answer. What a reward function raises makes the completion unjudged.
    """

    name: ClassVar[str] = "environment"
    worker = "openqwq.verifiers.environment.worker:judge"

    def __init__(
        self,
        *,
        format_free: bool = False,
        deadline_s: float = 10.0,
        num_workers: int = 0,
        full_reward: float = 1.0,
    ):
        super().__init__(format_free=format_free, deadline_s=deadline_s, num_workers=num_workers)
        if not full_reward > 0:
            raise ValueError(f"full_reward is {full_reward}, but must be above 0")
        self.full_reward = full_reward

    def prepare(self, problem: Problem, completion: str) -> Verdict | list[Any]:
        """The verdict, or the job [environment, args, task, thinking, answer]."""
        try:
            environment, args, task = (problem.answer[key] for key in ("environment", "args", "task"))
        except (TypeError, KeyError):
            return Verdict.unjudged("unreadable task")
        answer = answer_part(completion, opened=problem.thinking_opened, format_free=self.format_free)
        if answer is None or not answer.strip():
            return Verdict.wrong(why_no_answer(completion, opened=problem.thinking_opened))
        thinking = parse_completion(completion, problem.thinking_opened is not False).thinking
        return [environment, args, json.dumps(task), thinking, answer.strip()]

    def finish(self, result: Any, job: list[Any]) -> Verdict:
        """The verdict on a reward."""
        if "error" in result or not math.isfinite(result["reward"]):
            why = result.get("error") or f"its reward is {result['reward']}"
            return Verdict.unjudged("the environment failed", extracted=job[-1], details={"error": why})
        reward = float(result["reward"])
        score, details = min(1.0, max(0.0, reward / self.full_reward)), {"reward": reward}
        if score >= 1.0 - 1e-9:
            return Verdict.correct(extracted=job[-1], details=details)
        return Verdict.wrong("below the full reward", score=score, extracted=job[-1], details=details)
