"""The page at `/`, its files, and what its views ask for besides the API: problems, verdicts, the run's report.

Public: Experiment, add_page.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from fastapi import FastAPI
from starlette.responses import HTMLResponse, Response

import openqwq
from openqwq.types import Problem, Verdict

from .errors import ApiError, wrong
from .schemas import Body
from .sse import JsonResponse
from .state import Server

KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript", "json": "application/json"}
KINDS |= {"svg": "image/svg+xml"}
# Only files of this server run and are fetched; MathML and code colours need inline styles.
POLICY = "default-src 'self'; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"
# The figures that the map shows; only a checkout of the repository has them.
RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class Experiment(Protocol):
    """A run whose checkpoints are compared. Problems and verifiers are the run's own, so they are handed in."""

    families: Sequence[str]
    max_tokens: int

    def draw(self, family: str | None) -> Problem:
        """A held-out problem, at random; None: of any family."""
        ...

    def judge(self, family: str, problem_id: str, text: str, finish_reason: str) -> Verdict:
        """The strict verdict on a completion. Raises KeyError for a problem that was not drawn here."""
        ...

    def report(self) -> str:
        """The run's report as a page, as of now. Raises UserError while there is nothing to show."""
        ...


@runtime_checkable
class ClosesThinking(Protocol):
    """An engine that can end the thinking of a running request."""

    async def close_thinking(self, request_id: str) -> bool:
        """False when the request is not in the engine."""
        ...


class DrawBody(Body):
    """Which family a problem is drawn from."""

    family: str | None = None


class JudgeBody(Body):
    """Which completion is judged against which problem."""

    family: str
    id: str
    model: str
    completion_id: str
    finish_reason: str


def add_page(app: FastAPI, server: Server) -> None:
    """Routes of the page."""

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return _file("index.html")

    @app.get("/page/offered.json", include_in_schema=False)
    async def offered() -> Response:
        views = ["chat", "map"]
        if server.experiment is not None:
            views = ["compare", "chat", "run", "map"] if len(server.models) > 1 else ["chat", "run", "map"]
        return JsonResponse(
            {
                "version": openqwq.__version__,
                "views": views,
                "results": sorted(place.stem for place in RESULTS.glob("*.json")),
                "close_thinking": any(isinstance(m.engine, ClosesThinking) for m in server.models.values()),
            }
        )

    @app.get("/page/results/{name}", include_in_schema=False)
    async def result_file(name: str) -> Response:
        place = RESULTS / name
        if not re.fullmatch(r"\w+\.json", name) or not place.is_file():
            raise ApiError(404, f"{name!r} is not here; the repository has the results, in benchmarks/results")
        return Response(place.read_bytes(), media_type=KINDS["json"], headers=HEADERS)

    @app.get("/page/{name}", include_in_schema=False)
    async def page_file(name: str) -> Response:
        return _file(name)

    @app.post("/v1/chat/completions/{request_id}/close_thinking")
    async def close_thinking(request_id: str) -> Response:
        engines = [m.engine for m in server.models.values() if isinstance(m.engine, ClosesThinking)]
        if not engines:
            raise ApiError(501, "this engine cannot end the thinking of a running request")
        closed = [await engine.close_thinking(request_id) for engine in engines]
        if not any(closed):
            raise ApiError(404, f"no request {request_id!r} is running")
        return JsonResponse({"id": request_id, "closed": True})

    _add_experiment(app, server)


def _file(name: str) -> Response:
    kind = KINDS.get(name.rpartition(".")[2])
    place = files(__package__) / "page" / name
    if kind is None or not place.is_file():
        raise ApiError(404, f"the page has no file {name!r}")
    return Response(place.read_bytes(), media_type=kind, headers=HEADERS)


def _add_experiment(app: FastAPI, server: Server) -> None:
    @app.get("/experiment", include_in_schema=False)
    async def experiment() -> Response:
        run = _experiment(server)
        body = {"families": list(run.families), "models": list(server.models), "max_tokens": run.max_tokens}
        return JsonResponse(body)

    @app.post("/experiment/problem", include_in_schema=False)
    async def draw(body: DrawBody) -> Response:
        run = _experiment(server)
        if body.family is not None and body.family not in run.families:
            raise wrong("family", f"is not one of {', '.join(run.families)}")
        problem = await asyncio.to_thread(run.draw, body.family)
        messages = [{"role": message.role, "content": message.content} for message in problem.messages]
        # the gold answer stays here
        return JsonResponse(
            {"id": problem.id, "family": problem.source, "prompt": problem.prompt, "messages": messages}
        )

    @app.post("/experiment/judge", include_in_schema=False)
    async def judge(body: JudgeBody) -> Response:
        run = _experiment(server)
        text = server.recent.get(body.completion_id)
        if text is None:
            raise wrong("completion_id", "is not a recent completion of this server")
        try:
            verdict = await asyncio.to_thread(run.judge, body.family, body.id, text, body.finish_reason)
        except KeyError as error:
            raise wrong("id", "is not a problem drawn by this server") from error
        return JsonResponse({"status": verdict.status, "score": verdict.score, "reason": verdict.reason})

    @app.get("/run/report", include_in_schema=False)
    async def report() -> Response:
        return HTMLResponse(await asyncio.to_thread(_experiment(server).report))


def _experiment(server: Server) -> Any:
    if server.experiment is None:
        raise ApiError(404, "no run is served; give `openqwq serve` the folder of a run")
    return server.experiment
