"""A benchmark run: sample what the folder lacks, judge what has no verdict, and write the results.

Public: `Plan`, `run_benchmark`, `sample_seed`, `default_folder`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from openqwq.errors import UserError
from openqwq.log import logger
from openqwq.types import Problem, SamplingParams, Verdict
from openqwq.verifiers import Verifier, answer_part, get_verifier

from .benchmark import Benchmark, Protocol
from .folder import BenchmarkFolder, Key
from .load import Data
from .samplers import CLOSING, Request, Sampled, Sampler

JUDGED_AT_ONCE = 64
"""Samples that are judged together, while nothing is sampled in this process."""
FAILURES_IN_A_ROW = 32
"""After so many the server is taken to be away; the run ends and can be continued."""
SECONDS_PER_LINE = 10.0
NO_ANSWER = ("no answer", "empty answer", "no program in the answer", "thinking not closed")
"""Reasons of verifiers for samples in which no answer was found."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is run.

    protocol: the published one, or one named "custom" where a value was changed.
    server:   its address; empty where the model runs in this process.
    """

    model: str
    benchmark: Benchmark
    protocol: Protocol
    data: Data
    problems: int | None = None
    seed: int = 0
    server: str = ""
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def asked(self) -> list[Problem]:
        """The problems of this run."""
        return self.data.problems[: self.problems]

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON: everything that samples and verdicts depend on."""
        return {
            "benchmark": self.benchmark.name,
            "benchmark_version": self.benchmark.version,
            "model": self.model,
            "server": self.server,
            "protocol": self.protocol.name,
            "sampling": self.protocol.sampling(),
            "samples": self.protocol.samples,
            "problems": len(self.asked),
            "seed": self.seed,
            "prompt": self.benchmark.prompt,
            "verifier": self.benchmark.verifier,
            "verifier_options": dict(self.benchmark.verifier_options),
            "verifier_version": self.verifier().version,
            "data_sha256": self.data.sha256,
            "data": self.data.origin,
            "settings": dict(self.settings),
        }

    def verifier(self) -> Verifier:
        """The benchmark's verifier with its options."""
        return get_verifier(self.benchmark.verifier, **self.benchmark.verifier_options)


def run_benchmark(plan: Plan, sampler: Sampler, folder: BenchmarkFolder) -> None:
    """Fill the folder: a sample for each problem and number, a verdict for each sample.

    What fails stays open, for the next run. Raises UserError when nothing but failures comes any more.
    """
    verifier = plan.verifier()
    problems = {problem.id: problem for problem in plan.asked}
    waiting = _judged_later(folder, problems, plan.protocol.samples)
    failures, why = 0, ""
    requests = _open_requests(plan, folder)
    progress = _Progress(len(problems) * plan.protocol.samples, len(requests))
    with closing(sampler(requests)) as outcomes:
        for outcome in outcomes:
            if isinstance(outcome, Sampled):
                folder.add_sample(_row(outcome))
                waiting.append((outcome.request.problem.id, outcome.request.index))
                failures = 0
            else:
                failures, why = failures + 1, outcome.error
                where = {"key": outcome.request.problem.id, "sample": outcome.request.index}
                folder.add_error({**where, "error": outcome.error})
            if len(waiting) >= JUDGED_AT_ONCE:
                _judge(folder, problems, waiting, verifier)
                waiting = []
            progress.show(folder)
            if failures >= FAILURES_IN_A_ROW:
                break
    _judge(folder, problems, waiting, verifier)
    if failures >= FAILURES_IN_A_ROW:
        raise UserError(
            f"{failures} requests in a row failed, the last with: {why}",
            hint=f"{len(folder.samples)} samples are kept in {folder.path}; the same command continues there",
        )


def sample_seed(seed: int, key: str, sample: int) -> int:
    """A 31-bit seed of one sample, which depends on nothing else that is sampled."""
    text = f"{seed}\x1f{key}\x1f{sample}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big") >> 1


def default_folder(model: str, benchmark: str) -> Path:
    """Where a run is kept that names no folder."""
    name = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in model.rpartition("//")[2])
    return Path("runs") / "benchmarks" / f"{benchmark}-{name.strip('-.') or 'model'}"


def _open_requests(plan: Plan, folder: BenchmarkFolder) -> list[Request]:
    """Requests for what the folder lacks: first samples of all problems before second ones."""
    return [
        Request(
            problem,
            index,
            SamplingParams(**plan.protocol.sampling(), seed=sample_seed(plan.seed, problem.id, index)),  # type: ignore[arg-type]
        )
        for index in range(plan.protocol.samples)
        for problem in plan.asked
        if (problem.id, index) not in folder.samples
    ]


def _row(sampled: Sampled) -> dict[str, Any]:
    return {
        "key": sampled.request.problem.id,
        "sample": sampled.request.index,
        "seed": sampled.request.params.seed,
        "text": sampled.text,
        "thinking_opened": sampled.thinking_opened,
        "finish_reason": sampled.finish_reason,
        "tokens": sampled.tokens,
    }


def _judged_later(folder: BenchmarkFolder, problems: dict[str, Problem], samples: int) -> list[Key]:
    """Kept samples of this run that have no verdict, or none that judged."""
    return [
        key
        for key in folder.samples
        if key[0] in problems and key[1] < samples
        if folder.verdicts.get(key, {}).get("outcome", "unjudged") == "unjudged"
    ]


def _judge(folder: BenchmarkFolder, problems: dict[str, Problem], keys: Sequence[Key], verifier: Verifier) -> None:
    """Keep a verdict for each sample; what could not be judged among others is judged once more alone."""
    pairs, judged = [], []
    for key in keys:
        row = folder.samples[key]
        made = _without_verifier(row)
        if made is not None:
            folder.add_verdict(key, made)
        else:
            judged.append(key)
            pairs.append((replace(problems[key[0]], thinking_opened=True), _answer_of(row)))
    for key, pair, verdict in zip(judged, pairs, verifier.verify_many(pairs), strict=True):
        final = verifier(*pair) if verdict.status == "unjudged" else verdict
        folder.add_verdict(key, _verdict_row(final))


def _without_verifier(row: dict[str, Any]) -> dict[str, Any] | None:
    """The verdict on a sample that has no answer to judge: one cut off, or whose thinking was not closed."""
    if row["finish_reason"] == "length":
        return {"outcome": "cut off", "score": 0.0, "reason": "cut off at the token limit", "extracted": None}
    if answer_part(row["text"], opened=row["thinking_opened"]) is None:
        return {"outcome": "no answer", "score": 0.0, "reason": "thinking not closed", "extracted": None}
    return None


def _answer_of(row: dict[str, Any]) -> str:
    """The answer alone, in the one form in which every verifier finds it: behind a closed thought."""
    answer = answer_part(row["text"], opened=row["thinking_opened"]) or ""
    return CLOSING + answer.lstrip("\n")


def _verdict_row(verdict: Verdict) -> dict[str, Any]:
    outcome: str = verdict.status
    if verdict.status == "wrong" and verdict.reason in NO_ANSWER:
        outcome = "no answer"
    return {
        "outcome": outcome,
        "score": verdict.score,
        "reason": verdict.reason,
        "extracted": verdict.extracted if verdict.extracted is None else verdict.extracted[:4000],
    }


class _Progress:
    """A log line every ten seconds: samples, the score so far, time left."""

    def __init__(self, wanted: int, asked: int):
        self.wanted, self.asked, self.done = wanted, asked, 0
        self.start = self.shown = time.monotonic()
        if asked < wanted:
            logger.info("%d of %d samples are there already", wanted - asked, wanted)

    def show(self, folder: BenchmarkFolder) -> None:
        self.done += 1
        now = time.monotonic()
        if now - self.shown < SECONDS_PER_LINE and self.done < self.asked:
            return
        self.shown = now
        scores = [row["score"] for row in folder.verdicts.values() if row["outcome"] != "unjudged"]
        so_far = f"score so far {100 * sum(scores) / len(scores):.1f}" if scores else "nothing judged yet"
        left = (now - self.start) / self.done * (self.asked - self.done)
        logger.info("%d of %d requests, %s, about %.0f s left", self.done, self.asked, so_far, left)
