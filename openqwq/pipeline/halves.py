"""One RL stage in two halves: rollouts without training, and training without rollouts.

Both start from the policy that the stage would start from: the checkpoint of the stage before it in the run folder,
or, where that was never made, the recipe's own model.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

from openqwq.checkpoint.checksums import FinishedStages
from openqwq.checkpoint.run_state import RunStateStore
from openqwq.config import Recipe, RLStage, recipe_to_dict
from openqwq.errors import TargetMissed, UserError
from openqwq.inference import Engine
from openqwq.log import logger
from openqwq.model import Decoder, load_model, weight_checksum
from openqwq.train.experience.rollout_file import Replay, RolloutFile, check_new
from openqwq.train.reward_model import RewardModel
from openqwq.train.rl import run_rl
from openqwq.train.rl_metrics import experience_metrics
from openqwq.train.rl_run import RolloutRun

from .machine import choose_device, keep_freed_memory, set_threads
from .materials import Materials
from .progress import Display, open_display
from .run import save_policy
from .stages import StageRunner, base_model


def write_stage_rollouts(recipe: Recipe, out: Path, file: Path, *, stage: str = "", resume: bool = False) -> int:
    """Sample and judge the rollouts of every step of an RL stage into `file`; how many there are.

    stage: its name; empty: the recipe's first RL stage. The policy stands still, so steps differ in problems alone.
    resume: resume a file started with the same recipe and weights.
    """
    check_new(file, resume=resume)  # before the weights are loaded, which may take long
    set_threads(recipe.threads)
    name, config = _rl_stage(recipe, stage)
    with closing(open_display()) as display:
        runner = _runner(recipe, name, out, RunStateStore(out), display)
        if config.reward_model:
            runner.reward_models[config.reward_model] = _reward_model(config.reward_model, name, out)
        made_by = {"recipe": recipe_to_dict(recipe), "stage": name, "policy": weight_checksum(runner.model)}
        rollouts = RolloutFile(file, made_by, resume=resume)
        display.stage(name)
        with RolloutRun(config, runner.rl_parts(name, config), runner.context(name), rollouts.problems) as run:
            while rollouts.steps < config.steps:
                experience = run.collect(rollouts.steps)
                rollouts.append(experience, run.state())
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
    folder = out / "replay"
    folder.mkdir(exist_ok=True, parents=True)
    store = RunStateStore(folder)
    state = store.load_latest()
    if state is not None and not resume:
        raise UserError(
            f"{folder} holds a replay already", hint="continue it with `--resume`, or choose another `--out`"
        )
    with closing(open_display()) as display:
        runner = _runner(recipe, name, out, store, display)
        display.stage(name)
        ctx = replace(runner.context(name, resume=state), describe_model=None)
        outcome = run_rl(config, runner.rl_parts(name, config, replay), ctx)
    save_policy(runner.model, folder / "final", runner.materials)
    if outcome.idle:
        raise TargetMissed(f"stage `{name}`: {outcome.idle}")
    return folder / "final"


def _runner(recipe: Recipe, name: str, out: Path, store: RunStateStore, display: Display) -> StageRunner:
    """A runner over the policy that the stage starts from."""
    out.mkdir(parents=True, exist_ok=True)
    materials = Materials(recipe, out)
    model = _policy_before(name, materials, out)
    engine = Engine(model, materials.tokenizer, seed=recipe.seed)
    base = base_model(recipe, name, out)
    return StageRunner(recipe, materials, store, model, engine, display.step, base_model=base)


def _reward_model(wanted: str, stage: str, out: Path) -> RewardModel:
    folder = out / "checkpoints" / wanted
    if not folder.is_dir():
        raise UserError(
            f"stage `{stage}` is paid by the reward model `{wanted}`, which is not in {out}",
            hint="give the folder of a run that made it with `--out`, or set `reward_model_weight` to 0",
        )
    FinishedStages(out).check_present(wanted)
    return RewardModel.load(folder)


def _rl_stage(recipe: Recipe, wanted: str) -> tuple[str, RLStage]:
    stages = {name: stage for name, stage in recipe.stage.items() if isinstance(stage, RLStage)}
    if not stages or (wanted and wanted not in stages):
        what = f"no RL stage `{wanted}`" if wanted else "no RL stage"
        raise UserError(f"recipe {recipe.name} has {what}", hint=f"it has {', '.join(stages) or 'none'}")
    name = wanted or next(iter(stages))
    return name, replace(stages[name], gate=replace(stages[name].gate, kinds=()))


def _policy_before(name: str, materials: Materials, out: Path) -> Decoder:
    policies = list(materials.recipe.policy_stages)
    policies = policies[: policies.index(name)]
    device = choose_device()
    folder = out / "checkpoints" / policies[-1] if policies else None
    if folder is not None and folder.is_dir():
        FinishedStages(out).check_present(policies[-1])
        logger.info("policy: %s", folder)
        return load_model(folder, device=device)
    logger.info("policy: the recipe's own model%s", f"; {folder} does not exist" if folder else "")
    return materials.new_model(device)
