"""A small world for training tests: a decoder of a few thousand parameters, a tokenizer of digits, problems."""

from types import SimpleNamespace

import pytest
import torch

from openqwq.checkpoint.run_state import RunStateStore
from openqwq.config import RLStage
from openqwq.inference import Engine
from openqwq.log import read_jsonl
from openqwq.model import create_model, preset
from openqwq.train.experience.collector import Collector
from openqwq.train.rl import run_rl
from openqwq.train.rl_run import RLParts
from openqwq.train.stage import StageContext
from openqwq.types import Message, Problem, Verdict
from openqwq.verifiers import Verifier

torch.set_num_threads(1)

END = 15
CONFIG = preset("tiny").replace(
    vocab_size=16, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, max_position_embeddings=64,
)  # fmt: skip


class HexTokenizer:
    """Token i is the i-th hexadecimal digit; f ends a completion."""

    eos_token_ids = (END,)

    def opens_thinking(self, prompt_ids):
        return False

    def encode_chat(self, messages):
        return [int(digit, 16) for digit in messages[-1].content]

    def decode(self, ids):
        return "".join(f"{i:x}" for i in ids)


class SameDigit(Verifier):
    """Correct when the completion starts with the answer; "e" somewhere cannot be judged."""

    name = "same_digit"

    def __call__(self, problem, completion):
        if "e" in completion:
            return Verdict.unjudged("an e")
        return Verdict.correct() if completion.startswith(problem.answer) else Verdict.wrong("another digit")


class Digits:
    """Problems of one digit whose answer is 7, from two sources; a pure function of step and refill."""

    def batch(self, step, count, refill=0):
        return [self._problem(step * 100 + refill * 10 + i) for i in range(count)]

    def _problem(self, number):
        source = ("low", "high")[number % 2]
        prompt = f"{number % 13:x}{number * 7 % 13:x}"
        return Problem(
            id=f"{source}/{number}",
            source=source,
            kind="math",
            messages=(Message("user", prompt),),
            verifier="same_digit",
            answer="7",
        )


def make_context(folder, name, *, resume=False, **options):
    """A stage's context in `folder`; resume: continue from the newest checkpoint there."""
    folder.mkdir(parents=True, exist_ok=True)
    store = RunStateStore(folder)
    state = store.load_latest() if resume else None
    return StageContext(name=name, seed=5, checkpoints=store, resume=state, **options)


def make_engine(model):
    return Engine(model, HexTokenizer(), max_num_seqs=64)


def make_stage(**changes):
    """A reinforcement learning stage on `Digits`: three steps of four problems, with `changes`."""
    plain = {"mix": {"low": 1.0, "high": 1.0}, "steps": 3, "prompts_per_step": 4, "samples_per_prompt": 8}
    return RLStage(**plain | {"max_completion_tokens": 5, "learning_rate": 1e-2} | changes)


def world_of(verifier):
    """What the trainer is handed of the world, whatever the stage."""
    return {"tokenizer": HexTokenizer(), "mixture": Digits(), "verifiers": {"same_digit": verifier or SameDigit()}}


def make_collector(folder, stage, policy):
    return Collector(stage, make_context(folder, "rl"), policy=policy, reward_scorer=None, **world_of(None))


def train_rl(folder, stage, *, model=None, engine=None, verifier=None, ctx=None, **options):
    """The model that `stage` trained in `folder`, and the stage's outcome."""
    model = model or create_model(CONFIG, seed=0)
    engine, ctx = engine or make_engine(model), ctx or make_context(folder, "rl")
    parts = RLParts(model=model, policy=engine, **world_of(verifier) | options)
    outcome = run_rl(stage, parts, ctx)
    return model, outcome


def read_rows(folder, name="metrics.jsonl"):
    """The rows of a log file without the timings."""
    return [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in read_jsonl(folder / name)]


def weights_of(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same_weights(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def world():
    return SimpleNamespace(
        END=END,
        CONFIG=CONFIG,
        Digits=Digits,
        HexTokenizer=HexTokenizer,
        SameDigit=SameDigit,
        context=make_context,
        rows=read_rows,
        weights=weights_of,
        same_weights=same_weights,
        model=lambda seed=0: create_model(CONFIG, seed=seed),
        engine=make_engine,
        stage=make_stage,
        collector=make_collector,
        train_rl=train_rl,
    )
