"""Complete a text, or every row of a JSON-lines file in order and resumable, with a model.

`openqwq generate MODEL "text"` prints the answer to one user turn. With --input and --output:

A row is {"prompt": "text as it is"} or {"messages": [{"role": "user", "content": "..."}]}; further fields are kept.
An output row is {"line": 1, "input": {...}, "outputs": [{"text": "...", "finish_reason": "stop", "num_tokens": 7}]}.
A row's own "sampling" object changes sampling parameters for that row, e.g. {"prompt": "...", "sampling": {"n": 4}}.
Lines that cannot be used go to OUTPUT.rejects.jsonl with their number and the reason. Run the same command again
to resume after an interruption: finished rows are skipped, and the result is that of an uninterrupted run. The model
and its options are saved in OUTPUT.settings.json; resuming with different ones is an error.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openqwq.errors import UserError
from openqwq.log import append_jsonl, logger, read_json, read_jsonl, write_text_atomic
from openqwq.types import Message, SamplingParams

from ._options import add_engine_argument, add_engine_arguments, add_style_argument, check_model, engine_options
from ._sampling import add_sampling_arguments, parse_params, read_params

if TYPE_CHECKING:
    from openqwq.inference import LLM
    from openqwq.types import Completion

SEED_STRIDE = 2**32  # rows have seeds of their own: seed * stride + line
SETTINGS = (
    "model", "overrides", "style", "quantization", "kv_cache_dtype", "rope_scaling", "attention_window",
    "max_model_len", "kernels",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a model folder, GGUF file or hub name")
    parser.add_argument("text", metavar="TEXT", nargs="?", help="one user turn, instead of --input and --output")
    parser.add_argument("--input", type=Path, metavar="FILE", help="JSON-lines file of prompts")
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON-lines file of completions")
    add_engine_argument(parser, "max_model_len", type=int, metavar="N")
    add_engine_argument(parser, "max_num_seqs", type=int, metavar="N")
    add_style_argument(parser)
    add_engine_arguments(parser)
    add_sampling_arguments(parser)


def run(args: argparse.Namespace) -> int:
    parse_params(args.overrides)  # mistakes are found before weights are loaded
    options = engine_options(args)
    check_model(args.model)
    if args.text is not None:
        return _answer(args, options)
    if args.input is None or args.output is None:
        raise UserError(
            "there is nothing to complete",
            hint='give a text, as in `openqwq generate MODEL "1+1="`, or `--input FILE --output FILE`',
        )
    rows = list(read_rows(args.input))
    sink = Sink.open(args.output, rows)
    settings = {name: getattr(args, name) for name in SETTINGS}
    keep_settings(Path(f"{args.output}.settings.json"), settings, begun=sink.last_line > 0)
    todo = [row for row in rows if row.line > sink.last_line]
    logger.info(f"{len(todo)} of {len(rows)} rows to do; completions go to {args.output}")
    if todo:
        from openqwq.inference import LLM
        from openqwq.inference.params import check_params

        llm = LLM(args.model, **options)
        params = parse_params(args.overrides, llm.default_sampling_params)
        check_params(params)  # here they are no row's fault
        complete_rows(llm, todo, params, sink, style=args.style)
    logger.info(f"done: {args.output}" + (f"; rejected lines: {sink.rejects}" if sink.rejects.exists() else ""))
    return 0


def _answer(args: argparse.Namespace, options: dict[str, Any]) -> int:
    """Print the answer to one user turn, thinking included."""
    if args.input is not None or args.output is not None:
        raise UserError("a text cannot be combined with `--input` and `--output`", hint="give one or the other")
    from openqwq.inference import LLM
    from openqwq.inference.params import check_params
    from openqwq.tokenizer import with_style

    llm = LLM(args.model, **options)
    params = parse_params(args.overrides, llm.default_sampling_params)
    check_params(params)
    [output] = llm.chat(with_style([Message("user", args.text)], args.style), params)
    for completion in output.outputs:
        if completion.error:
            raise UserError(completion.error)
        print(completion.text)
    return 0


def keep_settings(path: Path, settings: Mapping[str, Any], *, begun: bool) -> None:
    """Note what the completions depend on; raises UserError where a run has begun with something else."""
    if begun and path.exists():
        former = {"kernels": "auto", **read_json(path)}  # files of former versions do not name them
        changed = [name for name in SETTINGS if former.get(name) != settings[name]]
        if changed:
            words = ", ".join(
                f"{'--set' if name == 'overrides' else name} was {former.get(name)!r}" for name in changed
            )
            raise UserError(f"the output was started with other settings: {words}", hint="choose another --output")
    write_text_atomic(path, json.dumps(settings, indent=2) + "\n")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the input: its number from 1, and what it holds, or why it cannot be used."""

    line: int
    value: Mapping[str, Any]
    error: str = ""


def read_rows(path: Path) -> Iterator[Row]:
    """Every line of the input that is not blank; raises UserError when there is no such file."""
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _read_row(number, line)
    except OSError as error:
        raise UserError(f"cannot read the input {path}: {error.strerror}") from error


def _read_row(number: int, line: bytes) -> Row:
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return Row(number, {}, f"not JSON: {error}")
    if not isinstance(value, dict) or ("prompt" in value) == ("messages" in value):
        return Row(number, {}, 'not an object with either "prompt" or "messages"')
    if "prompt" in value and not isinstance(value["prompt"], str):
        return Row(number, {}, '"prompt" is not a text')
    if "messages" in value and not isinstance(value["messages"], list):
        return Row(number, {}, '"messages" is not a list')
    return Row(number, value)


class Sink:
    """Output and rejects, written line by line in the input's order, whatever order rows are finished in."""

    def __init__(self, output: Path, rejects: Path, last_line: int):
        self.output, self.rejects, self.last_line = output, rejects, last_line
        self._early: dict[int, tuple[Path, dict[str, Any]]] = {}
        self._order: Iterator[int] = iter(())
        self._next = 0

    @classmethod
    def open(cls, output: Path, rows: Sequence[Row]) -> Sink:
        """Continue what an earlier run has written. Raises UserError when that was another input's, or is no file."""
        rejects = Path(f"{output}.rejects.jsonl")
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            written, rejected = _read_written(output), _read_written(rejects)
        except OSError as error:
            raise UserError(f"cannot write the output {output}: {error.strerror}") from error
        inputs = {row.line: row.value for row in rows}
        if written and inputs.get(written[-1]["line"]) != written[-1].get("input"):
            raise UserError(f"{output} holds completions of another input", hint="choose another --output")
        lines = [row["line"] for row in written + rejected]
        return cls(output, rejects, max(lines, default=0))

    def expect(self, rows: Sequence[Row]) -> None:
        """The rows that will come, in the order in which they are to be written."""
        self._order = iter([row.line for row in rows])
        self._next = next(self._order, 0)

    def accept(self, row: Row, completions: Sequence[Completion]) -> None:
        outputs = [
            {"text": c.text, "finish_reason": c.finish_reason, "num_tokens": len(c.token_ids)} for c in completions
        ]
        self._put(row.line, self.output, {"line": row.line, "input": row.value, "outputs": outputs})

    def reject(self, row: Row, error: str) -> None:
        self._put(row.line, self.rejects, {"line": row.line, "error": error})

    def _put(self, line: int, path: Path, record: dict[str, Any]) -> None:
        self._early[line] = (path, record)
        while self._next in self._early:
            append_jsonl(*self._early.pop(self._next))
            self._next = next(self._order, 0)


def _read_written(path: Path) -> list[dict[str, Any]]:
    """The whole lines of an earlier run; a torn last line is cut off the file."""
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with open(path, "r+b") as file:
            file.truncate(whole)
    try:
        return [{**row, "line": int(row["line"])} for row in read_jsonl(path)]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not an output of this command", hint="choose another --output") from error


def complete_rows(
    llm: LLM, rows: Sequence[Row], params: SamplingParams, sink: Sink, *, style: str | None = None
) -> None:
    """Sample every row, keeping the engine full, and hand results to the sink as they finish.

    style: of `tokenizer.PROMPT_STYLES`, for rows with messages.
    """
    sink.expect(rows)
    progress, tokens_before = Progress(len(rows)), llm.engine.num_generated
    waiting = iter(rows)
    running: dict[str, Row] = {}
    queue_length = 2 * llm.engine.config.max_num_seqs
    exhausted = False
    while running or not exhausted:
        while len(running) < queue_length and not exhausted:
            row = next(waiting, None)
            exhausted = row is None
            if row is not None and _start(llm, row, params, sink, style):
                running[str(row.line)] = row
            elif row is not None:
                progress.done += 1
        for output in llm.engine.step():
            row = running.pop(output.request_id)
            errors = [completion.error for completion in output.outputs if completion.error]
            sink.reject(row, errors[0]) if errors else sink.accept(row, output.outputs)
            progress.done += 1
        progress.show(llm.engine.num_generated - tokens_before)
    progress.finish()


def _start(llm: LLM, row: Row, params: SamplingParams, sink: Sink, style: str | None) -> bool:
    """Queue a row under a seed of its own; False when it was rejected."""
    if row.error:
        sink.reject(row, row.error)
        return False
    try:
        own = params.replace(seed=(params.seed or 0) * SEED_STRIDE + row.line)
        own = own.replace(**read_params(row.value.get("sampling", {})))
        llm.engine.add_request(_encode(llm, row.value, style), own, str(row.line))
    except (UserError, ValueError, TypeError) as error:
        sink.reject(row, error.message if isinstance(error, UserError) else str(error))
        return False
    return True


def _encode(llm: LLM, value: Mapping[str, Any], style: str | None) -> list[int]:
    from openqwq.tokenizer import with_style

    tokenizer = llm.require_tokenizer()
    if "messages" in value:
        return tokenizer.encode_chat(with_style(value["messages"], style))
    return tokenizer.encode(value["prompt"])


class Progress:
    """Rows, tokens per second and time left, on one line of a terminal; silent elsewhere.

    done: rows that are finished or rejected. tokens: sampled so far, by rows that go on too.
    """

    def __init__(self, num_rows: int):
        self.num_rows, self.done, self.tokens = num_rows, 0, 0
        self.start = self.shown = time.monotonic()
        self.visible = sys.stderr.isatty()

    def show(self, num_tokens: int) -> None:
        self.tokens = num_tokens
        now = time.monotonic()
        if self.visible and now - self.shown >= 0.2:
            self.shown = now
            print(f"\r{self.line(now - self.start)}\x1b[K", end="", file=sys.stderr, flush=True)

    def line(self, elapsed_s: float) -> str:
        left = f", {format_time(elapsed_s / self.done * (self.num_rows - self.done))} left" if self.done else ""
        return f"{self.done}/{self.num_rows} rows, {self.tokens / elapsed_s:.0f} tokens/s{left}"

    def finish(self) -> None:
        elapsed_s = time.monotonic() - self.start
        if self.visible:
            print("\r\x1b[K", end="", file=sys.stderr)
        logger.info(f"{self.done} rows, {self.tokens} tokens in {format_time(elapsed_s)}")


def format_time(seconds: float) -> str:
    """ "7s", "3m07s", "2h05m"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    return f"{whole // 60}m{whole % 60:02d}s" if whole < 3600 else f"{whole // 3600}h{whole % 3600 // 60:02d}m"
