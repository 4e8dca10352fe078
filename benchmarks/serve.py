"""Load and faults on a server: how fast it answers many at once, whether answers stay right, and what is left behind.

    python benchmarks/serve.py runs/tiny/final                   # 10 minutes of load, 1,000 hang-ups, 10,000 odd bodies
    python benchmarks/serve.py runs/tiny/final --minutes 1       # a tenth of all that
    python benchmarks/serve.py runs/tiny/final --only storm,heavy --output benchmarks/results/serve_faults.json
    python benchmarks/serve.py --url http://127.0.0.1:8000 ...   # of a server that runs already

In order:

- `alone`      one question after the other; what is answered is what the answers under load are compared with
- `load`       64 streams, each asking again as soon as it has its answer (the method of `vllm bench serve`)
- `leave`      clients that hang up in the middle of a stream
- `storm`      1,000 connections that are aborted after 0 to 50 ms
- `slow`       clients that read a few bytes a second through small buffers, and a brisk one beside them
- `malformed`  what schemathesis makes of `/openapi.json`, wrong and odd, a tenth of it cut off; more than a 5xx is a
               fault: an error that is not in OpenAI's form is one too
- `heavy`      bodies that are expensive to read, and how long streams wait beside them (serve_faults.py has both)
- `drain`      SIGTERM while streams are under way: they end whole, and the exit code is 0

After each, what the server still holds by its own `/metrics`: requests, samples, blocks of the cache, tasks, files and
memory. Client and server share the machine's cores. Figures go to `results/serve.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
from machine import describe_machine
from serve_faults import heavy, storm

RESULTS = Path(__file__).parent / "results" / "serve.json"
SETTLE_S = 10.0  # what was left must be free by then
SECOND_ROUND = 8  # requests of `alone` that are asked again under load, by each of as many streams
CHAT = "/v1/chat/completions"
HELD = ("requests_running", "engine_running", "engine_waiting", "engine_kv_blocks_used")
SMALL_BUFFERS = [(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)]


def main() -> None:
    """Run every kind of load, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="a model folder, served for the time of the benchmark")
    parser.add_argument("--url", help="a server that runs already; `drain` is left out")
    parser.add_argument("--minutes", type=float, default=10, help="of load; the other kinds are scaled with it (10)")
    parser.add_argument("--streams", type=int, default=64, help="at once (64)")
    parser.add_argument("--max-tokens", type=int, default=128, help="of an answer (128)")
    parser.add_argument("--rounds", type=int, default=5, help="of each of the heavy bodies (5)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", metavar="KIND,KIND", help="these kinds; `leave` and `slow` compare with `alone`")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    if bool(args.model) == bool(args.url):
        parser.error("name a model folder, or --url")
    process, args.url = (None, args.url) if args.url else start_server(args.model)
    try:
        figures = asyncio.run(run(args, process))
    finally:
        if process is not None:
            process.kill()
    options = {name: getattr(args, name) for name in ("minutes", "streams", "max_tokens", "rounds", "seed", "only")}
    args.output.write_text(json.dumps({**describe_machine(), "options": options, "figures": figures}, indent=1) + "\n")


def start_server(model: str) -> tuple[subprocess.Popen[str], str]:
    """A server of its own process, and its address."""
    command = [sys.executable, "-m", "openqwq.cli.main", "serve", model, "--port", "0", "--max-num-seqs", "64"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            threading.Thread(target=sys.stderr.writelines, args=(process.stderr,), daemon=True).start()
            return process, found[0]
    raise SystemExit("the server did not start")


async def run(args: argparse.Namespace, process: Any) -> dict[str, Any]:
    """The figures of every kind of load, each with what the server held afterwards."""
    figures: dict[str, Any] = {}
    limits = httpx.Limits(max_connections=args.streams + 8, max_keepalive_connections=args.streams + 8)
    async with httpx.AsyncClient(base_url=args.url, timeout=600, limits=limits) as client:
        await ready(client)
        args.known = {}  # what `alone` was answered, by stream and turn
        for kind in (alone, load, leave, storm, slow, malformed, heavy):
            if args.only and kind.__name__ not in args.only.split(","):
                continue
            figures[kind.__name__] = {**await kind(client, args), **await left(client)}
            show(kind.__name__, figures[kind.__name__])
        if args.only:
            return figures
        first, last = (figures[name]["left: memory, MiB"] for name in ("load", "malformed"))
        figures["memory grown after load, MiB"] = round(last - first, 1)
        if process is not None:
            figures["drain"] = await drain(client, args, process)
            show("drain", figures["drain"])
    return figures


def show(kind: str, figures: dict[str, Any]) -> None:
    """A kind's part of the table."""
    for name, value in figures.items():
        print(f"{kind:<10} {name:<32} {value}", flush=True)


async def ready(client: httpx.AsyncClient) -> None:
    """Wait until the server takes requests in."""
    while True:
        try:
            return (await client.get("/health")).raise_for_status() and None
        except httpx.HTTPError:
            await asyncio.sleep(0.1)


async def left(client: httpx.AsyncClient) -> dict[str, float]:
    """What the server holds, once it has settled."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        page = (await client.get("/metrics")).text
        values = {name: int(number(page, f"openqwq_{name}")) for name in HELD}
        if not any(values.values()) or time.monotonic() > deadline:
            break
        await asyncio.sleep(0.1)
    values |= {"tasks": int(number(page, "openqwq_tasks")), "open files": int(number(page, "process_open_fds"))}
    memory = round(number(page, "process_resident_memory_bytes") / 2**20, 1)
    return {f"left: {name}": value for name, value in {**values, "memory, MiB": memory}.items()}


def number(page: str, name: str) -> float:
    """The sum of a metric over its labels."""
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", page, re.MULTILINE))


def body_of(args: argparse.Namespace, draw: random.Random, **more: Any) -> dict[str, Any]:
    """A streamed request of its own prompt and seed."""
    question = f"What is {draw.randrange(1000)} + {draw.randrange(1000)}?"
    return {
        "messages": [{"role": "user", "content": question}],
        "max_tokens": args.max_tokens,
        "seed": draw.randrange(2**31),
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        **more,
    }


async def ask(client: httpx.AsyncClient, body: dict[str, Any], times: list[float]) -> tuple[str, int]:
    """The text and the tokens of one stream; `times` gets the moment of its start and of each event."""
    text, tokens = "", 0
    times.append(time.perf_counter())
    async with client.stream("POST", CHAT, json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                times.append(time.perf_counter())
                event = json.loads(line.removeprefix("data: "))
                for choice in event["choices"]:
                    delta = choice["delta"]
                    text += delta.get("reasoning_content", "") + (delta.get("content") or "")
                tokens = event["usage"]["completion_tokens"] if event.get("usage") else tokens
    return text, tokens


async def alone(client: httpx.AsyncClient, args: argparse.Namespace) -> dict[str, Any]:
    """One request after the other: the fastest that the server can be, and the answers that it must give."""
    first: list[float] = []
    between: list[float] = []
    for stream in range(SECOND_ROUND):
        draw = random.Random(f"{args.seed}/{stream}")
        for turn in range(SECOND_ROUND):
            times: list[float] = []
            args.known[stream, turn] = (await ask(client, body_of(args, draw), times))[0]
            note(times, first, between)
    return {"requests": len(args.known), **percentiles("first token, ms", first), **percentiles("between, ms", between)}


def note(times: list[float], first: list[float], between: list[float]) -> None:
    """Add one stream's times."""
    first.append(times[1] - times[0])
    between.extend(b - a for a, b in itertools.pairwise(times[1:]))


def percentiles(name: str, seconds: list[float]) -> dict[str, float]:
    """p50 and p99 in milliseconds."""
    cuts = statistics.quantiles(seconds, n=100) if len(seconds) > 1 else [0.0] * 99
    return {f"{name} p50": round(cuts[49] * 1000, 2), f"{name} p99": round(cuts[98] * 1000, 2)}


async def load(client: httpx.AsyncClient, args: argparse.Namespace) -> dict[str, Any]:
    """A fixed number of streams for a fixed time."""
    first: list[float] = []
    between: list[float] = []
    counts: list[int] = []
    verdicts: Counter[bool] = Counter()
    begin = time.perf_counter()

    async def one(stream: int) -> None:
        draw = random.Random(f"{args.seed}/{stream}")
        for turn in itertools.count():
            if time.perf_counter() - begin >= args.minutes * 60:
                return
            times: list[float] = []
            text, tokens = await ask(client, body_of(args, draw), times)
            counts.append(tokens)
            if (stream, turn) in args.known:
                verdicts[text == args.known[stream, turn]] += 1
            note(times, first, between)

    await asyncio.gather(*(one(stream) for stream in range(args.streams)))
    seconds = time.perf_counter() - begin
    return {
        "seconds": round(seconds, 1),
        "requests": len(counts),
        "tokens/s": round(sum(counts) / seconds, 1),
        "answers cut short": sum(count != args.max_tokens for count in counts),
        "answers as alone": verdicts[True],
        "answers unlike alone": verdicts[False],
        **percentiles("first token, ms", first),
        **percentiles("between, ms", between),
    }


async def leave(client: httpx.AsyncClient, args: argparse.Namespace) -> dict[str, Any]:
    """Streams that are hung up after a random number of lines, with streams beside them that stay."""
    gate = asyncio.Semaphore(args.streams)
    count = round(100 * args.minutes)

    async def one(stream: int) -> None:
        draw = random.Random(f"leave/{args.seed}/{stream}")
        patience = draw.randrange(1, 40)
        body = body_of(args, draw, max_tokens=None)  # as long as the context allows: it can only end by the abort
        async with gate, client.stream("POST", CHAT, json=body) as answer:
            async for _ in answer.aiter_lines():
                patience -= 1
                if patience <= 0:
                    return

    staying = [ask(client, body_of(args, random.Random(f"{args.seed}/{n}")), []) for n in range(SECOND_ROUND)]
    results = await asyncio.gather(*staying, *(one(stream) for stream in range(count)))
    wrong = sum(results[n][0] != args.known[n, 0] for n in range(SECOND_ROUND))  # type: ignore[index]
    return {"streams hung up": count, "streams that stayed": SECOND_ROUND, "answers unlike alone": wrong}


async def slow(client: httpx.AsyncClient, args: argparse.Namespace) -> dict[str, Any]:
    """Readers of a few bytes a second, and one brisk reader beside them."""
    end = time.perf_counter() + 9 * args.minutes
    ends: Counter[str] = Counter()

    async def sleepy(stream: int, slowly: httpx.AsyncClient) -> None:
        body = body_of(args, random.Random(f"slow/{args.seed}/{stream}"), max_tokens=None)
        try:
            async with slowly.stream("POST", CHAT, json=body) as answer:
                async for _ in answer.aiter_raw(16):
                    await asyncio.sleep(0.2)
                    if time.perf_counter() > end:
                        ends["left at last"] += 1
                        return
        except httpx.HTTPError:
            ends["cut off by the server"] += 1

    transport = httpx.AsyncHTTPTransport(socket_options=SMALL_BUFFERS, limits=httpx.Limits(max_connections=64))
    async with httpx.AsyncClient(base_url=args.url, timeout=600, transport=transport) as slowly:
        readers = [asyncio.create_task(sleepy(stream, slowly)) for stream in range(min(args.streams, 16))]
        await asyncio.sleep(1)
        times: list[float] = []
        text, tokens = await ask(client, body_of(args, random.Random(f"{args.seed}/0")), times)
        await asyncio.gather(*readers)
    return {
        "slow readers": len(readers),
        **ends,
        "brisk reader, tokens/s": round(tokens / (times[-1] - times[0]), 1),
        "brisk reader unlike alone": int(text != args.known[0, 0]),
    }


async def malformed(client: httpx.AsyncClient, args: argparse.Namespace) -> dict[str, Any]:
    """Bodies that schemathesis makes; in a thread, since it is no coroutine."""
    count = round(1000 * args.minutes)
    statuses, faults = await asyncio.to_thread(throw, args.url, count, args.seed)
    for fault in faults[:5]:
        print("fault:", fault)
    return {
        "requests": sum(statuses.values()),
        **{str(k): statuses[k] for k in sorted(statuses)},
        "faults": len(faults),
    }


def throw(url: str, count: int, number: int) -> tuple[Counter[int], list[str]]:
    """How often each status came, and what was neither a 200 nor an error in OpenAI's form."""
    import requests
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from schemathesis import GenerationMode

    statuses: Counter[int] = Counter()
    faults: list[str] = []
    document = requests.get(f"{url}/openapi.json", timeout=60).json()
    schema = schemathesis.openapi.from_dict(document)
    kinds = [(GenerationMode.NEGATIVE, 2), (GenerationMode.POSITIVE, 1)]  # two wrong ones for each odd one
    operations = [
        schema[path]["POST"] for path, item in document["paths"].items() if "requestBody" in item.get("post", {})
    ]
    draw = random.Random(number)
    with requests.Session() as session:
        for operation, (mode, share) in itertools.product(operations, kinds):
            quota = round(count * share / 3 / len(operations))
            strategy = operation.as_strategy(generation_mode=mode)

            @seed(number)
            @settings(
                max_examples=quota,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=strategy)
            def send(case: Any) -> None:
                answer = thrown(session, url, case, draw)
                statuses[answer.status_code] += 1
                if fault_of(answer):
                    faults.append(
                        f"{case.method} {case.path} {case.body!r:.300}: {answer.status_code} {answer.text:.200}"
                    )

            send()
    return statuses, faults


def thrown(session: Any, url: str, case: Any, draw: random.Random) -> Any:
    """The answer to one body; every tenth is cut off somewhere."""
    if draw.random() > 0.1:
        return case.call(base_url=url, session=session, timeout=120)
    data = json.dumps(case.body, default=str).encode()
    headers = {"Content-Type": "application/json"}
    return session.post(url + case.path, data=data[: draw.randrange(len(data) + 1)], headers=headers, timeout=120)


def fault_of(answer: Any) -> bool:
    """Whether an answer is neither fine nor a client's error in OpenAI's form."""
    if answer.status_code == 200:
        return False
    try:
        form = set(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return True
    return answer.status_code >= 500 or form != {"message", "type", "param", "code"}


async def drain(client: httpx.AsyncClient, args: argparse.Namespace, process: Any) -> dict[str, Any]:
    """Streams that are under way when SIGTERM comes."""
    bodies = [body_of(args, random.Random(f"{args.seed}/{stream}")) for stream in range(SECOND_ROUND)]
    moments: list[list[float]] = [[] for _ in bodies]
    asked = [asyncio.create_task(ask(client, body, moment)) for body, moment in zip(bodies, moments, strict=True)]
    while any(len(moment) < 2 for moment in moments):
        await asyncio.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    whole = sum([(await one)[0] == args.known[stream, 0] for stream, one in enumerate(asked)])
    code = await asyncio.to_thread(process.wait, 60)
    return {"streams under way": len(bodies), "ended whole": whole, "exit code": code}


if __name__ == "__main__":
    main()
