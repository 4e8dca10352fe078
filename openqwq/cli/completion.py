"""Print a shell's completion script, e.g. `openqwq completion bash >> ~/.bashrc`.

zsh: save it as _openqwq in a folder of $fpath. tcsh: source it from ~/.tcshrc.
"""

from __future__ import annotations

import argparse
import importlib

SHELLS = ("bash", "zsh", "tcsh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS)


def run(args: argparse.Namespace) -> int:
    import shtab

    from .main import verbs

    parser = argparse.ArgumentParser(prog="openqwq")
    subparsers = parser.add_subparsers()
    for name, text in verbs().items():
        own = subparsers.add_parser(name, help=text.replace("%", "%%"), description=text)
        importlib.import_module(f"{__package__}.{name}").add_arguments(own)
    print(shtab.complete(parser, shell=args.shell))
    return 0
