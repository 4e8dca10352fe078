"""Runs of agents against a scripted server and scripted policies: tools, approval, stopping, the command."""

import asyncio
import json
import os
import time

import pytest

from openqwq.agents import Context, Episode, Toolbox, Turn, tool_of
from openqwq.agents.driver import AgentRun
from openqwq.cli.main import main
from openqwq.types import Message, ToolCall


class Script:
    """A model that writes these turns."""

    def __init__(self, *turns):
        self.turns, self.stopped = list(turns), False

    async def draw(self, draw):
        if not self.turns:
            await asyncio.sleep(600)
        return self.turns.pop(0)

    def stop(self):
        self.stopped = True


def wait(seconds: float, context: Context) -> str:
    """Waits."""
    context.files["begun"] = b""
    for _ in range(int(seconds * 20)):
        if context.ticket._cancelled:
            break
        time.sleep(0.05)
    return "waited"


def started(*turns, approve=True, **options):
    async def answer(call):
        return approve

    episode = Episode.begin([Message("user", "go")], Toolbox([tool_of(wait, **options)]))
    return AgentRun(episode, Script(*turns), Context(), answer)


CALL = Turn(calls=(ToolCall("wait", {"seconds": 0.0}),))
LONG = Turn(calls=(ToolCall("wait", {"seconds": 30.0}),))


def test_calls_run_and_change_the_workspace():
    run = started(CALL, Turn(answer="done"))
    assert asyncio.run(run.run()) == "answered"
    assert run.episode.turns[0].results[0].text == "waited" and run.context.files == {"begun": b""}


def test_denied_call_is_told_and_the_run_goes_on():
    run = started(CALL, Turn(answer="done"), approve=False)
    assert asyncio.run(run.run()) == "answered"
    assert run.episode.turns[0].results[0].status == "denied" and run.context.files == {}


def test_tool_that_does_not_ask_runs_without_approval():
    run = started(CALL, Turn(answer="done"), approve=False, asks=False)
    assert asyncio.run(run.run()) == "answered" and run.episode.turns[0].results[0].status == "ok"


def test_stop_ends_the_tool_first_and_then_the_run():
    async def play(run):
        task = asyncio.ensure_future(run.run())
        await asyncio.sleep(0.3)
        run.stop()
        while not run.episode.turns[0].results:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.1)
        run.stop()
        return await task

    run = started(LONG)
    assert asyncio.run(play(run)) == "cancelled"
    assert "stopped by the user" in run.episode.turns[0].results[0].text
    assert run.model.stopped and run.context.files == {}


def test_stop_while_the_user_is_asked_ends_the_run():
    async def play(run):
        run.approve = lambda call: asyncio.sleep(600)
        task = asyncio.ensure_future(run.run())
        await asyncio.sleep(0.1)
        run.stop()
        return await task

    run = started(CALL)
    assert asyncio.run(play(run)) == "cancelled" and run.context.files == {}


def test_tool_past_its_deadline_leaves_the_files_as_they_were(monkeypatch):
    monkeypatch.setattr("openqwq.agents.driver.GRACE_S", 0.2)

    def hang(context: Context) -> str:
        """Never looks at its ticket."""
        context.files["half"] = b""
        time.sleep(2)
        return "late"

    run = started(Turn(calls=(ToolCall("hang", {}),)), Turn(answer="done"))
    run.episode.toolbox = Toolbox([tool_of(hang, deadline_s=0.1)])
    assert asyncio.run(run.run()) == "answered"
    assert run.episode.turns[0].results[0].status == "failed" and run.context.files == {}


def reply(content="", calls=(), finish_reason="stop"):
    tool_calls = [
        {"id": str(i), "type": "function", "function": {"name": name, "arguments": arguments}}
        for i, (name, arguments) in enumerate(calls)
    ]
    message = {"role": "assistant", "content": content, **({"tool_calls": tool_calls} if calls else {})}
    return 200, {}, {"choices": [{"message": message, "finish_reason": finish_reason}], "usage": {}}


def agent(json_server, replies, *options, task="go"):
    waiting = list(replies)
    with json_server(lambda body, headers: waiting.pop(0)) as (url, log):
        code = main(["agent", url, task, "--model", "m", *options])
    return code, [body for _, body, _ in log]


def test_command_lets_a_server_write_run_and_fix_a_program(json_server, tmp_path, capsys):
    (tmp_path / "f.py").write_text("def f(x):\n    return x\n")
    edit = {"path": "f.py", "old": "return x", "new": "return 2 * x"}
    run = json.dumps({"code": "from f import f\nassert f(2) == 4\nprint('good')"})
    replies = [
        reply(calls=[("python", run)]),
        reply(calls=[("edit_file", json.dumps(edit))]),
        reply(calls=[("python", run)]),
        reply("fixed"),
    ]
    trace = tmp_path.parent / f"{tmp_path.name}.jsonl"
    options = ("--workspace", str(tmp_path), "--approve", "all", "--json", "--trace", str(trace))
    code, bodies = agent(json_server, replies, *options)
    told = json.loads(capsys.readouterr().out)
    assert code == 0 and told["answer"] == "fixed" and told["files"] == ["changed f.py"]
    assert (tmp_path / "f.py").read_text() == "def f(x):\n    return 2 * x\n"
    assert [turn["results"][0]["status"] for turn in told["turns"][:3]] == ["error", "ok", "ok"]
    assert "AssertionError" in bodies[1]["messages"][-1]["content"]
    assert bodies[1]["messages"][-1]["tool_call_id"] == bodies[1]["messages"][-2]["tool_calls"][0]["id"]
    assert len(trace.read_text().splitlines()) == 7


def test_unreadable_arguments_unknown_tools_and_cut_turns_end_as_they_should(json_server, tmp_path, capsys):
    options = ("--workspace", str(tmp_path), "--approve", "all", "--json")
    bad, unknown = reply(calls=[("python", "{")]), reply(calls=[("nothing", "{}")])
    for replies, stop, code in (
        ([bad, bad], "malformed", 1),
        ([bad, unknown, reply("ok")], "answered", 0),
        ([reply(calls=[("python", '{"code": "1"}')], finish_reason="length")], "length", 1),
        ([reply("")], "void", 1),
    ):
        assert agent(json_server, replies, *options)[0] == code
        assert json.loads(capsys.readouterr().out)["stop"] == stop


def test_without_a_terminal_asking_is_refused_and_none_denies(json_server, tmp_path, capsys):
    assert agent(json_server, [], "--workspace", str(tmp_path))[0] == 2
    assert "--approve all" in capsys.readouterr().err
    call = reply(calls=[("write_file", '{"path": "a", "text": "x"}')])
    options = ("--workspace", str(tmp_path), "--approve", "none")
    assert agent(json_server, [call, reply("ok")], *options)[0] == 0
    assert os.listdir(tmp_path) == []


def test_tools_of_a_file_are_offered_and_called(json_server, tmp_path, capsys):
    (tmp_path / "t.py").write_text('def twice(x: int) -> int:\n    "Two times x."\n    return 2 * x\n')
    options = ("--tools", str(tmp_path / "t.py"), "--approve", "all")
    code, bodies = agent(json_server, [reply(calls=[("twice", '{"x": 4}')]), reply("8")], *options)
    assert code == 0 and capsys.readouterr().out == "8\n"
    assert [tool["function"]["name"] for tool in bodies[0]["tools"]] == ["twice"]
    assert bodies[1]["messages"][-1]["content"] == "8"


@pytest.mark.parametrize("option", [("--max-turns", "0"), ("--set", "top_k=3"), ("--tools", "none.py")])
def test_mistakes_are_refused(json_server, option, capsys):
    assert agent(json_server, [], *option)[0] == 2
    assert "error:" in capsys.readouterr().err
