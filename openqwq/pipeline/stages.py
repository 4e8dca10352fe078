"""Each kind of stage with what it needs from the recipe, called in `openqwq.train`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from openqwq.checkpoint.run_state import RunState, RunStateStore
from openqwq.config import PretrainStage, Recipe, RewardModelStage, RLStage, SFTStage, rounds
from openqwq.data import PreferencePair
from openqwq.eval.evaluate import evaluate, mean_by_kind
from openqwq.inference import Engine, QuantizedEngine
from openqwq.model import Decoder
from openqwq.tokenizer import Tokenizer, render_training_turn
from openqwq.train.distributed import after_first
from openqwq.train.experience.collector import Collects
from openqwq.train.pretrain import run_pretrain
from openqwq.train.reward_model import RewardModel, run_reward_model
from openqwq.train.rl import run_rl
from openqwq.train.rl_run import RLOutcome, RLParts
from openqwq.train.sft import run_sft
from openqwq.train.stage import Progress, StageContext
from openqwq.types import Problem

from .materials import Materials


class StageRunner:
    """Runs stages on one model that they change in place, one after the other.

    engine:        samples from that very model.
    reward_models: those that the reward-model stages so far have made, by stage name.
    base_model:    what adapters name as their base; empty: what the stage starts from.
    """

    def __init__(
        self,
        recipe: Recipe,
        materials: Materials,
        store: RunStateStore,
        model: Decoder,
        engine: Engine,
        progress: Progress,
        *,
        base_model: str = "",
    ):
        self.recipe, self.materials, self.store = recipe, materials, store
        self.model, self.engine, self.progress = model, engine, progress
        self.reward_models: dict[str, RewardModel] = {}
        self.base_model = base_model

    def run(self, name: str, *, resume: RunState | None) -> RLOutcome | None:
        """The stage of that name, from its beginning or from a saved state; how an RL stage ended."""
        stage = self.recipe.stage[name]
        ctx = self.context(name, resume=resume)
        match stage:
            case RLStage():
                outcome = run_rl(stage, self.rl_parts(name, stage), ctx)
                self._refresh_engine()
                return outcome
            case PretrainStage():
                run_pretrain(stage, model=self.model, documents=partial(self.materials.documents, stage.mix), ctx=ctx)
            case SFTStage():
                chains = after_first(lambda: self.materials.chains(name, stage))
                documents = partial(self.materials.documents, stage.replay) if stage.replay else None
                run_sft(stage, model=self.model, chains=chains, documents=documents, ctx=ctx)
            case RewardModelStage():
                self.reward_models[name] = self._run_reward_model(stage, ctx)
            case _:
                raise ValueError(f"no stage of kind {stage.kind!r}")
        self._refresh_engine()
        return None

    def context(self, name: str, *, resume: RunState | None = None) -> StageContext:
        """Where the stage of that name runs: its seed, checkpoints and log."""
        is_policy = not isinstance(self.recipe.stage[name], RewardModelStage)
        return StageContext(
            name=name,
            seed=self.recipe.seed,
            checkpoints=self.store,
            resume=resume,
            describe_model=self._describe_model if is_policy else None,
            base_model=self.base_model or base_model(self.recipe, name, self.store.run_folder),
            progress=self.progress,
        )

    def _refresh_engine(self) -> None:
        """Forget what the engine has cached of prompts: the model's weights are others now."""
        self.engine.load_weights(self.model, version=self.engine.version)

    def _run_reward_model(self, stage: RewardModelStage, ctx: StageContext) -> RewardModel:
        tokenizer = self.materials.tokenizer
        return run_reward_model(
            stage,
            model=self.model,
            pairs=[pair_ids(tokenizer, pair) for pair in self.materials.pairs(stage, is_held_out=False)],
            held_out=[pair_ids(tokenizer, pair) for pair in self.materials.pairs(stage, is_held_out=True)],
            ctx=ctx,
        )

    def rl_parts(self, name: str, stage: RLStage, replay: Collects | None = None) -> RLParts:
        """What an RL stage works with. replay: where its rollouts come from instead of the policy."""
        paid = stage.reward_model and replay is None
        scorer = AnswerScorer(self.reward_models[stage.reward_model], self.materials.tokenizer) if paid else None
        gate = partial(self._gate_scores, self.materials.gate_families(stage)) if stage.gate.kinds else None
        return RLParts(
            model=self.model,
            policy=self.engine if replay else make_policy(stage, self.model, self.engine),
            tokenizer=self.materials.tokenizer,
            mixture=self.materials.mixture(name, stage),
            verifiers={} if replay else self.materials.judge.strict,
            reward_scorer=scorer,
            gate_evaluate=gate,
            replay=replay,
        )

    def _gate_scores(self, families: Mapping[str, Sequence[Problem]]) -> Mapping[str, float]:
        """Held-out scores by kind, sampled as the recipe's evaluation samples, on the gate's own problems."""
        made = self.materials
        self._refresh_engine()
        rows = evaluate(self.engine, made.tokenizer, families, made.eval_params, made.judge, seed=self.recipe.seed)
        return mean_by_kind(rows)

    def _describe_model(self, folder: Path) -> None:
        """Beside a resumable checkpoint's weights: what makes the folder a model that other tools open."""
        config = self.model.config.replace(torch_dtype=str(self.model.dtype).removeprefix("torch."))
        (folder / "config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n", encoding="utf-8")
        for file in self.materials.tokenizer_files:
            shutil.copyfile(file, folder / file.name)


def base_model(recipe: Recipe, stage: str, run_folder: Path) -> str:
    """The path or name of the model that a stage starts from: the last policy before it, or the recipe's own."""
    names = list(recipe.stage)
    policies = [name for name in recipe.policy_stages if names.index(name) < names.index(stage)]
    if policies:
        return str((run_folder / "checkpoints" / policies[-1]).resolve())
    path = recipe.model.path
    return str(Path(path).resolve()) if path and Path(path).is_dir() else path or recipe.model.preset


def make_policy(stage: RLStage, model: Decoder, engine: Engine) -> Engine:
    """What the stage's rollouts come from: the engine over the model itself, or one that rounds, as the stage says."""
    if not rounds(stage):
        return engine
    kv_cache_dtype = stage.rollout_kv_cache_dtype
    if stage.rollout_quantization == "none":
        return Engine(model, engine.tokenizer, kv_cache_dtype=kv_cache_dtype, seed=engine.seed)
    return QuantizedEngine(
        model,
        engine.tokenizer,
        kind=stage.rollout_quantization,
        kv_cache_dtype=kv_cache_dtype,
        seed=engine.seed,
    )


class AnswerScorer:
    """A reward model's scores of rollouts, read as its training pairs are: the answer without the thinking.

    (DeepSeek-R1 likewise judges helpfulness on the final summary only, arXiv:2501.12948, section 2.3.4.)
    """

    def __init__(self, reward_model: RewardModel, tokenizer: Tokenizer):
        self._model = reward_model
        self._open, self._close = tokenizer.think_start_id, tokenizer.think_end_id
        self._between = tokenizer.encode("\n")

    def __call__(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        return self._model.score([self.without_thinking(sequence) for sequence in sequences])

    def without_thinking(self, ids: Sequence[int]) -> list[int]:
        """Prompt and answer with an empty thinking block; a sequence whose thinking is not closed as it is."""
        ids = list(ids)
        if self._open not in ids or self._close not in ids:
            return ids
        close = len(ids) - 1 - ids[::-1].index(self._close)
        opens = [i for i, token in enumerate(ids[:close]) if token == self._open]
        if not opens:
            return ids
        return [*ids[: opens[-1] + 1], *self._between, *self._between, *ids[close:]]


def pair_ids(tokenizer: Tokenizer, pair: PreferencePair) -> tuple[list[int], list[int]]:
    """A preference pair's token ids, both answers after an empty thinking block."""
    return _turn(tokenizer, pair, pair.chosen), _turn(tokenizer, pair, pair.rejected)


def _turn(tokenizer: Tokenizer, pair: PreferencePair, answer: str) -> list[int]:
    prompt_ids, completion_ids = render_training_turn(tokenizer, pair.problem.messages, "", answer)
    return [*prompt_ids, *completion_ids]
