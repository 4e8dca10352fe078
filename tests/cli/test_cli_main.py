"""The command line's manners: light help, exit codes, two-line errors, and the verbs recipe and doctor."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import openqwq
from openqwq.cli import doctor, main
from openqwq.config import load_recipe, recipe_to_dict
from openqwq.errors import TargetMissed, UserError

RECIPE = """
name = "small"
[model]
preset = "tiny"
overrides = {hidden_size = 64, rope_scaling = {type = "yarn", factor = 4.0}}
[source.words]
type = "python_functions"
prompt_suffix = "\\nSay \\"yes\\" in \\\\boxed{} \\u007f \\u00e9"
config = {rules = [{kind = "a"}, {kind = "b"}]}
[stage.rl]
kind = "rl"
mix = {words = 1}
[eval]
families = ["words"]
after = ["rl"]
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(RECIPE)
    return path


def run_cli(*arguments, **options):
    command = [sys.executable, "-m", "openqwq.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys; from openqwq.cli.main import main; code = main(['--help'])\n"
        "heavy = {'torch', 'transformers', 'tokenizers', 'numpy', 'rich', 'openqwq.config'} & set(sys.modules)\n"
        "print(code, sorted(heavy), file=sys.stderr)"
    )
    before = os.times().children_user
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    seconds = os.times().children_user - before
    assert result.stderr == "0 []\n"
    assert "recipe" in result.stdout and "doctor" in result.stdout
    assert seconds < 0.5


def test_every_verb_has_a_help_line_and_its_own_help():
    assert "main" not in main.verbs()
    for name, line in main.verbs().items():
        assert 10 < len(line) < 120, name
    assert "usage: openqwq recipe" in run_cli("recipe", "--help").stdout


def test_version():
    assert run_cli("--version").stdout == f"openqwq {openqwq.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "stderr"),
    [
        (["doctr"], "error: there is no verb `doctr`\nhint: did you mean `openqwq doctor`?\n"),
        (["qqq"], "error: there is no verb `qqq`\nhint: `openqwq --help` lists the verbs\n"),
        (["--fast"], "error: unknown option --fast\nhint: see `openqwq --help`\n"),
        (["doctor", "--fast"], "error: unrecognized arguments: --fast\nhint: see `openqwq doctor --help`\n"),
        (["recipe", "check", "gone.toml"], "error: cannot read the recipe gone.toml: No such file or directory\n"),
    ],
)
def test_user_errors_are_two_lines_and_exit_2(arguments, stderr, capsys):
    assert main.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err == stderr
    assert captured.out == ""


@pytest.mark.parametrize(
    ("raised", "code", "stderr"),
    [
        (UserError("a", hint="b"), 2, "error: a\nhint: b\n"),
        (TargetMissed("no lift"), 1, "missed: no lift\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (KeyboardInterrupt("continue with: x"), 130, "interrupted\ncontinue with: x\n"),
    ],
)
def test_a_verbs_end_becomes_the_exit_code(raised, code, stderr, capsys, monkeypatch):
    def fail(args):
        raise raised

    monkeypatch.setattr(doctor, "run", fail)
    assert main.main(["doctor"]) == code
    assert capsys.readouterr().err == stderr


def test_other_errors_keep_their_traceback(monkeypatch):
    monkeypatch.setattr(doctor, "run", lambda args: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        main.main(["doctor"])


def test_a_reader_that_goes_away_is_no_traceback(file):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "openqwq.cli.main", "recipe", "show", str(file)]
    result = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (result.returncode, result.stderr) == (141, "")


def test_a_new_file_is_a_new_verb(tmp_path, monkeypatch):
    (tmp_path / "greet.py").write_text('"""Say a word.\n\nMore.\n"""\n')
    (tmp_path / "_private.py").write_text("")
    (tmp_path / "main.py").write_text("")
    monkeypatch.setattr(main, "__file__", str(tmp_path / "main.py"))
    assert main.verbs() == {"greet": "Say a word"}


def test_shown_recipe_is_a_recipe_that_gives_the_same_run(file, tmp_path, capsys):
    assert main.main(["recipe", "show", str(file), "--set", "stage.rl.learning_rate=3e-6"]) == 0
    shown = tmp_path / "shown.toml"
    shown.write_text(capsys.readouterr().out)
    recipe = load_recipe(shown)
    assert recipe == load_recipe(file, ["stage.rl.learning_rate=3e-6"])
    assert recipe.source["words"].prompt_suffix == '\nSay "yes" in \\boxed{} \x7f \u00e9'


def test_recipe_show_json_is_the_resolved_tree(file, capsys):
    assert main.main(["recipe", "show", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == recipe_to_dict(load_recipe(file))


def test_recipe_check_says_ok_or_what_is_wrong(file, capsys):
    file.write_text(RECIPE.replace('config = {rules = [{kind = "a"}, {kind = "b"}]}', ""))
    assert main.main(["recipe", "check", str(file)]) == 0
    assert capsys.readouterr().out == f"{file}: ok: rl (rl); 1 family evaluated, 0 targets\n"
    assert main.main(["recipe", "check", str(file), "--json", "--set", "stage.rl.samples_per_prompt=1"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["ok"] is False
    assert "group advantages need at least 2" in captured.err


def test_doctor_reports_and_its_exit_code_follows_the_worst(monkeypatch, capsys):
    good, bad = doctor.Finding("python", "ok", "3.12"), doctor.Finding("jail", "fail", "none")
    slow = doctor.Finding("memory", "warn", "0.5 GiB free")
    monkeypatch.setattr(doctor, "CHECKS", (lambda: good, lambda: slow))
    assert main.main(["doctor"]) == 0
    assert capsys.readouterr().out == "ok    python      3.12\nwarn  memory      0.5 GiB free\n"
    monkeypatch.setattr(doctor, "CHECKS", (lambda: good, lambda: bad))
    assert main.main(["doctor", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], [c["status"] for c in report["checks"]]) == (False, ["ok", "fail"])


def test_doctors_light_checks_pass_here():
    for check in (doctor.check_python, doctor.check_packages, doctor.check_tokenizers):
        finding = check()
        assert finding.status == "ok", finding


def test_doctor_without_a_jail_fails_with_the_remedy(monkeypatch):
    monkeypatch.setenv("PATH", "")
    finding = doctor.check_jail()
    assert finding.status == "fail"
    assert "bubblewrap" in finding.text


def test_free_memory_is_the_lesser_of_machine_and_control_group(tmp_path):
    assert doctor.available_memory_gib(str(tmp_path)) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\n")
    assert doctor.available_memory_gib(str(tmp_path)) == 4.0
    group: Path = tmp_path / "sys" / "fs" / "cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("0\n")
    assert doctor.available_memory_gib(str(tmp_path)) == 4.0
    (group / "memory.max").write_text(str(3 << 30))
    (group / "memory.current").write_text(str(1 << 30))
    assert doctor.available_memory_gib(str(tmp_path)) == 2.0
