"""Requests of other forms, asked as chat completions; what is wrong with them is said in their own words.

Public: plan_as_chat.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from .chat import plan_chat
from .errors import ApiError, from_validation
from .generation import ChatRequest
from .schemas import ChatBody
from .state import Server


def plan_as_chat(server: Server, values: Callable[[], dict[str, Any]], names: Mapping[str, str]) -> ChatRequest:
    """The checked request.

    values: makes the fields of a chat completion; may raise ApiError or pydantic's ValidationError.
    names:  the other form's name for each field that has another one there.
    """
    try:
        plan = plan_chat(server, ChatBody(**values()))
    except ValidationError as error:
        raise _renamed(from_validation(error.errors()), names) from error
    except ApiError as error:
        raise _renamed(error, names) from error
    plan.form_field = names.get(plan.form_field, plan.form_field)
    for ours, theirs in names.items():
        plan.warnings = [warning.replace(f"`{ours}`", f"`{theirs}`") for warning in plan.warnings]
    return plan


def _renamed(error: ApiError, names: Mapping[str, str]) -> ApiError:
    name = names.get(error.param or "", error.param)
    message = error.message.replace(f"`{error.param}`", f"`{name}`")
    return ApiError(
        error.status_code, message, param=name, code=error.code, headers=error.headers, details=error.details
    )
