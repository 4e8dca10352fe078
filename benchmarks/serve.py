"""Load on a running server: time to first token, time between tokens, throughput, and what is left behind.

    openqwq serve MODEL --port 8000 &
    python benchmarks/serve.py load --url http://127.0.0.1:8000 --streams 64 --seconds 600
    python benchmarks/serve.py leave --url http://127.0.0.1:8000 --count 1000
    python benchmarks/serve.py slow --url http://127.0.0.1:8000 --streams 16 --seconds 60
    python benchmarks/serve.py malformed --url http://127.0.0.1:8000 --count 10000

`load` follows the method of `vllm bench serve`: a fixed number of streams, each asking again as soon as it has its
answer. `leave` hangs up in the middle of each stream, `slow` reads a few bytes a second, `malformed` sends bodies that
are wrong in random ways and counts every answer that is neither a 200 nor a 4xx. All end by asking the server's metrics
whether anything is still held: no request, no sample, no block of the cache.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import re
import statistics
import time
from pathlib import Path
from typing import Any

import httpx
from machine import describe_machine

RESULTS = Path(__file__).parent / "results" / "serve.json"
SETTLE_S = 10.0  # what was left must be free by then


def main() -> None:
    """Run one kind of load, print its table, and write it beside the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=tuple(KINDS))
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--key", default="", help="the server's API key")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    figures = asyncio.run(run(args))
    for name, value in figures.items():
        print(f"{name:<28} {value}")
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    known[args.kind] = {"machine": describe_machine(), "options": options_of(args), "figures": figures}
    RESULTS.write_text(json.dumps(known, indent=2) + "\n")


def options_of(args: argparse.Namespace) -> dict[str, Any]:
    """The options that shape the load; the address and the key are nobody's business."""
    return {name: value for name, value in vars(args).items() if name not in ("url", "key")}


async def run(args: argparse.Namespace) -> dict[str, Any]:
    """The figures of one kind of load, with what the server held afterwards."""
    headers = {"Authorization": f"Bearer {args.key}"} if args.key else {}
    limits = httpx.Limits(max_connections=args.streams + 8)
    async with httpx.AsyncClient(base_url=args.url, headers=headers, timeout=600, limits=limits) as client:
        figures = await KINDS[args.kind](client, args)
        deadline = time.monotonic() + SETTLE_S
        while (left := await held(client)) != NOTHING and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        return {**figures, **{f"left: {name}": value for name, value in left.items()}}


NOTHING = {"requests_running": 0, "engine_running": 0, "engine_waiting": 0, "engine_kv_blocks_used": 0}


async def held(client: httpx.AsyncClient) -> dict[str, int]:
    """What the server holds at the moment, by its own metrics."""
    page = (await client.get("/metrics")).text
    return {
        name: sum(int(float(v)) for v in re.findall(rf"^openqwq_{name}(?:{{.*}})? (\S+)$", page, re.MULTILINE))
        for name in NOTHING
    }


def body_of(args: argparse.Namespace, draw: random.Random) -> dict[str, Any]:
    """A streamed request of its own prompt and seed."""
    question = f"What is {draw.randrange(1000)} + {draw.randrange(1000)}?"
    return {
        "messages": [{"role": "user", "content": question}],
        "max_tokens": args.max_tokens,
        "seed": draw.randrange(2**31),
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def ask(client: httpx.AsyncClient, body: dict[str, Any], times: list[float]) -> int:
    """Tokens of one stream; `times` gets the moment of its start and of each event."""
    tokens = 0
    times.append(time.perf_counter())
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                times.append(time.perf_counter())
                usage = json.loads(line.removeprefix("data: ")).get("usage")
                tokens = usage["completion_tokens"] if usage else tokens
    return tokens


async def load(client: httpx.AsyncClient, args: argparse.Namespace) -> dict[str, Any]:
    """A fixed number of streams for a fixed time."""
    first: list[float] = []
    between: list[float] = []
    counts: list[int] = []
    begin = time.perf_counter()

    async def one(number: int) -> None:
        draw = random.Random(f"{args.seed}/{number}")
        while time.perf_counter() - begin < args.seconds:
            times: list[float] = []
            counts.append(await ask(client, body_of(args, draw), times))
            first.append(times[1] - times[0])
            between.extend(b - a for a, b in itertools.pairwise(times[1:]))

    await asyncio.gather(*(one(number) for number in range(args.streams)))
    seconds = time.perf_counter() - begin
    return {
        "requests": len(counts),
        "tokens/s": round(sum(counts) / seconds, 1),
        "tokens missing": sum(count != args.max_tokens for count in counts),
        **percentiles("first token, ms", first),
        **percentiles("between tokens, ms", between),
    }


def percentiles(name: str, seconds: list[float]) -> dict[str, float]:
    """p50 and p99 in milliseconds."""
    cuts = statistics.quantiles(seconds, n=100) if len(seconds) > 1 else [0.0] * 99
    return {f"{name} p50": round(cuts[49] * 1000, 2), f"{name} p99": round(cuts[98] * 1000, 2)}


async def leave(client: httpx.AsyncClient, args: argparse.Namespace) -> dict[str, Any]:
    """Streams that are hung up after a random number of lines."""
    gate = asyncio.Semaphore(args.streams)

    async def one(number: int) -> None:
        draw = random.Random(f"{args.seed}/{number}")
        patience = draw.randrange(1, 12)
        async with gate, client.stream("POST", "/v1/chat/completions", json=body_of(args, draw)) as answer:
            async for _ in answer.aiter_lines():
                patience -= 1
                if patience <= 0:
                    return

    await asyncio.gather(*(one(number) for number in range(args.count)))
    return {"streams hung up": args.count}


async def slow(client: httpx.AsyncClient, args: argparse.Namespace) -> dict[str, Any]:
    """Streams read at a few bytes a second, and the throughput of one brisk reader beside them."""

    async def sleepy(number: int) -> None:
        draw = random.Random(f"{args.seed}/{number}")
        end = time.perf_counter() + args.seconds
        async with client.stream("POST", "/v1/chat/completions", json=body_of(args, draw)) as answer:
            async for _ in answer.aiter_raw(16):
                await asyncio.sleep(0.2)
                if time.perf_counter() > end:
                    return

    readers = [asyncio.create_task(sleepy(number)) for number in range(args.streams)]
    times: list[float] = []
    tokens = await ask(client, body_of(args, random.Random(args.seed)), times)
    await asyncio.gather(*readers)
    return {"slow readers": args.streams, "brisk reader, tokens/s": round(tokens / (times[-1] - times[0]), 1)}


async def malformed(client: httpx.AsyncClient, args: argparse.Namespace) -> dict[str, Any]:
    """Bodies that are wrong in random ways: nothing but 200 and 4xx may come back."""
    draw = random.Random(args.seed)
    answers: dict[str, int] = {}
    faults = 0
    gate = asyncio.Semaphore(16)

    async def one(path: str, body: bytes) -> None:
        nonlocal faults
        async with gate:
            answer = await client.post(path, content=body, headers={"Content-Type": "application/json"})
        kind = f"{answer.status_code // 100}xx"
        answers[kind] = answers.get(kind, 0) + 1
        faults += answer.status_code >= 500 or (answer.status_code >= 400 and "error" not in answer.json())

    paths = [draw.choice(list(GOOD)) for _ in range(args.count)]
    await asyncio.gather(*(one(path, wrong_body(path, draw)) for path in paths))
    return {"requests": args.count, **answers, "faults": faults}


USER = [{"role": "user", "content": "a"}]
GOOD: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": USER, "max_tokens": 1},
    "/v1/completions": {"prompt": "a", "max_tokens": 1},
    "/v1/responses": {"input": "a", "max_output_tokens": 1},
    "/v1/messages": {"messages": USER, "max_tokens": 1},
    "/tokenize": {"prompt": "a"},
    "/detokenize": {"tokens": [1]},
}
VALUES: tuple[Any, ...] = (None, True, -1, 0, 3, 2**70, 1e300, "", "a", "\ud800", [], [1], ["a"], {}, {"a": 1}, [[]])
NAMES = ("messages", "prompt", "input", "model", "n", "stop", "tools", "tool_choice", "max_tokens", "temperature")
NAMES += ("logit_bias", "response_format", "stream", "stop_token_ids", "tokens", "reasoning_effort", "seed", "x")


def wrong_body(path: str, draw: random.Random) -> bytes:
    """A request with a few of its fields replaced by anything, now and then cut off."""
    body = dict(GOOD[path])
    for _ in range(draw.randrange(1, 4)):
        body[draw.choice((*GOOD[path], *NAMES))] = draw.choice(VALUES)
    data = json.dumps(body).encode()
    return data[: draw.randrange(len(data))] if draw.random() < 0.1 else data


KINDS = {"load": load, "leave": leave, "slow": slow, "malformed": malformed}

if __name__ == "__main__":
    main()
