"""The HTTP application: which path is answered by what.

Public: create_app.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse, Response

import openqwq
from openqwq.errors import UserError
from openqwq.log import logger

from . import chat, completions, messages, responses
from .errors import error_body, from_validation, wrong
from .fields import ChatBody, CompletionBody, DetokenizeBody, TokenizeBody
from .generation import Plan, Run
from .guard import Guard
from .messages import CountBody, MessagesBody
from .pages import add_page
from .prompts import chat_prompt, text_prompt
from .responses import ResponsesBody
from .state import Server
from .streams import ClientGone, EventStream, JsonResponse, until_gone

# nginx's word for a client that left; nobody reads it, but it is counted
CLIENT_GONE = 499
METRICS_KIND = "text/plain; version=0.0.4"


def create_app(server: Server) -> Any:
    """The ASGI application of a server."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        for model in server.models.values():
            await asyncio.to_thread(model.engine.close)

    app = FastAPI(title="openqwq", version=openqwq.__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.server = server
    _add_errors(app)
    _add_plain_routes(app, server)
    add_page(app, server)
    _add_chat(app, server)
    _add_completions(app, server)
    _add_other_forms(app, server)
    _add_tokens(app, server)
    guarded: Any = Guard(app, server.settings, server.metrics)
    if server.settings.cors_origins:
        guarded = CORSMiddleware(
            guarded, allow_origins=list(server.settings.cors_origins), allow_methods=["*"], allow_headers=["*"]
        )
    return guarded


def _add_errors(app: FastAPI) -> None:
    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        param, code = getattr(error, "param", None), getattr(error, "code", None)
        return JsonResponse(error_body(error.status_code, error.detail, param, code), error.status_code, error.headers)

    async def on_body(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return await on_http(request, from_validation(error.errors()))

    async def on_user_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, UserError)
        return JsonResponse(error_body(400, error.message), 400)

    async def on_gone(request: Request, error: Exception) -> Response:
        return Response(status_code=CLIENT_GONE)

    async def on_fault(request: Request, error: Exception) -> Response:
        logger.error("a request failed: %s %s", request.method, request.url.path, exc_info=error)
        return JsonResponse(error_body(500, "the server failed on this request; its log says why"), 500)

    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_body)
    app.add_exception_handler(UserError, on_user_error)
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
        return JsonResponse({"object": "list", "data": [_model_object(m) for m in server.models.values()]})

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


async def start_run(server: Server, request: Request, plan: Plan) -> Run:
    """A run that has its first token. Raises ApiError, or ClientGone when the client leaves before that."""
    run = Run(plan, server)
    try:
        await until_gone(request, run.start())
    except BaseException:
        await run.close()
        raise
    return run


async def finish(request: Request, runs: Sequence[Run], answer: Callable[[], Any]) -> Response:
    """The whole answer as one response; the runs are aborted when the client leaves before."""
    try:
        return JsonResponse(await until_gone(request, answer()))
    finally:
        for run in runs:
            await run.close()


def _add_chat(app: FastAPI, server: Server) -> None:
    @app.post("/v1/chat/completions")
    async def chat_completions(body: ChatBody, request: Request) -> Response:
        plan = await asyncio.to_thread(chat.plan_chat, server, body)
        run = await start_run(server, request, plan)
        if body.stream:
            return EventStream(chat.stream_chat(run, body), run.close)
        return await finish(request, [run], lambda: chat.answer_chat(run, body))


def _add_completions(app: FastAPI, server: Server) -> None:
    @app.post("/v1/completions")
    async def text_completions(body: CompletionBody, request: Request) -> Response:
        plans = await asyncio.to_thread(completions.plan_completions, server, body)
        runs: list[Run] = []
        try:
            for plan in plans:
                runs.append(await start_run(server, request, plan))
        except BaseException:
            for run in runs:
                await run.close()
            raise
        if body.stream:
            return EventStream(completions.stream_completions(runs[0], body), runs[0].close)
        return await finish(request, runs, lambda: completions.answer_completions(runs, body))


def _add_other_forms(app: FastAPI, server: Server) -> None:
    @app.post("/v1/responses")
    async def respond(body: ResponsesBody, request: Request) -> Response:
        plan = await asyncio.to_thread(responses.plan_response, server, body)
        run = await start_run(server, request, plan)
        if body.stream:
            return EventStream(responses.stream_response(run, body), run.close)
        return await finish(request, [run], lambda: responses.answer_response(run, body))

    @app.post("/v1/messages")
    async def create_message(body: MessagesBody, request: Request) -> Response:
        plan = await asyncio.to_thread(messages.plan_messages, server, body)
        run = await start_run(server, request, plan)
        if body.stream:
            return EventStream(messages.stream_messages(run, body), run.close)
        return await finish(request, [run], lambda: messages.answer_messages(run, body))

    @app.post("/v1/messages/count_tokens")
    async def count_tokens(body: CountBody) -> Response:
        plan = await asyncio.to_thread(messages.plan_messages, server, body)
        return JsonResponse({"input_tokens": len(plan.prompt_ids)})


def _add_tokens(app: FastAPI, server: Server) -> None:
    @app.post("/tokenize")
    async def tokenize(body: TokenizeBody) -> Response:
        model = server.model(body.model)
        if (body.prompt is None) == (body.messages is None):
            raise wrong("prompt", "give either `prompt` or `messages`")
        if body.messages is not None:
            prompt = body.add_generation_prompt
            ids, _ = await asyncio.to_thread(
                chat_prompt, model, body.messages, body.tools or (), add_generation_prompt=prompt
            )
        else:
            ids = await asyncio.to_thread(text_prompt, model, body.prompt or "", "prompt")
        answer: dict[str, Any] = {"tokens": ids, "count": len(ids), "max_model_len": model.max_model_len}
        if body.return_token_strs:
            answer["token_strs"] = [model.tokenizer.token_bytes(i).decode("utf-8", "replace") for i in ids]
        return JsonResponse(answer)

    @app.post("/detokenize")
    async def detokenize(body: DetokenizeBody) -> Response:
        model = server.model(body.model)
        for position, token_id in enumerate(body.tokens):
            if token_id >= model.vocab_size:
                raise wrong(f"tokens[{position}]", f"{token_id} is not a token id")
        return JsonResponse({"prompt": model.tokenizer.decode(body.tokens)})
