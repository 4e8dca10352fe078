"""Options of verbs that run an engine: names, defaults and help come from `EngineConfig` and `ModelOptions`."""

import argparse
import subprocess
import sys
from dataclasses import fields

import pytest

from openqwq.cli import bench, chat, generate, main, serve
from openqwq.cli._options import add_engine_arguments, engine_options
from openqwq.config import EngineConfig, ModelOptions

VERBS = {"bench": bench, "chat": chat, "generate": generate, "serve": serve}
OPTIONS = {field.name: field.default for cls in (EngineConfig, ModelOptions) for field in fields(cls)}


def parser_of(verb):
    parser = argparse.ArgumentParser()
    VERBS[verb].add_arguments(parser)
    return parser


@pytest.mark.parametrize("verb", list(VERBS))
def test_verbs_have_the_defaults_of_the_config(verb):
    found = {action.dest: action for action in parser_of(verb)._actions if action.dest in OPTIONS}
    assert {"kernels", "kv_cache_dtype", "quantization", "kv_cache_memory"} <= set(found)
    for name, action in found.items():
        assert action.default == (64 if (verb, name) == ("serve", "max_num_seqs") else OPTIONS[name]), name


@pytest.mark.parametrize("verb", list(VERBS))
def test_help_tells_the_options_without_loading_torch(verb):
    code = (
        f"import sys; from openqwq.cli.main import main; main([{verb!r}, '--help']); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert '--kernels {auto,reference,triton} kernels: "auto" is C on a CPU' in said and '"triton" opt-in' in said
    assert '("8GiB" on the command line). Default: half of the GPU\'s free memory, or 2 GiB on a CPU' in said
    assert "(default: 8192)" in said


def test_given_options_are_read_and_the_rest_keep_their_defaults():
    parser = argparse.ArgumentParser()
    add_engine_arguments(parser)
    args = parser.parse_args(["--kv-cache-memory", "1GiB", "--kernels", "reference", "--rope-scaling", '{"factor": 2}'])
    assert engine_options(args) == {
        "kv_cache_memory": 2**30,
        "kernels": "reference",
        "rope_scaling": {"factor": 2},
        "kv_cache_dtype": "auto",
        "max_num_batched_tokens": 8192,
    }


def test_unknown_kernels_and_kernels_of_another_device_are_refused(capsys):
    assert main.main(["bench", "tiny", "--random-weights", "--kernels", "fast"]) == 2
    assert "invalid choice: 'fast'" in capsys.readouterr().err
    assert main.main(["bench", "tiny", "--random-weights", "--max-num-batched-tokens", "0"]) == 2
    assert "`max_num_batched_tokens` is 0, but must be at least 1" in capsys.readouterr().err
