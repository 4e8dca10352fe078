"""The frame around every stage's loop: where it stands, what it logs, what is saved and when.

`StageContext` is what the pipeline hands to a stage; `StageRun` drives it. Everything that a step does is
a function of (seed, stage, step) and the weights, so a run that is killed anywhere and resumed
from its last checkpoint repeats the lost steps exactly.
"""

from __future__ import annotations

import hashlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from openqwq.checkpoint.run_state import RunState, RunStateStore, capture_rng, restore_rng
from openqwq.config import Stage
from openqwq.errors import UserError
from openqwq.log import append_jsonl, logger
from openqwq.model.lora import MARK as LORA_MARK
from openqwq.model.lora import lora_tensors

from .distributed import is_first
from .optim.optimizer import Optimizers, load_optimizer_tensors, optimizer_tensors
from .trackers import Trackers, open_trackers

AnyStage = TypeVar("AnyStage", bound=Stage)
AnyModel = TypeVar("AnyModel", bound=nn.Module)

SAVES_PER_SHARE = 20
"""Checkpoints by time take at most one part in so many of it: those of large models come less often than asked for."""
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Progress = Callable[[Mapping[str, Any], int, int], None]
"""(metrics row, steps done, steps in all): called after every step."""


@dataclass(kw_only=True)
class StageContext:
    """What a stage needs from the run around it.

    name, seed:     the stage's name in the recipe, and the run's seed: the roots of every random choice.
    checkpoints:    where resumable checkpoints and the log files are.
    resume:         the state to continue from; None: the stage starts from the model as it is.
    describe_model: writes the config and tokenizer files beside the weights of a checkpoint.
    base_model:     path or hub name of the model that the stage starts from, for what it saves besides.
    """

    name: str
    seed: int
    checkpoints: RunStateStore
    resume: RunState | None = None
    describe_model: Callable[[Path], None] | None = None
    base_model: str = ""
    progress: Progress = lambda row, done, total: None

    def seed_for(self, *parts: str | int) -> int:
        """A 63-bit seed that depends on the run's seed, the stage and the parts, the same on every machine."""
        text = "\x1f".join(map(str, (self.seed, self.name, *parts)))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


class StageRun(Generic[AnyStage, AnyModel]):
    """A stage's loop as a context: resumes on entry, saves when due, on Ctrl-C, SIGTERM and SIGHUP, and at the end.

    values, tensors: what the stage itself wants to find again after a resume (JSON; groups of tensors).
    """

    def __init__(self, ctx: StageContext, stage: AnyStage, model: AnyModel, optimizer: Optimizers, *, steps: int):
        self.ctx, self.stage, self.model, self.optimizer, self.steps = ctx, stage, model, optimizer, steps
        self.step = 0
        self.values: dict[str, Any] = {}
        self.tensors: dict[str, Mapping[str, Tensor]] = {}
        self._stopped = False
        self._changing = False
        self._saved_at: tuple[int, bool] | None = None
        self._saved_time, self._save_seconds = time.monotonic(), 0.0
        self._trackers = Trackers({})
        if ctx.resume:
            self._restore(ctx.resume)

    def __enter__(self) -> StageRun[AnyStage, AnyModel]:
        self.model.zero_grad(set_to_none=True)  # an earlier stage's, which would count in this one's gradient norm
        if is_first():
            folder, config = self.ctx.checkpoints.run_folder, asdict(self.stage)
            self._trackers = open_trackers(self.stage.trackers, folder, self.ctx.name, config, first_step=self.step)
        if not self.ctx.resume:
            self.save()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        self._trackers.close()
        if kind is None:
            self.save()
        elif kind is KeyboardInterrupt and self._changing:
            logger.warning("interrupted within an update of stage `%s`: the last checkpoint stands", self.ctx.name)
        elif kind is KeyboardInterrupt:
            logger.info("interrupted: saving stage `%s` after %d of %d steps", self.ctx.name, self.step, self.steps)
            self.save()

    def remaining_steps(self) -> Iterator[int]:
        """The steps that are still to be made; ends early once the stage was stopped."""
        while self.step < self.steps and not self._stopped:
            yield self.step

    def finish(
        self,
        row: Mapping[str, Any],
        samples: Sequence[Mapping[str, Any]] = (),
        phases: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Log a step, count it as done, and save if a checkpoint is due.

        samples, phases: rows for samples.jsonl and timeline.jsonl.
        """
        if is_first():
            folder = self.ctx.checkpoints.run_folder
            append_jsonl(folder / "metrics.jsonl", dict(row))
            for file, rows in (("samples.jsonl", samples), ("timeline.jsonl", phases)):
                for entry in rows:
                    append_jsonl(folder / file, dict(entry))
            self._trackers.log(row, self.step)
        self.step += 1
        self._changing = False
        self.ctx.progress(row, self.step, self.steps)
        every, seconds = self.stage.checkpoint_every, self.stage.checkpoint_seconds
        seconds_due = max(seconds, SAVES_PER_SHARE * self._save_seconds)
        overdue = seconds > 0 and time.monotonic() - self._saved_time >= seconds_due
        if overdue or (every > 0 and self.step % every == 0) or self._is_kept():
            self.save()

    def _is_kept(self) -> bool:
        """Whether the checkpoint of the steps made so far is one that is never pruned."""
        every = getattr(self.stage, "keep_every", 0)
        return every > 0 and self.step > 0 and self.step % every == 0

    def stop(self) -> None:
        """Make no further steps, now and after a resume."""
        self._stopped = True

    @contextmanager
    def uninterrupted(self) -> Iterator[None]:
        """Hold back what interrupts while weights and logs change: every saved state is one between two steps."""
        self._changing = True
        with _signals_held_back():
            yield
            self._changing = False

    def save(self) -> None:
        """Write a resumable checkpoint unless this very state was just written; only the first rank does."""
        if self._saved_at == (self.step, self._stopped) or not is_first():
            return
        began = time.monotonic()
        self.ctx.checkpoints.save(
            RunState(
                stage=self.ctx.name,
                step=self.step,
                model={n: p for n, p in self.model.named_parameters() if LORA_MARK not in n},
                tensors={**self._own_tensors(), **self.tensors},
                rng=capture_rng(),
                values={**self.values, "stopped": self._stopped},
                keep=self._is_kept(),
            ),
            describe_model=self.ctx.describe_model,
        )
        self._saved_at, self._saved_time = (self.step, self._stopped), time.monotonic()
        self._save_seconds = self._saved_time - began

    def _own_tensors(self) -> dict[str, Mapping[str, Tensor]]:
        """The optimizer's state, and adapters by themselves, so that the model stays one that other tools open."""
        groups: dict[str, Mapping[str, Tensor]] = {"optimizer": optimizer_tensors(self.model, self.optimizer)}
        if adapters := lora_tensors(self.model):
            groups["adapters"] = adapters
        return groups

    def _restore(self, state: RunState) -> None:
        if state.stage != self.ctx.name:
            raise ValueError(f"state of stage {state.stage!r} handed to stage {self.ctx.name!r}")
        if state.step > self.steps:
            raise UserError(
                f"the checkpoint has {state.step} steps of stage `{self.ctx.name}`, the recipe only {self.steps}",
                hint="resume with the recipe that the run was started with",
            )
        load_weights(self.model, {**state.model, **state.tensors.get("adapters", {})})
        load_optimizer_tensors(self.model, self.optimizer, state.tensors["optimizer"])
        self.tensors = {name: group for name, group in state.tensors.items() if name not in ("optimizer", "adapters")}
        self.values = dict(state.values)
        self._stopped = bool(self.values.pop("stopped"))
        restore_rng(state.rng)
        if is_first():
            self.ctx.checkpoints.rewind_logs(state)
        self.step = state.step
        self._saved_at = (self.step, self._stopped)


@torch.no_grad()
def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy weights into the model's parameters in place. Raises UserError when names or shapes differ."""
    parameters = dict(model.named_parameters())
    shapes = {name: tuple(p.shape) for name, p in parameters.items()}
    if shapes != {name: tuple(w.shape) for name, w in weights.items()}:
        raise UserError(
            "the checkpoint's weights have other names or shapes than the model",
            hint="resume with the recipe that the run was started with",
        )
    for name, parameter in parameters.items():
        parameter.copy_(weights[name])


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """What would interrupt is noted meanwhile, and raised afterwards through the handler that it had."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[int] = []
    former = {number: signal.getsignal(number) for number in STOPPING}
    former = {number: handler for number, handler in former.items() if callable(handler)}
    for number in former:
        signal.signal(number, lambda number, frame: pending.append(number))
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    if pending:
        signal.raise_signal(pending[0])
