"""The fenced blocks of a Markdown text, as CommonMark reads them and as models write them.

Public: `Block`, `find_blocks`. A fence is three or more backticks or tildes; at least as many of them,
alone on a line, close it. Its name is the first word behind it (`python title="main.py"`, `{python}`, `python3.11`).
Beyond CommonMark: fences indented at any depth, behind list markers and quotes, and behind words on the same line.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

_CONTAINER = r"(?P<container>[ \t]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+|>[ \t]?)*)"
_OPENING = re.compile(_CONTAINER + r"(?:(?P<ticks>`{3,})(?P<info>[^`]*)|(?P<tildes>~{3,})(?P<words>.*))$", re.DOTALL)
_PLAIN_NAME = re.compile(r"[A-Za-z][\w+#]*")
_QUOTES = re.compile(r"[ \t]*(?:>[ \t]?)+")
_NAME = re.compile(r"(?:language-|lang=)?\.?([\w+#.\-]+)")
MARKDOWN = ("markdown", "md")
"""Names of blocks that hold fenced blocks themselves."""
MAX_CLOSINGS = 20
"""Fences that one block may hold inside of its own text, such as a docstring's."""
MAX_DEPTH = 3
"""Blocks inside of blocks."""


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block.

    name:   the first word behind the fence, in lower case.
    lines:  its text without the fence's own indentation.
    closed: whether its closing fence was found.
    """

    name: str
    lines: tuple[str, ...]
    closed: bool

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n"


@dataclass(frozen=True, slots=True)
class _Fence:
    mark: str
    name: str
    container: str

    def closes(self, line: str) -> bool:
        mark = _QUOTES.sub("", line, count=1).strip() if ">" in self.container else line.strip()
        return len(mark) >= len(self.mark) and mark == self.mark[0] * len(mark)


def find_blocks(text: str, whole: Callable[[Block], bool]) -> list[Block]:
    """The blocks in order; the last one may be left open.

    whole: whether a block's text is complete; where it says no, a fence that seems to close the block may belong to
           its text, and the first later one at which `whole` says yes closes it.
    """
    return _parse(text.split("\n"), whole, 0)  # `splitlines` would cut at form feeds inside of a program too


def _parse(lines: list[str], whole: Callable[[Block], bool], depth: int) -> list[Block]:
    blocks: list[Block] = []
    marks = [number for number, line in enumerate(lines) if _is_mark(line)]
    number = 0
    while number < len(lines):
        fence = _opening(lines[number])
        if fence is None:
            number += 1
            continue
        later = (marks[i] for i in range(bisect_right(marks, number), len(marks)))
        ends = (end for end in later if fence.closes(lines[end]))
        block, end = _close(fence, lines, number + 1, ends, whole)
        blocks += (_inner_blocks(block, whole, depth + 1) if depth < MAX_DEPTH else []) or [block]
        number = end + 1
    return blocks


def _close(
    fence: _Fence, lines: list[str], start: int, ends: Iterator[int], whole: Callable[[Block], bool]
) -> tuple[Block, int]:
    """The block that begins at a line, and the line that closes it."""
    first: tuple[Block, int] | None = None
    for end in islice(ends, MAX_CLOSINGS):
        block = Block(fence.name, _content(fence, lines[start:end]), True)
        if whole(block):
            return block, end
        first = first or (block, end)
        if not ('"""' in block.text or "'''" in block.text):  # only a text of several lines can hold a fence
            break
    return first or (Block(fence.name, _content(fence, lines[start:]), False), len(lines))


def _inner_blocks(block: Block, whole: Callable[[Block], bool], depth: int) -> list[Block]:
    """The blocks inside of one that holds Markdown, or was never closed before they began; its end closes them."""
    if not block.closed or not any(map(_opening, block.lines)) or (block.name not in MARKDOWN and whole(block)):
        return []
    return [Block(inner.name, inner.lines, True) for inner in _parse(list(block.lines), whole, depth)]


def _opening(line: str) -> _Fence | None:
    if "```" not in line and "~~~" not in line:
        return None
    if match := _OPENING.match(line):
        info = match["info"] if match["ticks"] else match["words"]
        return _Fence(match["ticks"] or match["tildes"], _name(info), match["container"])
    words, found, name = line.rstrip().rpartition("```")  # behind words on the same line only with a name
    if found and words.rstrip("`").strip() and _PLAIN_NAME.fullmatch(name):
        return _Fence("`" * (3 + len(words) - len(words.rstrip("`"))), name.lower(), "")
    return None


def _name(info: str) -> str:
    match = _NAME.match(info.strip().lstrip("{ ").lower())
    return match[1] if match else ""


def _is_mark(line: str) -> bool:
    mark = _QUOTES.sub("", line, count=1).strip()
    return len(mark) >= 3 and mark[0] in "`~" and mark == mark[0] * len(mark)


def _content(fence: _Fence, lines: list[str]) -> tuple[str, ...]:
    """The lines without quote marks, and without as much indentation as the fence and the first of them have."""
    if ">" in fence.container:
        return tuple(_QUOTES.sub("", line, count=1) for line in lines)
    first = next((line for line in lines if line.strip()), "")
    width = min(len(fence.container), _indent(first))
    return tuple(line[min(width, _indent(line)) :] for line in lines) if width else tuple(lines)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" \t"))
