"""Finding the program in a completion.

Public: `Program`, `find_program`, `extract_code`. The program is the fenced block that is one: it names the language,
parses (Python), defines the entry point or, for programs on stdin, reads its input and does something; of several such
blocks the last. What it uses and an earlier block defines is put before it. Sample outputs, traces, usage examples and
tests stand in other blocks and are left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..base import THINK_CLOSE, answer_part
from .fences import Block, find_blocks
from .python_source import Source, read_source

NAMES = {
    "python": ("python", "py", "ipython", "sage", "pypy"),
    "cpp": ("cpp", "c++", "cc", "cxx", "gnu++", "g++"),
    "javascript": ("javascript", "js", "node", "nodejs", "ecmascript", "mjs", "cjs"),
    "java": ("java",),
    "rust": ("rust", "rs"),
    "go": ("go", "golang"),
}
"""What stands behind the backticks of a block in each language, versions and file endings apart."""
OTHERS = frozenset(
    word
    for line in (
        "text txt plain plaintext output out stdout stderr stdin input log trace traceback console terminal",
        "shell sh bash zsh shellsession ps1 powershell cmd bat pycon doctest json jsonl json5 yaml yml toml",
        "ini cfg xml html css scss csv tsv diff patch markdown md latex tex math mermaid dot graphviz sql",
        "sqlite http regex make makefile cmake dockerfile c h cs csharp c# objc swift kotlin kt scala ruby rb",
        "php perl pl lua r julia jl haskell hs ocaml ml fsharp f# erlang elixir clojure clj lisp scheme",
        "racket prolog fortran cobol pascal delphi ada basic vb vba asm nasm llvm wasm zig nim dart groovy",
        "typescript ts tsx jsx matlab octave lean lean4 coq agda isabelle verilog vhdl solidity cython",
        "pseudocode pseudo algorithm example examples sample test tests result results none",
    )
    for word in line.split()
)
"""Names of blocks that are no program here; a block with any other name counts as one without a name."""
_LANGUAGE_OF = {name: language for language, names in NAMES.items() for name in names}
_VERSION = re.compile(r"[-_]?[\d.]+(?:[-_]\w*)?$")
_MAIN = {
    "cpp": re.compile(r"\bmain\s*\("),
    "java": re.compile(r"\bmain\s*\("),
    "rust": re.compile(r"\bfn\s+main\b"),
    "go": re.compile(r"\bfunc\s+main\b"),
    "javascript": re.compile(r"\b(?:stdin|readline|prompt|readFileSync)\b"),
}
MAX_PARSES = 64
"""Blocks of one completion that are parsed; runaway texts have thousands."""
MAX_ANSWERS = 8
"""Closing tags of one completion behind which a program is looked for."""


@dataclass(frozen=True, slots=True)
class Program:
    """What a completion holds: a program's text, and the language that it is in."""

    code: str
    language: str


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A block that may be the program; `named`: it says so itself."""

    program: Program
    named: bool
    source: Source | None


def extract_code(completion: str, *, format_free: bool = False) -> str | None:
    """The Python program of a completion, or None; found as by `find_program`."""
    program = find_program(completion, ("python",), format_free=format_free)
    return program.code if program else None


def find_program(
    completion: str,
    languages: Sequence[str],
    *,
    format_free: bool = False,
    opened: bool | None = None,
    entry_point: str = "",
    reads_input: bool = False,
) -> Program | None:
    """The program of a completion in one of these languages, or None.

    Strict: in a closed block of the answer part; a block without a name counts as one of the first language. None
    where a block that may be the program is left open.
    opened:      as of `answer_part`.
    format_free: in a block anywhere, closed or not; for Python else the text from the last `def ` on.
    entry_point: what the program defines; empty for programs on stdin.
    reads_input: the tests have input, which such a program reads.
    """
    search = _Search(languages, entry_point, reads_input)
    if format_free:
        return search.in_text(completion)[0] or _from_last_def(completion, languages)
    found: Program | None = None
    for answer in _answers(completion, opened):
        program, certain = search.in_answer(answer)
        if certain:
            return program
        found = found or program
    return found


def _answers(completion: str, opened: bool | None) -> list[str]:
    """The answer part, behind what stands after its last tags: a thinking may have spoken of the tag before it ended,
    and a program may hold it, so the shortest text that has a program counts."""
    answer = answer_part(completion, opened=opened)
    if answer is None:
        return []
    places = [match.end() for match in re.finditer(re.escape(THINK_CLOSE), answer)]
    return [*(answer[place:] for place in reversed(places[-MAX_ANSWERS:])), answer]


def _from_last_def(completion: str, languages: Sequence[str]) -> Program | None:
    start = completion.rfind("def ") if "python" in languages else -1
    return Program(completion[start:].partition(THINK_CLOSE)[0], "python") if start >= 0 else None


class _Search:
    """What is looked for, and what of it has been parsed."""

    def __init__(self, languages: Sequence[str], entry_point: str, reads_input: bool):
        self.languages = languages
        self.entry_point = entry_point
        self.reads_input = reads_input
        self._parsed: dict[str, Source | None] = {}

    def in_answer(self, text: str) -> tuple[Program | None, bool]:
        """The program of an answer part, and whether it surely is one."""
        blocks = find_blocks(text, self._is_whole)
        candidates = self._candidates([block for block in blocks if block.closed])
        if blocks and not blocks[-1].closed and self._is_cut_program(blocks[-1], candidates):
            return None, False
        return self._choose(candidates)

    def in_text(self, text: str) -> tuple[Program | None, bool]:
        """The program among all blocks, closed or not."""
        blocks = find_blocks(text, self._is_whole)
        if blocks and not blocks[-1].closed:
            lines = blocks[-1].text.partition(THINK_CLOSE)[0].removesuffix("\n").split("\n")
            blocks[-1] = Block(blocks[-1].name, tuple(lines), True)
        return self._choose(self._candidates(blocks))

    def _is_cut_program(self, block: Block, candidates: list[_Candidate]) -> bool:
        """Whether a block that is left open was to be the program; a stray fence at the end is none."""
        language, named = self._language(block.name)
        if not language or not block.text.strip():
            return False
        source = self._read(block.text) if language == "python" else None
        return named or not candidates or (source is not None and (source.acts or bool(source.defines)))

    def _candidates(self, blocks: Sequence[Block]) -> list[_Candidate]:
        found = []
        for block in blocks:
            language, named = self._language(block.name)
            if language == "python":
                code = self._indented_as_whole(block.text)
                source = self._read(code)
                if named or not block.name or source:
                    found.append(_Candidate(Program(code, language), named, source))
            elif language and (named or not block.name or _MAIN[language].search(block.text)):
                found.append(_Candidate(Program(block.text, language), named, None))
        return found

    def _language(self, name: str) -> tuple[str, bool]:
        """The language of a block with this name, "" for none of those looked for, and whether the name says so."""
        words = (name, _VERSION.sub("", name), name.rpartition(".")[2])
        language = next((_LANGUAGE_OF[word] for word in words if word in _LANGUAGE_OF), "")
        if language:
            return (language, True) if language in self.languages else ("", False)
        return ("", False) if OTHERS & set(words) else (self.languages[0], False)

    def _is_whole(self, block: Block) -> bool:
        language = self._language(block.name)[0]
        return language not in ("python", "") or self._read(self._indented_as_whole(block.text)) is not None

    def _indented_as_whole(self, code: str) -> str:
        """The code; without the first line's indentation where it parses so and not otherwise."""
        first = next((line for line in code.split("\n") if line.strip()), "")
        width = len(first) - len(first.lstrip(" \t"))
        if not width or self._read(code) is not None:
            return code
        lines = code.split("\n")
        shifted = "\n".join(line[min(width, len(line) - len(line.lstrip(" \t"))) :] for line in lines)
        return shifted if self._read(shifted) is not None else code

    def _read(self, code: str) -> Source | None:
        if code not in self._parsed and len(self._parsed) < MAX_PARSES:
            self._parsed[code] = read_source(code)
        return self._parsed.get(code)

    def _choose(self, candidates: list[_Candidate]) -> tuple[Program | None, bool]:
        if not candidates:
            return None, False
        ranks = [self._rank(candidates, i) for i in range(len(candidates))]
        best = max(range(len(candidates)), key=lambda i: (ranks[i] >= 3, candidates[i].named, ranks[i], i))
        return self._with_needed(candidates, best), ranks[best] >= 3

    def _rank(self, candidates: list[_Candidate], i: int) -> int:
        """How sure it is that a block is the program: 3 as sure as can be, 0 not at all."""
        code, source = candidates[i].program.code, candidates[i].source
        language = candidates[i].program.language
        if language != "python":
            return 3 if _MAIN[language].search(code) else 1
        if source is None:
            return 0
        if self.entry_point:
            if not {self.entry_point, f"Solution.{self.entry_point}"} & source.defines:
                return 1
            return 2 if self.entry_point in source.stubs else 3
        if not source.acts:
            return 1
        needed = [candidates[j].source for j in self._needed(candidates, i)]
        if source.missing - {name for other in needed if other for name in other.defines}:
            return 1
        reads = source.reads or any(other.reads for other in needed if other)
        return 3 if reads or not self.reads_input else 2

    def _needed(self, candidates: list[_Candidate], i: int) -> list[int]:
        """The earlier blocks whose definitions a block uses, in order."""
        chosen: list[int] = []
        source = candidates[i].source
        missing = set(source.missing) if source else set()
        for j in range(i - 1, -1, -1):
            other = candidates[j].source
            if other and missing & other.defines and (self.entry_point or not other.acts):
                chosen.insert(0, j)
                missing = (missing - other.defines) | other.missing
        return chosen

    def _with_needed(self, candidates: list[_Candidate], i: int) -> Program:
        program = candidates[i].program
        parts = [candidates[j].program.code for j in self._needed(candidates, i)]
        return Program("\n".join([*parts, program.code]), program.language)
