"""onnxruntime-genai, with the graph that its own model builder makes.

Its engine of continuous batching needs an operator that exists for GPUs alone (PagedAttention): static batches here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from . import Run
from .hugging import in_batches

NAMES = {"float32": "fp32", "int8": "int8", "int4": "int4"}


def convert(folder: Path, kind: str, out: Path) -> None:
    """The graph of the model builder, which imports by names that this folder has too: in a process of its own."""
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", folder, "-o", out]
    command += ["-p", NAMES[kind], "-e", "cpu", "-c", out / "cache"]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, env=env, cwd=out, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    (out / "weight_bytes.json").write_text(json.dumps(weight_bytes(out / "model.onnx")))


def weight_bytes(path: Path) -> int:
    """Every weight but those that are only looked up row by row."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    sizes = {tensor.name: tensor_bytes(tensor) for tensor in graph.initializer}
    looked_up = {name for node in graph.node if node.op_type.startswith("Gather") for name in node.input}
    read = {name for node in graph.node if not node.op_type.startswith("Gather") for name in node.input}
    return sum(size for name, size in sizes.items() if name in read or name not in looked_up)


def tensor_bytes(tensor) -> int:
    external = {entry.key: entry.value for entry in tensor.external_data}
    return int(external["length"]) if "length" in external else len(tensor.SerializeToString())


def start(folder: str, kind: str, threads: int) -> tuple[Run, int]:
    """Batches in order of arrival, over one session."""
    import numpy as np
    import onnxruntime_genai as og

    config = og.Config(folder)
    session = {"intra_op_num_threads": threads, "inter_op_num_threads": 1}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
    model = og.Model(config)

    def generate(prompts: list[list[int]], longest: int, sampled: bool) -> list[list[int]]:
        params = og.GeneratorParams(model)
        length = len(prompts[0]) + longest
        options = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0} if sampled else {"do_sample": False}
        params.set_search_options(max_length=length, min_length=length, batch_size=len(prompts), **options)
        generator = og.Generator(model, params)
        generator.append_tokens(np.array(prompts, dtype=np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        return [generator.get_sequence(row)[len(prompts[0]) :].tolist() for row in range(len(prompts))]

    num_bytes = json.loads((Path(folder) / "weight_bytes.json").read_text())
    return lambda requests, sampled: in_batches(requests, sampled, generate), num_bytes
