"""`openqwq plan`: what it prints, its exit codes, and that it loads no weights."""

import json

import pytest

from openqwq.cli.main import main
from openqwq.model import preset


def planned(capsys, *words):
    code = main(["plan", *words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_plan_that_fits_exits_with_0(capsys):
    code, plan = planned(capsys, "qwen3-0.6b", "--memory", "8GiB", "--context", "4096")
    assert code == 0 and plan["fits"] and plan["changes"] == []
    assert plan["total"] == sum(part["bytes"] for part in plan["parts"]) <= plan["memory"] == 8 * 2**30
    assert plan["speed"]["tokens_per_s"] is None and plan["speed"]["why"].startswith("not measured")


def test_plan_that_does_not_fit_exits_with_1_and_says_what_would(capsys):
    code, plan = planned(capsys, "qwq-32b", "--memory", "24GiB")
    assert code == 1 and not plan["fits"] and plan["largest_context"] == 0
    assert plan["changes"] and all(change["total"] <= plan["memory"] for change in plan["changes"])


def test_text_fits_80_columns(capsys):
    assert main(["plan", "qwq-32b", "--memory", "24GiB", "--train", "full"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("optimiser") for line in lines) and any("too much" in line for line in lines)


def test_folder_without_weights_is_planned_by_its_config(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(preset("tiny").to_dict()))
    for name in (str(tmp_path), str(tmp_path / "config.json")):
        code, plan = planned(capsys, name, "--memory", "4GiB", "--device", "cpu")
        assert code == 0 and plan["dtype"] == "float32" and plan["context"] == 2048


def test_speed_is_measured_for_this_machine_only(capsys):
    code, plan = planned(capsys, "tiny", "--device", "cpu")
    assert code == 0 and plan["speed"]["tokens_per_s"] > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no-such-model"], "no-such-model"),
        (["./missing"], "no model at"),
        (["tiny", "--memory", "much"], "much"),
        (["tiny", "--context", "4096"], "2048 positions"),
        (["tiny", "--context", "0"], "at least 1"),
        (["tiny", "--max-num-seqs", "0"], "at least 1"),
        (["tiny", "--train", "full", "--quantization", "int4"], "does not go with"),
        (["tiny", "--device", "cpu", "--kv-cache-dtype", "bloat"], "bloat"),
    ],
)
def test_user_errors_exit_with_2(words, said, capsys):
    assert main(["plan", *words]) == 2
    assert said in capsys.readouterr().err


def test_damaged_config_is_a_user_error(tmp_path, capsys):
    (tmp_path / "config.json").write_text("[1]")
    assert main(["plan", str(tmp_path / "config.json")]) == 2
    assert "no JSON object" in capsys.readouterr().err
