"""`openqwq generate` on a small random model, as a user runs it."""

import json
from types import SimpleNamespace

import pytest

from openqwq.checkpoint.huggingface import save_model
from openqwq.cli import generate
from openqwq.cli.main import main
from openqwq.errors import UserError
from openqwq.model import create_model, preset
from openqwq.tokenizer import PROMPT_STYLES, Tokenizer, train_tokenizer
from openqwq.types import SamplingParams

LINES = [
    '{"prompt": "one", "id": 17}',
    "not json",
    "",
    '{"messages": [{"role": "user", "content": "two"}]}',
    '{"prompt": "p", "messages": []}',
    json.dumps({"prompt": "long" * 100}),
    '{"messages": [{"role": "nobody", "content": "x"}]}',
    '{"messages": [5]}',
    '{"prompt": "one"}',
    '{"prompt": 3}',
    "[" * 100_000,
    '{"messages": [{"role": "assistant", "tool_calls": ["f"]}]}',
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generate") / "model"
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "initializer_range": 0.3}
    save_model(
        create_model(preset("tiny").replace(vocab_size=282, max_position_embeddings=128, **shape), seed=3), folder
    )
    train_tokenizer(["nothing to merge"], 282).save(folder)
    return folder


@pytest.fixture
def files(tmp_path):
    (tmp_path / "in.jsonl").write_text("\n".join(LINES) + "\n")
    return tmp_path / "in.jsonl", tmp_path / "sub" / "out.jsonl"


def run(folder, files, *more):
    source, output = files
    arguments = ["generate", str(folder), "--input", str(source), "--output", str(output), "--max-num-seqs", "3"]
    return main([*arguments, "--set", "max_tokens=9", "--set", "n=2", *more])


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def rejects_of(files):
    return files[1].with_name("out.jsonl.rejects.jsonl")


def test_rows_come_out_in_order_and_bad_lines_are_named(folder, files, capsys):
    assert run(folder, files) == 0
    rows = read(files[1])
    assert [row["line"] for row in rows] == [1, 4, 9]
    assert rows[0]["input"] == {"prompt": "one", "id": 17}
    assert all(len(row["outputs"]) == 2 and 1 <= o["num_tokens"] <= 9 for row in rows for o in row["outputs"])
    assert rows[0]["outputs"] != rows[2]["outputs"]  # rows have seeds of their own
    reasons = {row["line"]: row["error"] for row in read(rejects_of(files))}
    assert list(reasons) == [2, 5, 6, 7, 8, 10, 11, 12]
    assert "not JSON" in reasons[2] and "either" in reasons[5] and "400 tokens" in reasons[6]
    assert "nobody" in reasons[7] and "not a text" in reasons[10]
    assert "not JSON" in reasons[11] and "tool call" in reasons[12]
    assert capsys.readouterr().out == ""


def test_a_run_that_was_cut_off_goes_on_to_the_same_file(folder, files):
    run(folder, files)
    whole, rejected = files[1].read_bytes(), rejects_of(files).read_bytes()
    # states that a kill can leave: every line up to some number, and a torn one
    for kept_output, kept_rejects in [(0, 0), (1, 0), (1, 1), (2, 1), (2, 5), (3, 5), (3, 8)]:
        output = b"".join(whole.splitlines(keepends=True)[:kept_output])
        files[1].write_bytes(output + b'{"line": 99, "torn')
        rejects_of(files).write_bytes(b"".join(rejected.splitlines(keepends=True)[:kept_rejects]))
        assert run(folder, files) == 0
        assert files[1].read_bytes() == whole and rejects_of(files).read_bytes() == rejected


def test_the_output_of_another_input_is_not_continued(folder, files, capsys):
    run(folder, files)
    files[0].write_text('{"prompt": "other"}\n' * 9)
    assert run(folder, files) == 2
    assert "another input" in capsys.readouterr().err


def test_a_run_goes_on_with_the_same_settings_only(folder, files, capsys):
    run(folder, files)
    whole = files[1].read_bytes()
    assert run(folder, files, "--set", "temperature=0.3", "--quantization", "bf16") == 2
    message = capsys.readouterr().err
    assert "other settings: --set was ['max_tokens=9', 'n=2'], quantization was None" in message
    assert files[1].read_bytes() == whole
    files[1].unlink(), rejects_of(files).unlink()  # begun anew
    assert run(folder, files, "--set", "temperature=0.3") == 0
    files[1].with_name("out.jsonl.settings.json").unlink()  # as before there were such files
    assert run(folder, files) == 0


def test_a_run_begun_without_named_kernels_goes_on_with_the_default_ones_only(folder, files, capsys):
    run(folder, files)
    settings = files[1].with_name("out.jsonl.settings.json")
    named = json.loads(settings.read_text())
    assert named.pop("kernels") == "auto"
    settings.write_text(json.dumps(named))
    assert run(folder, files, "--kernels", "reference") == 2
    assert "other settings: kernels was 'auto'" in capsys.readouterr().err
    assert run(folder, files) == 0


def test_what_no_row_is_to_blame_for_ends_the_command(folder, files, capsys):
    assert run(folder, files, "--set", "top_p=7") == 2
    assert "`top_p` is 7" in capsys.readouterr().err and not rejects_of(files).exists()
    assert run(folder, (files[0], files[0].parent)) == 2
    assert run(folder, (files[0], files[0] / "out.jsonl")) == 2
    assert capsys.readouterr().err.count("cannot write the output") == 2


def test_a_missing_input_is_a_user_error(folder, tmp_path, capsys):
    assert run(folder, (tmp_path / "none.jsonl", tmp_path / "out.jsonl")) == 2
    assert "none.jsonl" in capsys.readouterr().err


def test_sampling_parameters_are_read_by_their_types():
    params = generate.parse_params(["temperature=1", "top_k=-1", "stop=END", "ignore_eos=true", "seed=7"])
    assert params == SamplingParams(temperature=1, top_k=-1, stop=("END",), ignore_eos=True, seed=7)
    assert generate.parse_params(['stop=["a", "b"]', "stop_token_ids=[1, 2]"]).stop_token_ids == (1, 2)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("temprature=1", "did you mean `temperature`"),
        ("top_k=high", "a whole number"),
        ("top_p=true", "a number"),
        ("stop=[1]", "a list, each item a text"),
    ],
)
def test_wrong_sampling_parameters_are_named(override, message):
    with pytest.raises(UserError) as caught:
        generate.parse_params([override])
    assert message in str(caught.value)


def test_time_left_is_readable():
    assert [generate.format_time(s) for s in (6.7, 187, 7500)] == ["7s", "3m07s", "2h05m"]
    progress = generate.Progress(10)
    progress.tokens = 50
    assert progress.line(5.0) == "0/10 rows, 10 tokens/s"
    progress.done, progress.tokens = 4, 200
    assert progress.line(20.0) == "4/10 rows, 10 tokens/s, 30s left"


def test_a_style_stands_in_the_system_turn_of_messages_alone(folder):
    tokenizer = Tokenizer.load(folder)
    model = SimpleNamespace(require_tokenizer=lambda: tokenizer)
    asked = {"messages": [{"role": "user", "content": "two"}]}
    text = tokenizer.decode(generate._encode(model, asked, "draft"))
    assert text.startswith(f"<|im_start|>system\n{PROMPT_STYLES['draft']}<|im_end|>\n<|im_start|>user\ntwo")
    assert generate._encode(model, asked, None) == tokenizer.encode_chat(asked["messages"])
    assert tokenizer.decode(generate._encode(model, {"prompt": "one"}, "draft")) == "one"


def test_attention_windows_are_an_option(folder, files, capsys):
    assert run(folder, files, "--attention-window", "mass=0.9") == 2
    assert "no measurement of attention mass" in capsys.readouterr().err
    assert run(folder, files, "--attention-window", "tokens=32") == 0


def test_a_text_is_answered_on_stdout(folder, capsys):
    assert main(["generate", str(folder), "hi", "--set", "max_tokens=5", "--set", "temperature=0"]) == 0
    once = capsys.readouterr().out
    assert main(["generate", str(folder), "hi", "--set", "max_tokens=5", "--set", "temperature=0", "--set", "n=2"]) == 0
    assert once.strip() and capsys.readouterr().out == once * 2


def test_a_text_and_files_do_not_go_together(folder, files, capsys):
    assert main(["generate", str(folder), "hi", "--input", str(files[0])]) == 2
    assert "a text cannot be combined" in capsys.readouterr().err
    assert main(["generate", str(folder), "--input", str(files[0])]) == 2
    assert "nothing to complete" in capsys.readouterr().err
