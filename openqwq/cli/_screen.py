"""The terminal of `openqwq chat`: input with history and several lines, thinking apart from answers.

Public: Screen, history_file.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import time
from pathlib import Path
from typing import Any

QUOTES = '"""'
HISTORY_LINES = 1000
DIM, PLAIN, ERASE_LINE = "\x1b[2m", "\x1b[0m", "\r\x1b[K"


def history_file() -> Path:
    """Where entered lines are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "openqwq" / "chat_history"


class Screen:
    """What a person sees: thinking apart from answers, in colour only on a terminal that wants it."""

    def __init__(self, fold: bool):
        self.fold = fold
        self.interactive = sys.stdin.isatty() and sys.stdout.isatty()
        self.colour = self.interactive and "NO_COLOR" not in os.environ
        self._started = 0.0
        self._lines: Any = None
        if self.interactive:
            with contextlib.suppress(ImportError):  # not everywhere
                self._lines = importlib.import_module("readline")  # `input` then knows arrow keys
                self._lines.parse_and_bind("set enable-bracketed-paste on")  # pasted lines are one message
                with contextlib.suppress(OSError):
                    self._lines.read_history_file(history_file())

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
        """The next message: a line, or the lines between two lines of \"\"\"; None at the end of the input."""
        try:
            line = input("> " if self.interactive else "")
            if not line.startswith(QUOTES):
                return line
            lines = [line.removeprefix(QUOTES)]
            while not lines[-1].endswith(QUOTES):
                lines.append(input("... " if self.interactive else ""))
            lines[-1] = lines[-1].removesuffix(QUOTES)
            return "\n".join(lines).strip("\n")
        except EOFError:
            return None
        except KeyboardInterrupt:
            self._write("\n")
            return ""

    def keep_history(self) -> None:
        """Keep the entered lines for the next conversation."""
        if self._lines is not None:
            with contextlib.suppress(OSError):  # a folder that cannot be written: no history
                history_file().parent.mkdir(parents=True, exist_ok=True)
                self._lines.set_history_length(HISTORY_LINES)
                self._lines.write_history_file(history_file())

    def _dim(self, text: str) -> str:
        return f"{DIM}{text}{PLAIN}" if self.colour else text

    @staticmethod
    def _write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
