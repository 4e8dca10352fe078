"""List environments of agents, play one, or check that it is sound.

`openqwq env list`; `openqwq env play guess` is played by a person, with --reference by the environment's own policy;
`openqwq env check guess` tries that steps are pure, the reference passes, empty and random policies fail, and nothing
is left behind. Exit code 0 where all holds (or the episode is correct), 1 where not.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from openqwq.errors import UserError
from openqwq.types import ToolCall

from ._options import add_json_argument, print_json

if TYPE_CHECKING:
    from openqwq.agents import Environment, Move


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="list|play|check", required=True)
    add_json_argument(actions.add_parser("list", help="the environments, their tools and limits"))
    play = actions.add_parser("play", help="play one episode")
    play.add_argument("name", metavar="NAME", help="an environment")
    play.add_argument("--seed", type=int, default=0, metavar="N", help="which task (0)")
    play.add_argument("--reference", action="store_true", help="let the environment's own policy play")
    add_json_argument(play)
    check = actions.add_parser("check", help="check that an environment is sound")
    check.add_argument("name", metavar="NAME", help="an environment")
    check.add_argument("--episodes", type=int, default=100, metavar="N", help="tasks to try (100)")
    add_json_argument(check)


def run(args: argparse.Namespace) -> int:
    from openqwq.environments import get_environment

    if args.action == "list":
        return _list(args.json)
    environment = get_environment(args.name)
    return _check(environment, args) if args.action == "check" else _play(environment, args)


def _list(as_json: bool) -> int:
    from openqwq.environments import ENVIRONMENTS

    made = [make() for make in ENVIRONMENTS.values()]
    rows: list[dict[str, Any]] = [{"name": e.name, "tools": [*e.tools.tools], "max_turns": e.max_turns} for e in made]
    if as_json:
        print_json(rows)
        return 0
    for environment, row in zip(made, rows, strict=True):
        print(f"{row['name']:<6} {', '.join(row['tools']):<8} {row['max_turns']} turns")
        print(f"       {environment.prompt(environment.task(0))}")
    return 0


def _check(environment: Environment, args: argparse.Namespace) -> int:
    from openqwq.environments import check

    if args.episodes < 1:
        raise UserError(f"--episodes is {args.episodes}, but must be at least 1")
    findings = check(environment, args.episodes)
    if args.json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            print(f"{'ok' if finding.holds else 'FAILS':<6} {finding.name}: {finding.seen}")
    return 0 if all(finding.holds for finding in findings) else 1


def _play(environment: Environment, args: argparse.Namespace) -> int:
    from openqwq.agents import play

    task = environment.task(args.seed)
    shown = sys.stderr if args.json else sys.stdout
    print(environment.prompt(task), file=shown)
    policy: Callable[[Sequence[str]], Move | None] = _person(environment, shown)
    if args.reference:
        policy = _shown(environment, task, shown)
    played = play(environment, task, policy)
    if played.moves and not isinstance(played.moves[-1], str):
        print(played.observations[-1], file=shown)
    if args.json:
        moves = [move if isinstance(move, str) else asdict(move) for move in played.moves]
        print_json({"task": task, "moves": moves, "observations": played.observations, **asdict(played.verdict)})
    else:
        print(f"{played.verdict.status}{': ' if played.verdict.reason else ''}{played.verdict.reason}")
    return 0 if played.verdict.status == "correct" else 1


def _shown(environment: Environment, task: Mapping[str, Any], shown: Any) -> Callable[[Sequence[str]], Move]:
    """The reference, each move and what it came to printed."""

    def policy(seen: Sequence[str]) -> Move:
        if seen:
            print(seen[-1], file=shown)
        move = environment.reference(task, seen)
        print(f"> {move if isinstance(move, str) else f'{move.name} {json.dumps(move.arguments)}'}", file=shown)
        return move

    return policy


def _person(environment: Environment, shown: Any) -> Callable[[Sequence[str]], Move | None]:
    """A line is a call, `NAME {"argument": value}`, or else the answer; the end of the input leaves."""
    print(f"calls: {', '.join(map(_form, environment.tools.schemas))}; any other line is the answer", file=shown)

    def policy(seen: Sequence[str]) -> Move | None:
        if seen:
            print(seen[-1], file=shown)
        while True:
            print("> ", end="", file=shown, flush=True)
            line = sys.stdin.readline()
            if not line:
                return None
            name, _, rest = line.strip().partition(" ")
            if name not in environment.tools.tools:
                return line.strip()
            try:
                arguments = json.loads(rest or "{}")
            except ValueError as error:
                print(f"the arguments are not JSON: {error}", file=shown)
                continue
            if isinstance(arguments, dict):
                return ToolCall(name, arguments)
            print("the arguments are no JSON object", file=shown)

    return policy


def _form(schema: Mapping[str, Any]) -> str:
    function = schema["function"]
    example = {name: own.get("type", "...") for name, own in function["parameters"]["properties"].items()}
    return f"{function['name']} {json.dumps(example)}"
