"""OpenVINO GenAI's continuous batching, over a graph that OpenVINO's PyTorch frontend traces from a plain decoder.

The decoder has the inputs, outputs and state that optimum-intel's exporter would give it. The plugin's own precisions
(bfloat16 arithmetic, a cache of bytes) are set back to float32 where float32 is compared.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from . import Requests, Run

FILE = "openvino_model.xml"
CACHE_GIB = 2
NO_TOKEN = 1 << 30  # the end of a sequence must have an id: one that no vocabulary has
LONGEST_STEP = 8192  # tokens of a pass


def convert(folder: Path, kind: str, out: Path) -> None:
    """The stateful graph, its weights compressed by NNCF for int8 and int4."""
    import openvino as ov

    graph = trace(folder)
    if kind in ("int8", "int4"):
        import nncf

        modes = nncf.CompressWeightsMode
        options: dict[str, Any] = {"mode": modes.INT8_SYM}
        if kind == "int4":
            options = {"mode": modes.INT4_ASYM, "group_size": 64, "ratio": 1.0, "all_layers": True}
        graph = nncf.compress_weights(graph, **options)
    ov.save_model(graph, out / FILE, compress_to_fp16=False)
    (out / "config.json").write_bytes((folder / "config.json").read_bytes())
    (out / "generation_config.json").write_text(json.dumps({"eos_token_id": NO_TOKEN}))
    (out / "weight_bytes.json").write_text(json.dumps(weight_bytes(graph)))


def trace(folder: Path):
    """The model as a graph of OpenVINO's whose cache is state."""
    import openvino as ov
    import torch
    from openvino._offline_transformations import apply_make_stateful_transformation

    from .decoder import Decoder

    decoder = Decoder(folder)
    layers, heads, size = decoder.layers, decoder.kv_heads, decoder.head_size
    past = [torch.zeros(2, heads, 3, size) for _ in range(2 * layers)]
    positions = torch.tensor([[3, 4]] * 2)
    example = (torch.ones(2, 2, dtype=torch.long), torch.ones(2, 5, dtype=torch.long), positions, torch.arange(2))
    graph = ov.convert_model(decoder, example_input=(*example, *past))
    names = ["input_ids", "attention_mask", "position_ids", "beam_idx"]
    states = [f"{part}.{layer}.{kind}" for part in ("past", "present") for layer in range(layers) for kind in "kv"]
    past_names, present_names = states[: 2 * layers], states[2 * layers :]
    for port, name in zip(graph.inputs, names + past_names, strict=True):
        port.get_tensor().set_names({name})
        shape = [-1, heads, -1, size] if name in past_names else [-1, -1][: 1 if name == "beam_idx" else 2]
        port.get_node().set_partial_shape(ov.PartialShape(shape))
        port.get_node().set_friendly_name(name)
    for port, name in zip(graph.outputs, ["logits", *present_names], strict=True):
        port.get_tensor().set_names({name})
    graph.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(graph, dict(zip(past_names, present_names, strict=True)))
    start_empty(graph, heads, size)
    return graph


def start_empty(graph, heads: int, size: int) -> None:
    """Let the state of every sequence begin with no tokens."""
    from openvino import opset13 as ops

    sizes = ops.shape_of(graph.input("input_ids"), output_type="i64")
    batch = ops.gather(sizes, ops.constant([0]), ops.constant(0))
    shape = ops.concat([batch, ops.constant([heads, 0, size])], 0)
    empty = ops.broadcast(ops.constant(0.0, dtype="float32"), shape)
    for node in graph.get_ops():
        if node.get_type_name() == "ReadValue":
            node.set_arguments([empty])
    graph.validate_nodes_and_infer_types()


def weight_bytes(graph) -> int:
    """Every constant but a table that is only looked up."""
    total = 0
    for node in graph.get_ops():
        if node.get_type_name() == "Constant":
            users = {port.get_node().get_type_name() for port in node.output(0).get_target_inputs()}
            total += 0 if users == {"Gather"} else node.get_byte_size()
    return total


def start(folder: str, kind: str, threads: int) -> tuple[Run, int]:
    """A pipeline that is handed ids; kind "bf16": arithmetic in bfloat16."""
    import numpy as np
    import openvino as ov
    import openvino_genai as genai

    scheduler = genai.SchedulerConfig()
    scheduler.cache_size, scheduler.enable_prefix_caching = CACHE_GIB, True
    scheduler.max_num_batched_tokens, scheduler.max_num_seqs = LONGEST_STEP, 256
    properties = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "bf16" if kind == "bf16" else "f32",
        "KV_CACHE_PRECISION": "bf16" if kind == "bf16" else "f32",
    }
    if kind == "float32":
        properties["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0
    pipeline = genai.ContinuousBatchingPipeline(folder, scheduler, "CPU", properties)

    def run(requests: Requests, sampled: bool) -> list[list[int]]:
        configs = []
        for _, new in requests:
            config = genai.GenerationConfig(max_new_tokens=new, ignore_eos=True, do_sample=sampled)
            config.set_eos_token_id(NO_TOKEN)
            configs.append(config)
        prompts = [ov.Tensor(np.array([prompt], dtype=np.int64)) for prompt, _ in requests]
        return [list(done.m_generation_ids[0]) for done in pipeline.generate(prompts, configs)]

    num_bytes = json.loads((Path(folder) / "weight_bytes.json").read_text())
    return run, num_bytes // 2 if kind == "bf16" else num_bytes
