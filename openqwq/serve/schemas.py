"""The bodies of requests: every field that is known, its type and its range. Unknown fields are refused.

Public: Body, Sampled, ChatBody, CompletionBody, TokenizeBody, DetokenizeBody.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from openqwq.types import StructuredOutputs

# More samples of one prompt than this in one request are more likely a mistake than a wish.
MAX_SAMPLES = 128
MAX_STOPS = 16

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


StopText = Annotated[str, Field(min_length=1)]
Stops = Annotated[
    list[StopText],
    BeforeValidator(_as_list, json_schema_input_type=StopText | Annotated[list[StopText], Field(max_length=MAX_STOPS)]),
    Field(max_length=MAX_STOPS),
]
TokenId = Annotated[int, Field(ge=0)]


class Body(BaseModel):
    """A JSON object that is read as it stands: no "5" for 5, no NaN, no unknown names."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


class Sampled(Body):
    """What every request that samples may say; OpenAI's names first, then vLLM's."""

    model: str | None = None
    stream: bool | None = None
    n: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stops | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    user: str | None = None

    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=10)] | None = None
    stop_token_ids: list[TokenId] | None = None
    ignore_eos: bool | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    bad_words: list[Annotated[str, Field(min_length=1)]] | None = None
    max_repeats: Annotated[int, Field(ge=2)] | None = None


class FormSpec(Body):
    """vLLM's way to say which form an answer has: exactly one of these."""

    schema_: Annotated[dict[str, Any] | None, Field(alias="json")] = None
    regex: str | None = None
    choice: Annotated[list[str], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _check(self) -> FormSpec:
        if sum(value is not None for value in (self.schema_, self.regex, self.choice)) != 1:
            raise ValueError("exactly one of `json`, `regex` and `choice` is needed")
        return self

    def form(self) -> StructuredOutputs:
        """In the engine's words."""
        return StructuredOutputs(json=self.schema_, regex=self.regex, choice=tuple(self.choice or ()))


class StreamOptions(Body):
    """What a stream carries besides its text."""

    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None  # events are never padded here


class Function(Body):
    """A function that the model may call."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Body):
    """Functions are the only kind of tool."""

    type: Literal["function"]
    function: Function


class Echoed(Body):
    """A part of the history. Clients send back what other servers have put into it, so unknown fields are let in."""

    model_config = ConfigDict(extra="allow")

    def unknown_fields(self) -> list[str]:
        """Names of the fields that are not known here and hold something."""
        return [name for name, value in (self.model_extra or {}).items() if value]


class Message(Echoed):
    """One turn.

    reasoning_content, reasoning: other shapes than texts are left out, as templates do with earlier thinking.
    function_call, role "function": OpenAI's older words for a call and its result.
    is_error: of a tool's turn: the call failed.
    prefix:   of the last turn, an assistant's: the model writes on where it ends.
    """

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Any = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: str | None = None
    function_call: dict[str, Any] | None = None
    is_error: bool | None = None
    prefix: bool | None = None


class ChatBody(Sampled):
    """`/v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1)]
    tools: list[Tool] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: dict[str, Any] | None = None
    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    store: bool | None = None
    service_tier: str | None = None
    modalities: list[Literal["text"]] | None = None
    verbosity: Literal["medium"] | None = None

    reasoning_effort: Effort | None = None
    thinking_budget: Annotated[int, Field(ge=0)] | None = None
    min_thinking_tokens: Annotated[int, Field(ge=0)] | None = None
    prompt_style: Literal["concise", "draft"] | None = None
    answer_scripts: list[str] | None = None
    thinking_scripts: list[str] | None = None
    structured_outputs: FormSpec | None = None
    include_reasoning: bool = True
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None


class CompletionBody(Sampled):
    """`/v1/completions`."""

    prompt: Any
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None
    stream_options: StreamOptions | None = None


class TokenizeBody(Body):
    """`/tokenize`: a text, or a conversation under the chat template."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    tools: list[Tool] | None = None
    add_generation_prompt: bool = True
    return_token_strs: bool = False


class DetokenizeBody(Body):
    """`/detokenize`."""

    model: str | None = None
    tokens: list[TokenId]
