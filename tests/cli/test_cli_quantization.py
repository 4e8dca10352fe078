"""`--quantization` on the command line reaches the weights."""

import json

from openqwq.cli.bench import load_engine
from openqwq.cli.main import main
from openqwq.model import PackedLinear


def test_bench_measures_rounded_weights(capsys):
    size = ["--batch", "1", "--prompt", "4", "--new", "2", "--rounds", "1"]
    assert main(["bench", "tiny", "--random-weights", "--quantization", "int4", *size, "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)["rows"]
    assert row["sampled_tokens_per_s"] > 0
    model = load_engine("tiny", True, 1, 16, {"quantization": "int4"}).model
    assert isinstance(model.model.layers[0].mlp.up_proj, PackedLinear)
    assert not isinstance(load_engine("tiny", True, 1, 16, {}).model.model.layers[0].mlp.up_proj, PackedLinear)


def test_another_rounding_is_a_wrong_argument(capsys):
    assert main(["chat", "tiny", "--quantization", "int3"]) == 2
    assert "bf16" in capsys.readouterr().err


def test_a_group_size_that_no_folder_can_have_is_named_as_it_was_given(tmp_path, capsys):
    assert main(["quantize", "tiny", "--out", str(tmp_path / "out"), "--group-size", "7"]) == 2
    assert "`--group-size 7` is not possible" in capsys.readouterr().err
