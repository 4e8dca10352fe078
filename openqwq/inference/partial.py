"""Samples that go on from tokens sampled earlier: by older weights, before a restart, or in another engine."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from openqwq.types import Completion

from .sequence import Request, Sequence
from .thinking import Reasoning


def is_open(completion: Completion) -> bool:
    """Whether a completion was only stopped on request, so that it can go on."""
    return completion.finish_reason == "abort" and not completion.error


def restore(request: Request, so_far: Seq[Completion], reasoning: Reasoning | None) -> None:
    """Give the request's samples the tokens that they had; those that had ended stay ended.

    Their keys and values are computed anew, by the weights of the moment. Raises ValueError when there are not as
    many completions as samples, or none of them is open.
    """
    if len(so_far) != len(request.sequences) or not any(map(is_open, so_far)):
        raise ValueError(f"{len(so_far)} completions, some open, are needed for {len(request.sequences)} samples")
    for sample, completion in zip(request.sequences, so_far, strict=True):
        _restore_one(sample, completion, reasoning)
    request.forked = True


def _restore_one(sample: Sequence, completion: Completion, reasoning: Reasoning | None) -> None:
    stamped = zip(completion.token_ids, completion.logprobs, completion.policy_versions, strict=True)
    put_in = dict(completion.inserted)
    span_end = 0
    for place, (token, logprob, version) in enumerate(stamped):
        span_end = put_in.get(place, span_end)
        sample.append(token, logprob, version)
        if sample.thinking and reasoning is not None and reasoning.ends(sample):
            reasoning.note_end(sample)
        elif sample.loops is not None and place >= span_end:
            sample.loops.push(token)
        if not sample.thinking and place < span_end:  # an answer begins behind the text that closed the thinking
            sample.answer_start = place + 1
    sample.top_logprobs = [dict(top) for top in completion.top_logprobs]
    sample.kept_ids = list(completion.kept_ids)
    sample.inserted = list(completion.inserted)
    if not is_open(completion):
        sample.finish(completion.finish_reason, completion.error)
