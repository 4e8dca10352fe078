"""`openqwq chat` and `openqwq bench` on a small random model, as a user runs them."""

import io
import json
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from openqwq.checkpoint.huggingface import save_model
from openqwq.cli import _screen, chat
from openqwq.cli.main import main
from openqwq.errors import UserError
from openqwq.inference import LLM
from openqwq.model import create_model, preset
from openqwq.tokenizer import Tokenizer, train_tokenizer
from openqwq.types import Completion, Message, SamplingParams

TOKENIZER = train_tokenizer(["nothing to merge"], 282)
END = TOKENIZER.think_end_id
A, B = (TOKENIZER.encode(letter)[0] for letter in "ab")
PARAMS = SamplingParams(temperature=0.0, max_tokens=40, thinking_budget=4, logit_bias={A: 100.0}, stop=("aaa",))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat") / "model"
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "initializer_range": 0.3}
    save_model(
        create_model(preset("tiny").replace(vocab_size=282, max_position_embeddings=512, **shape), seed=3), folder
    )
    TOKENIZER.save(folder)
    return folder


@pytest.fixture
def talk(folder):
    return chat.Chat(LLM(folder, max_num_seqs=1, closing_text="\n</think>\n\n"), PARAMS)


def test_lines_from_a_pipe_are_turns_and_stdout_holds_the_answers(folder, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("hi\n\n/nope\nagain\n"))
    settings = ["temperature=0", "max_tokens=3", f"logit_bias={{ {END} = 50.0 }}"]
    assert main(["chat", str(folder), *(part for text in settings for part in ("--set", text))]) == 0
    out, err = capsys.readouterr()
    assert out == "</think></think>\n" * 2
    assert "no command /nope" in err


def test_wrong_sampling_ends_the_command(folder, capsys):
    assert main(["chat", str(folder), "--set", "top_p=7"]) == 2
    assert "`top_p` is 7" in capsys.readouterr().err


def test_thinking_stays_out_of_the_history(talk, capsys):
    talk.take("hello")
    talk.params = PARAMS.replace(stop=("aa",))
    assert talk.thoughts == "aaaa"
    assert talk.turns == [Message("user", "hello"), Message("assistant", "")]
    talk.params = PARAMS.replace(stop=(), max_tokens=4 + 4 + 2)
    talk.take("more")
    assert talk.turns[2:] == [Message("user", "more"), Message("assistant", "aa")]
    assert capsys.readouterr().out == "\naa\n"


@pytest.mark.parametrize("written", ["aaaa", "<think>\nb\n</think>\n\naaaa"])
def test_answers_of_a_model_that_opens_no_thinking_are_remembered(folder, tmp_path, capsys, written):
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "tokenizer_config.json").unlink()
    template = TOKENIZER.chat_template.replace("<|im_start|>assistant\\n<think>\\n", "<|im_start|>assistant\\n")
    assert template != TOKENIZER.chat_template
    Tokenizer(TOKENIZER.backend, config={"chat_template": template}).save(tmp_path)
    talk = chat.Chat(LLM(tmp_path, max_num_seqs=1), SamplingParams(temperature=0.0))
    talk._stream = lambda prompt_ids, opened: Completion(
        text=written, token_ids=(A,), logprobs=(0.0,), policy_versions=(0,), finish_reason="stop"
    )
    talk.take("hello")
    talk.take("what did you just answer?")
    assert [turn.content for turn in talk.turns] == ["hello", "aaaa", "what did you just answer?", "aaaa"]
    assert talk.thoughts == ("b" if "think" in written else "")
    asked = talk.tokenizer.decode(talk._encode(Message("user", "x")))
    assert "<|im_start|>assistant\naaaa<|im_end|>" in asked


def test_an_answer_without_thinking_is_shown_as_one(talk, capsys):
    talk.screen.interactive = True
    sample = SimpleNamespace(token_ids=[A], answer_start=0, finish_reason=None)
    view = chat._View(talk.screen, TOKENIZER, PARAMS, sample, False)
    view.finish(SimpleNamespace(text="aa"))
    assert capsys.readouterr().out == "aa"


def test_commands_change_the_conversation(talk, capsys):
    talk.params = PARAMS.replace(stop=(), max_tokens=10)
    talk.take("one")
    talk.take("two")
    talk.take("/undo")
    assert [turn.content for turn in talk.turns] == ["one", "aa"]
    talk.take("/system Be brief.")
    talk.take("/set max_tokens=9")
    talk.take("/retry")
    assert talk._messages(Message("user", "x"))[0] == Message("system", "Be brief.")
    assert [turn.content for turn in talk.turns] == ["one", "a"]
    talk.take("/clear")
    assert not talk.turns
    with pytest.raises(UserError, match="no turn"):
        talk.take("/retry")
    with pytest.raises(UserError, match="temperature"):
        talk.take("/set temperature=hot")
    with pytest.raises(UserError, match="top_p"):
        talk.take("/set top_p=7")
    assert talk.params == PARAMS.replace(stop=(), max_tokens=9)


def test_a_terminal_shows_thinking_dimmed_or_folded(talk, capsys):
    talk.params = PARAMS.replace(stop=(), max_tokens=10)
    talk.screen.interactive = talk.screen.colour = True
    talk.take("x")
    out = capsys.readouterr().out
    assert out.startswith(f"{_screen.DIM}a{_screen.PLAIN}") and "[thought 8 tokens" in out
    assert "tokens/s" in out and "of the context, cut at the limit" in out
    talk.take("/fold")
    talk.take("x")
    out = capsys.readouterr().out
    assert "thinking: 3 tokens" in out and f"{_screen.DIM}a{_screen.PLAIN}" not in out


@pytest.fixture
def press(talk, monkeypatch):
    """Sends a signal in the fifth step of an answer; returns the steps that were taken."""

    def answer(number, **changes):
        talk.params = PARAMS.replace(stop=(), thinking_budget=None, **changes)
        steps, step, handler = [], talk.llm.engine.step, signal.getsignal(number)

        def interrupted():
            steps.append(1)
            if len(steps) == 5:
                signal.raise_signal(number)
            return step()

        monkeypatch.setattr(talk.llm.engine, "step", interrupted)
        talk.take("x")
        assert signal.getsignal(number) is handler and talk.thoughts == "aaaaa"
        return len(steps)

    return answer


def test_ctrl_c_stops_the_answer_not_the_program(talk, press):
    assert press(signal.SIGINT, max_tokens=300) == 6  # the sixth computes the history for the next turn
    assert not talk.llm.engine.has_unfinished


def test_another_key_ends_the_thinking_only(talk, press):
    press(signal.SIGQUIT, max_tokens=30)
    assert talk.turns[-1].content == "a" * (30 - 5 - len(TOKENIZER.encode("\n</think>\n\n")))


def test_a_conversation_that_does_not_fit_is_said_so_and_kept(talk):
    with pytest.raises(UserError, match="max-model-len"):
        talk.take("long" * 200)
    assert not talk.turns and not talk.llm.engine.has_unfinished


def test_bench_prints_rates(capsys):
    assert main(["bench", "tiny", "--random-weights", "--batch", "1,2", "--prompt", "4", "--new", "3", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["batch"] for row in rows] == [1, 2]
    assert all(row["prompt_tokens_per_s"] > 0 and row["sampled_tokens_per_s"] > 0 for row in rows)
    assert main(["bench", "tiny", "--batch", "0"]) == 2
    assert "--batch" in capsys.readouterr().err


def test_engine_options_are_vllms_and_checked(capsys):
    bench = ["bench", "tiny", "--random-weights", "--batch", "1", "--prompt", "4", "--new", "40"]
    assert main([*bench, "--kv-cache-memory", "64MiB", "--max-num-batched-tokens", "64"]) == 0
    guess = '{"method": "ngram", "num_speculative_tokens": 3}'
    assert main([*bench, "--kv-cache-dtype", "int8", "--speculative-config", guess]) == 0
    assert "accepted" in capsys.readouterr().out
    for option, value, message in [
        ("--speculative-config", "{", "is not JSON"),
        ("--speculative-config", "3", "is not a JSON object"),
        ("--speculative-config", '{"method": "eagle", "num_speculative_tokens": 3}', "'ngram' or 'draft_model'"),
        ("--speculative-config", '{"model": "tiny", "num_speculative_tokens": 3}', "needs a tokenizer"),
        ("--rope-scaling", '{"rope_type": "yarn"}', "no trained window"),
        ("--kv-cache-memory", "8GB", "'8GB' is not a size"),
        ("--kv-cache-memory", "0.001MiB", "one sequence of `max_model_len` 45 needs"),
        ("--max-num-batched-tokens", "0", "must be at least 1"),
        ("--gpu-memory-utilization", "90", "at most 1"),
    ]:
        assert main([*bench, option, value]) == 2
        assert message in capsys.readouterr().err


def bench_row(monkeypatch, seconds):
    """What `measure` makes of a clock that only sampling moves, and of two prompts of four tokens."""
    from openqwq.cli import bench

    engine = bench.load_engine("tiny", True, 2, 64, {})
    clock, step = [0.0], engine.step

    def slowly():
        clock[0] += seconds(engine)
        return step()

    monkeypatch.setattr(engine, "step", slowly)
    monkeypatch.setattr(bench.time, "perf_counter", lambda: clock[0])
    return bench.measure(engine, 2, 4, 3, 2)


def test_bench_times_sampling_directly(monkeypatch):
    """A second until both prompts have their first token, then a quarter for each of three tokens of both."""
    row = bench_row(monkeypatch, lambda engine: 0.25 if engine.stats().running else 1.0)
    assert row["prompt_tokens_per_s"] == 2 * 4 / 1.0 and row["sampled_tokens_per_s"] == 2 * 3 / 0.75
    assert row["spread"] == 1.0


@pytest.fixture
def warned(monkeypatch):
    """What `bench` says of the machine."""
    from openqwq.cli import bench

    said: list[str] = []
    monkeypatch.setattr(bench.logger, "warning", lambda text, *values: said.append(text % values))
    return said


def test_bench_gives_no_figure_for_what_took_no_time(monkeypatch, warned):
    from openqwq.cli import bench

    row = bench_row(monkeypatch, lambda engine: 0.0 if engine.stats().running else 1.0)
    assert row["sampled_tokens_per_s"] is None and row["spread"] is None
    bench.warn_of_noise(row)
    assert warned == ["batch 2 could not be measured: the machine was too busy"]
    assert bench.show(None, ">17.1f") == "n/a".rjust(17) and bench.show(2.5, ">6.1f") == "   2.5"


def test_bench_says_that_rounds_differ(warned):
    from openqwq.cli import bench

    row = {"batch": 1, "prompt_tokens_per_s": 1.0, "sampled_tokens_per_s": 1.0}
    bench.warn_of_noise({**row, "spread": 1.1})
    assert not warned
    bench.warn_of_noise({**row, "spread": 4.0})
    assert "4.0 times as long" in warned[0]


def test_a_conversation_is_saved_and_loaded(talk, tmp_path, capsys):
    talk.params = PARAMS.replace(stop=(), max_tokens=10)
    talk.take("/system Be brief.")
    talk.take("one")
    file = tmp_path / "chat.json"
    talk.take(f"/save {file}")
    saved = json.loads(file.read_text())["messages"]
    assert [row["role"] for row in saved] == ["system", "user", "assistant"]
    turns = list(talk.turns)
    talk.take("/clear")
    talk.take("/system other")
    talk.take(f"/load {file}")
    assert talk.turns == turns and talk.system == "Be brief."
    assert "3 messages" in capsys.readouterr().err
    file.write_text('{"messages": [{"role": "assistant", "content": "x"}]}')
    with pytest.raises(UserError, match="user and assistant in turn"):
        talk.take(f"/load {file}")
    with pytest.raises(UserError, match="cannot read a conversation"):
        talk.take(f"/load {tmp_path / 'nothing'}")
    with pytest.raises(UserError, match="needs a file"):
        talk.take("/save")
    assert talk.turns == turns


def test_commands_tell_what_they_did(talk, capsys):
    talk.params = PARAMS.replace(stop=(), max_tokens=10)
    talk.take("first line")
    talk.take("/undo")
    talk.take("/system")
    talk.take("/set")
    told = capsys.readouterr().err
    assert "taken back: first line" in told and "system turn: none" in told
    assert told.index("max_tokens = 10  (was") < told.index("top_p =")
    with pytest.raises(UserError, match="no turn to take back"):
        talk.take("/undo")


def test_lines_between_quotes_are_one_message(monkeypatch, folder, talk):
    monkeypatch.setattr("sys.stdin", io.StringIO('"""one\ntwo\n"""\nthree\n"""four"""\n'))
    assert [talk.screen.ask() for _ in range(4)] == ["one\ntwo", "three", "four", None]


def test_a_full_context_names_the_ways_out(talk):
    with pytest.raises(UserError) as error:
        talk.take("word " * 600)
    assert "the context is 512" in error.value.message and "/undo" in error.value.hint and not talk.turns


def test_a_shape_without_weights_cannot_talk(capsys):
    assert main(["chat", "tiny"]) == 2
    assert "`tiny` is a shape with random weights" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["chat", "generate"])
def test_a_wrong_path_is_told_before_torch_is_imported(verb, tmp_path):
    code = (
        f"import sys; from openqwq.cli.main import main; code = main([{verb!r}, {str(tmp_path / 'no' / 'model')!r}]);"
        "sys.exit(9 if 'torch' in sys.modules else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "there is no model at" in done.stderr
