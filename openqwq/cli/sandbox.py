"""Run untrusted programs in the sandbox, or serve it over HTTP.

`openqwq sandbox run FILE` feeds this command's stdin to the program and shows its output; how it ended goes to
stderr. Exit code 0 when it ended well, 1 when it did not. `openqwq sandbox serve` answers `POST /v1/run` and
`POST /v1/judge` until it is told to end.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

from openqwq.errors import UserError

from ._options import add_json_argument, print_json

if TYPE_CHECKING:
    from openqwq.sandbox import BaseSandbox, Limits

SUFFIXES = {".py": "python", ".cpp": "cpp", ".cc": "cpp", ".js": "javascript", ".java": "java"} | {
    ".rs": "rust",
    ".go": "go",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from openqwq.sandbox.spec import LANGUAGES, TOKEN, Limits

    actions = parser.add_subparsers(dest="action", metavar="run|serve", required=True)
    run_parser = actions.add_parser("run", help="run one program", description="Run one program in a jail.")
    run_parser.add_argument("file", metavar="FILE", help="a program")
    run_parser.add_argument("--language", choices=LANGUAGES, help="language (default: from the file name)")
    _add_limits(run_parser, Limits(), "")
    _add_jail(run_parser)
    run_parser.add_argument("--url", default="", help=f"run it on this service instead ({TOKEN} holds the token)")
    add_json_argument(run_parser)
    _add_serve(actions)


def _add_serve(actions: argparse._SubParsersAction) -> None:
    from openqwq.sandbox.http.wire import MAX_LIMITS
    from openqwq.sandbox.spec import TOKEN

    text = f"Serve the sandbox over HTTP. The environment variable {TOKEN} holds the token that requests must carry."
    parser = actions.add_parser("serve", help="serve the sandbox over HTTP", description=text)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (127.0.0.1); other addresses need a token"
    )
    parser.add_argument("--port", type=int, default=8200, metavar="N", help="port (8200); 0 picks a free one")
    parser.add_argument("--workers", type=int, metavar="N", help="concurrent programs (default: one per processor)")
    parser.add_argument("--queue", type=int, default=64, metavar="N", help="maximum queued requests (64)")
    parser.add_argument(
        "--deadline-s", type=float, default=120.0, metavar="N", help="request deadline in seconds (120)"
    )
    parser.add_argument(
        "--jail-per-job", action="store_true", help="start a jail for every program instead of warm ones: slower"
    )
    _add_jail(parser)
    _add_limits(parser, MAX_LIMITS, "max-")


def _add_jail(parser: argparse.ArgumentParser) -> None:
    jail = parser.add_mutually_exclusive_group()
    jail.add_argument(
        "--jail",
        choices=("bubblewrap", "gvisor"),
        default="bubblewrap",
        help="jail (bubblewrap); gvisor needs `runsc`, isolates the kernel, and is slower",
    )
    jail.add_argument("--no-jail", action="store_true", help="UNSAFE: run programs unprotected, as this user")


def _add_limits(parser: argparse.ArgumentParser, limits: Limits, prefix: str) -> None:
    for limit in fields(limits):
        default = getattr(limits, limit.name)
        option = f"--{prefix}{limit.name}".replace("_", "-")
        parser.add_argument(option, type=type(limit.default), default=default, metavar="N", help=f"default {default:g}")


def run(args: argparse.Namespace) -> int:
    return _serve(args) if args.action == "serve" else _run_file(args)


def _serve(args: argparse.Namespace) -> int:
    from openqwq.sandbox.client import JOBS_PER_JAIL, Sandbox
    from openqwq.sandbox.http.service import ServiceOptions, serve
    from openqwq.sandbox.spec import TOKEN, Limits

    for name, least in (("workers", 1), ("queue", 0), ("deadline_s", 0.001)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} is {value}, but must be at least {least}")
    max_limits = Limits(**{limit.name: getattr(args, f"max_{limit.name}") for limit in fields(Limits)})
    options = ServiceOptions(
        token=os.environ.get(TOKEN, ""), queue=args.queue, deadline_s=args.deadline_s, max_limits=max_limits
    )
    jobs_per_jail = 1 if args.jail_per_job else JOBS_PER_JAIL
    with Sandbox(workers=args.workers, jobs_per_jail=jobs_per_jail, jail=args.jail, no_jail=args.no_jail) as sandbox:
        try:
            serve(sandbox, options, host=args.host, port=args.port)
        except KeyboardInterrupt as stop:
            if stop.args != ("SIGTERM",):  # being told to end is no failure of a service
                raise
    return 0


def _run_file(args: argparse.Namespace) -> int:
    from openqwq.sandbox import Limits

    try:
        code = Path(args.file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read `{args.file}`: {error}", hint="give the path of a program") from None
    language = args.language or SUFFIXES.get(Path(args.file).suffix, "python")
    stdin = "" if sys.stdin.isatty() else sys.stdin.read()
    limits = Limits(**{limit.name: getattr(args, limit.name) for limit in fields(Limits)})
    with _open_sandbox(args) as sandbox:
        result = sandbox.run(code, stdin, limits, language=language)
    if args.json:
        print_json(asdict(result))
    else:
        sys.stdout.write(result.stdout)
        sys.stderr.write(result.stderr)
        end = f"{result.status}{': ' if result.reason else ''}{result.reason}"
        print(f"{end} ({result.wall_s:.2f} s, {result.memory_mib:.0f} MiB)", file=sys.stderr)
    return 0 if result.status == "ok" else 1


def _open_sandbox(args: argparse.Namespace) -> BaseSandbox:
    from openqwq.sandbox import RemoteSandbox, Sandbox
    from openqwq.sandbox.spec import TOKEN

    if args.url:
        return RemoteSandbox(args.url, token=os.environ.get(TOKEN, ""))
    return Sandbox(workers=1, jail=args.jail, no_jail=args.no_jail)
