"""What narrow weights cost a model: accuracy on held-out problems, and how far its tokens' distributions move.

    python benchmarks/quantization.py runs/tiny/final --recipe recipes/tiny.toml --problems 64

The whole model (float32) and each rounding of it answer the same problems with the same seeds. Then all of them read
the answers of the whole model that were judged correct: perplexity, the mean divergence KL(whole || rounded) in nats a
token, and how often the likeliest token is the same. Writes benchmarks/results/quantization.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from machine import ROOT, describe_machine

KINDS = {"float32": None, "bf16": "bf16", "int8": "int8", "int4": "int4"}
MAX_ANSWERS = 400
ANSWERS_AT_ONCE = 50


def main() -> int:
    """Measure, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a model folder")
    parser.add_argument("--recipe", required=True, help="its [eval] families are asked")
    parser.add_argument("--problems", type=int, default=64, help="of each family")
    parser.add_argument("--samples", type=int, default=1, help="of each problem")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "quantization.json")
    args = parser.parse_args()
    accuracy, answers = {}, []
    with tempfile.TemporaryDirectory() as scratch:
        for name, kind in KINDS.items():
            out = Path(scratch) / name
            accuracy[name] = measure_accuracy(args, kind, out)
            answers = answers or correct_answers(out / "rows.jsonl")
    table = {name: accuracy[name] | row for name, row in measure_distance(args.model, answers).items()}
    report = {"model": args.model, "recipe": args.recipe, "problems": args.problems, "samples": args.samples}
    report |= {"answers": len(answers), **describe_machine(), "table": table}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report, indent=1) + "\n")
    print_table(table)
    return 0


def measure_accuracy(args: argparse.Namespace, kind: Any, out: Path) -> dict[str, float]:
    """The mean strict score over the families' problems, and their number."""
    from openqwq.pipeline.evaluation import EvaluationPlan, evaluate_model

    plan = EvaluationPlan(
        model=args.model,
        recipe=args.recipe,
        problems=args.problems,
        samples=args.samples,
        out=str(out),
        quantization=kind,
    )
    results = evaluate_model(plan).values()
    number = sum(result.n for result in results)
    return {"strict": sum(result.strict.mean * result.n for result in results) / number, "n": number}


def correct_answers(rows: Path) -> list[tuple[str, str]]:
    """Some prompts and answers that were judged correct, spread evenly over the file."""
    all_rows = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    found = [(row["prompt"], row["text"]) for row in all_rows if row["strict"]["status"] == "correct"]
    return found[:: max(len(found) // MAX_ANSWERS, 1)]


def measure_distance(folder: str, answers: list[tuple[str, str]]) -> dict[str, dict[str, float]]:
    """Perplexity, divergence and agreement of each kind on the same answers."""
    import torch

    from openqwq.model import load_model
    from openqwq.tokenizer import Tokenizer
    from openqwq.types import Message

    tokenizer = Tokenizer.load(folder)
    prompts = [tokenizer.encode_chat([Message("user", prompt)]) for prompt, _ in answers]
    texts = [tokenizer.encode(text) for _, text in answers]
    models = {name: load_model(folder, dtype=torch.float32, quantization=kind) for name, kind in KINDS.items()}
    sums = {name: torch.zeros(3, dtype=torch.float64) for name in models}
    for start in range(0, len(answers), ANSWERS_AT_ONCE):
        pairs = list(zip(prompts, texts, strict=True))[start : start + ANSWERS_AT_ONCE]
        ids = torch.tensor([token for prompt, text in pairs for token in (*prompt, *text)])
        sampled = torch.tensor([i >= len(p) for p, text in pairs for i in range(len(p) + len(text))])
        places = sampled.nonzero()[:, 0]
        lengths = [len(prompt) + len(text) for prompt, text in pairs]
        whole = None
        for name, model in models.items():
            with torch.inference_mode():
                logprobs = model(ids, lengths=lengths)[places - 1].log_softmax(-1)
            whole = logprobs if whole is None else whole
            loss = -logprobs.gather(1, ids[places][:, None]).sum()
            divergence = (whole.exp() * (whole - logprobs)).sum()
            same = (whole.argmax(-1) == logprobs.argmax(-1)).sum()
            sums[name] += torch.stack((loss, divergence, same)).double()
    number = sum(map(len, texts))
    return {name: distance_row(total / number, number) for name, total in sums.items()}


def distance_row(means: Any, number: int) -> dict[str, float]:
    loss, divergence, same = means.tolist()
    perplexity = float(means[0].exp())
    return {"loss": loss, "perplexity": perplexity, "divergence": divergence, "same_top": same, "tokens": number}


def print_table(table: dict[str, dict[str, float]]) -> None:
    """A Markdown table."""
    print("| weights | correct | perplexity | divergence | same top token |\n|---|---:|---:|---:|---:|")
    for name, row in table.items():
        shares = f"{row['strict']:.1%} | {row['perplexity']:.4f} | {row['divergence']:.5f} | {row['same_top']:.2%}"
        print(f"| {name} | {shares} |")


if __name__ == "__main__":
    raise SystemExit(main())
