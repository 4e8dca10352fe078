"""Entry point of `openqwq`: finds the verb, runs it, and turns errors into exit codes.

0 done, 1 the run missed its own target (or a check failed), 2 user error, 130 interrupted (Ctrl-C, SIGTERM,
SIGHUP), 141 the reader of stdout went away. Only the module of the verb that runs is imported.

Public: main, verbs.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib
import os
import pkgutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType
from typing import NoReturn

from openqwq import __version__
from openqwq.errors import TargetMissed, UserError, disk_error
from openqwq.log import setup_logging

EXIT_MISSED = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


class VerbParser(argparse.ArgumentParser):
    """An argument parser that reports wrong arguments as every other user error is reported."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message, hint=f"see `{self.prog} --help`")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's own) and return its exit code."""
    setup_logging()
    try:
        with _stopped_by_signals():
            code = _run(list(sys.argv[1:] if argv is None else argv))
            sys.stdout.flush()
        return code
    except UserError as error:
        print(error, file=sys.stderr)
        return EXIT_USER_ERROR
    except TargetMissed as error:
        print(f"missed: {error}", file=sys.stderr)
        return EXIT_MISSED
    except KeyboardInterrupt as interrupt:
        print("interrupted", *interrupt.args, sep="\n", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return EXIT_BROKEN_PIPE
    except OSError as error:
        cause = disk_error(error)
        if cause is None:
            raise
        try:
            sys.stdout.flush()
        except OSError:
            _drop_output()
        print(cause, file=sys.stderr)
        return EXIT_USER_ERROR


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the verb as Ctrl-C does, so that what can be saved is; those that come later wait for it.

    Schedulers send SIGTERM before they take a machine away, closed terminals SIGHUP. `nohup` keeps its meaning, and a
    verb that has its own way to stop sets its own handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stopped = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        if not stopped:
            stopped = True
            raise KeyboardInterrupt(signal.Signals(number).name)

    former = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    former = {number: handler for number, handler in former.items() if handler is signal.SIG_DFL}
    for number in former:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _drop_output() -> None:
    """What is still buffered cannot be written; without this the interpreter complains at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def verbs() -> dict[str, str]:
    """The help line of each verb, read from its file without importing it."""
    folder = Path(__file__).parent
    names = sorted(module.name for module in pkgutil.iter_modules([str(folder)]))
    return {name: _help_line(folder / f"{name}.py") for name in names if name != "main" and name[0] != "_"}


def _help_line(file: Path) -> str:
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0].rstrip(".")


def _run(argv: list[str]) -> int:
    if not argv or argv[0].startswith("-"):
        return _run_without_verb(argv)
    name = argv[0]
    if name not in verbs():
        near = difflib.get_close_matches(name, verbs(), n=1)
        hint = f"did you mean `openqwq {near[0]}`?" if near else "`openqwq --help` lists the verbs"
        raise UserError(f"there is no verb `{name}`", hint=hint)
    module = importlib.import_module(f"{__package__}.{name}")
    try:
        return module.run(_verb_parser(name, module).parse_args(argv[1:]))
    except SystemExit as leave:  # argparse leaves this way after --help
        return int(leave.code or 0)


def _verb_parser(name: str, module: ModuleType) -> VerbParser:
    parser = VerbParser(
        prog=f"openqwq {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    return parser


def _run_without_verb(argv: list[str]) -> int:
    width = max(map(len, verbs()))
    lines = [f"  {name:<{width}}  {text}" for name, text in verbs().items()]
    parser = VerbParser(
        prog="openqwq",
        usage="openqwq VERB [options]",
        description="Make, run and check compact reasoning models by the published QwQ-32B recipe.",
        epilog="verbs:\n" + "\n".join(lines) + "\n\n`openqwq VERB --help` tells more of each.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    if parser.parse_known_args([a for a in argv if a not in ("-h", "--help")])[0].version:
        print(f"openqwq {__version__}")
        return 0
    if argv and argv[0] not in ("-h", "--help"):
        parser.error(f"unknown option {argv[0]}")
    parser.print_help()
    return 0


if __name__ == "__main__":
    sys.exit(main())
