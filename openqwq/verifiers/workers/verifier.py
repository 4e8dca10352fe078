"""What verifiers that judge in worker processes share: the pool's options, the fast path, one job for equal work.

Public: `WorkerVerifier`. A subclass names its `worker` ("module:function"), answers what it can at once in
`prepare`, and reads what the worker found in `finish`. `workers.py` says whose fault an unfinished job is.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from openqwq.types import Problem, Verdict

from ..base import Verifier
from .pool import fault_verdict, shared_pool


class WorkerVerifier(Verifier):
    """A verifier whose hard cases go to the process-wide pool of its worker.

    deadline_s:  CPU seconds of the worker for the task's own side and for the candidate's, each.
    num_workers: processes; 0: one a core, at most 8.
    """

    worker: str

    def __init__(self, *, format_free: bool = False, deadline_s: float = 3.0, num_workers: int = 0):
        super().__init__(format_free=format_free)
        self.deadline_s = deadline_s
        self.num_workers = num_workers

    @abstractmethod
    def prepare(self, problem: Problem, completion: str) -> Verdict | list[Any]:
        """The verdict, or the worker's job (JSON) with the text that is judged as its last item."""

    def prepare_many(self, pairs: Sequence[tuple[Problem, str]]) -> list[Verdict | list[Any]]:
        """What `prepare` says of each pair, in order."""
        return [self.prepare(problem, completion) for problem, completion in pairs]

    @abstractmethod
    def finish(self, result: Any, job: list[Any]) -> Verdict:
        """The verdict on what the worker returned for a job."""

    def __call__(self, problem: Problem, completion: str) -> Verdict:
        return self.verify_many([(problem, completion)])[0]

    def verify_many(self, pairs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        """One verdict for each pair, in order; equal jobs are done once."""
        verdicts: dict[int, Verdict] = {}
        jobs: dict[str, list[Any]] = {}
        waiting: dict[str, list[int]] = {}
        for i, prepared in enumerate(self.prepare_many(pairs)):
            if isinstance(prepared, Verdict):
                verdicts[i] = prepared
            else:
                key = json.dumps(prepared, default=repr)
                jobs[key] = prepared
                waiting.setdefault(key, []).append(i)
        if jobs:
            pool = shared_pool(self.worker, deadline_s=self.deadline_s, num_workers=self.num_workers)
            for (key, job), outcome in zip(jobs.items(), pool.run(list(jobs.values())), strict=True):
                done = outcome.how == "ok"
                verdict = self.finish(outcome.result, job) if done else fault_verdict(outcome, job[-1])
                verdicts.update(dict.fromkeys(waiting[key], verdict))
        return [verdicts[i] for i in range(len(pairs))]
