"""Run an untrusted Python program in the sandbox.

`openqwq sandbox run FILE` feeds this command's stdin to the program and shows its output; how it ended goes to
stderr. Exit code 0 when it ended well, 1 when it did not.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, fields
from pathlib import Path

from openqwq.errors import UserError

from ._options import add_json_argument, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from openqwq.sandbox.spec import Limits

    actions = parser.add_subparsers(dest="action", metavar="run", required=True)
    run_parser = actions.add_parser("run", help="run one program", description="Run one program in a jail.")
    run_parser.add_argument("file", metavar="FILE", help="a Python program")
    for limit in fields(Limits):
        option = "--" + limit.name.replace("_", "-")
        default = limit.default
        run_parser.add_argument(option, type=type(default), default=default, metavar="N", help=f"default {default}")
    run_parser.add_argument("--no-jail", action="store_true", help="UNSAFE: run it unprotected, as this user")
    add_json_argument(run_parser)


def run(args: argparse.Namespace) -> int:
    from openqwq.sandbox import Limits, Sandbox

    try:
        code = Path(args.file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read `{args.file}`: {error}", hint="give the path of a Python program") from None
    stdin = "" if sys.stdin.isatty() else sys.stdin.read()
    limits = Limits(**{limit.name: getattr(args, limit.name) for limit in fields(Limits)})
    with Sandbox(workers=1, no_jail=args.no_jail) as sandbox:
        result = sandbox.run(code, stdin, limits)
    if args.json:
        print_json(asdict(result))
    else:
        sys.stdout.write(result.stdout)
        sys.stderr.write(result.stderr)
        end = f"{result.status}{': ' if result.reason else ''}{result.reason}"
        print(f"{end} ({result.wall_s:.2f} s, {result.memory_mib:.0f} MiB)", file=sys.stderr)
    return 0 if result.status == "ok" else 1
