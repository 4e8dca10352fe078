"""The description of the API at `/openapi.json`: every path, its body, its answers, and the one form of its errors.

Bodies are read from `fields` and the forms; what is answered stands here.

Public: describe.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from .state import ServeSettings

TEXT: dict[str, Any] = {"type": "string"}
COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
EVENTS = {"schema": {"type": "string", "description": "server-sent events, with `stream`"}}
METHODS = ("get", "post")


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


ERROR = _object(
    type={"const": "error"},
    error=_object(
        message=TEXT,
        type=TEXT,
        param={**_or_null(TEXT), "description": "the field that is wrong, as in `messages[1].content`"},
        code={**_or_null(TEXT), "description": "a word that programs can tell errors apart by"},
    ),
)
ERROR["properties"]["error"]["properties"]["details"] = {
    "type": "object",
    "description": "what Anthropic's client reads of a refusal",
}
USAGE = _object(
    prompt_tokens=COUNT,
    completion_tokens=COUNT,
    total_tokens=COUNT,
    prompt_tokens_details=_object(cached_tokens=COUNT),
    completion_tokens_details=_object(reasoning_tokens=COUNT),
)
MESSAGE = _object(role={"const": "assistant"}, content=_or_null(TEXT))
MESSAGE["properties"] |= {"reasoning_content": TEXT, "reasoning": TEXT, "tool_calls": _list({"type": "object"})}


def _choices(kind: str, **choice: Any) -> dict[str, Any]:
    stop_reason = _or_null({"type": ["string", "integer"]})
    choices = _list(_object(index=COUNT, finish_reason=TEXT, stop_reason=stop_reason, **choice))
    return _object(id=TEXT, object={"const": kind}, created=COUNT, model=TEXT, choices=choices, usage=USAGE)


MODEL = _object(id=TEXT, object={"const": "model"}, created=COUNT, owned_by=TEXT, max_model_len=COUNT)

# Path: what it does, and its answer.
ANSWERS: dict[str, tuple[str, dict[str, Any]]] = {
    "/v1/chat/completions": (
        "Answer a conversation, with the thinking apart (OpenAI's form)",
        _choices("chat.completion", message=MESSAGE),
    ),
    "/v1/completions": (
        "Continue texts or token ids as they stand (OpenAI's form)",
        _choices("text_completion", text=TEXT),
    ),
    "/v1/responses": (
        "Answer a conversation in items (OpenAI's newer form); nothing is stored",
        _object(
            id=TEXT,
            object={"const": "response"},
            status={"enum": ["completed", "incomplete"]},
            model=TEXT,
            output=_list(_object(type={"enum": ["reasoning", "message", "function_call"]})),
            usage=_object(input_tokens=COUNT, output_tokens=COUNT, total_tokens=COUNT),
        ),
    ),
    "/v1/messages": (
        "Answer a conversation in blocks (Anthropic's form)",
        _object(
            id=TEXT,
            type={"const": "message"},
            role={"const": "assistant"},
            model=TEXT,
            content=_list(_object(type={"enum": ["thinking", "text", "tool_use"]})),
            stop_reason=TEXT,
            usage=_object(input_tokens=COUNT, output_tokens=COUNT),
        ),
    ),
    "/v1/messages/count_tokens": ("Count the tokens of a conversation", _object(input_tokens=COUNT)),
    "/v1/chat/completions/{request_id}/close_thinking": (
        "End the thinking of a running request of any form; its answer follows",
        _object(id=TEXT, closed={"type": "boolean"}),
    ),
    "/v1/models": ("The models that are served", _object(object={"const": "list"}, data=_list(MODEL))),
    "/v1/models/{name}": ("One of them", MODEL),
    "/tokenize": (
        "Token ids of a text, or of a conversation under the chat template",
        _object(tokens=_list(COUNT), count=COUNT, max_model_len=COUNT),
    ),
    "/detokenize": ("The text of token ids", _object(prompt=TEXT)),
    "/health": ("Whether requests are taken in: 503 while the server shuts down", _object(status=TEXT)),
    "/version": ("Of the server's program", _object(version=TEXT)),
    "/metrics": ("Counts and times in Prometheus' text format", TEXT),
}


def describe(app: FastAPI, settings: ServeSettings) -> None:
    """Have the application give out its description. Every route of the API must stand in ANSWERS."""
    made = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = made()
            for path, item in document["paths"].items():
                for method in METHODS:
                    if method in item:
                        _complete(path, item[method])
            components = document.setdefault("components", {})
            schemas = components.setdefault("schemas", {})
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            schemas["Error"] = ERROR
            if settings.api_keys:
                components["securitySchemes"] = {
                    "bearer": {"type": "http", "scheme": "bearer"},
                    "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                }
                document["security"] = [{"bearer": []}, {"header": []}]
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]


def _complete(path: str, operation: dict[str, Any]) -> None:
    """Say what an operation does and answers, in place of what FastAPI supposes."""
    summary, schema = ANSWERS[path]
    kind = "text/plain" if path == "/metrics" else "application/json"
    content: dict[str, Any] = {kind: {"schema": schema}}
    if _takes_stream(path):
        content["text/event-stream"] = EVENTS
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    operation["summary"] = summary
    operation["responses"] = {
        "200": {"description": "the answer", "content": content},
        "4XX": {"description": "what is wrong with the request", "content": error},
        "5XX": {"description": "the server failed, or shuts down", "content": error},
    }
    if path == "/health":
        operation["responses"]["503"] = {"description": "the server shuts down", "content": content}


def _takes_stream(path: str) -> bool:
    return path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
