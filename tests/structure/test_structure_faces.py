"""What users see first: the help is quick, every recipe is sound, the README names what exists, no stray paths."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from openqwq.cli.main import main, verbs

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").rglob("*.toml"))
MARKDOWN = ("README.md", "CONTRIBUTING.md")
# Spelled in parts, so that this file does not match itself.
HOME_PATHS = re.compile("/(?:" + "|".join(("home", "root", "Users", "work", "mnt")) + r")/[\w.-]+/")


def run_python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)


def test_help_leaves_torch_unloaded():
    code = "import sys; from openqwq.cli.main import main; main(['--help']); sys.exit('torch' in sys.modules)"
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert "verbs:" in done.stdout


def test_help_is_quick():
    """Within a second of processor time, which does not depend on how busy the machine is."""
    before = os.times()
    assert run_python("from openqwq.cli.main import main; main(['--help'])").returncode == 0
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    assert spent < 1.0


@pytest.mark.parametrize("verb", sorted(verbs()))
def test_every_verb_has_help(verb, capsys):
    started = time.process_time()
    assert main([verb, "--help"]) == 0
    assert f"openqwq {verb}" in capsys.readouterr().out
    assert time.process_time() - started < 5


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_every_recipe_is_sound(recipe, capsys):
    assert main(["recipe", "check", str(recipe)]) == 0, capsys.readouterr().err


def shell_lines(markdown: str) -> list[str]:
    """The commands of the fenced `sh` blocks, without comments."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / markdown).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def make_targets() -> set[str]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY:(.*)$", text, re.MULTILINE)
    defined = set(re.findall(r"^([a-z-]+):", text, re.MULTILINE))
    assert phony and set(phony[1].split()) == defined
    return defined


@pytest.mark.parametrize("markdown", MARKDOWN)
def test_documented_commands_exist(markdown):
    commands = [line.split() for line in shell_lines(markdown)]
    assert commands
    for words in commands:
        words = [word for word in words if not re.fullmatch(r"[A-Z_]+=\S*", word)]
        program = Path(words[0]).name
        if program == "make":
            assert words[1] in make_targets(), words
        elif program == "openqwq":
            assert words[1] in verbs(), words
            missing = [word for word in words if word.startswith("recipes/") and not (ROOT / word).exists()]
            assert not missing, words


@pytest.mark.parametrize("markdown", MARKDOWN)
def test_documented_files_exist(markdown):
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / markdown).read_text(encoding="utf-8"))
    assert not [link for link in links if not (ROOT / link).exists()]


def test_readme_begins_with_a_command():
    head = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:15]
    assert any(line.startswith("make demo") for line in head)


def tracked_files() -> list[Path]:
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: which files are tracked is not known")
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    names = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def test_no_tracked_file_names_a_path_of_one_machine():
    found = {}
    for file in tracked_files():
        text = file.read_bytes().decode("utf-8", errors="replace")
        if match := HOME_PATHS.search(text):
            found[str(file.relative_to(ROOT))] = match.group()
    assert not found


def test_make_reads_torch_from_the_package():
    """Torch is installed by itself first, at the version that pyproject.toml asks for."""
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    planned = subprocess.run(["make", "-n", "-B", "test"], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    wanted = re.search(r'^ *"(torch[^"]*)",', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert wanted
    assert planned.index(f"pip install --quiet '{wanted[1]}'") < planned.index("pip install --quiet -e")
