"""The nouns that every room shares: message, problem, completion, rollout, verdict, policy.

Plain frozen data, JSON in and out, no torch. A `Policy` is anything that turns prompts
into completions: the in-process engine, an HTTP server, a fake in a test.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

Role = Literal["system", "user", "assistant", "tool"]
Status = Literal["correct", "wrong", "unjudged"]
FinishReason = Literal["stop", "length", "abort", "repetition"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One function call of an assistant turn; arguments are parsed JSON, never a string."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. `content` holds the answer, `reasoning_content` the thinking."""

    role: Role
    content: str = ""
    reasoning_content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One task with the means to judge an answer to it.

    id:       unique within its source, e.g. "chain_sum/eval/17".
    source:   the family it was drawn from, e.g. "chain_sum"; metrics are kept per source.
    kind:     "math", "code", "instruction", ...; targets and gates are stated per kind.
    messages: the conversation that the policy answers; the last turn is the user's.
    verifier: a name known to `openqwq.verifiers.get_verifier`.
    answer:   what the verifier needs and the policy never sees (gold answer, hidden tests, rules); JSON.
    thinking_opened: whether the prompt that was made of it ends inside a thinking block, so that a completion's answer
              begins behind `</think>`. Set where a rollout is judged; None: no prompt is known.
    """

    id: str
    source: str
    kind: str
    messages: tuple[Message, ...]
    verifier: str
    answer: Any = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    thinking_opened: bool | None = None

    @property
    def prompt(self) -> str:
        """The text of the last user turn."""
        return self.messages[-1].content

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Problem:
        """Inverse of `to_dict`. Raises KeyError or TypeError for a row of another shape."""
        messages = tuple(
            Message(**{**m, "tool_calls": tuple(ToolCall(**c) for c in m.get("tool_calls", ()))})
            for m in row["messages"]
        )
        return cls(**{**row, "messages": messages})


@dataclass(frozen=True, slots=True, kw_only=True)
class StructuredOutputs:
    """The form that an answer must have: exactly one of `json`, `regex`, `choice` and `tools`.

    Thinking is never constrained: an answer begins behind `</think>` where the prompt has opened the thinking.

    json:         a JSON schema, as an object or as text.
    regex:        the answer as a whole matches it.
    choice:       the answer is one of these texts.
    tools:        functions as {"name": ..., "parameters": schema}: whatever the model writes into `<tool_call>` calls
                  one of them with arguments of its schema.
    require_tool: with `tools`: the answer is one call and nothing else.
    """

    json: Mapping[str, Any] | str | None = None
    regex: str | None = None
    choice: tuple[str, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    require_tool: bool = False

    def __post_init__(self) -> None:
        _make_tuples(self, "choice", "tools")


def _make_tuples(instance: Any, *names: str) -> None:
    """One text is a tuple of one: taken as it is, it would be a tuple of its letters."""
    for name in names:
        value = getattr(instance, name)
        if value is None or isinstance(value, (str, list)):
            object.__setattr__(instance, name, (value,) if isinstance(value, str) else tuple(value or ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How to sample a completion, with vLLM's names; QwQ-32B's recommended values as defaults.

    temperature 0 is greedy. top_k 0 or -1 and top_p 1 are off. Order: temperature, top-k, top-p, min-p
    (QwQ's published scores were made in this order); `temperature_last` is llama.cpp's. `seed` makes a request's
    tokens independent of whatever else is in the batch. `stop_token_ids` are added to the model's own end tokens.
    Where several values may be given, one text, a list or None does as well, as in vLLM: `stop="\\n\\n"`.

    presence_penalty, frequency_penalty: subtracted once, or as often as a token is in the completion; 0 is off.
    repetition_penalty: divides logits above 0 and multiplies those below of tokens in prompt or completion; 1 is off.
    logit_bias:         added to the logits of token ids, before the penalties.
    bad_words:          texts that are never written.
    stop:               texts that end a sample and are cut from it; not looked for while the model thinks.
    min_tokens:         no end token, and no stop text, within that many tokens.
    logprobs:           also the raw log-probs of this many likeliest tokens and of the sampled one, at each place.
    prompt_logprobs:    the same for the prompt's tokens; the cache of prompts is not used then.
    kept_ids:           also which ids top-k, top-p and min-p left to draw from, at each place.
    thinking_budget:    tokens after which the thinking is closed and the answer asked for; None: no limit.
    min_thinking_tokens: `</think>` and end tokens before that many tokens are replaced by "Wait".
    max_repeats:        a pattern or a line that comes this many times closes the thinking; in the answer it ends the
                        sample with finish reason "repetition". None: not looked for.
    answer_scripts, thinking_scripts: the only scripts that letters may be of, e.g. ("latin",); empty: any.
    structured:         the form of the answer.
    """

    n: int = 1
    temperature: float = 0.6
    top_p: float = 0.95
    top_k: int = 40
    min_p: float = 0.0
    max_tokens: int = 16384
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    kept_ids: bool = False
    temperature_last: bool = False
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    bad_words: tuple[str, ...] = ()
    min_tokens: int = 0
    thinking_budget: int | None = None
    min_thinking_tokens: int = 0
    max_repeats: int | None = None
    answer_scripts: tuple[str, ...] = ()
    thinking_scripts: tuple[str, ...] = ()
    structured: StructuredOutputs | None = None

    def __post_init__(self) -> None:
        _make_tuples(self, "stop", "stop_token_ids", "bad_words", "answer_scripts", "thinking_scripts")

    def replace(self, **changes: Any) -> SamplingParams:
        return replace(self, **changes)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a policy continues: token ids for an in-process engine, messages for an HTTP server.

    thinking_opened: whether it ends inside a thinking block; None: it is no chat prompt.
    """

    token_ids: tuple[int, ...]
    messages: tuple[Message, ...] = ()
    thinking_opened: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What a policy sampled. A sampled text is never tokenised again: `token_ids` are the record.

    text:            decoded `token_ids` without the end token.
    token_ids:       sampled ids, the end token included when it was sampled.
    logprobs:        one per token, under the distribution it was sampled from (after temperature and cuts).
    policy_versions: the policy's version when each token was sampled.
    top_logprobs:    for each token, raw log-probs by token id, when they were asked for.
    weight_checksums: the weights of each version among `policy_versions`, where the policy knows them.
    kept_ids:        for each token, when asked for, the ids that the cuts left: its log-prob is normalised over them;
                     empty where nothing was cut, and for tokens that were put in.
    inserted:        (start, end) of tokens that were put in rather than sampled (a closed thinking); log-prob 0.
    error:           why the completion was given up ("abort"), e.g. a prompt that does not fit; else empty.
    stop_reason:     the stop string or the id of `stop_token_ids` that ended it; None at the model's own end token.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    policy_versions: tuple[int, ...]
    finish_reason: FinishReason
    error: str = ""
    top_logprobs: tuple[Mapping[int, float], ...] = ()
    kept_ids: tuple[tuple[int, ...], ...] = ()
    inserted: tuple[tuple[int, int], ...] = ()
    weight_checksums: Mapping[int, str] = field(default_factory=dict)
    stop_reason: str | int | None = None

    @property
    def cumulative_logprob(self) -> float:
        """The sum of `logprobs`."""
        return math.fsum(self.logprobs)


@runtime_checkable
class Policy(Protocol):
    """A model that can be sampled from. `version` counts weight updates since the start."""

    version: int

    def generate(
        self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]
    ) -> list[list[Completion]]:
        """`params.n` completions for each prompt, in the prompts' order."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A verifier's judgement of one completion.

    status:    "wrong" is the candidate's own fault; "unjudged" is ours (infrastructure, deadline, unreadable
               task): it masks the sample and never counts as a 0.
    score:     in [0, 1]; 0 unless correct, except for verifiers with partial credit.
    extracted: the part of the completion that was judged.
    reward:    any finite number, where training is paid something else than the score; None: the score.
    """

    status: Status
    score: float
    reason: str = ""
    extracted: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    reward: float | None = None

    @property
    def training_reward(self) -> float:
        """What training is paid; NaN where nothing could be judged."""
        if self.status == "unjudged":
            return math.nan
        return self.score if self.reward is None else self.reward

    @classmethod
    def correct(cls, **kw: Any) -> Verdict:
        return cls(status="correct", score=kw.pop("score", 1.0), **kw)

    @classmethod
    def wrong(cls, reason: str, **kw: Any) -> Verdict:
        return cls(status="wrong", score=kw.pop("score", 0.0), reason=reason, **kw)

    @classmethod
    def unjudged(cls, reason: str, **kw: Any) -> Verdict:
        return cls(status="unjudged", score=0.0, reason=reason, **kw)


@dataclass(slots=True, kw_only=True)
class Rollout:
    """One attempt at a problem, token by token: what the trainer, the verifiers and the logs read.

    loss_mask: 1 for tokens that the policy sampled, 0 for inserted ones; as long as `completion_ids`.
    policy_versions, weight_checksums: of the weights that sampled each token, and which weights each version was.
    kept_ids:  for each token what top-k, top-p and min-p left to draw from; empty where they cut nothing.
    status:    "ok", or "error" with the reason: a bad rollout is data, not a crash.
    thinking_opened: whether the prompt ended inside a thinking block; None: it was no chat prompt.
    """

    problem: Problem
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    loss_mask: tuple[int, ...]
    rollout_logprobs: tuple[float, ...]
    policy_versions: tuple[int, ...]
    text: str
    finish_reason: str
    status: Literal["ok", "error"] = "ok"
    error: str = ""
    weight_checksums: Mapping[int, str] = field(default_factory=dict)
    kept_ids: tuple[tuple[int, ...], ...] = ()
    thinking_opened: bool | None = None

    @property
    def judged_pair(self) -> tuple[Problem, str]:
        """What a verifier is asked about: the problem, which knows where the answer begins, and the text."""
        return replace(self.problem, thinking_opened=self.thinking_opened), self.text


@dataclass(slots=True)
class Group:
    """The rollouts of one problem: the unit of advantage estimation and of refill."""

    problem: Problem
    rollouts: list[Rollout]
