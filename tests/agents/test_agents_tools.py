"""Tools from functions: schemas, checked arguments, results that are cut, and a process that can be ended."""

import os
import textwrap
import threading
import time
from typing import Annotated, Literal

import pytest

from openqwq.agents import Context, Tool, Toolbox, ToolError, tool_of
from openqwq.agents.schema import fault_in
from openqwq.agents.tool_process import ToolProcess
from openqwq.agents.tools import cut_middle
from openqwq.errors import UserError
from openqwq.types import ToolCall


def area(
    width: Annotated[float, "in metres"],
    height: float,
    unit: Literal["m2", "ha"] = "m2",
    notes: list[str] | None = None,
) -> str:
    """The area of
    a rectangle.

    Args:
        height: its height,
            in metres
        unit (str): of the result
    """
    return f"{width * height} {unit}"


def test_hints_and_docstring_become_the_schema():
    tool = tool_of(area)
    assert tool.description == "The area of a rectangle."
    assert tool.parameters == {
        "type": "object",
        "properties": {
            "width": {"type": "number", "description": "in metres"},
            "height": {"type": "number", "description": "its height, in metres"},
            "unit": {"enum": ["m2", "ha"], "description": "of the result"},
            "notes": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
        },
        "required": ["width", "height"],
        "additionalProperties": False,
    }


def test_context_is_hidden_from_the_schema_and_given_to_the_function():
    def count(context: Context, path: str) -> int:
        return len(context.files[path])

    tool = tool_of(count)
    assert list(tool.parameters["properties"]) == ["path"]
    assert tool.call({"path": "a"}, Context({"a": b"xyz"})).text == "3"


def test_parameter_without_a_hint_or_with_an_unknown_type_is_refused():
    def bare(x, y: int = 0):
        return x

    def odd(x: bytes) -> str:
        return ""

    def many(*xs: int) -> str:
        return ""

    for function, word in ((bare, "`x` of tool `bare` has no type hint"), (odd, "bytes"), (many, "cannot be named")):
        with pytest.raises(UserError, match=word):
            tool_of(function)


def test_two_tools_of_one_name_and_impossible_names_are_refused():
    with pytest.raises(UserError, match="two tools"):
        Toolbox([tool_of(area), tool_of(area)])
    with pytest.raises(UserError, match="cannot be named"):
        Toolbox([tool_of(area, name="a b")])


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"width": 1, "height": 2.5}, ""),
        ({"width": 1, "height": 2, "unit": "ha", "notes": None}, ""),
        ({"width": 1, "height": 2, "notes": ["a", "b"]}, ""),
        ({"width": 1}, "`height` is missing"),
        ({"width": "1", "height": 2}, "`width` must be of type number"),
        ({"width": True, "height": 2}, "`width` must be of type number"),
        ({"width": 1, "height": 2, "depth": 3}, "there is no `depth`"),
        ({"width": 1, "height": 2, "unit": "acre"}, "`unit` must be one of"),
        ({"width": 1, "height": 2, "notes": ["a", 1]}, "`notes[1]` must be of type string"),
    ],
)
def test_arguments_are_checked_against_the_schema(arguments, fault):
    found = Toolbox([tool_of(area)]).fault(ToolCall("area", arguments))
    assert found.startswith(fault) and bool(found) == bool(fault)


def test_unknown_tool_is_a_fault_that_names_the_known_ones():
    assert Toolbox([tool_of(area)]).fault(ToolCall("volume", {})) == "there is no tool `volume`; the tools are area"


def test_schema_without_types_accepts_anything():
    assert fault_in({"a": object, "b": 1}, {}) == "" and fault_in(1, {"description": "x"}) == ""


def test_long_result_loses_its_middle_and_says_so():
    text = "a" * 60 + "b" * 60
    cut, left_out = cut_middle(text, 11)
    assert left_out == 109 and cut == "aaaaaa\n[... 109 characters left out ...]\nbbbbb"
    assert cut_middle("short", 5) == ("short", 0)


def test_exceptions_of_a_tool_are_results():
    def wrong(x: int) -> str:
        """One."""
        raise ToolError("x is odd") if x % 2 else ZeroDivisionError("by zero")

    tool = tool_of(wrong)
    assert (tool.call({"x": 1}, Context()).status, tool.call({"x": 2}, Context()).status) == ("error", "failed")
    assert tool.call({"x": 1}, Context()).text == "error: x is odd"


TOOLS = '''
import os, time, subprocess
from openqwq.agents import Context, ToolError

def double(x: int) -> int:
    """Twice x."""
    print("noise on stdout")
    return 2 * x

def hang(seconds: float) -> str:
    """Sleeps, and so does what it starts."""
    subprocess.Popen(["sleep", "98765"])
    time.sleep(seconds)
    return "late"

def die() -> str:
    os._exit(3)

def flood() -> str:
    return "f" * 10_000_000

def wrong() -> str:
    raise ToolError("not so")

def broken() -> str:
    raise KeyError("x")

def note(text: str, context: Context) -> str:
    context.files["note.txt"] = text.encode()
    return f"{len(context.files)} files"

def ask() -> str:
    return input()

def _hidden(x):
    return x
'''


@pytest.fixture
def process(tmp_path):
    file = tmp_path / "tools.py"
    file.write_text(TOOLS)
    made = ToolProcess(file)
    yield made
    made.close()


def call(process, name, context=None, deadline_s=20.0, **arguments):
    [tool] = [tool for tool in process.tools if tool.name == name]
    object.__setattr__(tool, "deadline_s", deadline_s)
    return tool.call(arguments, context or Context())


def test_every_public_function_of_a_file_is_a_tool(process):
    assert [tool.name for tool in process.tools] == ["double", "hang", "die", "flood", "wrong", "broken", "note", "ask"]
    assert call(process, "double", x=4).text == "8"


def test_tools_of_a_file_change_the_workspace(process):
    context = Context({"a": b"\xff"})
    assert call(process, "note", context, text="hi").text == "2 files"
    assert context.files == {"a": b"\xff", "note.txt": b"hi"}


def test_faults_of_a_files_tools_are_results_and_the_next_call_works(process):
    assert call(process, "die").status == "failed"
    assert call(process, "wrong").text == "error: not so"
    assert call(process, "broken").status == "failed"
    assert call(process, "ask").status == "failed"
    flood = call(process, "flood")
    assert flood.cut > 9_900_000 and len(flood.text) < 10_000
    assert call(process, "double", x=1).text == "2"


def sleepers():
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                found += [pid] if b"98765" in file.read() else []
        except OSError:
            continue
    return found


def test_hanging_tool_ends_at_its_deadline_with_all_that_it_started(process):
    result = call(process, "hang", deadline_s=1.0, seconds=600)
    assert result.status == "failed" and "deadline" in result.text
    for _ in range(100):
        if not sleepers():
            break
        time.sleep(0.05)
    assert not sleepers()
    assert call(process, "double", x=3).text == "6"


def test_stopped_call_ends_at_once(process):
    context = Context()
    threading.Timer(0.3, context.ticket.cancel).start()
    result = call(process, "hang", context, deadline_s=600, seconds=600)
    assert result.status == "failed" and "stopped" in result.text


def test_closed_process_leaves_no_descriptor(tmp_path):
    file = tmp_path / "tools.py"
    file.write_text(TOOLS)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        process = ToolProcess(file)
        call(process, "die")
        process.close()
        process.close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("def f(x): return x", "no type hint"),
        ("x = 1", "defines no functions"),
        ("import nowhere_at_all", "ModuleNotFoundError"),
        ("def f(:", "SyntaxError"),
    ],
)
def test_file_without_usable_tools_is_refused(tmp_path, text, word):
    (tmp_path / "t.py").write_text(textwrap.dedent(text))
    with pytest.raises(UserError, match=word):
        ToolProcess(tmp_path / "t.py")


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="no file"):
        ToolProcess(tmp_path / "none.py")


def test_tool_is_described_as_openai_does():
    tool = Tool(name="f", description="d", parameters={"type": "object"}, run=lambda arguments, context: "")
    function = {"name": "f", "description": "d", "parameters": {"type": "object"}}
    assert tool.schema == {"type": "function", "function": function}
