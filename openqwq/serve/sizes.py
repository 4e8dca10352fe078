"""How much one request may ask for: what costs everybody's time is refused by its field, before it is looked through.

Checking a body takes the interpreter's lock, and so does everything that is made of its lists, so their lengths are
bounded first. The bounds are beyond what clients send: OpenAI's are lower, where OpenAI publishes one.

Public: refuse_oversized, check_form, MAX_BRACKETS, MAX_TOKENIZED.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import Request

from openqwq.types import StructuredOutputs

from .errors import ApiError, wrong
from .sse import to_json

# Objects and lists of a body, those spelled in texts included: a million lists take half a second to read.
MAX_BRACKETS = 400_000
MAX_FIELDS = 256
FIELDS_OF_TURN = 16
MAX_ITEMS = 4096
# By field, where it is not `MAX_ITEMS`.
ITEMS = {"tools": 512, "tool_calls": 512, "choice": 1000, "bad_words": 1000, "logit_bias": 1024}
ITEMS |= {"stop_token_ids": 1024, "answer_scripts": 64, "thinking_scripts": 64, "metadata": 256, "include": 64}
# Token ids are plain numbers, which take no time; each text of a list of prompts is a request.
MAX_PROMPTS = 512
MAX_IDS = 1_000_000
# A stop string is looked for in as many last tokens as it has bytes, at each token.
MAX_WORD = 256
WORDS = ("stop", "stop_sequences", "bad_words")
# Characters of a text for `/tokenize`, which no context bounds.
MAX_TOKENIZED = 2**21
# Characters of a form: 3,000 properties; a grammar of so many takes about a second.
MAX_FORM = 120_000


async def refuse_oversized(request: Request) -> None:
    """Raises ApiError 400 naming the first field of a body that holds more than a request may."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        return
    try:
        body = await request.json()
    except (ValueError, RecursionError):  # said when the body is checked
        return
    if not isinstance(body, dict):
        return
    if len(body) > MAX_FIELDS:
        raise ApiError(
            400, f"the body has {len(body)} fields, but at most {MAX_FIELDS} are taken", code="invalid_value"
        )
    for name, value in body.items():
        _check(name, name, value)
        if isinstance(value, dict):
            for inner, held in value.items():
                _check(f"{name}.{inner}", inner, held)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            _check_turns(name, value)


def _check_turns(name: str, turns: list[Any]) -> None:
    """The same for the objects of a list, which hold few fields on the whole: each unknown one makes an error."""
    num_fields = sum(len(turn) for turn in turns if isinstance(turn, dict))
    if num_fields > MAX_FIELDS + FIELDS_OF_TURN * len(turns):
        raise wrong(name, f"has {num_fields} fields in {len(turns)} entries, but at most {FIELDS_OF_TURN} in each")
    for position, turn in enumerate(turns):
        if isinstance(turn, dict):
            for inner, held in turn.items():
                if isinstance(held, (list, dict)):
                    _check(f"{name}[{position}].{inner}", inner, held)


def _check(param: str, name: str, value: Any) -> None:
    """Raises ApiError where a value is longer than the field of that name may be."""
    if not isinstance(value, (list, dict)):
        value = [value] if name in WORDS else []
    most = _most(name, value)
    if len(value) > most:
        raise wrong(param[:80], f"has {len(value)} entries, but at most {most} are taken")
    if name in WORDS:
        longest = max((len(text) for text in value if isinstance(text, str)), default=0)
        if longest > MAX_WORD:
            raise wrong(param, f"has a text of {longest} characters, but at most {MAX_WORD} are taken")


def _most(name: str, value: list[Any] | dict[str, Any]) -> int:
    if name in ("prompt", "tokens"):
        return MAX_IDS if value and isinstance(value, list) and isinstance(value[0], int) else MAX_PROMPTS
    return ITEMS.get(name, MAX_ITEMS)


def check_form(form: StructuredOutputs, param: str) -> None:
    """Raises ApiError for a form of an answer that is too large to be made ready."""
    try:
        given: Any = form.json or form.regex or form.choice or [_parameters(tool) for tool in form.tools]
        size = len(given if isinstance(given, str) else to_json(given))
    except RecursionError:
        raise wrong(param, "is nested too deeply") from None
    if size > MAX_FORM:
        raise wrong(param, f"describes a form in {size} characters, but at most {MAX_FORM} are taken")


def _parameters(tool: Mapping[str, Any]) -> Any:
    return tool.get("parameters")
