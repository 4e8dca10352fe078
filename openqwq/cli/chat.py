"""Talk to a model: thinking dimmed or folded, history without it, slash commands.

Ctrl-C stops the answer, not the program; Ctrl-\\ ends the thinking, and the model answers from what it has. Commands:
/help lists them. Where stdin is no terminal, every line is a turn and stdout holds the answers only.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from openqwq.errors import UserError
from openqwq.types import Message, SamplingParams

from ._options import add_engine_arguments, add_style_argument, engine_options
from ._sampling import add_sampling_arguments, parse_params

if TYPE_CHECKING:
    from openqwq.inference import LLM
    from openqwq.inference.sequence import Sequence
    from openqwq.types import Completion

PROMPT_LOOKUP = {"method": "ngram", "num_speculative_tokens": 4}
KEYS = "Ctrl-C stops an answer, Ctrl-\\ only its thinking"
DIM, PLAIN, ERASE_LINE = "\x1b[2m", "\x1b[0m", "\r\x1b[K"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a model folder or hub name")
    parser.add_argument("--system", default="", metavar="TEXT", help="the system turn (QwQ has none)")
    parser.add_argument("--fold", action="store_true", help="show how long the model thinks, not what")
    parser.add_argument("--max-model-len", type=int, metavar="N", help="the whole conversation, in tokens")
    add_style_argument(parser)
    add_engine_arguments(parser)
    add_sampling_arguments(parser)


def run(args: argparse.Namespace) -> int:
    parse_params(args.overrides)  # mistakes are found before weights are loaded
    from openqwq.inference import LLM
    from openqwq.inference.params import check_params

    options = {"speculative_config": PROMPT_LOOKUP, **engine_options(args)}
    llm = LLM(args.model, max_model_len=args.max_model_len, max_num_seqs=1, **options)
    llm.require_tokenizer()
    params = parse_params(args.overrides, llm.default_sampling_params)
    check_params(params)
    Chat(llm, params, system=args.system, fold=args.fold, style=args.style).loop()
    return 0


class Screen:
    """What a person sees: thinking apart from answers, in colour only on a terminal that wants it."""

    def __init__(self, fold: bool):
        self.fold = fold
        self.interactive = sys.stdin.isatty() and sys.stdout.isatty()
        self.colour = self.interactive and "NO_COLOR" not in os.environ
        self._started = 0.0
        if self.interactive:
            with contextlib.suppress(ImportError):  # not everywhere
                importlib.import_module("readline")  # `input` then knows arrow keys and pasted lines

    def begin(self) -> None:
        self._started = time.monotonic()

    def think(self, text: str, num_tokens: int) -> None:
        if not self.interactive:
            return
        if self.fold:
            seconds = time.monotonic() - self._started
            self._write(f"{ERASE_LINE}thinking: {num_tokens} tokens, {seconds:.0f} s" if self.colour else "")
        else:
            self._write(self._dim(text))

    def end_thinking(self, num_tokens: int) -> None:
        if self.interactive and num_tokens:
            seconds = time.monotonic() - self._started
            erase = ERASE_LINE if self.fold and self.colour else "\n"
            self._write(erase + self._dim(f"[thought {num_tokens} tokens, {seconds:.1f} s]") + "\n\n")

    def answer(self, text: str) -> None:
        self._write(text)

    def end(self, note: str) -> None:
        self._write("\n" + (self._dim(note) + "\n" if self.interactive else ""))

    def tell(self, text: str) -> None:
        print(text, file=sys.stdout if self.interactive else sys.stderr)

    def ask(self) -> str | None:
        """The next line of input; None at its end."""
        try:
            return input("> " if self.interactive else "")
        except EOFError:
            return None
        except KeyboardInterrupt:
            self._write("\n")
            return ""

    def _dim(self, text: str) -> str:
        return f"{DIM}{text}{PLAIN}" if self.colour else text

    @staticmethod
    def _write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


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
            "clear": ("forget the conversation", lambda _: self.turns.clear()),
            "undo": ("take back the last turn and its answer", lambda _: self._undo()),
            "retry": ("answer the last turn again", lambda _: self._retry()),
            "system": ("set the system turn, e.g. /system Answer briefly.", self._set_system),
            "set": ("change sampling, e.g. /set temperature=1.0", self._set),
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
                return
            try:
                self.take(line)
            except UserError as error:
                self.screen.tell(str(error))

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

    def _undo(self) -> None:
        del self.turns[-2:]

    def _retry(self) -> None:
        if not self.turns:
            raise UserError("there is no turn to answer again")
        last = self.turns[-2].content
        self._undo()
        self.say(last)

    def _set_system(self, text: str) -> None:
        self.system = text

    def _set(self, text: str) -> None:
        if not text:
            self.screen.tell(str(self.params))
        else:
            from openqwq.inference.params import check_params

            changed = parse_params([text], self.params)
            check_params(changed)
            self.params = changed

    def _fold(self) -> None:
        self.screen.fold = not self.screen.fold


class _View:
    """Hands a growing sample's text to the screen, thinking and answer apart."""

    def __init__(self, screen: Screen, tokenizer: Any, params: SamplingParams, sample: Sequence, opened: bool):
        from openqwq.inference.stream import TextStream
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
