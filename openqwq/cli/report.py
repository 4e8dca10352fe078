"""Write report.html and report.md of a run, finished or still going on."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="the folder that `openqwq train` wrote")


def run(args: argparse.Namespace) -> int:
    from openqwq.eval.report import write_report

    for path in write_report(args.run):
        print(path)
    return 0
