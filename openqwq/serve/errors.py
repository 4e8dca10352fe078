"""What a client did wrong, in OpenAI's form: message, type, the field, a code.

Public: ApiError, error_body, field_path, from_validation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.exceptions import HTTPException

KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(HTTPException):
    """Ends a request with a status and OpenAI's error object.

    param: the field that is wrong, as in `messages[1].content`; None where it is no field's fault.
    code:  a word that programs can tell errors apart by.
    details: what Anthropic's clients read of an error beside its message.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        details: Mapping[str, Any] | None = None,
    ):
        super().__init__(status, message, dict(headers) if headers else None)
        self.message, self.param, self.code, self.details = message, param, code, details


def error_body(
    status: int,
    message: str,
    param: str | None = None,
    code: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """OpenAI's error object, which Anthropic's clients read too."""
    kind = KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    error = {"message": message, "type": kind, "param": param, "code": code}
    return {"type": "error", "error": {**error, "details": dict(details)} if details else error}


def unsupported(param: str, message: str) -> ApiError:
    """The field is known, but what it asks for cannot be done here."""
    return ApiError(400, f"`{param}`: {message}", param=param, code="unsupported_parameter")


def wrong(param: str, message: str) -> ApiError:
    """The field's value cannot be used."""
    return ApiError(400, f"`{param}`: {message}", param=param, code="invalid_value")


def field_path(location: Sequence[int | str]) -> str:
    """("messages", 0, "content") as `messages[0].content`."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def from_validation(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """The first thing that pydantic found wrong with a body."""
    first = errors[0]
    param = field_path([part for part in first["loc"] if part != "body"]) or None
    if first["type"] == "json_invalid":
        return ApiError(
            400, f"the body is not JSON: {first.get('ctx', {}).get('error', first['msg'])}", code="not_json"
        )
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"unknown field `{param}`", param=param, code="unknown_parameter")
    if first["type"] == "missing":
        return ApiError(400, f"`{param or 'body'}` is missing", param=param, code="missing_required_parameter")
    reason = first["msg"].removeprefix("Value error, ")
    value = f", but is {first['input']!r:.60}" if isinstance(first.get("input"), (str, int, float, bool)) else ""
    return ApiError(400, f"`{param or 'body'}`: {reason}{value}", param=param, code="invalid_value")
