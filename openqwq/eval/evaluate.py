"""Sample a policy on families of problems and judge every completion twice.

All families go to the policy in one call, so that they share batches. A problem's samples depend on the seed,
the family and the problem alone, never on what else is evaluated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, Protocol

from openqwq.data import plain_prompt
from openqwq.rollout import make_rollout, sample_groups
from openqwq.types import Group, Message, Policy, Problem, Prompt, Rollout, SamplingParams, Verdict
from openqwq.verifiers import verify_all

from .families import Decoding, Mark, ScoredCompletion, summarise
from .judging import Judge

Template = Literal["chat", "plain"]
PLAIN_STOP = ("\n\n",)
"""A base model's answer to a plain prompt ends with its document, or with the next blank line."""


class Encoder(Protocol):
    """The part of a tokenizer that evaluation needs."""

    def encode_plain(self, text: str) -> list[int]: ...
    def encode_chat(self, messages: Sequence[Message]) -> list[int]: ...
    def opens_thinking(self, prompt_ids: Sequence[int]) -> bool: ...


def evaluate(
    policy: Policy,
    tokenizer: Encoder,
    families: Mapping[str, Sequence[Problem]],
    params: SamplingParams,
    judge: Judge,
    *,
    seed: int = 0,
    samples_per_problem: int = 1,
    greedy: bool = False,
    template: Template = "chat",
) -> list[ScoredCompletion]:
    """Every completion with its marks: family by family, problem by problem; `summarise` makes results of them.

    greedy:   decode each problem greedily as well, once.
    template: "chat" is the tokenizer's own; "plain" states the question as the pretraining corpus does, which is
              what a base model answers best.
    """
    items = [(family, problem) for family, problems in families.items() for problem in problems]
    own = [params.replace(seed=problem_seed(seed, family, problem)) for family, problem in items]
    groups = _sample(policy, tokenizer, items, own, samples_per_problem, template)
    rows = score_groups(items, groups, judge, decoding="sampled")
    if greedy:
        own = [params.replace(temperature=0.0, top_p=1.0, top_k=0) for _ in items]
        rows += score_groups(items, _sample(policy, tokenizer, items, own, 1, template), judge, decoding="greedy")
    return rows


def score_groups(
    items: Sequence[tuple[str, Problem]], groups: Sequence[Group], judge: Judge, *, decoding: Decoding
) -> list[ScoredCompletion]:
    """The groups' completions with both marks; `items` names each group's family and problem."""
    flat = [
        (family, problem, sample, rollout)
        for (family, problem), group in zip(items, groups, strict=True)
        for sample, rollout in enumerate(group.rollouts)
    ]
    pairs = [rollout.judged_pair for _, _, _, rollout in flat]
    strict = verify_all(pairs, judge.strict)
    format_free = _format_free(pairs, strict, judge)
    return [
        ScoredCompletion(
            family=family,
            kind=problem.kind,
            id=problem.id,
            sample=sample,
            decoding=decoding,
            prompt=problem.prompt,
            text=rollout.text,
            thinking_opened=rollout.thinking_opened,
            tokens=len(rollout.completion_ids),
            finish_reason=rollout.finish_reason,
            strict=_mark(rollout, mine, cut_is_wrong=True),
            format_free=_mark(rollout, theirs, cut_is_wrong=False),
        )
        for (family, problem, sample, rollout), mine, theirs in zip(flat, strict, format_free, strict=True)
    ]


def _format_free(pairs: Sequence[tuple[Problem, str]], strict: Sequence[Verdict], judge: Judge) -> list[Verdict]:
    """The lenient verdicts; what is strictly correct is correct here too, and is not judged again."""
    missed = [i for i, verdict in enumerate(strict) if verdict.status != "correct"]
    verdicts = list(strict)
    for i, verdict in zip(missed, verify_all([pairs[i] for i in missed], judge.format_free), strict=True):
        verdicts[i] = verdict
    return verdicts


def problem_seed(seed: int, family: str, problem: Problem) -> int:
    """A 62-bit sampling seed from the evaluation's seed, the family and the problem's text."""
    text = "\x1f".join((str(seed), family, problem.id, problem.prompt))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 2


def mean_by_kind(rows: Iterable[ScoredCompletion]) -> dict[str, float]:
    """Kind -> mean over its families of their mean strict score; families without a judged problem are left out."""
    by_kind: dict[str, list[float]] = {}
    for result in summarise(rows).values():
        if result.n:
            by_kind.setdefault(result.kind, []).append(result.strict.mean)
    return {kind: sum(means) / len(means) for kind, means in by_kind.items()}


def _sample(
    policy: Policy,
    tokenizer: Encoder,
    items: Sequence[tuple[str, Problem]],
    params: Sequence[SamplingParams],
    samples_per_problem: int,
    template: Template,
) -> list[Group]:
    problems = [problem for _, problem in items]
    if template == "chat":
        return sample_groups(policy, tokenizer, problems, samples_per_problem, params)
    prompts = [
        Prompt(tuple(tokenizer.encode_plain(plain_prompt(problem.prompt))), problem.messages) for problem in problems
    ]
    own = [each.replace(n=samples_per_problem, stop=PLAIN_STOP) for each in params]
    return [
        Group(problem, [make_rollout(problem, prompt, completion) for completion in completions])
        for problem, prompt, completions in zip(problems, prompts, policy.generate(prompts, own), strict=True)
    ]


def _mark(rollout: Rollout, verdict: Verdict, *, cut_is_wrong: bool) -> Mark:
    """The verdict, unless there is nothing to judge: a failed rollout is unjudged, a cut one strictly wrong."""
    if rollout.status == "error":
        return Mark("unjudged", 0.0, rollout.error)
    if cut_is_wrong and rollout.finish_reason == "length" and verdict.status != "unjudged":
        return Mark("wrong", 0.0, "cut off at the token limit")
    return Mark.of(verdict)
