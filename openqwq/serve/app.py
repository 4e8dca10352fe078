"""The HTTP application: which path is answered by what.

Public: create_app.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse, Response

import openqwq
from openqwq.errors import UserError
from openqwq.log import logger

from . import chat, completions, messages, responses
from .errors import error_body, from_validation, wrong
from .generation import ChatRequest, RunningRequest
from .guard import Guard
from .messages import CountBody, MessagesBody
from .openapi import describe
from .pages import add_page
from .prompts import chat_prompt, text_prompt
from .responses import ResponsesBody
from .schemas import Body, ChatBody, CompletionBody, DetokenizeBody, TokenizeBody
from .sizes import MAX_TOKENIZED, refuse_oversized
from .sse import ClientGone, EventStream, JsonResponse, until_gone
from .state import Server
from .surrogates import refuse_half_pairs

# nginx's word for a client that left; nobody reads it, but it is counted
CLIENT_GONE = 499
METRICS_KIND = "text/plain; version=0.0.4"


def create_app(server: Server) -> Any:
    """The ASGI application of a server."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        for task in tuple(server.tasks):
            task.cancel()
        for model in server.models.values():
            await asyncio.to_thread(model.engine.close)

    app = FastAPI(
        title="openqwq",
        version=openqwq.__version__,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
        dependencies=[Depends(refuse_oversized), Depends(refuse_half_pairs)],
    )
    app.state.server = server
    _add_errors(app)
    _add_plain_routes(app, server)
    add_page(app, server)
    _add_samplers(app, server)
    _add_tokens(app, server)
    describe(app, server.settings)
    guarded: Any = Guard(app, server.settings, server.metrics)
    if server.settings.cors_origins:
        guarded = CORSMiddleware(
            guarded, allow_origins=list(server.settings.cors_origins), allow_methods=["*"], allow_headers=["*"]
        )
    return guarded


def _add_errors(app: FastAPI) -> None:
    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        param, code, details = (getattr(error, name, None) for name in ("param", "code", "details"))
        body = error_body(error.status_code, error.detail, param, code, details)
        return JsonResponse(body, error.status_code, error.headers)

    async def on_body(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return await on_http(request, from_validation(error.errors()))

    async def on_user_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, UserError)
        return JsonResponse(error_body(400, error.message), 400)

    async def on_nested(request: Request, error: Exception) -> Response:
        return JsonResponse(error_body(400, "the body is nested too deeply", code="invalid_value"), 400)

    async def on_gone(request: Request, error: Exception) -> Response:
        return Response(status_code=CLIENT_GONE)

    async def on_fault(request: Request, error: Exception) -> Response:
        logger.error("a request failed: %s %s", request.method, request.url.path, exc_info=error)
        return JsonResponse(error_body(500, "the server failed on this request; its log says why"), 500)

    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_body)
    app.add_exception_handler(UserError, on_user_error)
    app.add_exception_handler(RecursionError, on_nested)
    app.add_exception_handler(ClientGone, on_gone)
    app.add_exception_handler(Exception, on_fault)


def _add_plain_routes(app: FastAPI, server: Server) -> None:
    @app.get("/health")
    async def health() -> Response:
        draining = server.admission.draining
        return JsonResponse({"status": "draining" if draining else "ok"}, 503 if draining else 200)

    @app.get("/version")
    async def version() -> Response:
        return JsonResponse({"version": openqwq.__version__})

    @app.get("/metrics")
    async def metrics() -> Response:
        return PlainTextResponse(server.metrics.render(server.models.values()), media_type=METRICS_KIND)

    @app.get("/v1/models")
    async def models() -> Response:
        return JsonResponse({"object": "list", "data": [_model_object(m) for m in server.listed]})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        return JsonResponse(_model_object(server.model(name)))


def _model_object(model: Any) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "openqwq",
        "max_model_len": model.max_model_len,
        "default_sampling": dict(model.defaults),
    }


@dataclass(frozen=True, slots=True)
class Endpoint:
    """How one of the API's paths is answered.

    plan:   the body's checked requests, of which only the first can be streamed.
    answer: the whole answer to all of them.
    stream: the first one's events.
    """

    plan: Callable[[Server, Any], list[ChatRequest]]
    answer: Callable[[Sequence[RunningRequest], Any], Coroutine[Any, Any, Any]]
    stream: Callable[[RunningRequest, Any], AsyncGenerator[bytes, None]]


def _one(plan: Any, answer: Any, stream: Any) -> Endpoint:
    """An endpoint whose bodies are one request each."""
    return Endpoint(lambda server, body: [plan(server, body)], lambda runs, body: answer(runs[0], body), stream)


# Path: the name of its operation, what its body is read as, and how it is answered.
ENDPOINTS: dict[str, tuple[str, type[Body], Endpoint]] = {
    "/v1/chat/completions": (
        "create_chat_completion",
        ChatBody,
        _one(chat.plan_chat, chat.answer_chat, chat.stream_chat),
    ),
    "/v1/completions": (
        "create_completion",
        CompletionBody,
        Endpoint(completions.plan_completions, completions.answer_completions, completions.stream_completions),
    ),
    "/v1/responses": (
        "create_response",
        ResponsesBody,
        _one(responses.plan_response, responses.answer_response, responses.stream_response),
    ),
    "/v1/messages": (
        "create_message",
        MessagesBody,
        _one(messages.plan_messages, messages.answer_messages, messages.stream_messages),
    ),
}


async def respond(server: Server, request: Request, body: Any, endpoint: Endpoint) -> Response:
    """The answer, streamed or whole. The runs are aborted when the client leaves before it has all of it."""
    plans = await until_gone(request, asyncio.to_thread(endpoint.plan, server, body))
    runs = [RunningRequest(plan, server) for plan in plans]
    streams = False
    try:
        await until_gone(request, _start(runs))
        streams = bool(body.stream)
        if streams:
            return EventStream(endpoint.stream(runs[0], body), runs[0].close)
        return JsonResponse(await until_gone(request, endpoint.answer(runs, body)))
    finally:
        if not streams:
            for run in runs:
                await run.close()


async def _start(runs: Sequence[RunningRequest]) -> None:
    """Wait for the first token of each. Raises ApiError for one that cannot run."""
    for outcome in await asyncio.gather(*(run.start() for run in runs), return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


def _handler(server: Server, body_type: type[Body], endpoint: Endpoint) -> Callable[..., Any]:
    async def handle(body: Any, request: Request) -> Response:
        return await respond(server, request, body, endpoint)

    handle.__annotations__["body"] = body_type  # FastAPI reads from it how the body is checked
    return handle


def _add_samplers(app: FastAPI, server: Server) -> None:
    for path, (name, body_type, endpoint) in ENDPOINTS.items():
        app.post(path, name=name)(_handler(server, body_type, endpoint))

    @app.post("/v1/messages/count_tokens")
    async def count_message_tokens(body: CountBody) -> Response:
        plan = await asyncio.to_thread(messages.plan_messages, server, body)
        return JsonResponse({"input_tokens": len(plan.prompt_ids)})


def _add_tokens(app: FastAPI, server: Server) -> None:
    @app.post("/tokenize")
    async def tokenize(body: TokenizeBody) -> Response:
        model = server.model(body.model)
        if (body.prompt is None) == (body.messages is None):
            raise wrong("prompt", "give either `prompt` or `messages`")
        if body.messages is not None:
            ids, _ = await asyncio.to_thread(
                chat_prompt,
                model,
                body.messages,
                body.tools or (),
                add_generation_prompt=body.add_generation_prompt,
                bounded=False,
            )
        else:
            text = body.prompt or ""
            if len(text) > MAX_TOKENIZED:
                raise wrong("prompt", f"has {len(text)} characters, but at most {MAX_TOKENIZED} are tokenised")
            ids = await asyncio.to_thread(text_prompt, model, text, "prompt", bounded=False)
        answer: dict[str, Any] = {"tokens": ids, "count": len(ids), "max_model_len": model.max_model_len}
        if body.return_token_strs:
            answer["token_strs"] = [model.tokenizer.token_bytes(i).decode("utf-8", "replace") for i in ids]
        return JsonResponse(answer)

    @app.post("/detokenize")
    async def detokenize(body: DetokenizeBody) -> Response:
        model = server.model(body.model)
        if max(body.tokens, default=0) >= model.vocab_size:
            position = next(i for i, token_id in enumerate(body.tokens) if token_id >= model.vocab_size)
            raise wrong(f"tokens[{position}]", f"{body.tokens[position]} is not a token id")
        return JsonResponse({"prompt": await asyncio.to_thread(model.tokenizer.decode, body.tokens)})
