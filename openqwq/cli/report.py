"""Write report.html and report.md of a finished or running run; compare several runs.

Of several runs, comparison.html and comparison.md are written next to the first run's folder: scores with intervals
after each stage and their differences, the curves of all runs, targets, and where their recipes differ.
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="+", help="run folders written by `openqwq train`")
    parser.add_argument("--out", metavar="DIR", help="output folder (default: the run's)")


def run(args: argparse.Namespace) -> int:
    from openqwq.eval.report import write_comparison, write_report

    files = write_report(args.runs[0], args.out) if len(args.runs) == 1 else write_comparison(args.runs, args.out)
    for path in files:
        print(path)
    return 0
