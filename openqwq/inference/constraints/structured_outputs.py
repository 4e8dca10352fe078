"""What a sample may write next: bad words, scripts, and grammars that wait for the end of the thinking.

Grammars are llguidance's (a parser over the vocabulary, in Rust). It is imported when a request first needs it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from openqwq.errors import UserError
from openqwq.tokenizer import Tokenizer
from openqwq.tokenizer.special_tokens import TOOL_CALL_END, TOOL_CALL_START
from openqwq.types import StructuredOutputs

from .bad_words import BadWords
from .satisfiable import find_unsatisfiable

if TYPE_CHECKING:
    from torch import Tensor

# As Qwen's template and `json.dumps` write it; free white space lets a model write newlines for ever.
JSON_STYLE: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Grammar:
    """One sample's way through a grammar.

    trigger: the token behind which it begins anew, each time (tool calls); None: it begins with the answer, once.
    """

    def __init__(self, tokens: GrammarTokens, text: str, trigger: int | None = None):
        self._tokens, self._trigger = tokens, trigger
        self._pristine = tokens.matcher(text)
        self._matcher = self._pristine.deep_copy() if trigger is None else None
        self._consumed = 0

    @property
    def is_required(self) -> bool:
        """Whether the answer has this form, rather than a part of it that the model may write."""
        return self._trigger is None

    def advance(self, token_ids: Sequence[int], answer_start: int) -> None:
        """Read the answer's tokens that are new since the last call."""
        self._consumed = max(self._consumed, answer_start)
        for token_id in token_ids[self._consumed :]:
            if self._matcher is not None and not self._matcher.is_stopped():
                self._matcher.consume_token(token_id)
            if self._trigger is not None and self._matcher is not None and self._matcher.is_stopped():
                self._matcher = None
            if token_id == self._trigger and self._matcher is None:
                self._matcher = self._pristine.deep_copy()
        self._consumed = max(self._consumed, len(token_ids))

    def fork(self) -> Grammar:
        """The same place, to be gone on from without this one."""
        other = copy(self)
        other._matcher = None if self._matcher is None else self._matcher.deep_copy()
        return other

    def allows(self, token_id: int) -> bool:
        """Whether the token may follow; behind the grammar's end anything may be read."""
        if self._matcher is None or self._matcher.is_stopped():
            return True
        return self._matcher.validate_tokens([token_id]) == 1

    def forced(self) -> list[int]:
        """Tokens that spell what has to follow, as far as the grammar leaves no choice of text."""
        if self._matcher is None or self._matcher.is_stopped():
            return []
        return list(self._matcher.compute_ff_tokens())

    def bitmask(self) -> bytes | None:
        """One bit a token, the lowest first: set where it may follow. None: any may; no bit: it grew too complex."""
        if self._matcher is None:
            return None
        if self._matcher.is_error():
            return bytes(len(self._tokens.end_bitmask))
        return self._matcher.compute_bitmask() if not self._matcher.is_stopped() else self._tokens.end_bitmask


@dataclass(slots=True, eq=False)
class Guide:
    """Everything that forbids one sample's next tokens.

    bad_words: sequences of tokens; the last of them is forbidden where the others have just been written.
    thinking_mask, answer_mask: added to the logits [V] of that part, -inf where a script forbids; None: nothing.
    stop_ids: end tokens, which are forbidden in a thinking where the answer behind it has to have a form.
    end_id: of `</think>`.
    """

    bad_words: BadWords | None = None
    thinking_mask: Tensor | None = None
    answer_mask: Tensor | None = None
    grammar: Grammar | None = None
    thinking: bool = False
    answer_start: int = 0
    stop_ids: Sequence[int] = ()
    end_id: int | None = None

    @property
    def owes_answer(self) -> bool:
        """Whether the sample thinks, and must not end before it has an answer of the form that is asked for."""
        return self.thinking and self.grammar is not None and self.grammar.is_required

    def start(self, thinking: bool) -> Guide:
        """The guide of one sample, which has written nothing yet."""
        return replace(self, thinking=thinking, grammar=None if self.grammar is None else self.grammar.fork())

    def mask(self, logits: Tensor, token_ids: Sequence[int]) -> None:
        """Set the logits [V] of everything forbidden to -inf, in place."""
        mask = self.thinking_mask if self.thinking else self.answer_mask
        if mask is not None:
            logits += mask
        if self.bad_words is not None:
            logits[list(self.bad_words.always)] = float("-inf")
            logits[self.bad_words.next_of(token_ids)] = float("-inf")
        if self.owes_answer:
            logits[list(self.stop_ids)] = float("-inf")
        if self.grammar is not None and not self.thinking:
            self.grammar.advance(token_ids, self.answer_start)
            bitmask = self.grammar.bitmask()
            if bitmask is not None:
                logits.masked_fill_(~_bits(bitmask, logits), float("-inf"))

    def mask_ahead(self, logits: Tensor, lines: Sequence[int], token_ids: Sequence[int], draft: Sequence[int]) -> None:
        """As `mask`, for `lines` of logits [L, V]: those behind the first, the second, ... guess of a draft.

        It ends where the grammar forbids a guess, for that guess is never sampled. Call `mask` before.
        """
        known = list(token_ids)
        ahead = replace(self, grammar=None if self.grammar is None else self.grammar.fork())
        for line, guess in zip(lines, draft, strict=True):
            if ahead.grammar is not None and not ahead.thinking and not ahead.grammar.allows(guess):
                return
            known.append(guess)
            if ahead.thinking and guess == self.end_id:
                ahead.thinking, ahead.answer_start = False, len(known)
            ahead.mask(logits[line], known)

    def forced(self, token_ids: Sequence[int]) -> list[int]:
        """Tokens that the grammar is likely to want next, though another cutting of the same text may come."""
        if self.grammar is None or self.thinking:
            return []
        self.grammar.advance(token_ids, self.answer_start)
        return self.grammar.forced()


def _bits(bitmask: bytes, like: Tensor) -> Tensor:
    """A bitmask as booleans [V]."""
    import torch

    words = torch.frombuffer(bytearray(bitmask), dtype=torch.uint8)
    bits = (words[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1
    return bits.flatten()[: len(like)].bool().to(like.device)


class GrammarTokens:
    """The vocabulary as the grammar library sees it."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, end_ids: Sequence[int]):
        from llguidance import LLTokenizer

        self._tokenizer = LLTokenizer(tokenizer.backend.to_str(), n_vocab=vocab_size, eos_token=list(end_ids))
        mask = bytearray((vocab_size + 31) // 32 * 4)
        for token_id in end_ids:
            mask[token_id // 8] |= 1 << token_id % 8
        self.end_bitmask = bytes(mask)

    def matcher(self, grammar: str) -> Any:
        """At the beginning of the grammar. Raises UserError where it is none. Others run meanwhile: no lock is held."""
        from llguidance import LLMatcher

        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        matcher.compute_bitmask()  # the first takes the longest
        if problem := matcher.get_error():
            raise UserError(f"`structured` cannot be followed: {problem:.500}")
        return matcher


class GrammarMaker:
    """Grammars from what requests ask for, each text compiled once; from any thread."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, end_ids: Sequence[int]):
        self._tokenizer = tokenizer
        self._tokens = lru_cache(maxsize=1)(lambda: GrammarTokens(tokenizer, vocab_size, end_ids))
        self._made = lru_cache(maxsize=64)(lambda text, trigger: Grammar(self._tokens(), text, trigger))

    def make(self, wanted: StructuredOutputs) -> Grammar:
        """At its beginning, for one sample. Raises UserError for a schema or expression that is none."""
        try:
            text = self._text(wanted)
        except RecursionError as error:
            raise UserError("`structured` is nested too deeply") from error
        except ValueError as error:  # the library's own bound on nesting
            raise UserError(f"`structured` cannot be followed: {error!s:.500}") from error
        optional = bool(wanted.tools) and not wanted.require_tool
        trigger = self._tokenizer.token_id(TOOL_CALL_START) if optional else None
        made: Grammar = self._made(text, trigger)
        return made.fork()

    def _text(self, wanted: StructuredOutputs) -> str:
        from llguidance import LLMatcher

        if wanted.json is not None:
            return LLMatcher.grammar_from_json_schema(_read_schema(wanted.json), overrides=JSON_STYLE)
        if wanted.regex is not None:
            return LLMatcher.grammar_from_regex(wanted.regex)
        if wanted.choice:
            return LLMatcher.grammar_from_lark("start: " + " | ".join(json.dumps(text) for text in wanted.choice))
        return LLMatcher.grammar_from_lark(self._tool_grammar(wanted))

    def _tool_grammar(self, wanted: StructuredOutputs) -> str:
        """One call as Qwen writes it, from behind its opening tag on, or with it where a call is required."""
        start, end = (self._tokenizer.token_id(tag) for tag in (TOOL_CALL_START, TOOL_CALL_END))
        if start is None or end is None:
            raise UserError(f"this tokenizer has no {TOOL_CALL_START} token, but `structured.tools` needs it")
        opening = f"<[{start}]> " if wanted.require_tool else ""
        calls = json.dumps({"anyOf": [_call_schema(*one) for one in enumerate(wanted.tools)], "x-guidance": JSON_STYLE})
        return f'start: {opening}"\\n" call "\\n" <[{end}]>\ncall: %json {calls}\n'


def _read_schema(given: object) -> str:
    """A schema as text. Raises UserError for anything but a JSON object, or `true`."""
    try:
        schema = json.loads(given if isinstance(given, str) else json.dumps(given))
    except RecursionError as error:
        raise UserError("`structured.json` is nested too deeply") from error
    except (ValueError, TypeError) as error:
        raise UserError(f"`structured.json` is not JSON: {error}") from error
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise UserError(
            f"`structured.json` is {json.dumps(schema)}, but a JSON schema is an object",
            hint='as in {"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"]}',
        )
    check_satisfiable(schema, "structured.json")
    return json.dumps(schema)


def check_satisfiable(schema: Any, name: str) -> None:
    """Raises UserError where nothing finite satisfies a schema, with the part of it that is at fault."""
    place = find_unsatisfiable(schema)
    if place is not None:
        raise UserError(f"`{name}` can never be satisfied: `{place}` is false, empty, or needs itself without end")


def _call_schema(position: int, tool: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(tool, Mapping) or not isinstance(tool.get("name"), str):
        raise UserError(f"a tool in `structured.tools` has no name: {tool}")
    parameters = tool.get("parameters", {"type": "object"})
    check_satisfiable(parameters, "structured.tools")
    if isinstance(parameters, Mapping):
        parameters = {"$id": f"urn:tool:{position}", **parameters}  # what its own references are relative to
    return {
        "type": "object",
        "properties": {"name": {"const": tool["name"]}, "arguments": parameters},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }
