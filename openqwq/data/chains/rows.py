"""Rows of files of chains, in the forms that data sets for supervised fine-tuning have.

    {"question": ..., "thinking": ..., "answer": ...}            or "prompt", "reasoning", "response", "completion", ...
    {"messages": [..., {"role": "assistant", "content": "<think>...</think>..."}]}     or with "reasoning_content"
    {"instruction": ..., "input": ..., "output": ...}            Alpaca
    {"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}]}    ShareGPT
    {"problem": {...}, "thinking": ..., "answer": ...}           as `openqwq data chains` writes them

The last assistant turn is what is learned; turns before it are the prompt. Without thinking the block is empty.

Public: `read_chain_row`, `EXAMPLE`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from openqwq.rows import RowError, messages_of, text_of, whole_problem
from openqwq.types import Message, Problem

EXAMPLE = '{"question": "7 * 8?", "thinking": "7 * 8 is 56.", "answer": "\\\\boxed{56}"}'
PROMPTS = ("prompt", "question", "problem", "instruction", "query")
THINKINGS = ("thinking", "reasoning", "reasoning_content", "think")
ANSWERS = ("answer", "response", "output", "completion", "solution")
CONVERSATIONS = ("messages", "conversations", "conversation")
THINK_OPEN, THINK_CLOSE = "<think>", "</think>"


def read_chain_row(row: Mapping[str, Any], number: int) -> tuple[Problem, str, str]:
    """Problem, thinking and answer of a row. Raises RowError for a row that is no chain."""
    if isinstance(row.get("problem"), Mapping):
        return whole_problem(row["problem"]), text_of(row, "thinking"), text_of(row, "answer")
    conversation = next((key for key in CONVERSATIONS if key in row), "")
    if conversation:
        turns = messages_of(row[conversation], conversation)
        if turns[-1].role != "assistant":
            raise RowError(f"the last message is the {turns[-1].role}'s, but a chain ends with the assistant's")
        thinking, answer = _parts_of(turns[-1])
        return _problem(_with_system(row, turns[:-1]), number), thinking, answer
    prompt = next((key for key in PROMPTS if key in row), "")
    if not prompt:
        raise RowError(f"lacks `question` (or {', '.join(f'`{key}`' for key in (*PROMPTS, *CONVERSATIONS[:1]))})")
    thinking, answer = _thinking_and_answer(row)
    return _problem(_with_system(row, _prompt(row, prompt)), number), thinking, answer


def _prompt(row: Mapping[str, Any], key: str) -> tuple[Message, ...]:
    if isinstance(row[key], list):
        return messages_of(row[key], key)
    text = text_of(row, key)
    if key == "instruction" and isinstance(row.get("input"), str) and row["input"]:
        text = f"{text}\n\n{row['input']}"
    return (Message("user", text),)


def _thinking_and_answer(row: Mapping[str, Any]) -> tuple[str, str]:
    answer = next((key for key in ANSWERS if key in row), "")
    if not answer:
        raise RowError("lacks `answer`")
    thinking = next((key for key in THINKINGS if key in row), "")
    if isinstance(row[answer], list):  # a completion as messages, in TRL's form
        [*before, last] = messages_of(row[answer], answer)
        if before or last.role != "assistant":
            raise RowError(f"`{answer}` is not one message of the assistant's")
        return _parts_of(last)
    if thinking:
        return text_of(row, thinking), text_of(row, answer)
    return _split(text_of(row, answer))


def _parts_of(turn: Message) -> tuple[str, str]:
    return (turn.reasoning_content, turn.content) if turn.reasoning_content else _split(turn.content)


def _split(text: str) -> tuple[str, str]:
    """Thinking and answer of a text with a <think> block, closed and perhaps not opened; else no thinking."""
    opened, closed, answer = text.partition(THINK_CLOSE)
    if not closed:
        if THINK_OPEN in text:
            raise RowError(f"its `{THINK_OPEN}` is never closed")
        return "", text
    return opened.strip().removeprefix(THINK_OPEN).strip(), answer.strip()


def _with_system(row: Mapping[str, Any], turns: Sequence[Message]) -> tuple[Message, ...]:
    """The turns behind the row's own `system` text, as ShareGPT has it."""
    system = row.get("system")
    has_one = any(turn.role == "system" for turn in turns)
    return (Message("system", system), *turns) if isinstance(system, str) and system and not has_one else tuple(turns)


def _problem(turns: tuple[Message, ...], number: int) -> Problem:
    if not turns or turns[-1].role not in ("user", "tool"):
        raise RowError("has no user's message before the assistant's last one")
    return Problem(id=str(number), source="chains", kind="chains", messages=turns, verifier="")
