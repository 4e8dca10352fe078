"""From a request's messages to the token ids that the model continues.

Public: chat_prompt, continued_prompt, text_prompt, check_length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from openqwq.errors import UserError
from openqwq.tokenizer import Tokenizer, normalize_messages, template_variables, with_style
from openqwq.tokenizer.put_in import OWN_TAGS
from openqwq.tokenizer.special_tokens import THINK_END, THINK_START

from .engine import ServedModel
from .errors import ApiError, unsupported, wrong
from .schemas import Message, Tool

# What the model reads before the output of a call that failed; templates know no such mark.
FAILED = "The call failed."
# Characters that are tokenised at once while it is not known whether a text fits: about 20 ms.
PIECE = 2**16
SLACK = 32
# OpenAI's newer and older words for roles.
OTHER_ROLES = {"developer": "system", "function": "tool"}


def chat_prompt(
    model: ServedModel,
    messages: Sequence[Message],
    tools: Sequence[Tool] = (),
    *,
    variables: Mapping[str, Any] | None = None,
    thinks: bool = True,
    style: str | None = None,
    add_generation_prompt: bool = True,
    bounded: bool = True,
    param: str = "messages",
) -> tuple[list[int], bool]:
    """Token ids of a conversation, and whether they end inside a thinking block.

    variables: `chat_template_kwargs`; names that the template does not read are refused.
    style:     of `tokenizer.PROMPT_STYLES`.
    bounded:   as for `text_prompt`.
    thinks:    False closes the thinking block that the template opens.
    """
    tokenizer = model.tokenizer
    _check_variables(tokenizer.chat_template, variables or {})
    try:
        prompt = tokenizer.render(
            with_style([_plain(message) for message in messages], style),
            [_told(tool) for tool in tools] or None,
            add_generation_prompt=add_generation_prompt,
            variables=variables,
        )
    except RecursionError as error:
        raise wrong(param, "is nested too deeply") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # a conversation of another shape
        raise wrong(param, f"cannot be read: {error}") from error
    except UserError as error:
        raise wrong(param, error.message) from error
    ids = text_prompt(model, prompt.text, param, prompt.breaks, bounded=bounded)
    opened = add_generation_prompt and tokenizer.opens_thinking(ids)
    if opened and not thinks:
        prompt = prompt.ended(f"\n\n{THINK_END}\n\n")
        return text_prompt(model, prompt.text, param, prompt.breaks), False
    return ids, opened


def continued_prompt(
    model: ServedModel, messages: Sequence[Message], tools: Sequence[Tool] = (), **options: Any
) -> tuple[list[int], bool | None]:
    """Token ids that end inside the last turn, an assistant's, and whether they end inside its thinking.

    A turn of thinking alone stays open there; None: the answer has begun. An empty turn is a new one.
    options: as for `chat_prompt`.
    """
    earlier = messages[:-1]
    try:
        [last] = normalize_messages([_plain(messages[-1])])
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise wrong("messages", f"cannot be read: {error}") from error
    if last["role"] != "assistant" or "tool_calls" in last:
        raise wrong("messages", "ends with a turn that cannot be continued: only an assistant's without calls can")
    thinking, text = last.get("reasoning_content", ""), last["content"]
    if not thinking and not text:
        return chat_prompt(model, earlier, tools, **options)
    prompt_ids, opened = chat_prompt(model, earlier, tools, **{**options, "thinks": bool(thinking)})
    if thinking:
        thinking = thinking if opened else f"{THINK_START}\n{thinking}"
        text = f"{thinking}\n{THINK_END}\n\n{text}" if text else thinking
    breaks = model.tokenizer.put_in.breaks(text, OWN_TAGS)
    return prompt_ids + text_prompt(model, text, "messages", breaks), None if last["content"] else True


def text_prompt(
    model: ServedModel, text: str, param: str, breaks: Sequence[int] = (), *, bounded: bool = True
) -> list[int]:
    """Token ids of a text as it stands, whose control tokens count unless they lie across `breaks`.

    bounded: Raises ApiError for a text that is longer than the model's context, without tokenising it to its end.
    """
    try:
        least = fewest_tokens(model.tokenizer, text, model.max_model_len) if bounded else 0
        if least > model.max_model_len:
            raise _too_long(model, f"at least {least}", param)
        return model.tokenizer.encode(text, breaks)
    except UserError as error:
        raise wrong(param, error.message) from error


def fewest_tokens(tokenizer: Tokenizer, text: str, most: int) -> int:
    """A number of tokens that a text has at least: above `most` as soon as it is known to have more.

    0 for a text that is so short that counting is no faster than tokenising. A token next to a cut may be another one
    than in the whole text, so some are taken off for each.
    """
    if len(text) <= max(PIECE, most):
        return 0
    count = start = 0
    while start < len(text) and count <= most:
        end = start + PIECE
        if end < len(text):  # where words begin, the tokens are the whole text's
            end = max(text.rfind(" ", start + PIECE // 2, end), text.rfind("\n", start + PIECE // 2, end), -1)
            end = start + PIECE if end < 0 else end
        count += max(len(tokenizer.encode(text[start:end])) - SLACK, 0)
        start = end
    return count


def _too_long(model: ServedModel, count: int | str, param: str) -> ApiError:
    return ApiError(
        400,
        f"the prompt is too long: it has {count} tokens, but this model's context is "
        f"{model.max_model_len} tokens, prompt and completion together",
        param=param,
        code="context_length_exceeded",
    )


def check_length(model: ServedModel, prompt_ids: Sequence[int], param: str) -> int:
    """Tokens that are left for the completion. Raises ApiError with the counts when there are none."""
    left = model.max_model_len - len(prompt_ids)
    if not prompt_ids:
        raise wrong(param, "has no tokens, but at least 1 is needed")
    if left < 1:
        raise _too_long(model, len(prompt_ids), param)
    return left


def _plain(message: Message) -> dict[str, Any]:
    """The message for the template: what does not bear on the text is left out."""
    row = message.model_dump(include={"role", "content", "tool_calls", "name", "tool_call_id"})
    thoughts = (thought for thought in (message.reasoning_content, message.reasoning) if isinstance(thought, str))
    row["reasoning_content"] = next(filter(None, thoughts), None)
    row["role"] = OTHER_ROLES.get(row["role"], row["role"])
    if message.function_call and not row["tool_calls"]:
        row["tool_calls"] = [{"type": "function", "function": message.function_call}]
    if message.refusal and not row["content"]:
        row["content"] = message.refusal
    if message.is_error:
        row["content"] = [{"type": "text", "text": FAILED}, *_parts(row["content"])]
    return {key: value for key, value in row.items() if value is not None or key == "content"}


def _parts(content: Any) -> Any:
    """A content as a list of parts."""
    return [{"type": "text", "text": content or ""}] if content is None or isinstance(content, str) else content


def _told(tool: Tool) -> dict[str, Any]:
    """A tool as the model is told of it: whether its schema is enforced is not the model's business."""
    return tool.model_dump(exclude_unset=True, exclude={"function": {"strict"}})


def _check_variables(template: str, variables: Mapping[str, Any]) -> None:
    if not variables:
        return
    read = template_variables(template)
    for name in variables:
        if name in ("messages", "tools", "add_generation_prompt") or name not in read:
            raise unsupported(f"chat_template_kwargs.{name}", "this model's chat template does not read it")
