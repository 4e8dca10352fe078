"""The offline pass-rate filter: problems that a model sometimes solves, and that no evaluation set holds.

What every attempt or none solves gives group advantages nothing to work with (DAPO filters such groups while training;
a filter beforehand saves their rollouts).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from openqwq.errors import UserError
from openqwq.log import append_jsonl, read_jsonl, write_text_atomic
from openqwq.rollout import sample_groups
from openqwq.types import Policy, Problem, SamplingParams
from openqwq.verifiers import Verifier, verify_all

PROBLEMS_AT_ONCE = 64
"""Enough to fill the engine, few enough to lose little when the command is interrupted."""


def why_dropped(pass_rate: float | None, *, low: float, high: float) -> str:
    """Why a problem of this pass rate is dropped; empty when it is kept. None: no attempt could be judged."""
    if pass_rate is None:
        return "unjudged"
    return "too hard" if pass_rate < low else "too easy" if pass_rate > high else ""


def texts_to_avoid(files: Iterable[Path]) -> Iterator[str]:
    """The texts of evaluation files: rows with "question", "prompt", "text" or "messages", or plain lines."""
    for file in files:
        if not file.is_file():
            raise UserError(f"no file at {file}", hint="`--avoid` names JSON-lines or text files")
        with open(file, encoding="utf-8") as lines:
            yield from (_text_of(line) for line in lines if line.strip())


def measure_pass_rates(
    problems: Sequence[Problem],
    policy: Policy,
    tokenizer: Any,
    verifiers: Mapping[str, Verifier],
    params: SamplingParams,
    output: Path,
    *,
    settings: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[float | None]:
    """The share of `params.n` attempts that each problem's verifier calls correct; None where none was judged.

    settings: what the rates depend on beside the problems, e.g. the model; it stands in each row.
    Rates are appended to `output` as they are measured: the same call resumes where it was interrupted.
    Raises UserError when the file holds rates of other problems, or measured with other settings.
    """
    settings = {**(settings or {}), "samples": params.n}
    done = _read_rates(output, problems, settings)
    rates: list[float | None] = [row["pass_rate"] for row in done]
    for start in range(len(rates), len(problems), PROBLEMS_AT_ONCE):
        part = problems[start : start + PROBLEMS_AT_ONCE]
        own = [params.replace(seed=(params.seed or 0) + start + i) for i in range(len(part))]
        for problem, rate in zip(part, _rates(part, policy, tokenizer, verifiers, own), strict=True):
            append_jsonl(output, {"prompt": problem.prompt, "pass_rate": rate, **settings})
            rates.append(rate)
        progress(len(rates), len(problems))
    return rates


def _read_rates(output: Path, problems: Sequence[Problem], settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of an earlier call; what a killed writer left besides is taken out of the file."""
    if not output.exists():
        return []
    done = read_jsonl(output)
    hint = "remove it, or choose another `--output`"
    if [row.get("prompt") for row in done] != [problem.prompt for problem in problems[: len(done)]]:
        raise UserError(f"{output} holds pass rates of other problems", hint=hint)
    for key, value in settings.items():
        if other := [row.get(key) for row in done if row.get(key) != value]:
            raise UserError(f"{output} holds pass rates measured with {key} {other[0]}, not {value}", hint=hint)
    write_text_atomic(output, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in done))
    return done


def _rates(
    problems: Sequence[Problem],
    policy: Policy,
    tokenizer: Any,
    verifiers: Mapping[str, Verifier],
    params: Sequence[SamplingParams],
) -> Iterator[float | None]:
    groups = sample_groups(policy, tokenizer, problems, params[0].n, params)
    verdicts = iter(verify_all([r.judged_pair for g in groups for r in g.rollouts], verifiers))
    for group in groups:
        own = [next(verdicts) for _ in group.rollouts]
        judged = [v for v, r in zip(own, group.rollouts, strict=True) if v.status != "unjudged" and r.status == "ok"]
        yield sum(v.status == "correct" for v in judged) / len(judged) if judged else None


def _text_of(line: str) -> str:
    try:
        row = json.loads(line)
    except ValueError:
        return line
    if not isinstance(row, dict):
        return line
    if isinstance(row.get("messages"), list):
        return "\n".join(str(message.get("content", "")) for message in row["messages"])
    return str(row.get("question") or row.get("prompt") or row.get("text") or line)
