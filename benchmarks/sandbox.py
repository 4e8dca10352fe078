"""Programs and mathematical answers judged per second, with isolation and without.

    python benchmarks/sandbox.py [--seconds 20]      about three minutes

Small Python programs in function mode: a jail for each, warm jails, and the HTTP service with a client on the
same machine; the latency of each judgement with twice as many callers as workers; how long an honest program
takes right after each kind of hostile one, against its ordinary time. Math: `MathVerifier` in its killable
workers beside math-verify in this process, on the same answers. Writes benchmarks/results/sandbox.json. Run it
on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles

from machine import ROOT, describe_machine

from openqwq.sandbox import BaseSandbox, Limits, RemoteSandbox, Sandbox
from openqwq.types import Message, Problem
from openqwq.verifiers import get_verifier

LIMITS = Limits(wall_s=20, cpu_s=20)
CODE = "def f(xs):\n    return sorted(set(xs))\n"
TESTS = [{"args": [[3, 1, 3]], "expected": [1, 3]}, {"args": [[]], "expected": []}]
HOSTILE = {
    "loop": "while True: pass",
    "fork bomb": "import os\nwhile True: os.fork()",
    "thread bomb": "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(60,)).start()",
    "memory bomb": "b = []\nwhile True: b.append(bytearray(1 << 22))",
    "disk fill": "n = 0\nwhile True:\n    open(f'/tmp/{n}', 'wb').write(bytes(1 << 20))\n    n += 1",
    "output flood": "while True: print('x' * 1000)",
    "daemon": "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(60)\nos._exit(0)",
    "segfault": "import ctypes\nctypes.string_at(0)",
}
TARGETS = {"jail per job/s": 30, "warm/s": 100, "p99 / median": 5, "math verdicts/s": 300}


def main() -> int:
    """Measure everything, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20, help="of each part")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "sandbox.json")
    args = parser.parse_args()
    workers = len(os.sched_getaffinity(0))
    report: dict = {"command": "python benchmarks/sandbox.py", **describe_machine(), "workers": workers}
    for name, options in (("jail per job", {"jobs_per_jail": 1}), ("warm", {})):
        with Sandbox(workers=workers, **options) as sandbox:
            report.setdefault("capabilities", sandbox.capabilities())
            report[name] = load(sandbox, 2 * workers, args.seconds)
            report[name]["after hostile"] = after_hostile(sandbox)
    with service(workers) as sandbox:
        report["service"] = load(sandbox, 2 * workers, args.seconds)
    report["math"] = math_rates(args.seconds)
    report["targets"] = TARGETS
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report, indent=1) + "\n")
    print_table(report)
    return 0


def load(sandbox: BaseSandbox, callers: int, seconds: float) -> dict[str, float]:
    """Judgements per second by so many callers at once, and how long each of them waited for one."""
    latencies: list[float] = []
    judge(sandbox)  # the first one starts what is needed
    start = time.monotonic()

    def call() -> None:
        while time.monotonic() < start + seconds:
            latencies.append(judge(sandbox))

    with ThreadPoolExecutor(callers) as pool:
        for future in [pool.submit(call) for _ in range(callers)]:
            future.result()
    wall_s = time.monotonic() - start
    p50, p99 = median(latencies), quantiles(latencies, n=100)[-1]
    rate = len(latencies) / wall_s
    return {"callers": callers, "judgements/s": rate, "p50 ms": p50 * 1e3, "p99 ms": p99 * 1e3, "p99 / p50": p99 / p50}


def judge(sandbox: BaseSandbox) -> float:
    """Seconds for one honest program, which must pass."""
    start = time.monotonic()
    result = sandbox.judge(CODE, entry_point="f", tests=TESTS, limits=LIMITS)
    if result.verdict != "passed":
        raise RuntimeError(f"an honest program was judged {result}")
    return time.monotonic() - start


def after_hostile(sandbox: BaseSandbox, rounds: int = 3) -> dict[str, float]:
    """Milliseconds of an honest program, ordinarily and right after each kind of hostile one (medians)."""
    limits = Limits(wall_s=0.5, cpu_s=1, memory_mib=64, processes=16, tmp_mib=4, output_bytes=100_000)
    times = {"another honest program": median(judge(sandbox) for _ in range(4 * rounds)) * 1e3}
    for name, code in HOSTILE.items():
        after = []
        for _ in range(rounds):
            sandbox.run(code, limits=limits)
            after.append(judge(sandbox))
        times[name] = median(after) * 1e3
    return times


@contextmanager
def service(workers: int) -> Iterator[RemoteSandbox]:
    """A service as a process of its own, and a client of it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "openqwq.cli.main", "sandbox", "serve", "--workers", str(workers)]
    process = subprocess.Popen([*command, "--port", str(port)], cwd=ROOT)
    try:
        with RemoteSandbox(f"http://127.0.0.1:{port}") as sandbox:
            yield sandbox
    finally:
        process.terminate()
        process.wait(30)


def math_pairs(count: int = 600) -> list[tuple[Problem, str]]:
    """Problems with answers of which a third are plain numbers and the others need algebra; half of them are right."""
    pairs = []
    for i in range(count):
        n, right = i + 2, i % 2 == 0
        forms = [
            (str(n), str(n if right else n + 1)),
            (rf"\frac{{{n}}}{{7}}", rf"\frac{{{3 * n if right else 3 * n + 1}}}{{21}}"),
            (rf"{n}\sqrt{{2}}", rf"\sqrt{{{2 * n * n if right else 2 * n * n + 1}}}"),
        ]
        gold, answer = forms[i % 3]
        problem = Problem(
            id=f"bench/{i}",
            source="bench",
            kind="math",
            messages=(Message(role="user", content="?"),),
            verifier="math",
            answer=gold,
        )
        pairs.append((problem, rf"</think>The answer is \boxed{{{answer}}}."))
    return pairs


def math_rates(seconds: float) -> dict[str, float]:
    """Verdicts per second: in killable workers, and by the library alone in this process."""
    from math_verify import parse, verify

    pairs = math_pairs()
    verifier = get_verifier("math")
    right = [verdict.status == "correct" for verdict in verifier.verify_many(pairs)]  # starts the workers
    if right != [i % 2 == 0 for i in range(len(pairs))]:
        raise RuntimeError("the math verifier is wrong on answers whose judgement is known")

    def plain() -> None:
        for problem, completion in pairs:
            verify(parse(f"${problem.answer}$"), parse(completion))

    return {
        "isolated/s": len(pairs) * repeat(lambda: verifier.verify_many(pairs), seconds),
        "plain library/s": len(pairs) * repeat(plain, seconds),
    }


def repeat(work: Callable[[], object], seconds: float) -> float:
    """How often per second the work is done."""
    start = time.monotonic()
    count = 0
    while count == 0 or time.monotonic() - start < seconds:
        work()
        count += 1
    return count / (time.monotonic() - start)


def print_table(report: dict) -> None:
    """What was measured, in lines."""
    for name in ("jail per job", "warm", "service"):
        row = report[name]
        print(
            f"{name:<14}{row['judgements/s']:8.1f} judgements/s   p50 {row['p50 ms']:7.1f} ms   "
            f"p99 {row['p99 ms']:7.1f} ms   p99/p50 {row['p99 / p50']:.1f}"
        )
    for name, after in report["warm"]["after hostile"].items():
        print(f"  warm, an honest program after: {name:<24}{after:8.1f} ms")
    print(f"{'math':<14}{report['math']['isolated/s']:8.1f} verdicts/s isolated, ", end="")
    print(f"{report['math']['plain library/s']:.1f} by the library alone")


if __name__ == "__main__":
    sys.exit(main())
