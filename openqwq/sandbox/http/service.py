"""`openqwq sandbox serve`: the sandbox as an HTTP service, without state, so that many can stand behind a balancer.

Public: ServiceOptions, make_app, serve. `POST /v1/run` and `POST /v1/judge` as `wire` reads them,
`GET /v1/capabilities`, `GET /health` (open to all), `GET /metrics`. A program's own failure is a result (200);
401 no or a wrong token, 403 a web page's request, 413 too large, 415 not sent as JSON, 422 a request that says nothing
sensible, 429 the queue is full, 504 the request's deadline has passed, its program ended. A sender who hangs up ends
his program too.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import re
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from openqwq.errors import UserError

from ..cancellation import Ticket
from ..client import Sandbox
from ..judge import UNREADABLE
from ..spec import JudgeResult, Limits, RunResult, Submission
from . import wire
from .metrics import CONTENT_TYPE, Metrics

try:
    import uvicorn
    from fastapi import FastAPI, Request, Response
except ImportError as missing:
    raise UserError(f"the sandbox service needs fastapi and uvicorn: {missing}") from missing

logger = logging.getLogger("openqwq.sandbox")

FAILURES_TO_REPORT = 3  # infrastructure faults in a row after which `/health` says so
GRACE_S = 10  # for requests that are being answered when the service is told to end
_PORT = re.compile(r":[0-9]*$")
LOOPBACK = ("127.0.0.1", "::1", "localhost")
PROBE = Submission(code="print('up')", limits=Limits(wall_s=20))


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceOptions:
    """How a service answers."""

    token: str = ""
    """What `Authorization: Bearer` must carry; empty on a loopback address only."""
    queue: int = 64
    """Requests that may wait besides those that run; one more is answered 429."""
    deadline_s: float = 120.0
    """Seconds for a whole request, waiting included, where the sender names no other deadline."""
    max_deadline_s: float = 600.0
    """The longest deadline that a sender may name."""
    max_body_bytes: int = 32 << 20
    """Size of a request."""
    max_limits: Limits = wire.MAX_LIMITS
    """The largest limits that a sender may name."""


class _Refusal(Exception):
    """An answer other than 200."""

    def __init__(self, code: int, message: str, **headers: str):
        super().__init__(message)
        self.code = code
        self.headers = headers


class _Service:
    """What the endpoints share: the sandbox, the requests in flight, the counters."""

    def __init__(self, sandbox: Sandbox, options: ServiceOptions):
        self.sandbox = sandbox
        self.options = options
        self.metrics = Metrics()
        self.in_flight = 0
        self.failures = 0

    async def answer(self, request: Request, endpoint: str, work: Callable[[], Awaitable[Response]]) -> Response:
        """The work's response, or the refusal that it raises, counted."""
        start = time.monotonic()
        try:
            response = await work()
        except _Refusal as refusal:
            response = _json({"error": {"message": str(refusal)}}, refusal.code, refusal.headers)
        self.metrics.count_request(endpoint, response.status_code, time.monotonic() - start)
        return response

    def authorize(self, request: Request) -> None:
        """Refuse a web page's request, and one without the token, in a time that does not depend on where they differ.

        Any page that a user visits can send forms, plain text and bodies of no type to a loopback address, or point a
        name of its own there; what it cannot send unasked is JSON, or any `Authorization`.
        """
        headers = request.headers
        host, origin = headers.get("host", ""), headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise _Refusal(403, f"web pages of {origin[:100]!r} may not use this service")
        if not self.options.token and _PORT.sub("", host.lower()) not in (*LOOPBACK, "[::1]"):
            raise _Refusal(403, f"the host {host[:100]!r} is not this machine, and there is no token")
        if self.options.token:
            self._check_token(headers.get("authorization", ""))
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if request.method == "POST" and kind != "application/json" and (kind or "authorization" not in headers):
            raise _Refusal(415, f"the body is {kind[:100] or 'of no type'}; send `Content-Type: application/json`")

    def _check_token(self, authorization: str) -> None:
        scheme, _, given = authorization.partition(" ")
        wanted = self.options.token.encode()
        if not hmac.compare_digest(given.strip().encode(), wanted) or scheme.lower() != "bearer":
            raise _Refusal(401, "a bearer token is needed, and this is not it", **{"WWW-Authenticate": "Bearer"})

    def admit(self) -> None:
        """Refuse a request for which there is no room."""
        if self.in_flight >= self.sandbox.workers + self.options.queue:
            raise _Refusal(429, "the queue is full", **{"Retry-After": "1"})

    async def read(self, request: Request) -> Any:
        """The body as JSON."""
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > self.options.max_body_bytes:
                raise _Refusal(413, f"a request may have {self.options.max_body_bytes} bytes")
        try:
            return json.loads(bytes(body))
        except (ValueError, RecursionError) as error:
            raise _Refusal(422, f"the request is not JSON: {error}") from None

    async def submit(self, request: Request, read: Callable[[Any, Limits], wire.Request]) -> RunResult | JudgeResult:
        """The result of a request's program, within its deadline."""
        self.authorize(request)
        self.admit()
        body = await self.read(request)
        try:
            asked = read(body, self.options.max_limits)
        except wire.BadRequest as error:
            raise _Refusal(422, str(error)) from None
        deadline_s = min(asked.deadline_s or self.options.deadline_s, self.options.max_deadline_s)
        self.admit()  # the queue may have filled up meanwhile
        ticket = Ticket()
        future: Future[Any]
        try:
            if read is wire.read_run:
                future = self.sandbox.submit_run(asked.submission, asked.stdin, ticket)
            else:
                future = self.sandbox.submit_judge(asked.submission, ticket)
        except UserError as error:
            raise _Refusal(422, error.message) from None
        return await self.wait(future, ticket, deadline_s, request)

    async def wait(self, future: Future[Any], ticket: Ticket, deadline_s: float, request: Request) -> Any:
        """The future's result; its program is ended at the deadline, or when the sender hangs up."""
        loop = asyncio.get_running_loop()
        self.in_flight += 1

        def leave(_: Future[Any]) -> None:
            with contextlib.suppress(RuntimeError):  # the service has ended meanwhile
                loop.call_soon_threadsafe(self._leave)

        future.add_done_callback(leave)
        result = asyncio.wrap_future(future)
        hung_up = asyncio.ensure_future(_hung_up(request))
        try:
            await asyncio.wait({result, hung_up}, timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
            if result.done():
                return result.result()
        finally:
            if not result.done():
                ticket.cancel()
                result.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
                future.cancel()
            hung_up.cancel()
        if hung_up.done() and not hung_up.cancelled():
            raise _Refusal(499, "the sender hung up")  # nobody reads it, but it is counted
        raise _Refusal(504, f"no result within the request's {deadline_s:g} s")

    def _leave(self) -> None:
        self.in_flight -= 1

    def note(self, endpoint: str, result: RunResult | JudgeResult) -> None:
        """Count a result, and how many faults of ours came in a row."""
        word = result.status if isinstance(result, RunResult) else result.verdict
        self.metrics.count_result(endpoint, word)
        if word != "infra_error":
            self.failures = 0
        elif not result.reason.startswith(UNREADABLE):
            self.failures += 1

    async def health(self) -> Response:
        """200 while programs can be run; after several faults in a row only if another program runs."""
        if self.failures >= FAILURES_TO_REPORT:
            result = await asyncio.wrap_future(self.sandbox.submit_run(PROBE, ""))
            self.note("health", result)
        healthy = self.failures < FAILURES_TO_REPORT
        state = {"status": "ok" if healthy else "failing", **self.gauges()}
        return _json(state, 200 if healthy else 503)

    def gauges(self) -> dict[str, float]:
        """How full the service is."""
        running = min(self.in_flight, self.sandbox.workers)
        return {
            "workers": self.sandbox.workers,
            "running": running,
            "queued": self.in_flight - running,
            "queue": self.options.queue,
        }


async def _hung_up(request: Request) -> None:
    """Returns when the sender has closed the connection; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def make_app(sandbox: Sandbox, options: ServiceOptions) -> FastAPI:
    """The application; it closes the sandbox when it ends."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        sandbox.close()

    service = _Service(sandbox, options)
    app = FastAPI(title="openqwq sandbox", lifespan=lifespan, openapi_url=None)

    async def submit(request: Request, endpoint: str, read: Callable[[Any, Limits], wire.Request]) -> Response:
        async def work() -> Response:
            result = await service.submit(request, read)
            service.note(endpoint, result)
            return _json(wire.write_result(result))

        return await service.answer(request, endpoint, work)

    @app.post("/v1/run")
    async def run(request: Request) -> Response:
        return await submit(request, "run", wire.read_run)

    @app.post("/v1/judge")
    async def judge(request: Request) -> Response:
        return await submit(request, "judge", wire.read_judge)

    @app.get("/v1/capabilities")
    async def capabilities(request: Request) -> Response:
        async def work() -> Response:
            service.authorize(request)
            return _json(sandbox.capabilities())

        return await service.answer(request, "capabilities", work)

    @app.get("/health")
    async def health(request: Request) -> Response:
        return await service.health()

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        async def work() -> Response:
            service.authorize(request)
            return Response(service.metrics.render(service.gauges()), media_type=CONTENT_TYPE)

        return await service.answer(request, "metrics", work)

    return app


def serve(sandbox: Sandbox, options: ServiceOptions, *, host: str, port: int) -> None:
    """Answer on an address until told to end. Raises UserError where that cannot be, or would be open to the world.

    port: 0 takes a free one; the log says which.
    """
    if not options.token and host not in LOOPBACK:
        raise UserError(
            f"{host} can be reached by others, and there is no token",
            hint="put a secret into the environment variable OPENQWQ_SANDBOX_TOKEN, or listen on 127.0.0.1",
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise UserError(f"cannot listen on {host}:{port}: {error}", hint="choose another `--port`") from None
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else a body waits 40 ms for its header's ACK
    name = f"[{host}]" if ":" in host else host
    logger.info("sandbox on http://%s:%d, %d workers", name, listener.getsockname()[1], sandbox.workers)
    config = uvicorn.Config(
        make_app(sandbox, options), log_config=None, access_log=False, timeout_graceful_shutdown=GRACE_S
    )
    with listener:
        uvicorn.Server(config).run(sockets=[listener])


def _json(value: Any, code: int = 200, headers: dict[str, str] | None = None) -> Response:
    """ASCII only: what programs return may hold characters that UTF-8 has not."""
    return Response(json.dumps(value), code, headers, media_type="application/json")
