"""A recipe from its first stage to its report: stages in order, an evaluation after each, resumable anywhere.

What is done is known from the run folder alone: the newest resumable checkpoint names the stage that it belongs to,
and every stage before that one is finished and evaluated. A finished stage that is entered again makes no
step; its evaluation is read back from the folder, and only its log rows are written again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from openqwq.checkpoint.checksums import FinishedStages
from openqwq.checkpoint.huggingface import link_model, save_model
from openqwq.checkpoint.run_state import RunState, RunStateStore
from openqwq.config import PretrainStage, Recipe, RewardModelStage, RLStage, SFTStage
from openqwq.errors import TargetMissed, UserError, disk_error
from openqwq.eval.evaluate import evaluate
from openqwq.eval.families import FamilyResult, ScoredCompletion, summarise
from openqwq.eval.report import write_report
from openqwq.eval.targets import TargetResult
from openqwq.inference import Engine
from openqwq.kernels import log_choice
from openqwq.log import append_jsonl, counted
from openqwq.model import Decoder, load_model
from openqwq.train.distributed import after_first, from_first, is_first, ranks, wait_for_all
from openqwq.train.reward_model import RewardModel
from openqwq.train.rl_run import RLOutcome

from .folder import RunFolder, StageClock, open_run_folder
from .machine import choose_device, keep_freed_memory, set_threads
from .materials import Materials
from .preflight import code_digests, preflight
from .progress import describe_results, open_display
from .stages import StageRunner

NO_THINKING = (
    "note: this model's chat template opens no thinking. Chains are learned with a whole <think> block, and a rollout "
    'without one is read as an answer. To have prompts open it: [tokenizer] chat_template = "qwq"'
)
GENERATION_DEFAULTS = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 40, "repetition_penalty": 1.0}
"""QwQ-32B's generation_config.json but for its token ids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """A finished run: its folder, the results of every evaluated stage in order, and the targets.

    idle: stage -> why it made no update in any step.
    """

    folder: Path
    results: Mapping[str, Mapping[str, FamilyResult]]
    targets: list[TargetResult]
    idle: Mapping[str, str] = field(default_factory=dict)

    def raise_if_missed(self) -> None:
        """Raises TargetMissed naming every stage that learned nothing, and every target that the run missed."""
        missed = [f"stage `{name}`: {why}" for name, why in self.idle.items()]
        missed += [f"{t.what}: {t.change}, goal {t.goal}" for t in self.targets if not t.met]
        if missed:
            raise TargetMissed("; ".join(missed))


def run(
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    code: Mapping[str, str] | None = None,
) -> RunOutcome:
    """Run the recipe into the folder `out`, or continue there what was interrupted.

    The folder is made when all that the recipe names has been made, and a run that fails before its first checkpoint
    takes it away again.

    overwrite: remove the run that is there.
    code:      digests of the user's own code besides that of files, which a resumed run must have again.

    Under torchrun, one run of all its processes: the first one writes and evaluates, the others have no results.
    Raises UserError for what the user can fix (a folder with another run, a full disk, missing files);
    KeyboardInterrupt passes through after the state was saved.
    """
    with ranks():
        materials = Materials(recipe, Path(out))
        preflight(materials)
        opening = partial(
            open_run_folder,
            out,
            recipe,
            resume=resume,
            overwrite=overwrite,
            code={**code_digests(recipe), **(code or {})},
        )
        return _run_as_rank(materials, opening)


def _run_as_rank(materials: Materials, opening: Callable[[], RunFolder]) -> RunOutcome:
    keep_freed_memory()
    recipe = materials.recipe
    threads = set_threads(recipe.threads)
    folder = opening() if is_first() else None
    wait_for_all()
    folder = folder or RunFolder(materials.folder, recipe, is_writer=False)
    try:
        return Pipeline(materials, folder, threads).run()
    except Exception as error:
        if is_first():
            folder.remove_unless_begun()
        cause = disk_error(error, folder.path) if isinstance(error, OSError) else None
        if cause is None:
            raise
        raise UserError(cause.message, hint=f"{cause.hint}; then continue with `--resume`") from error
    finally:
        folder.close()


class Pipeline:
    """One run in progress."""

    def __init__(self, materials: Materials, folder: RunFolder, threads: int):
        self.recipe, self.folder, self.threads = materials.recipe, folder, threads
        self.materials = materials
        self.store = RunStateStore(folder.path)
        self.finished = FinishedStages(folder.path)
        self.clock = StageClock(folder.path, is_writer=is_first())
        self.display = open_display(is_shown=is_first())
        self.results: dict[str, dict[str, FamilyResult]] = {}

    def run(self) -> RunOutcome:
        """Every stage that is not done yet, then `final/` and the report."""
        try:
            return self._run()
        finally:
            self.clock.tick(write=True)
            self.display.close()

    def _run(self) -> RunOutcome:
        self.display.note(f"run folder: {self.folder.path}, {counted(self.threads, 'thread')}, seed {self.recipe.seed}")
        state = self.store.load_latest()
        names = list(self.recipe.stage)
        if state and state.stage not in names:
            raise UserError(
                f"{self.store.folder} holds a checkpoint of stage `{state.stage}`, which the recipe does not have",
                hint="its checkpoints are of another run",
            )
        first = names.index(state.stage) if state else 0
        from_first(lambda: self._check_finished(names[:first], names[first]))
        if is_first() and not self.folder.has_results:
            self.folder.write_results(self.clock.seconds, self.threads)
        wait_for_all()
        if state is None and is_first():
            self.store.rewind_logs(RunState(stage="", step=0, model={}))
        after_first(lambda: self.materials.tokenizer_files)
        if (
            any(isinstance(s, SFTStage | RLStage) for s in self.recipe.stage.values())
            and not self.materials.opens_thinking
        ):
            self.display.note(NO_THINKING)
        stages = self._stage_runner(names[:first])
        for name in names[:first]:
            self._read_back(name)
        for name in names[first:]:
            self.clock.start(name)
            self.display.stage(name)
            size = sum(parameter.numel() for parameter in stages.model.parameters())
            self.display.note(f"{name}: learning rate {self.recipe.stage[name].learning_rate:g}, {size:,} parameters")
            from_first(lambda stage=name: self.finished.forget(stage))  # type: ignore[misc]
            outcome = stages.run(name, resume=state if state and state.stage == name else None)
            from_first(lambda own=outcome, stage=name: self._finish_stage(stage, stages, own))  # type: ignore[misc]
            self.clock.tick(write=True)
        targets = from_first(lambda: self._finish(stages.model))
        idle = self.folder.read_idle()
        return RunOutcome(folder=self.folder.path, results=self.results, targets=targets, idle=idle)

    def _check_finished(self, done: list[str], entered: str) -> None:
        """Raise UserError where a file that the run starts from is not what was written."""
        self.finished.check(done)
        self.finished.check_present(entered)

    def _finish_stage(self, name: str, stages: StageRunner, outcome: RLOutcome | None) -> None:
        """What a stage leaves behind: its checkpoint and its evaluation."""
        if outcome and outcome.gate_fell:
            self.folder.write_gate(name, outcome.steps, outcome.gate_fell)
        if outcome:
            self.folder.write_idle(name, outcome.idle)
        self._save_stage(name, stages)
        if name in self.recipe.evaluated_stages:
            self._evaluate(name, stages)
        own = [self.folder.checkpoints / name, self.folder.evaluation_file(name), self.folder.path / "tokenizer"]
        self.finished.write(name, [*own, *(self.folder.path / "chains").glob(f"{name}.*")])

    def _finish(self, model: Decoder) -> list[TargetResult]:
        """`final/` and the report; whether the targets are met."""
        last = self.folder.checkpoints / self.recipe.policy_stages[-1] if self.recipe.policy_stages else None
        if last is not None and last.is_dir():
            link_model(last, self.folder.final)
        else:
            save_policy(model, self.folder.final, self.materials)
        targets = self.folder.write_results(self.clock.seconds, self.threads)
        write_report(self.folder.path)
        return targets

    def _stage_runner(self, done: list[str]) -> StageRunner:
        """The trainer's side, with the policy and the reward models as the finished stages left them."""
        device = choose_device()
        policies = [name for name in self.recipe.policy_stages if name in done]
        if policies:
            model = load_model(self.folder.checkpoints / policies[-1], device=device)
        else:
            model = self.materials.new_model(device)
        log_choice(model.ops.name, model.device.type, model.dtype)
        engine = Engine(model, self.materials.tokenizer, seed=self.recipe.seed)
        stages = StageRunner(self.recipe, self.materials, self.store, model, engine, self._progress)
        for name in done:
            if isinstance(self.recipe.stage[name], RewardModelStage):
                stages.reward_models[name] = RewardModel.load(self.folder.checkpoints / name)
        return stages

    def _progress(self, row, done: int, total: int) -> None:
        self.clock.tick()
        self.display.step(row, done, total)

    def _save_stage(self, name: str, stages: StageRunner) -> None:
        folder = self.folder.checkpoints / name
        if name in stages.reward_models:
            stages.reward_models[name].save(folder, tokenizer_files=self.materials.tokenizer_files)
        else:
            save_policy(stages.model, folder, self.materials)

    def _read_back(self, name: str) -> None:
        rows = self.folder.read_evaluation(name)
        if rows is not None:
            self.results[name] = summarise(rows)

    def _evaluate(self, name: str, stages: StageRunner) -> None:
        """The stage's evaluation, from the folder where it was made before; its rows and `results.json`."""
        rows = self.folder.read_evaluation(name)
        if rows is None:
            rows = self._sample_and_judge(name, stages)
            self.folder.write_evaluation(name, rows)
        self.results[name] = summarise(rows)
        for row in evaluation_rows(name, self.results[name]):
            append_jsonl(self.folder.path / "metrics.jsonl", row)
        self.clock.tick(write=True)
        self.folder.write_results(self.clock.seconds, self.threads)
        self.display.note(describe_results(name, self.results[name]))

    def _sample_and_judge(self, name: str, stages: StageRunner) -> list[ScoredCompletion]:
        return evaluate(
            stages.engine,
            self.materials.tokenizer,
            self.materials.families,
            self.materials.eval_params,
            self.materials.judge,
            seed=self.recipe.seed,
            greedy=name in self.recipe.eval.greedy_after,
            template="plain" if isinstance(self.recipe.stage[name], PretrainStage) else "chat",
        )


def save_policy(model: Decoder, folder: Path, materials: Materials) -> None:
    """A Hugging Face folder of the policy with its tokenizer and QwQ's sampling."""
    ids = {"eos_token_id": list(materials.tokenizer.eos_token_ids), "pad_token_id": materials.tokenizer.pad_token_id}
    save_model(
        model, folder, tokenizer_files=materials.tokenizer_files, generation_config={**GENERATION_DEFAULTS, **ids}
    )


def evaluation_rows(stage: str, results: Mapping[str, FamilyResult]) -> list[dict[str, object]]:
    """A stage's evaluation as rows of `metrics.jsonl`, one a family."""
    rows = []
    for family, result in results.items():
        flat = {"stage": stage, "event": "evaluation", "family": family, "kind": result.kind, "n": result.n}
        for which in ("strict", "format_free", "greedy"):
            interval = getattr(result, which)
            if interval is not None:
                flat |= {which: interval.mean, f"{which}_low": interval.low, f"{which}_high": interval.high}
        rest = {"mean_tokens": result.mean_tokens, "truncated": result.truncated, "unjudged": result.unjudged}
        rows.append({**flat, **rest})
    return rows
