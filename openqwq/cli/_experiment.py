"""A finished or running run as the page shows it: its held-out problems, its verifiers, its report.

Public: RunExperiment, ReportPage.
"""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from openqwq.config import recipe_from_dict
from openqwq.errors import UserError
from openqwq.log import read_json
from openqwq.types import Problem, Verdict


class RunExperiment:
    """The run in a folder; problems and verifiers are made when they are first asked for."""

    def __init__(self, folder: Path):
        from openqwq.pipeline.materials import Materials

        self.folder = folder
        recipe = recipe_from_dict(read_json(folder / "recipe.json"))
        self.families = tuple(recipe.eval.families)
        self.max_tokens = recipe.eval.max_completion_tokens
        self._materials: Any = Materials(recipe, folder)
        self._held_out: dict[str, list[Problem]] = {}
        self._lock = threading.Lock()
        self._report = ReportPage(folder)

    def draw(self, family: str | None) -> Problem:
        """A held-out problem at random. Raises UserError for a recipe that evaluates nothing."""
        if not self.families:
            raise UserError("this run's recipe names no families under [eval]")
        return random.choice(self._problems(family or random.choice(self.families)))

    def _problems(self, family: str) -> list[Problem]:
        """The evaluation's problems of one family; a KeyError for another one."""
        from openqwq.data import held_out

        with self._lock:
            if family not in self._held_out:
                count = self._materials.recipe.eval.problems_per_family
                self._held_out[family] = held_out(self._materials.sources[family], count)
            return self._held_out[family]

    def judge(self, family: str, problem_id: str, text: str, finish_reason: str) -> Verdict:
        """The strict verdict, as in the run's own evaluation: what was cut off is wrong."""
        from openqwq.verifiers import verify_all

        problem = next((p for p in self._problems(family) if p.id == problem_id), None)
        if problem is None:
            raise KeyError(problem_id)
        tokenizer = self._materials.tokenizer
        opened = tokenizer.opens_thinking(tokenizer.encode_chat(problem.messages))
        asked = replace(problem, thinking_opened=opened)
        [verdict] = verify_all([(asked, text)], self._materials.judge.strict)
        if finish_reason == "length" and verdict.status != "unjudged":
            return Verdict.wrong("cut off at the token limit")
        return verdict

    def report(self) -> str:
        """The report's page, as it is now."""
        return self._report.text()


class ReportPage:
    """The report of a run's folder: the run's own where it is finished, else made when the files have changed."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._made: tuple[Any, str] | None = None  # what the files were like, and the page
        self._lock = threading.Lock()

    def text(self) -> str:
        """Raises UserError while there is nothing to show."""
        from openqwq.eval.report.html import render_html
        from openqwq.eval.report.run_folder import read_run_folder

        places = [*self.folder.glob("[!.]*.json"), *self.folder.glob("[!.]*.jsonl"), *self.folder.glob("eval/[!.]*")]
        files = {path: path.stat() for path in places}
        stamp = {path: (stat.st_mtime_ns, stat.st_size) for path, stat in files.items()}
        finished = self.folder / "report.html"
        newest = max((stat.st_mtime_ns for stat in files.values()), default=0)
        if finished.is_file() and finished.stat().st_mtime_ns >= newest:
            return finished.read_text(encoding="utf-8")
        with self._lock:
            if self._made is None or self._made[0] != stamp:
                self._made = stamp, render_html(read_run_folder(self.folder))
            return self._made[1]
