"""Which form an answer must have: from `response_format`, `tool_choice`, strict tools and `structured_outputs`.

Public: choose_tools, answer_form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from openqwq.types import StructuredOutputs

from .errors import unsupported, wrong
from .schemas import ChatBody, Tool
from .sizes import check_form


def choose_tools(tools: Sequence[Tool], choice: Any) -> list[Tool]:
    """The tools that the model is told of. Raises ApiError for a choice that cannot be read."""
    named = _named(choice)
    if choice not in (None, "auto", "none", "required") and named is None:
        raise wrong("tool_choice", 'is "auto", "none", "required" or {"type": "function", "function": {"name": ...}}')
    if choice not in (None, "none", "auto") and not tools:
        raise wrong("tool_choice", "needs `tools`")
    if named is not None and all(tool.function.name != named for tool in tools):
        raise wrong("tool_choice", f"names {named!r}, which is not among `tools`")
    return [] if choice == "none" else list(tools)


def _named(choice: Any) -> str | None:
    try:
        name = choice["function"]["name"]
    except (TypeError, KeyError):
        return None
    return name if isinstance(name, str) else None


def answer_form(body: ChatBody, tools: Sequence[Tool]) -> tuple[StructuredOutputs | None, str]:
    """The form, and the field that asks for it; None where the answer is free."""
    forms = {
        "tool_choice": _forced_call(body.tool_choice, tools),
        "response_format": _from_format(body.response_format),
        "structured_outputs": body.structured_outputs.form() if body.structured_outputs else None,
    }
    asked = {name: form for name, form in forms.items() if form is not None}
    if len(asked) > 1:
        first, second, *_ = asked
        raise wrong(second, f"cannot be combined with `{first}`")
    if asked:
        [(name, form)] = asked.items()
    elif any(tool.function.strict for tool in tools):
        name, form = "tools", StructuredOutputs(tools=tuple(_spec(tool) for tool in tools))
    else:
        return None, ""
    check_form(form, name)
    return form, name


def _forced_call(choice: Any, tools: Sequence[Tool]) -> StructuredOutputs | None:
    named = _named(choice)
    if choice != "required" and named is None:
        return None
    allowed = [tool for tool in tools if named is None or tool.function.name == named]
    return StructuredOutputs(tools=tuple(_spec(tool) for tool in allowed), require_tool=True)


def _spec(tool: Tool) -> dict[str, Any]:
    return {"name": tool.function.name, "parameters": tool.function.parameters or {"type": "object"}}


def _from_format(given: dict[str, Any] | None) -> StructuredOutputs | None:
    kind = None if given is None else given.get("type")
    if given is None or kind == "text":
        return None
    if kind == "json_object":
        return StructuredOutputs(json={"type": "object"})
    if kind != "json_schema":
        raise unsupported("response_format.type", 'is "text", "json_object" or "json_schema"')
    # the responses API puts the schema beside its type, chat completions one level down
    schema = given.get("json_schema", given)
    if not isinstance(schema, dict) or not isinstance(schema.get("schema"), dict):
        raise wrong("response_format.json_schema.schema", "is missing, or no object")
    return StructuredOutputs(json=schema["schema"])
