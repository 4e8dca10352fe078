"""Which sampling parameters are allowed. Plain Python: no torch."""

from __future__ import annotations

from openqwq.errors import UserError
from openqwq.types import SamplingParams

from .scripts import SCRIPTS

MAX_LOGPROBS = 100


def check_params(params: SamplingParams) -> None:
    """Raises UserError naming the first value that is out of range."""
    counts = f"between 0 and {MAX_LOGPROBS}"
    rules = (
        ("n", params.n >= 1, "at least 1"),
        ("temperature", 0 <= params.temperature < float("inf"), "0 (greedy) or above"),
        ("top_p", 0 < params.top_p <= 1, "above 0 and at most 1"),
        ("top_k", params.top_k >= -1, "1 or more; 0 or -1 for off"),
        ("min_p", 0 <= params.min_p <= 1, "between 0 and 1"),
        ("max_tokens", params.max_tokens >= 1, "at least 1"),
        ("stop", all(params.stop), "strings that are not empty"),
        ("bad_words", all(params.bad_words), "strings that are not empty"),
        ("presence_penalty", -2 <= params.presence_penalty <= 2, "between -2 and 2"),
        ("frequency_penalty", -2 <= params.frequency_penalty <= 2, "between -2 and 2"),
        ("repetition_penalty", 1e-6 <= params.repetition_penalty <= 1e6, "between 1e-6 and 1e6"),
        ("logit_bias", all(value == value for value in params.logit_bias.values()), "numbers by token id"),
        ("min_tokens", 0 <= params.min_tokens <= params.max_tokens, "between 0 and `max_tokens`"),
        ("logprobs", params.logprobs is None or 0 <= params.logprobs <= MAX_LOGPROBS, counts),
        ("prompt_logprobs", params.prompt_logprobs is None or 0 <= params.prompt_logprobs <= MAX_LOGPROBS, counts),
        ("thinking_budget", params.thinking_budget is None or params.thinking_budget >= 0, "0 or above"),
        ("min_thinking_tokens", params.min_thinking_tokens >= 0, "0 or above"),
        ("max_repeats", params.max_repeats is None or params.max_repeats >= 2, "at least 2"),
        ("answer_scripts", set(params.answer_scripts) <= SCRIPTS.keys(), f"of {', '.join(SCRIPTS)}"),
        ("thinking_scripts", set(params.thinking_scripts) <= SCRIPTS.keys(), f"of {', '.join(SCRIPTS)}"),
    )
    for name, good, allowed in rules:
        if not good:
            raise UserError(f"`{name}` is {getattr(params, name)!r}, but must be {allowed}")
    if params.thinking_budget is not None and params.min_thinking_tokens > params.thinking_budget:
        raise UserError(
            f"`min_thinking_tokens` is {params.min_thinking_tokens}, "
            f"but `thinking_budget` is only {params.thinking_budget}"
        )
    given = params.structured
    if given and sum(map(bool, (given.json, given.regex, given.choice, given.tools))) != 1:
        raise UserError("`structured` needs exactly one of `json`, `regex`, `choice` and `tools`")
