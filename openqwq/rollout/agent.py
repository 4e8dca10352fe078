"""The single-turn agent: a problem's conversation becomes a prompt, a completion becomes a rollout.

Token in, token out: the rollout keeps the ids that were sampled, and no text is tokenised again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from openqwq.types import Completion, Message, Problem, Prompt, Rollout


class ChatEncoder(Protocol):
    """The part of a tokenizer that rendering needs."""

    def encode_chat(self, messages: Sequence[Message]) -> list[int]: ...
    def opens_thinking(self, prompt_ids: Sequence[int]) -> bool: ...


def render_problem(tokenizer: ChatEncoder, problem: Problem) -> Prompt:
    """The problem's conversation under the chat template, up to the opened assistant turn."""
    ids = tuple(tokenizer.encode_chat(problem.messages))
    return Prompt(token_ids=ids, messages=problem.messages, thinking_opened=tokenizer.opens_thinking(ids))


def make_rollout(problem: Problem, prompt: Prompt, completion: Completion) -> Rollout:
    """The record of one completion; one that was given up is a rollout with status "error".

    Tokens that were put in rather than sampled are masked: no policy chose them.
    """
    failed = completion.finish_reason == "abort"
    put_in = {place for start, end in completion.inserted for place in range(start, end)}
    return Rollout(
        problem=problem,
        prompt_ids=prompt.token_ids,
        completion_ids=completion.token_ids,
        loss_mask=tuple(int(place not in put_in) for place in range(len(completion.token_ids))),
        rollout_logprobs=completion.logprobs,
        policy_versions=completion.policy_versions,
        text=completion.text,
        finish_reason=completion.finish_reason,
        status="error" if failed else "ok",
        weight_checksums=completion.weight_checksums,
        kept_ids=completion.kept_ids,
        thinking_opened=prompt.thinking_opened,
        error=(completion.error or "the policy gave the completion up") if failed else "",
    )
