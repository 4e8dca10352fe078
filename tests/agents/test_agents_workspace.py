"""The workspace tools: paths stay inside, programs run in the sandbox, nothing is written through a link."""

import pytest

from openqwq.agents import Context
from openqwq.agents.workspace import load_files, save_files, workspace_tools
from openqwq.errors import UserError
from openqwq.sandbox import Sandbox


@pytest.fixture(scope="module")
def tools():
    with Sandbox(workers=1) as sandbox:
        yield {tool.name: tool for tool in workspace_tools(lambda: sandbox)}


def test_program_reads_and_changes_the_workspace(tools):
    context = Context({"in/a.txt": b"7", "old.txt": b""})
    code = "import os\nprint(int(open('in/a.txt').read()) * 6)\nopen('b.txt', 'w').write('new')\nos.remove('old.txt')"
    assert tools["python"].call({"code": code}, context).text == "42\n"
    assert context.files == {"in/a.txt": b"7", "b.txt": b"new"}


def test_failing_program_tells_its_error_and_keeps_what_it_wrote(tools):
    context = Context()
    result = tools["python"].call({"code": "open('a', 'w').write('1')\nraise ValueError('no good')"}, context)
    assert result.status == "error" and "ValueError: no good" in result.text
    assert context.files == {"a": b"1"}


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("while True: pass", "error"),
        ("import os\nos._exit(9)", "error"),
        ("print('x' * 10_000_000)", "error"),
        ("import os, time\nos.fork()\nprint('done')", "ok"),
    ],
)
def test_program_that_hangs_dies_floods_or_forks_is_a_result(tools, code, status):
    result = tools["python"].call({"code": code}, Context())
    assert result.status == status and len(result.text) < 10_000
    assert tools["python"].call({"code": "print(1)"}, Context()).text == "1\n"


def test_too_many_files_leave_the_workspace_as_it_was(tools):
    context = Context({"a": b"1"})
    result = tools["python"].call({"code": "for i in range(300): open(f'f{i}', 'w').close()"}, context)
    assert "its changes are dropped" in result.text and context.files == {"a": b"1"}


def test_links_that_a_program_makes_do_not_come_back(tools):
    context = Context()
    tools["python"].call({"code": "import os\nos.symlink('/etc/passwd', 'p')\nopen('q', 'w').close()"}, context)
    assert context.files == {"q": b""}


@pytest.mark.parametrize("path", ["../a", "/etc/passwd", "a/../../b", "", ".", "a//b", "a\0b", "x" * 300])
def test_path_that_leaves_the_workspace_is_refused(tools, path):
    context = Context({"a": b"1"})
    for name, more in (("read_file", {}), ("write_file", {"text": "x"}), ("edit_file", {"old": "1", "new": "2"})):
        assert tools[name].call({"path": path, **more}, context).status == "error"
    assert context.files == {"a": b"1"}


def test_edit_replaces_a_passage_that_is_there_once(tools):
    context = Context({"a.py": b"x = 1\ny = 1\n"})
    assert tools["edit_file"].call({"path": "a.py", "old": "x = 1", "new": "x = 2"}, context).status == "ok"
    assert context.files["a.py"] == b"x = 2\ny = 1\n"
    for old in ("", " = ", "z"):
        assert tools["edit_file"].call({"path": "a.py", "old": old, "new": "w"}, context).status == "error"
    assert tools["read_file"].call({"path": "a.py"}, context).text == "x = 2\ny = 1\n"


def test_file_within_a_file_is_refused(tools):
    assert tools["write_file"].call({"path": "a/b", "text": ""}, Context({"a": b""})).status == "error"


def test_run_tests_tells_passing_from_failing(tools):
    test = (
        b"import unittest\nfrom code_ import f\nclass T(unittest.TestCase):\n"
        b"    def test_f(self):\n        self.assertEqual(f(2), 4)\n"
    )
    files = {"test_f.py": test, "code_.py": b"def f(x):\n    return x * x\n"}
    assert tools["run_tests"].call({}, Context(dict(files))).status == "ok"
    wrong = tools["run_tests"].call({}, Context({**files, "code_.py": b"def f(x):\n    return x\n"}))
    assert wrong.status == "error" and "2 != 4" in wrong.text


def test_folder_is_read_without_hidden_files_and_links(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "a.txt").write_bytes(b"1")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x").write_bytes(b"2")
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "folder").symlink_to("/etc")
    assert load_files(tmp_path) == {"s/a.txt": b"1"}


def test_folder_of_ten_thousand_files_is_refused(tmp_path):
    for i in range(10_000):
        (tmp_path / str(i)).touch()
    with pytest.raises(UserError, match="more than 256 files"):
        load_files(tmp_path)


def test_changes_are_written_back(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    before = load_files(tmp_path)
    assert save_files(tmp_path, before, {"a": b"11", "d/c": b"3"}) == ["changed a", "removed b", "new d/c"]
    assert load_files(tmp_path) == {"a": b"11", "d/c": b"3"}


@pytest.mark.parametrize("path", ["out/x", "file", "../x", "/x"])
def test_nothing_is_written_outside_the_folder(tmp_path, path):
    inside, outside = tmp_path / "in", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "file").write_bytes(b"kept")
    (inside / "out").symlink_to(outside)
    (inside / "file").symlink_to(outside / "file")
    with pytest.raises(UserError, match="cannot be written"):
        save_files(inside, {}, {path: b"evil"})
    assert [p.name for p in outside.iterdir()] == ["file"] and (outside / "file").read_bytes() == b"kept"
