"""Two loads on a server that came from faults: clients that leave at once, and requests that ask for too much.

- `storm`  1,000 streamed requests, each connection aborted after 0 to 50 ms: what is held must be 0 within 5 s, and a
           new request gets its first token within 2 s
- `heavy`  bodies that are expensive to read (a text of 1 MB, 100,000 messages, 30,000 choices, ...), one after the
           other, with 4 streams and `/health` every 100 ms beside them: how long those wait meanwhile

The heavy bodies are sent by processes of their own, so that this one's lock is not measured.

Public: storm, heavy.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

CHAT = "/v1/chat/completions"
HELD = ("requests_running", "engine_running", "engine_waiting", "engine_kv_blocks_used")
STORM = 1000
STREAMS = 4
SETTLE_S = 30.0
SEND = """
import sys, httpx
data = open(sys.argv[2], "rb").read()
answer = httpx.post(sys.argv[1], content=data, headers={"Content-Type": "application/json"}, timeout=300)
print(answer.status_code, answer.elapsed.total_seconds())
"""


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def nested(depth: int) -> dict[str, Any]:
    """A JSON schema of so many objects, one in the other."""
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def heavy_bodies() -> dict[str, dict[str, Any]]:
    """By name, what is expensive to read or to make ready; the last two are as large as is taken."""
    text = "x y " * 250_000
    part = {"type": "text", "text": "x y "}
    format_ = {"type": "json_schema", "json_schema": {"name": "x", "schema": nested(150)}}
    pattern = {f"p{i}": {"type": "string", "pattern": f"^a{i}[0-9]+$"} for i in range(2000)}
    return {
        "text of 1 MB": {"messages": user(text)},
        "text of 15 MB": {"messages": user("1 2 " * 3_750_000)},
        "100,000 messages": {"messages": user("x") * 100_000},
        "100,000 parts": {"messages": [{"role": "user", "content": [part] * 100_000}]},
        "100,000 tools": {"messages": user("x"), "tools": [{"type": "function", "function": {"name": "f"}}] * 100_000},
        "300,000 unknown fields": {"messages": user("x"), **{f"f{i}": 1 for i in range(300_000)}},
        "30,000 choices": {"messages": user("x"), "structured_outputs": {"choice": [f"c {i}" for i in range(30_000)]}},
        "20,000 bad words": {"messages": user("x"), "bad_words": [f"word {i}" for i in range(20_000)]},
        "schema nested 150 times": {"messages": user("x"), "response_format": format_},
        "1,000 bad words": {"messages": user("x"), "bad_words": [f"word {i}" for i in range(1000)], "max_tokens": 40},
        "schema of 2,000 patterns": {
            "messages": user("x"),
            "structured_outputs": {"json": {"type": "object", "properties": pattern}},
            "max_tokens": 40,
        },
    }


async def held(client: httpx.AsyncClient) -> dict[str, int]:
    """What the server holds by its own account."""
    page = (await client.get("/metrics")).text
    values = {name: re.findall(rf"^openqwq_{name}(?:{{.*}})? (\S+)$", page, re.MULTILINE) for name in HELD}
    return {name: int(sum(map(float, found))) for name, found in values.items()}


async def storm(client: httpx.AsyncClient, args: Any) -> dict[str, Any]:
    """Connections that are aborted before, while or after their request enters the engine."""
    port, gate = client.base_url.port, asyncio.Semaphore(args.streams)
    draw = random.Random(args.seed)

    async def one(number: int, patience: float) -> None:
        body = {"messages": user(f"hello {number}"), "stream": True, "max_tokens": 1500, "ignore_eos": True}
        data = json.dumps(body).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        async with gate:
            _, writer = await asyncio.open_connection(client.base_url.host, port)
            writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
            await asyncio.sleep(patience)
            writer.transport.abort()

    await asyncio.gather(*(one(number, draw.random() * 0.05) for number in range(STORM)))
    aborted = time.perf_counter()
    while any((values := await held(client)).values()) and time.perf_counter() - aborted < SETTLE_S:
        await asyncio.sleep(0.1)
    settled = time.perf_counter()
    async with client.stream("POST", CHAT, json={"messages": user("hi"), "stream": True, "max_tokens": 4}) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                break
    return {
        "connections aborted": STORM,
        "all free after, s": round(settled - aborted, 2) if not any(values.values()) else None,
        "then a first token after, s": round(time.perf_counter() - settled, 3),
    }


async def heavy(client: httpx.AsyncClient, args: Any) -> dict[str, Any]:
    """For each body its status, its time, and the longest waits of the streams and of `/health` beside it."""
    figures: dict[str, Any] = {}
    async with beside(client) as (gaps, health):
        for name, body in heavy_bodies().items():
            own_gaps: list[float] = []
            own_health: list[float] = []
            answers = []
            with tempfile.NamedTemporaryFile() as file:
                Path(file.name).write_text(json.dumps(body))
                for _ in range(args.rounds):
                    await asyncio.sleep(0.2)  # what this process has just done is not the server's
                    gaps.clear()
                    health.clear()
                    answers.append(await send(f"{client.base_url}{CHAT}", file.name))
                    own_gaps += gaps
                    own_health += health
            figures[name] = {
                "status": sorted({status for status, _ in answers}),
                "answered after, s": round(max(seconds for _, seconds in answers), 3),
                "between, ms p99": milliseconds(percentile(own_gaps, 99)),
                "between, ms most": milliseconds(max(own_gaps, default=0.0)),
                "health, ms most": milliseconds(max(own_health, default=0.0)),
            }
    return figures


async def send(url: str, path: str) -> tuple[int, float]:
    """Status and seconds of one request, whose body is in a file, made by a process of its own."""
    command = (sys.executable, "-c", SEND, url, path)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    status, seconds = output.decode().split()
    return int(status), float(seconds)


@asynccontextmanager
async def beside(client: httpx.AsyncClient) -> AsyncIterator[tuple[list[float], list[float]]]:
    """Streams that never end and a look at `/health` every 100 ms: seconds between tokens, and of each look."""
    gaps: list[float] = []
    health: list[float] = []

    async def stream() -> None:
        body = {"messages": user("hello"), "stream": True, "max_tokens": 1000, "ignore_eos": True}
        while True:
            async with client.stream("POST", CHAT, json=body) as answer:
                last = None
                async for line in answer.aiter_lines():
                    if line.startswith("data: {"):
                        now = time.perf_counter()
                        gaps.extend([now - last] if last else [])
                        last = now

    async def look() -> None:
        while True:
            began = time.perf_counter()
            await client.get("/health")
            health.append(time.perf_counter() - began)
            await asyncio.sleep(0.1)

    tasks = [asyncio.create_task(work) for work in (*(stream() for _ in range(STREAMS)), look())]
    await asyncio.sleep(0.5)
    try:
        yield gaps, health
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def percentile(values: Iterable[float], number: int) -> float:
    known = list(values)
    return statistics.quantiles(known, n=100)[number - 1] if len(known) > 1 else 0.0


def milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 1)
