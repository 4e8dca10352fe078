"""Steps of the RL loop on one GPU, for gpu.py: sampler and trainer share one module in bf16.

32 prompts of 128 tokens, 8 samples each of exactly 512 tokens; parameters, gradients and AdamW's moments in bf16.
The reward is the share of even token ids, so that groups have signal.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from openqwq.checkpoint.run_state import RunStateStore

PROMPTS, SAMPLES, PROMPT_TOKENS, NEW_TOKENS, STEPS = 32, 8, 128, 512, 3
GIB = 2**30


class NoCheckpoints(RunStateStore):
    """The log files of a run whose states, tens of gigabytes each, are not kept."""

    def save(self, state, *, describe_model=None) -> Path:
        return self.folder


class IdTokenizer:
    """Texts are token ids in decimal: no vocabulary is needed."""

    eos_token_ids = ()

    def opens_thinking(self, prompt_ids) -> bool:
        return False

    def encode_chat(self, messages) -> list[int]:
        return [int(word) for word in messages[-1].content.split()]

    def decode(self, ids) -> str:
        return " ".join(map(str, ids))


def measure_steps(shape: str, checkpointing: str) -> Iterator[dict[str, float]]:
    """Seconds by phase and tokens per second of each step but the first, which warms up."""
    import torch

    from openqwq.config import CorrectionConfig, RLStage
    from openqwq.inference import Engine
    from openqwq.log import read_jsonl
    from openqwq.model import create_model, preset
    from openqwq.train.rl import run_rl
    from openqwq.train.rl_run import RLParts
    from openqwq.train.stage import StageContext
    from openqwq.types import Verdict
    from openqwq.verifiers import Verifier

    class Even(Verifier):
        name = "even"

        def __call__(self, problem, completion):
            words = completion.split()
            return Verdict.correct(score=sum(int(word) % 2 == 0 for word in words) / max(len(words), 1))

    model = create_model(preset(shape), seed=0, device="cuda", dtype=torch.bfloat16, drawn_on="cuda")
    stage = RLStage(
        mix={"s": 1.0},
        steps=STEPS,
        prompts_per_step=PROMPTS,
        samples_per_prompt=SAMPLES,
        max_completion_tokens=NEW_TOKENS,
        tokens_per_microbatch=16384,
        activation_checkpointing=checkpointing,
        batch_invariant="off",
        learning_rate=1e-6,
        max_refills=0,
        checkpoint_seconds=0,
        correction=CorrectionConfig(mode="none"),
    )
    engine = Engine(
        model,
        IdTokenizer(),
        max_num_seqs=PROMPTS * SAMPLES,
        max_model_len=PROMPT_TOKENS + NEW_TOKENS + 16,
        kv_cache_memory=16 * GIB,
    )
    ends = [time.perf_counter()]

    def note(*_: object) -> None:
        torch.cuda.synchronize()
        ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        run_rl(
            stage,
            RLParts(
                model=model,
                policy=engine,
                tokenizer=IdTokenizer(),
                mixture=Prompts(model.config.vocab_size),
                verifiers={"even": Even()},
            ),
            StageContext(name="rl", seed=0, checkpoints=NoCheckpoints(folder), progress=note),
        )
        rows = read_jsonl(Path(folder) / "metrics.jsonl")
    for number in range(1, len(rows)):
        row, seconds = rows[number], ends[number + 1] - ends[number]
        yield {
            "step_s": seconds,
            **{f"{phase}_s": row[f"seconds_{phase}"] for phase in ("generate", "verify", "train", "sync")},
            "generated_tok_s": row["tokens_generate"] / row["seconds_generate"],
            "trained_tok_s": row["tokens_train"] / row["seconds_train"],
            "mismatch_max": row["mismatch_max"],
            "peak_gib": torch.cuda.max_memory_allocated() / GIB,
        }


class Prompts:
    """As many different prompts of random ids as are asked for."""

    def __init__(self, vocab_size: int):
        self.vocab_size = vocab_size

    def batch(self, step, count, refill=0):
        import torch

        from openqwq.types import Message, Problem

        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(10, min(self.vocab_size, 100000), (count, PROMPT_TOKENS), generator=generator).tolist()
        texts = [" ".join(map(str, row)) for row in ids]
        return [
            Problem(id=f"{step}/{i}", source="s", kind="k", messages=(Message("user", text),), verifier="even")
            for i, text in enumerate(texts)
        ]
