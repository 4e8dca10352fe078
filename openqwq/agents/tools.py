"""Tools: functions that a model may call, with checked arguments, a deadline and a bound on what comes back.

    def area(width: Annotated[float, "in metres"], height: float) -> float:
        "The area of a rectangle."
        return width * height

    toolbox = Toolbox([tool_of(area)])

What goes wrong in a call is a result with a status, never an exception.

Public: Context, Result, Tool, ToolError, ToolFailed, Toolbox, tool_of, cut_middle.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from openqwq.errors import UserError
from openqwq.sandbox.cancellation import Ticket
from openqwq.types import ToolCall

from .schema import describe, fault_in, schema_of

DEADLINE_S = 30.0
MAX_CHARACTERS = 8000
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")

Status = Literal["ok", "error", "failed", "denied"]


class ToolError(Exception):
    """What a tool raises to tell the model that the call was wrong; its text is the result."""


class ToolFailed(Exception):
    """The machinery behind a tool failed: a process died, a deadline passed. Never the model's fault."""


@dataclass(slots=True)
class Context:
    """What a tool may know beyond its arguments; the model never sees this parameter.

    files: the workspace, path to content; what a tool changes in it stays changed.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    ticket: Ticket = field(default_factory=Ticket)


@dataclass(frozen=True, slots=True)
class Result:
    """What a call came to.

    status: "error" is the call's own fault (the model reads why), "failed" the machinery's, "denied" the user's word.
    cut:    characters that were left out of the middle of the text.
    """

    text: str
    status: Status = "ok"
    cut: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """One function that a model may call.

    parameters: a JSON schema of an object.
    run:        gives the result or its text; raises ToolError for the model's fault, ToolFailed for the machine's.
    deadline_s: seconds after which a call is ended.
    max_characters: of the result; the middle of a longer one is left out, with a note.
    asks:       whether a person is to approve each call, where one is asked.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    run: Callable[[Mapping[str, Any], Context], str | Result]
    deadline_s: float = DEADLINE_S
    max_characters: int = MAX_CHARACTERS
    asks: bool = True

    @property
    def schema(self) -> dict[str, Any]:
        """The tool as OpenAI's API and chat templates describe it."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}

    def call(self, arguments: Mapping[str, Any], context: Context) -> Result:
        """The result of a call whose arguments are right; exceptions become results."""
        try:
            found = self.run(arguments, context)
        except ToolError as error:
            return self.cut(Result(f"error: {error}", "error"))
        except ToolFailed as error:
            return self.cut(Result(f"error: {error}", "failed"))
        except Exception as error:  # a tool's own code may raise anything
            return self.cut(Result(f"error: {type(error).__name__}: {error}", "failed"))
        return found if isinstance(found, Result) else self.cut(Result(found))

    def cut(self, result: Result) -> Result:
        """The result within `max_characters`."""
        text, left_out = cut_middle(result.text, self.max_characters)
        return Result(text, result.status, left_out, result.seconds)


def tool_of(function: Callable[..., Any], **options: Any) -> Tool:
    """A tool from a plain function: name, docstring and type hints describe it.

    A parameter of type `Context` is hidden from the model. A result that is no text is written as JSON.
    options: fields of `Tool`, e.g. `deadline_s=5.0`.
    Raises UserError for a parameter without a type hint, or of a type that has no schema.
    """
    parameters, context_name = schema_of(function, Context)

    def run(arguments: Mapping[str, Any], context: Context) -> str:
        hidden = {context_name: context} if context_name else {}
        value = function(**arguments, **hidden)
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)

    text = describe(function)[0]
    return Tool(**{"name": function.__name__, "description": text, "parameters": parameters, "run": run, **options})


class Toolbox:
    """Tools by their names. Raises UserError for two of one name, and for a name that no call can have."""

    def __init__(self, tools: Iterable[Tool] = ()):
        self.tools: dict[str, Tool] = {}
        for tool in tools:
            if not NAME.fullmatch(tool.name):
                raise UserError(f"a tool cannot be named {tool.name!r}", hint="letters, digits, _ and -, up to 64")
            if tool.name in self.tools:
                raise UserError(f"there are two tools of the name `{tool.name}`", hint="rename one of them")
            self.tools[tool.name] = tool

    @property
    def schemas(self) -> list[dict[str, Any]]:
        """All tools as chat templates list them."""
        return [tool.schema for tool in self.tools.values()]

    def fault(self, call: ToolCall) -> str:
        """Why a call cannot be made: an unknown tool, or arguments against its schema; "" if it can."""
        tool = self.tools.get(call.name)
        if tool is None:
            known = f"the tools are {', '.join(self.tools)}" if self.tools else "there are no tools"
            return f"there is no tool `{call.name:.64}`; {known}"
        return fault_in(call.arguments, tool.parameters)


def cut_middle(text: str, limit: int) -> tuple[str, int]:
    """A text of at most about `limit` characters, a note in place of its middle, and how many were left out."""
    if len(text) <= limit:
        return text, 0
    head, tail = (limit + 1) // 2, limit // 2
    left_out = len(text) - head - tail
    return f"{text[:head]}\n[... {left_out} characters left out ...]\n{text[len(text) - tail :]}", left_out
