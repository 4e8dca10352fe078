"""One RL stage in two halves: rollouts without training, and training without rollouts.

Both start from the policy that the stage would start from: the checkpoint of the stage before it in the run folder,
or, where that was never made, the recipe's own model.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

from openqwq.checkpoint.run_state import RunStateStore
from openqwq.config import Recipe, RLStage, recipe_to_dict
from openqwq.errors import TargetMissed, UserError
from openqwq.inference import Engine
from openqwq.log import logger
from openqwq.model import Decoder, load_model, weight_checksum
from openqwq.train.algorithm.rewards import check_rewards
from openqwq.train.experience.collector import Collector, Remembers
from openqwq.train.experience.rollout_file import Replay, RolloutFile, check_new
from openqwq.train.reward_model import RewardModel
from openqwq.train.rl import build_pool, invariance, run_rl
from openqwq.train.rl_metrics import experience_metrics
from openqwq.train.stage import StageContext

from .machine import choose_device, keep_freed_memory, set_threads
from .materials import Materials
from .progress import open_display
from .run import save_policy
from .stages import AnswerScorer, base_model, make_policy


def write_stage_rollouts(recipe: Recipe, out: Path, file: Path, *, stage: str = "", resume: bool = False) -> int:
    """Sample and judge the rollouts of every step of an RL stage into `file`; how many there are.

    stage: its name; empty: the recipe's first RL stage. The policy stands still, so steps differ in problems alone.
    resume: go on with a file that was begun with the same recipe and weights.
    """
    check_new(file, resume=resume)  # before the weights are loaded, which may take long
    set_threads(recipe.threads)
    name, config = _rl_stage(recipe, stage)
    materials = _materials(recipe, out)
    model = _policy_before(name, materials, out)
    scorer = None
    if config.reward_model:
        folder = out / "checkpoints" / config.reward_model
        if not folder.is_dir():
            raise UserError(
                f"stage `{name}` is paid by the reward model `{config.reward_model}`, which is not in {out}",
                hint="give the folder of a run that made it with `--out`, or set `reward_model_weight` to 0",
            )
        scorer = AnswerScorer(RewardModel.load(folder), materials.tokenizer)
    check_rewards(config, scorer)
    ctx = StageContext(name=name, seed=recipe.seed, checkpoints=RunStateStore(out))
    mixture = materials.mixture(name, config)
    problems = build_pool(config, mixture, ctx) or mixture
    policy = make_policy(config, model, Engine(model, materials.tokenizer, seed=recipe.seed))
    made_by = {"recipe": recipe_to_dict(recipe), "stage": name, "policy": weight_checksum(model)}
    rollouts = RolloutFile(file, made_by, resume=resume)
    if isinstance(problems, Remembers) and rollouts.problems is not None:
        problems.load_state(rollouts.problems)
    collector = Collector(
        config,
        ctx,
        policy=policy,
        tokenizer=materials.tokenizer,
        mixture=problems,
        verifiers=materials.judge.strict,
        reward_scorer=scorer,
    )
    with closing(open_display()) as display, invariance(model, config):
        display.stage(name)
        while rollouts.steps < config.steps:
            policy.load_weights(model, version=0)  # as in training: no step finds what an earlier one left in the cache
            experience = collector.collect(rollouts.steps)
            rollouts.append(experience, problems.state() if isinstance(problems, Remembers) else None)
            row = {"stage": name, **experience_metrics(experience, config.mix)}
            display.step(row, rollouts.steps, config.steps)
    return rollouts.rollouts


def train_on_rollouts(recipe: Recipe, out: Path, file: Path, *, stage: str = "", resume: bool = False) -> Path:
    """Train an RL stage on the rollouts of `file`, one step for each of its steps; the folder of the new model.

    Everything is written to `out`/replay. Rollouts of other weights than the trained ones need `correction`.
    """
    keep_freed_memory()
    set_threads(recipe.threads)
    name, config = _rl_stage(recipe, stage)
    replay = Replay(file, config)
    config = replace(config, steps=min(config.steps, replay.steps), reward_model_weight=0.0)
    if config.correction.mode == "none" and config.steps > 1:
        logger.warning("the rollouts of later steps are not of the trained weights, and `correction.mode` is none")
    materials = _materials(recipe, out)
    model = _policy_before(name, materials, out)
    folder = out / "replay"
    folder.mkdir(exist_ok=True)
    store = RunStateStore(folder)
    state = store.load_latest()
    if state is not None and not resume:
        raise UserError(
            f"{folder} holds a replay already", hint="continue it with `--resume`, or choose another `--out`"
        )
    with closing(open_display()) as display:
        display.stage(name)
        outcome = run_rl(
            config,
            model=model,
            policy=Engine(model, materials.tokenizer, seed=recipe.seed),
            tokenizer=materials.tokenizer,
            mixture=materials.mixture(name, config),
            verifiers={},
            ctx=StageContext(
                name=name,
                seed=recipe.seed,
                checkpoints=store,
                base_model=base_model(recipe, name, out),
                progress=display.step,
                resume=state,
            ),
            replay=replay,
        )
    save_policy(model, folder / "final", materials)
    if outcome.idle:
        raise TargetMissed(f"stage `{name}`: {outcome.idle}")
    return folder / "final"


def _rl_stage(recipe: Recipe, wanted: str) -> tuple[str, RLStage]:
    stages = {name: stage for name, stage in recipe.stage.items() if isinstance(stage, RLStage)}
    if not stages or (wanted and wanted not in stages):
        what = f"no RL stage `{wanted}`" if wanted else "no RL stage"
        raise UserError(f"recipe {recipe.name} has {what}", hint=f"it has {', '.join(stages) or 'none'}")
    name = wanted or next(iter(stages))
    return name, replace(stages[name], gate=replace(stages[name].gate, kinds=()))


def _materials(recipe: Recipe, out: Path) -> Materials:
    out.mkdir(parents=True, exist_ok=True)
    return Materials(recipe, out)


def _policy_before(name: str, materials: Materials, out: Path) -> Decoder:
    policies = list(materials.recipe.policy_stages)
    policies = policies[: policies.index(name)]
    device = choose_device()
    folder = out / "checkpoints" / policies[-1] if policies else None
    if folder is not None and folder.is_dir():
        logger.info("policy: %s", folder)
        return load_model(folder, device=device)
    logger.info("policy: the recipe's own model%s", f"; {folder} does not exist" if folder else "")
    return materials.new_model(device)
