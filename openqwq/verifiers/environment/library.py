"""Environments of the `verifiers` library (0.4 and later) whose tasks are answered in one turn: tasks and rewards.

The library is imported when it is first needed, and is not one that this package depends on.

Public: `load_tasks`, `task_of`, `task_messages`, `reward_of`.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping
from itertools import islice
from typing import Any

from openqwq.errors import UserError

INSTALL = "pip install 'verifiers>=0.4'"


def load_tasks(environment: str, args: Mapping[str, Any], count: int) -> list[Any]:
    """The environment's tasks in its order, the first `count` of them; 0: all.

    args: its taskset's configuration. Raises UserError for an environment that is not installed, refuses its
    configuration, has no end while `count` is 0, or takes more than one answer in text to judge.
    """
    loaders = _loaders()
    try:
        taskset_class = loaders.taskset_class(environment)
        config = loaders.taskset_config_type(environment)(**{**args, "id": environment})
        taskset = taskset_class(config)
        has_end = bool(taskset.bounded)
        own_class = loaders.environment_class(environment)
    except Exception as error:  # a stranger's package: whatever it raises, it cannot be used
        raise _unusable(environment, error) from error
    if not has_end and not count:
        raise UserError(f"the environment `{environment}` gives tasks without end", hint="set `problems` in `config`")
    try:
        tasks = list(islice(taskset, count or None))
    except Exception as error:
        raise _unusable(environment, error) from error
    if not tasks:
        raise UserError(f"the environment `{environment}` has no tasks")
    if why := _why_more_than_text(tasks[0], own_class, taskset_class.toolsets(config)):
        raise UserError(
            f"the environment `{environment}` is more than a prompt and a reward for one answer: {why}",
            hint="single-turn environments whose rewards read the answer alone can be trained on",
        )
    return tasks


def task_of(environment: str, args: Mapping[str, Any], data: Mapping[str, Any]) -> Any:
    """The task of these data, without its environment's other tasks being loaded."""
    loaders = _loaders()
    config = loaders.taskset_config_type(environment)(**{**args, "id": environment})
    task_type = loaders.task_type(environment)
    return task_type(task_type.data_type().model_validate(dict(data)), config.task)


def task_messages(task: Any) -> list[tuple[str, str]]:
    """(role, text) of the task's prompt; ValueError for one that is not of texts or does not end with the user's."""
    data = task.data
    turns = [("system", data.system_prompt)] if data.system_prompt else []
    turns += [("user", data.prompt)] if isinstance(data.prompt, str) else [(m.role, m.content) for m in data.prompt]
    if any(role not in ("system", "user", "assistant") or not isinstance(text, str) for role, text in turns):
        raise ValueError("its prompt holds more than texts")
    if turns[-1][0] != "user":
        raise ValueError("its prompt does not end with the user's turn")
    return turns


def reward_of(task: Any, thinking: str, answer: str) -> float:
    """The weighted sum of the task's rewards for this answer. Raises whatever its reward functions raise."""
    import verifiers.v1 as library
    from verifiers.v1.state import state_cls

    trace = library.Trace(
        task=library.TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash),
        state=state_cls(type(task))(),
        agent=library.AgentInfo(config=library.AgentConfig()),
        is_completed=True,
        ok=True,
    )
    kinds = {
        "system": library.SystemMessage,
        "user": library.UserMessage,
        "assistant": library.AssistantMessage,
    }
    messages = [kinds[role](content=text) for role, text in task_messages(task)]
    messages.append(library.AssistantMessage(content=answer, reasoning_content=thinking or None))
    for number, message in enumerate(messages):
        is_answer = number == len(messages) - 1
        trace.nodes.append(
            library.MessageNode(parent=number - 1 if number else None, message=message, sampled=is_answer)
        )
    asyncio.run(task.score(trace))
    return float(trace.reward)


def _loaders() -> Any:
    try:
        from verifiers.v1.utils import loaders
    except ImportError as error:
        raise UserError("a source of type `verifiers` needs the library of that name", hint=INSTALL) from error
    return loaders


def _unusable(environment: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return UserError(
        f"the environment `{environment}` cannot be used: {reason}",
        hint="is its package installed, and does `args` in `config` hold what its taskset takes?",
    )


def _why_more_than_text(task: Any, environment_class: type, toolsets: list) -> str:
    """Why a reply in text is not all that the task needs to be judged; empty when it is."""
    from verifiers.v1 import SingleAgentEnv, Task

    rewards = task.hooks("reward")
    if not issubclass(SingleAgentEnv, environment_class):
        return f"it runs in an environment of its own, {environment_class.__name__}"
    if task.data.prompt is None:
        return "its user opens the conversation"
    if task.NEEDS_CONTAINER or task.data.image:
        return "its tasks need a container"
    if toolsets or type(task).toolsets(task.config):
        return "its tasks come with tools"
    if any(getattr(type(task), hook) is not getattr(Task, hook) for hook in ("setup", "finalize")):
        return "its tasks are set up in a runtime"
    if task.config.judges:
        return "a judge model rewards"
    if any(_needs_runtime(hook) for hook in (*rewards, *task.hooks("metric"))):
        return "its rewards look into a runtime"
    return "" if rewards else "it has no reward"


def _needs_runtime(hook: Any) -> bool:
    parameter = inspect.signature(hook).parameters.get("runtime")
    return parameter is not None and parameter.default is inspect.Parameter.empty
