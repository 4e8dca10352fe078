"""Single-stream decoding with float32, bf16, int8 and int4 weights, beside what the memory allows.

    python benchmarks/weights.py                         # the Qwen2.5-0.5B shape, one thread, under a minute
    python benchmarks/weights.py --preset qwen2.5-0.5b --threads 2 --new 64

Each kind decodes one sequence through the engine; the weights are random and repeat themselves, which changes no time.
The share is the bytes of weights that a token reads, over the time of a token, over the rate at which the same process
sums a gigabyte. Writes benchmarks/results/weights.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from machine import ROOT, describe_machine, read_bandwidth
from peers.ours import weight_bytes

if TYPE_CHECKING:
    from openqwq.model import Decoder

KINDS = ("float32", "bf16", "int8", "int4")
PROMPT = 16


def main() -> int:
    """Measure every kind in turn, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="qwen2.5-0.5b")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--new", type=int, default=24, help="sampled tokens of a round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "weights.json")
    args = parser.parse_args()
    import torch

    torch.set_num_threads(args.threads)
    bandwidth = read_bandwidth()
    table = {kind: measure_kind(args, kind, bandwidth) for kind in KINDS}
    report = {"preset": args.preset, "threads": args.threads, **describe_machine()}
    report |= {"bandwidth_gb_per_s": bandwidth / 1e9, "table": table}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report, indent=1) + "\n")
    print(f"memory: {bandwidth / 1e9:.1f} GB/s read\n")
    print("| weights | GB a token | tokens/s | share of bandwidth |\n|---|---:|---:|---:|")
    for kind, row in table.items():
        print(f"| {kind} | {row['bytes'] / 1e9:.3f} | {row['tokens_per_s']:.1f} | {row['share']:.0%} |")
    return 0


def measure_kind(args: argparse.Namespace, kind: str, bandwidth: float) -> dict[str, Any]:
    """Tokens a second of one sequence, and its share of the bandwidth."""
    from openqwq.cli.bench import measure
    from openqwq.inference import Engine

    model = create(args.preset, kind)
    bytes_read = weight_bytes(model)
    engine = Engine(model, max_num_seqs=1, max_model_len=PROMPT + args.new + 1, prefix_caching=False, eos_token_ids=())
    rate = measure(engine, 1, PROMPT, args.new, args.rounds)["sampled_tokens_per_s"]
    return {"bytes": bytes_read, "tokens_per_s": rate, "share": bytes_read * rate / bandwidth}


def create(preset_name: str, kind: str) -> Decoder:
    """A model whose weights repeat those of eight outputs: random ones would take longer than the measurement."""
    import torch
    from torch import nn

    from openqwq.kernels.layouts import PANEL
    from openqwq.model import Decoder, PackedLinear, preset
    from openqwq.model.quantize import pack_weight

    def repeated(weight: torch.Tensor) -> torch.Tensor:
        rows = torch.randn(PANEL, weight.shape[1]) * 0.02
        return rows.repeat(weight.shape[0] // PANEL, 1)

    def packed(weight: torch.Tensor, bias: torch.Tensor | None) -> PackedLinear:
        panel = pack_weight(torch.randn(PANEL, weight.shape[1]) * 0.02, kind)
        panels = weight.shape[0] // PANEL
        tensors = [t.repeat(panels, *[1] * (t.ndim - 1)) for t in (panel.codes, panel.scales, panel.zeros)]
        return PackedLinear(kind, tuple(weight.shape), *tensors, bias=bias)

    with torch.device("meta"):
        model = Decoder(preset(preset_name))
    head = model.model.embed_tokens.weight if model.lm_head is None else model.lm_head.weight
    for module in list(model.modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            filled = repeated(parameter) if parameter.ndim == 2 else torch.ones(parameter.shape)
            if kind == "float32" or not isinstance(module, nn.Linear) or name == "bias":
                setattr(module, name, nn.Parameter(filled, requires_grad=False))
    if kind != "float32":
        model.lm_head = packed(head, None)
        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(module, name, packed(child.weight, child.bias))
    return model


if __name__ == "__main__":
    raise SystemExit(main())
