"""Environments of the `verifiers` library: their tasks as problems, their rewards as verdicts."""

import json

import pytest

from openqwq.config import SourceConfig
from openqwq.data import build_source
from openqwq.errors import UserError
from openqwq.types import Problem
from openqwq.verifiers import get_verifier

TINY = """
import verifiers.v1 as vf

__all__ = ["Sums"]


class Data(vf.TaskData):
    total: int


class Config(vf.TasksetConfig):
    count: int = 12


class Sum(vf.Task[Data]):
    @vf.reward(weight=0.75)
    async def right(self, trace) -> float:
        return float(trace.last_reply == str(self.data.total))

    @vf.reward(weight=0.25)
    async def brief(self, task, trace) -> float:
        if "crash" in trace.last_reply:
            raise RuntimeError("no such file")
        while "hang" in trace.last_reply:
            pass
        return float(len(trace.last_reply) < 4 and trace.messages[0].content == "Add.")


class Sums(vf.Taskset[Sum, Config]):
    INFINITE = False

    def load(self):
        for i in range(self.config.count):
            yield Sum(Data(prompt=f"{i} + 1?", system_prompt="Add.", total=i + 1), self.config.task)
"""


def test_without_the_library_the_way_to_it_is_said(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "verifiers", None)
    with pytest.raises(UserError, match="needs the library of that name") as error:
        build_source("x", SourceConfig(type="verifiers", dataset="sums"))
    assert "pip install 'verifiers>=0.4'" in error.value.hint


def test_a_task_that_is_none_is_unjudged_and_no_answer_wrong():
    problem = Problem(id="1", source="s", kind="k", messages=(), verifier="environment", answer={"task": {}})
    assert get_verifier("environment")(problem, "</think>1").reason == "unreadable task"
    whole = {"environment": "tiny_sums", "args": {}, "task": {}}
    silent = Problem(id="1", source="s", kind="k", messages=(), verifier="environment", answer=whole)
    verdict = get_verifier("environment")(silent, "still thinking")
    assert (verdict.status, verdict.reason) == ("wrong", "thinking not closed")
    assert get_verifier("environment")(silent, "done</think>").reason == "no answer"


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """Writes a module that is importable here and in worker processes, and returns a source of it."""
    pytest.importorskip("verifiers.v1", reason="the library `verifiers` is not installed")

    def build(text=TINY, name="tiny_sums", **config):
        (tmp_path / f"{name}.py").write_text(text)
        return build_source("sums", SourceConfig(type="verifiers", dataset=name, config=config))

    monkeypatch.syspath_prepend(tmp_path)
    return build


def test_tasks_become_problems_in_their_order(environment):
    source = environment(args={"count": 20})
    held = source.problem("held_out", 0)
    assert [(m.role, m.content) for m in held.messages] == [("system", "Add."), ("user", "0 + 1?")]
    assert (held.id, held.source, held.kind, held.verifier) == ("sums/0", "sums", "environment", "environment")
    assert held.answer["task"]["total"] == 1 and held.answer["args"] == {"count": 20}
    assert {source.problem("train", key).prompt for key in range(40)} == {f"{i} + 1?" for i in range(20) if i % 10 > 1}
    assert {environment(problems=10).problem("gate", key).prompt for key in range(9)} == {"1 + 1?"}


def test_rewards_are_verdicts_and_faults_of_the_environment_are_no_ones(environment):
    written = json.loads(json.dumps(environment().problem("train", 0).to_dict()))
    problem = Problem.from_dict(written)
    assert problem.prompt == "2 + 1?"
    verifier = get_verifier("environment", deadline_s=3.0)
    answers = ["think</think>\n\n3", "</think>4", "</think>it is 3", "</think>crash", "</think>hang", "3"]
    verdicts = verifier.verify_many([(problem, answer) for answer in answers])
    assert [v.status for v in verdicts] == ["correct", "wrong", "wrong", "unjudged", "wrong", "wrong"]
    assert [v.score for v in verdicts] == [1.0, 0.25, 0.0, 0.0, 0.0, 0.0]
    assert verdicts[3].reason == "the environment failed" and "no such file" in verdicts[3].details["error"]
    assert verdicts[4].reason == "deadline" and verdicts[5].reason == "thinking not closed"
    lenient = get_verifier("environment", full_reward=0.25)
    assert lenient(problem, "</think>4").status == "correct"


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("async def right(self, trace)", "async def right(self, trace, runtime)", "look into a runtime"),
        ("total: int", "total: int\n    image: str | None = 'debian'", "need a container"),
        ("vf.Task[Data]):", "vf.Task[Data]):\n    async def setup(self, trace, runtime):\n        pass", "set up in"),
        ('prompt=f"{i} + 1?", ', "", "user opens"),
        ("@vf.reward(weight=0.75)", "", None),
        ("INFINITE = False", "INFINITE = True", "tasks without end"),
        ("yield Sum", "raise OSError('no data') or Sum", "cannot be used: no data"),
        ("count: int = 12", "count: int = 0", "has no tasks"),
        ("count: int = 12", "count: int = 9", "9 problems, and 10 are the least"),
    ],
)
def test_what_one_answer_cannot_settle_is_refused(environment, old, new, why):
    assert old in TINY
    name = f"changed_{abs(hash((old, new)))}"
    if why is None:
        assert environment(TINY.replace(old, new), name).problem("train", 0).prompt == "2 + 1?"
        return
    with pytest.raises(UserError, match=why):
        environment(TINY.replace(old, new), name)


def test_unknown_environments_and_options_are_user_errors(environment):
    with pytest.raises(UserError, match="`no-such` cannot be used"):
        build_source("x", SourceConfig(type="verifiers", dataset="no-such"))
    with pytest.raises(UserError, match="`tiny_sums` cannot be used"):
        environment(args={"cuont": 3})
    with pytest.raises(UserError, match="unknown key `problem`"):
        environment(problem=3)
    with pytest.raises(UserError, match="`problems` is -1"):
        environment(problems=-1)
