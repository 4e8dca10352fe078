"""Problems from an installed environment of the `verifiers` library, judged by its own rewards.

    [source.sums]
    type = "verifiers"
    dataset = "owner/sums"                       # the environment's name
    config = { problems = 1000, args = { difficulty = "hard" } }

Public: `EnvironmentSource`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from openqwq.config import SourceConfig
from openqwq.errors import UserError
from openqwq.types import Message, Problem
from openqwq.verifiers.environment.library import load_tasks, task_messages

from .finite import FiniteSource, cut_parts
from .options import read_options

LEAST_TASKS = 10
"""An environment that makes fewer tasks was most likely asked for too few."""


@dataclass(frozen=True, kw_only=True)
class EnvironmentOptions:
    """The table `config` of a source of type "verifiers"."""

    problems: int = 0
    """Only so many of its first tasks; 0: all."""
    args: Mapping[str, Any] = field(default_factory=dict)
    """The configuration of its taskset."""


class EnvironmentSource(FiniteSource):
    """The environment's tasks, in its order; by position a tenth each is held out and serves the gate."""

    def __init__(self, name: str, config: SourceConfig):
        options = read_options(EnvironmentOptions, config.config, f"source.{name}.config")
        environment = config.dataset or name
        if options.problems < 0:
            raise UserError(f"`problems` is {options.problems} in source.{name}.config", hint="0 is all of them")
        tasks = load_tasks(environment, options.args, options.problems)
        kind, verifier = config.kind or "environment", config.verifier or "environment"
        problems = [
            Problem(
                id=f"{name}/{number}",
                source=name,
                kind=kind,
                messages=_messages(task, config.prompt_suffix, f"task {number} of the environment `{environment}`"),
                verifier=verifier,
                answer={
                    "environment": environment,
                    "args": dict(options.args),
                    "task": task.data.model_dump(mode="json", exclude_none=True),
                },
            )
            for number, task in enumerate(tasks)
        ]
        super().__init__(
            name, kind, verifier, cut_parts(problems, name, f"the environment `{environment}`", least=LEAST_TASKS)
        )


def _messages(task: Any, suffix: str, where: str) -> tuple[Message, ...]:
    try:
        turns = task_messages(task)
    except (ValueError, TypeError) as error:
        raise UserError(f"{where} cannot be a problem: {error}") from error
    texts = [*turns[:-1], ("user", turns[-1][1] + suffix)]
    return tuple(Message(role, text) for role, text in texts)  # type: ignore[arg-type]
