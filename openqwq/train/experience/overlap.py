"""Sampling beside training: with `max_staleness` above 0 the next step's rollouts are made while this one is learned.

One module, one set of weights, two threads of one process. While a step's gradient is computed, a thread samples
and verifies the groups of the next step; both only read the weights. The update waits for the thread, then
the weights change, and everything begins again:

    train     gradient of step s      | update, sync | gradient of step s + 1      | ...
    sample    groups of step s + 1    |    (idle)    | groups of step s + 2        | ...

So a rollout is one step old when it is trained on. From `max_staleness = 2` on, long rollouts do not hold up the
others: twice `prompts_per_step` groups are in flight, a turn ends when enough of them are complete, and the
others continue under the next weights (as in AReaL, arXiv:2505.24298), but never longer than the bound allows. What a
turn gives depends on tokens and weights alone, not on the clock: a resumed run repeats it.

On a CPU both threads share the cores: what is won is the time in which one of them leaves a core idle.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from openqwq.config import RLStage
from openqwq.rollout import GroupStream

from ..stage import StageRun
from ..timeline import Timeline
from .collector import Collector, Collects, Experience, with_advantages
from .rollout_file import attempt_row, read_attempt

_AHEAD = "ahead"


class InTurn:
    """Each step's experience when the step begins, by the weights of that moment: nothing overlaps."""

    def __init__(self, source: Collects):
        self.collect = source.collect

    def __enter__(self) -> InTurn:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def begin(self, step: int) -> None:
        """Nothing is made ahead."""

    def wait(self) -> None:
        """There is nothing to wait for."""


class Overlap:
    """One step's experience ahead of the training, as a context: at its end no thread is left.

    What was collected and not yet trained on, and the groups still in flight, are saved with the run.
    """

    def __init__(self, collector: Collector, stream: GroupStream, stage: RLStage, run: StageRun, timeline: Timeline):
        self.collector, self.stream, self.stage, self.run, self.timeline = collector, stream, stage, run, timeline
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rollouts")
        self._future: Future[Experience] | None = None
        self._next: tuple[int, Experience] | None = None
        if _AHEAD in run.values:
            self._load(run.values[_AHEAD])

    def __enter__(self) -> Overlap:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=True)

    def collect(self, step: int) -> Experience:
        """The step's experience: made beside the step before, or now where there was none."""
        if self._next is not None and self._next[0] == step:
            return self._next[1]
        return self.collector.collect(step)

    def begin(self, step: int) -> None:
        """Start to collect a step's experience; the weights must not change before `wait`."""
        self._next = None
        if step < self.stage.steps:
            self._future = self._thread.submit(self.collector.collect, step)
            self._step = step

    def wait(self) -> None:
        """Until what was begun is there. Raises what the thread raised."""
        if self._future is not None:
            with self.timeline.phase("wait"):
                self._next = (self._step, self._future.result())
            self._future = None
        self.run.values[_AHEAD] = self._state()

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = {"stream": self.stream.state()}
        if self._next is not None:
            step, experience = self._next
            state |= {"step": step, "refills": experience.refills}
            state["groups"] = [
                [attempt_row(attempt, step, number) for attempt in group]
                for number, group in enumerate(experience.groups)
            ]
        return state

    def _load(self, state: Mapping[str, Any]) -> None:
        self.stream.load_state(state["stream"])
        if "step" in state:
            groups = [[read_attempt(row) for row in group] for group in state["groups"]]
            rollouts, verdicts, rewards = zip(*(entry for group in groups for entry in group), strict=True)
            made = with_advantages([len(group) for group in groups], rollouts, verdicts, rewards, self.stage)
            experience = Experience(groups=made, needs_spread=self.collector.needs_spread, refills=state["refills"])
            self._next = (state["step"], experience)
