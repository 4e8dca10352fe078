"""One measurement in a process of its own: `python -m peers.measure ENGINE WORK FOLDER THREADS`.

FOLDER holds `model/` (the weights), `works.json` and, once made, `converted/`. WORK is one of works.json, `convert`,
or `check`: which tokens the engine takes where nothing is drawn. The last line of stdout is the result, as JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from . import ENGINES, Requests, Run

SHORTEST_S, MOST_REPEATS = 2.0, 20  # a work that takes less is repeated
WARM_UP = 8  # requests of a warm-up, each of as many tokens


def main() -> None:
    """Convert, check or measure, and print the result."""
    engine, name, folder, threads = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    module, kind = importlib.import_module(f"peers.{ENGINES[engine].file}"), ENGINES[engine].kind
    out = folder / "converted" / engine.replace(" ", "-")
    if name == "convert":
        result: Any = convert(module, folder / "model", kind, out)
    else:
        work = json.loads((folder / "works.json").read_text(encoding="utf-8"))[name]
        run, num_bytes = module.start(str(out if out.exists() else folder / "model"), kind, threads)
        requests = [(prompt, new) for prompt, new in work["requests"]]
        result = (
            {"tokens": run(requests, False)}
            if name == "check"
            else {**rate(run, requests, work["sampled"]), "bytes": num_bytes}
        )
    print("\n" + json.dumps(result), flush=True)
    os._exit(0)  # some engines leave threads behind that never end


def convert(module: Any, folder: Path, kind: str, out: Path) -> dict[str, bool]:
    """Write the engine's own form of the weights, whole or not at all, where it has one."""
    if not hasattr(module, "convert") or out.exists():
        return {"converted": out.exists()}
    unfinished = out.with_name(out.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    module.convert(folder, kind, unfinished)
    unfinished.rename(out)
    return {"converted": True}


def rate(run: Run, requests: Requests, sampled: bool) -> dict[str, float]:
    """Tokens per second: those sampled, or the prompt's where only one is sampled.

    Of a single request also those of decoding alone, in which its prompt and its first token have no part; not where
    the machine was so busy that the whole took no longer than its first token.
    """
    vocab = 1 + max(max(prompt) for prompt, _ in requests)
    run([(prompt, min(new, WARM_UP)) for prompt, new in other_prompts(requests[:WARM_UP], vocab, -1)], sampled)
    tokens = sum(new if new > 1 else len(prompt) for prompt, new in requests)
    whole_s = shortest(run, requests, sampled, vocab)
    if len(requests) > 1 or requests[0][1] == 1:
        return {"tokens_per_s": tokens / whole_s}
    first_s = shortest(run, [(requests[0][0], 1)], sampled, vocab)
    if whole_s <= first_s:
        return {"tokens_per_s": tokens / whole_s}
    return {"tokens_per_s": tokens / whole_s, "decode_tokens_per_s": (tokens - 1) / (whole_s - first_s)}


def shortest(run: Run, requests: Requests, sampled: bool, vocab: int) -> float:
    """Seconds of the fastest of some repeats where one takes no time.

    Every repeat has other prompts, so that none finds its prefix in a cache.
    """
    best, spent, repeats = float("inf"), 0.0, 0
    while spent < SHORTEST_S and repeats < MOST_REPEATS:
        work = other_prompts(requests, vocab, 2 * repeats + (requests[0][1] == 1))
        started = time.perf_counter()
        ids = run(work, sampled)
        seconds = time.perf_counter() - started
        if [len(row) for row in ids] != [new for _, new in requests]:
            raise RuntimeError(f"asked for {[new for _, new in requests]} tokens, got {[len(row) for row in ids]}")
        best, spent, repeats = min(best, seconds), spent + seconds, repeats + 1
    return best


def other_prompts(requests: Requests, vocab: int, number: int) -> Requests:
    """The same lengths and the same prompts in common, but other tokens for every number but 0."""
    return [([3 + (token - 3 + 257 * number) % (vocab - 3) for token in prompt], new) for prompt, new in requests]


if __name__ == "__main__":
    main()
