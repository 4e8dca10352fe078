"""Talk to a model: thinking dimmed or folded, history without it, slash commands.

Ctrl-C stops the answer, not the program; Ctrl-\\ ends the thinking, and the model answers from what it has. Commands:
/help lists them. Where stdin is no terminal, every line is a turn and stdout holds the answers only.
"""

from __future__ import annotations

import argparse
import json
import signal
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openqwq.errors import UserError
from openqwq.log import counted
from openqwq.types import Message, SamplingParams

from ._options import add_engine_argument, add_engine_arguments, add_style_argument, check_model, engine_options
from ._sampling import add_sampling_arguments, parse_params
from ._screen import Screen

if TYPE_CHECKING:
    from openqwq.inference import LLM
    from openqwq.inference.sequence import Sequence
    from openqwq.types import Completion

PROMPT_LOOKUP = {"method": "ngram", "num_speculative_tokens": 4}
KEYS = "Ctrl-C stops an answer, Ctrl-\\ only its thinking"
SHOWN = 60


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a model folder, GGUF file or hub name")
    parser.add_argument("--system", default="", metavar="TEXT", help="system prompt (default: none)")
    parser.add_argument("--fold", action="store_true", help="hide the thinking; show only its duration")
    add_engine_argument(parser, "max_model_len", type=int, metavar="N")
    add_style_argument(parser)
    add_engine_arguments(parser)
    add_sampling_arguments(parser)


def run(args: argparse.Namespace) -> int:
    parse_params(args.overrides)  # mistakes are found before weights are loaded
    check_model(args.model)
    from openqwq.inference import LLM
    from openqwq.inference.params import check_params

    options = {"speculative_config": PROMPT_LOOKUP, **engine_options(args)}
    llm = LLM(args.model, max_num_seqs=1, **options)
    llm.require_tokenizer()
    params = parse_params(args.overrides, llm.default_sampling_params)
    check_params(params)
    Chat(llm, params, system=args.system, fold=args.fold, style=args.style).loop()
    return 0


class Chat:
    """One conversation."""

    def __init__(
        self, llm: LLM, params: SamplingParams, *, system: str = "", fold: bool = False, style: str | None = None
    ):
        self.llm, self.params, self.system, self.style = llm, params, system, style
        self.tokenizer = llm.require_tokenizer()
        self.screen = Screen(fold)
        self.turns: list[Message] = []
        self.thoughts = ""
        self.commands: dict[str, tuple[str, Callable[[str], None]]] = {
            "help": ("list the commands", lambda _: self._help()),
            "clear": ("forget the conversation", lambda _: self._clear()),
            "undo": ("take back the last turn and its answer", lambda _: self._undo()),
            "retry": ("answer the last turn again", lambda _: self._retry()),
            "system": ("show or set the system turn, e.g. /system Answer briefly.", self._set_system),
            "save": ("write the conversation to a JSON file", self._save),
            "load": ("continue a conversation from a JSON file", self._load),
            "set": ("show or change sampling, e.g. /set temperature=1.0", self._set),
            "fold": ("show or fold the thinking", lambda _: self._fold()),
            "thoughts": ("print the last thinking", lambda _: self.screen.tell(self.thoughts)),
        }

    def loop(self) -> None:
        """Turns and commands until /exit or the end of the input."""
        if self.screen.interactive:
            if hasattr(signal, "SIGQUIT"):
                signal.signal(signal.SIGQUIT, signal.SIG_IGN)  # a Ctrl-\ that comes too late must not end the program
            self.screen.tell(f"/help lists the commands; {KEYS}; /exit or Ctrl-D leaves")
        while (line := self.screen.ask()) is not None:
            if line.strip() in ("/exit", "/quit"):
                break
            try:
                self.take(line)
            except UserError as error:
                self.screen.tell(str(error))
        self.screen.keep_history()

    def take(self, line: str) -> None:
        """One line of the user's: a command or a turn."""
        if not line.strip():
            return
        if not line.startswith("/"):
            self.say(line)
            return
        name, _, rest = line[1:].partition(" ")
        if name not in self.commands:
            raise UserError(f"there is no command /{name}", hint="/help lists them")
        self.commands[name][1](rest.strip())

    def say(self, text: str) -> None:
        """Answer a turn; the thinking stays out of the history, as the model was trained."""
        turn = Message("user", text)
        prompt_ids = self._encode(turn)
        self._check_room(len(prompt_ids))
        opened = self.tokenizer.opens_thinking(prompt_ids)
        completion = self._stream(prompt_ids, opened)
        if completion.error:
            raise UserError(completion.error)
        from openqwq.tokenizer import parse_completion

        parsed = parse_completion(completion.text, opened)
        self.thoughts = parsed.thinking
        answer = Message("assistant", parsed.answer, tool_calls=parsed.tool_calls)
        self.turns += [turn, answer]
        self._prepare_next([*prompt_ids, *completion.token_ids])

    def _prepare_next(self, former_ids: list[int]) -> None:
        """While the user reads: drop the thoughts from the cache, and compute the answer as the next turn sees it."""
        engine = self.llm.engine
        history_ids = self._encode(add_generation_prompt=False)
        engine.prepare_turn(history_ids, former_ids, max_tokens=self.params.max_tokens)
        with _Keys() as keys:
            while engine.has_unfinished and not keys.stop:
                engine.step()

    def _encode(self, *turns: Message, **options: Any) -> list[int]:
        from openqwq.tokenizer import with_style

        return self.tokenizer.encode_chat(with_style(self._messages(*turns), self.style), **options)

    def _messages(self, *turns: Message) -> list[Message]:
        return [*([Message("system", self.system)] if self.system else []), *self.turns, *turns]

    def _stream(self, prompt_ids: list[int], opened: bool) -> Completion:
        """Sample and show an answer, token by token, until it ends or the user stops it."""
        engine = self.llm.engine
        request_id = engine.add_request(prompt_ids, self.params.replace(n=1))
        [sample] = engine.samples(request_id)
        view = _View(self.screen, self.tokenizer, self.params, sample, opened)
        started = time.monotonic()
        with _Keys() as keys:
            outputs: list[Any] = []
            while not outputs:
                if keys.answer:
                    engine.close_thinking(request_id)
                    keys.answer = False
                if keys.stop:
                    outputs = [engine.abort(request_id)]
                else:
                    outputs = engine.step()
                    view.show()
        [completion] = outputs[0].outputs
        view.finish(completion)
        seconds = time.monotonic() - started
        total, room = len(prompt_ids) + len(completion.token_ids), engine.max_model_len
        rate = f"{len(completion.token_ids)} tokens"
        rate += f", {len(completion.token_ids) / seconds:.1f} tokens/s" if seconds > 0 else ""
        reason = {"length": ", cut at the limit", "abort": ", stopped"}.get(completion.finish_reason, "")
        self.screen.end(f"[{rate}, {total / room:.0%} of the context{reason}]")
        return completion

    def _help(self) -> None:
        lines = [f"/{name:<9} {text}" for name, (text, _) in self.commands.items()]
        self.screen.tell("\n".join([*lines, "/exit      leave", KEYS]))

    def _check_room(self, num_tokens: int) -> None:
        room = self.llm.engine.max_model_len
        if num_tokens >= room:
            raise UserError(
                f"the conversation has {num_tokens} tokens, but the context is {room}",
                hint="/undo takes back a turn, /clear all of them; or start with a larger --max-model-len",
            )

    def _clear(self) -> None:
        self.turns.clear()
        self.screen.tell("the conversation is empty")

    def _undo(self) -> None:
        if not self.turns:
            raise UserError("there is no turn to take back")
        taken = self.turns[-2].content
        del self.turns[-2:]
        self.screen.tell(f"taken back: {shortened(taken)}")

    def _save(self, name: str) -> None:
        from openqwq.log import write_text_atomic

        if not name:
            raise UserError("/save needs a file", hint="as in /save chat.json")
        turns = [{"role": turn.role, "content": turn.content} for turn in self._messages()]
        write_text_atomic(Path(name).expanduser(), json.dumps({"messages": turns}, indent=2, ensure_ascii=False) + "\n")
        self.screen.tell(f"{counted(len(turns), 'message')} in {name}")

    def _load(self, name: str) -> None:
        try:
            rows = json.loads(Path(name).expanduser().read_text(encoding="utf-8"))["messages"]
            turns = [Message(str(row["role"]), str(row["content"])) for row in rows]  # type: ignore[arg-type]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"cannot read a conversation from {name!r}: {error}", hint="/save writes such a file"
            ) from error
        if turns and turns[0].role == "system":
            self.system, turns = turns[0].content, turns[1:]
        if [turn.role for turn in turns] != ["user", "assistant"] * (len(turns) // 2):
            raise UserError(f"{name} has no conversation of user and assistant in turn")
        self.turns = turns
        self.screen.tell(f"{counted(len(turns), 'message')} from {name}")

    def _retry(self) -> None:
        if not self.turns:
            raise UserError("there is no turn to answer again")
        last = self.turns[-2].content
        del self.turns[-2:]
        self.say(last)

    def _set_system(self, text: str) -> None:
        if text:
            self.system = text
        self.screen.tell(f"system turn: {self.system or 'none'}")

    def _set(self, text: str) -> None:
        if not text:
            self.screen.tell(described(self.params, self.llm.default_sampling_params))
        else:
            from openqwq.inference.params import check_params

            changed = parse_params([text], self.params)
            check_params(changed)
            self.params = changed

    def _fold(self) -> None:
        self.screen.fold = not self.screen.fold


def shortened(text: str) -> str:
    """The first line of a text, cut to what fits into a line."""
    first, _, more = text.partition("\n")
    return first if len(first) <= SHOWN and not more else f"{first[:SHOWN]}..."


def described(params: SamplingParams, default: SamplingParams) -> str:
    """The sampling parameters, a line each: those that were changed first."""
    own, usual = vars_of(params), vars_of(default)
    changed = [f"{name} = {value!r}  (was {usual[name]!r})" for name, value in own.items() if value != usual[name]]
    rest = [
        f"{name} = {value!r}" for name, value in own.items() if value == usual[name] and value not in (None, (), {})
    ]
    return "\n".join([*changed, *rest])


def vars_of(params: SamplingParams) -> dict[str, Any]:
    """The parameters by name."""
    return {field.name: getattr(params, field.name) for field in fields(params)}


class _View:
    """Hands a growing sample's text to the screen, thinking and answer apart."""

    def __init__(self, screen: Screen, tokenizer: Any, params: SamplingParams, sample: Sequence, opened: bool):
        from openqwq.inference.stop_strings import TextStream
        from openqwq.tokenizer import ThinkingStream

        self.screen, self.sample = screen, sample
        self._text, self._parts = TextStream(tokenizer, params.stop), ThinkingStream(opened)
        self._num_shown = 0
        self._thinks = False
        screen.begin()

    def show(self) -> None:
        """What is new since the last call; the end of a finished sample is left to `finish`."""
        if not self.sample.finish_reason:
            new = self.sample.token_ids[self._num_shown :]
            self._num_shown += len(new)
            self._feed(self._text.push(new))

    def finish(self, completion: Completion) -> None:
        """The rest of the text."""
        self._feed(self._text.finish(completion.text))
        self._show(*self._parts.finish())

    def _feed(self, text: str) -> None:
        self._show(*self._parts.push(text))

    def _show(self, thoughts: str, answer: str) -> None:
        num_tokens = self.sample.answer_start or len(self.sample.token_ids)
        if thoughts:
            self._thinks = True
            self.screen.think(thoughts, num_tokens)
        if self._thinks and not self._parts.thinking:
            self._thinks = False
            self.screen.end_thinking(num_tokens)
        if answer:
            self.screen.answer(answer)


class _Keys:
    """Ctrl-C (`stop`) and Ctrl-\\ (`answer`) while the model writes: noted, and acted upon between two steps."""

    def __enter__(self) -> _Keys:
        self.stop = self.answer = False
        notes = {"SIGINT": self._note_stop, "SIGQUIT": self._note_answer}
        there = {signal.Signals[name]: note for name, note in notes.items() if hasattr(signal, name)}
        self._former = {number: signal.signal(number, note) for number, note in there.items()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)

    def _note_stop(self, *_: object) -> None:
        self.stop = True

    def _note_answer(self, *_: object) -> None:
        self.answer = True
