"""The teacher behind a server, against a small server on this machine, and the verb `data`."""

import json
import threading
from pathlib import Path
from random import Random

import pytest

from openqwq.cli.main import main
from openqwq.config import SourceConfig, load_recipe
from openqwq.data import Attempt, Chain, build_chains, build_source, write_chains
from openqwq.data.chains.build import programmatic_teacher
from openqwq.data.chains.server_teacher import ServerTeacher, read_choice
from openqwq.errors import UserError
from openqwq.json_client import chat_url
from openqwq.pipeline.materials import Materials

SMOKE = Path(__file__).parents[2] / "recipes" / "smoke.toml"
CHAIN_SUM = {"min_terms": 2, "max_terms": 3, "max_digits": 1}


def completion(content, finish_reason="stop", **message):
    return 200, {}, {"choices": [{"message": {"content": content, **message}, "finish_reason": finish_reason}]}


def solve(body, headers):
    """Right sums with thinking in its own field."""
    text = body["messages"][-1]["content"]
    expression = text.rpartition(":")[2].strip(" =")
    tokens = expression.split()
    total, lines = int(tokens[0]), []
    for operator, number in zip(tokens[1::2], tokens[2::2], strict=True):
        result = total + int(number) if operator == "+" else total - int(number)
        lines.append(f"{total}{operator}{number}={result}")
        total = result
    return completion(f"\\boxed{{{total}}}", reasoning_content="\n".join(lines))


def chain_sum():
    return {"chain_sum": build_source("chain_sum", SourceConfig(type="reasoning_gym", config=CHAIN_SUM))}


def ask(url, **kw):
    """The attempts at one problem."""
    problem = chain_sum()["chain_sum"].problem("train", 0)
    return list(ServerTeacher(url, "m", backoff_s=0.01, **kw)(problem, Random(0)))


def test_request_has_the_model_the_messages_the_sampling_and_the_key(json_server, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    with json_server(solve) as (url, log):
        ask(url, api_key_env="MY_KEY", sampling={"temperature": 0.5, "max_tokens": 99})
    ((path, body, headers),) = log
    problem = chain_sum()["chain_sum"].problem("train", 0)
    assert path == "/v1/chat/completions"
    messages = [{"role": "user", "content": problem.prompt}]
    assert body == {"model": "m", "messages": messages, "temperature": 0.5, "max_tokens": 99}
    assert headers["Authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    ("message", "attempt"),
    [
        ({"content": "B", "reasoning_content": " A\n"}, Attempt("A", "B")),
        ({"content": "B", "reasoning": "A"}, Attempt("A", "B")),
        ({"content": "<think>\nA\n</think>\n\nB", "reasoning_content": None}, Attempt("A", "B")),
        ({"content": "A\n</think>\n\nB"}, Attempt("A", "B")),
        ({"content": "B"}, Attempt("", "B")),
        ({"content": None}, Attempt("", "")),
    ],
)
def test_thinking_is_found_wherever_the_server_puts_it(message, attempt):
    assert read_choice({"message": message, "finish_reason": "stop"}) == attempt
    cut = read_choice({"message": message, "finish_reason": "length"})
    assert cut == Attempt(attempt.thinking, attempt.answer, "unfinished")


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("http://h:8000", "http://h:8000/v1/chat/completions"),
        ("http://h:8000/", "http://h:8000/v1/chat/completions"),
        ("https://h/v1/", "https://h/v1/chat/completions"),
        ("https://h/api/v3", "https://h/api/v3/chat/completions"),
        ("https://h/v1/chat/completions", "https://h/v1/chat/completions"),
    ],
)
def test_a_server_may_be_named_by_its_root_or_its_api(given, address):
    assert chat_url(given) == address


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://h/v1", "file:///etc/passwd", ""])
def test_a_wrong_address_is_a_user_error(url):
    with pytest.raises(UserError, match="is not the address of a server"):
        ServerTeacher(url, "m")


def test_chains_from_a_server_are_kept_when_right_and_do_not_depend_on_workers(json_server):
    with json_server(solve) as (url, log):
        teacher = ServerTeacher(url, "m", samples=3)
        chains, manifest = build_chains(chain_sum(), {"chain_sum": 20}, seed=0, teacher=teacher, workers=4)
    assert len(log) == 20
    assert manifest.to_dict() == {"kept": {"chain_sum": 20}, "dropped": {}, "total": 20}
    assert chains == build_chains(chain_sum(), {"chain_sum": 20}, seed=0, teacher=programmatic_teacher)[0]


def test_further_samples_are_asked_for_only_after_bad_ones(json_server):
    asked: dict = {}

    def respond(body, headers):
        text = body["messages"][-1]["content"]
        asked[text] = asked.get(text, 0) + 1
        if asked[text] == 1:
            return completion("\\boxed{99999}", reasoning_content="1+1=2")
        return completion("cut", "length", reasoning_content="1") if asked[text] == 2 else solve(body, headers)

    with json_server(respond) as (url, log):
        teacher = ServerTeacher(url, "m", samples=4)
        _, manifest = build_chains(chain_sum(), {"chain_sum": 5}, seed=0, teacher=teacher, workers=2)
    assert len(log) == 15
    assert manifest.to_dict()["dropped"] == {"wrong answer": 5, "unfinished": 5}


def test_passing_faults_are_retried(json_server):
    faults = [
        (503, {}, b"starting"),
        (429, {"Retry-After": "0"}, b""),
        (200, {}, b"not JSON"),
        (200, {}, {"choices": []}),
    ]

    def respond(body, headers):
        return faults.pop(0) if faults else completion("B", reasoning_content="A")

    with json_server(respond) as (url, log):
        assert ask(url) == [Attempt("A", "B")]
    assert len(log) == 5


def test_a_request_that_cannot_succeed_is_not_retried(json_server):
    with (
        json_server(lambda body, headers: (401, {}, b"no such key")) as (url, log),
        pytest.raises(UserError) as refused,
    ):
        ask(url)
    assert "refuses the request: 401" in refused.value.message and "no such key" in refused.value.message
    assert len(log) == 1


def test_the_key_is_not_sent_on_to_another_host(json_server, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    with (
        json_server(solve) as (other, stolen),
        json_server(lambda body, headers: (302, {"Location": f"{other}/v1"}, b"")) as (url, _),
        pytest.raises(UserError, match="302"),
    ):
        ask(url, api_key_env="MY_KEY")
    assert not stolen


def test_a_server_that_is_not_there_is_a_user_error(json_server):
    with json_server(solve) as (url, _):
        pass
    with pytest.raises(UserError, match=r"no answer from .* after 3 tries: .*refused"):
        ask(url, retries=2)


def test_a_silent_server_is_given_up(json_server):
    waiting = threading.Event()

    def respond(body, headers):
        waiting.wait(10)
        return completion("late")

    with json_server(respond) as (url, _):
        with pytest.raises(UserError, match=r"after 1 tries: .*timed out"):
            ask(url, retries=0, timeout_s=0.1)
        waiting.set()


def test_a_missing_key_is_a_user_error(monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(UserError, match="`MY_KEY` holds no key"):
        ServerTeacher("http://h", "m", api_key_env="MY_KEY")


def test_an_interrupted_run_asks_only_for_what_is_missing(json_server, tmp_path):
    file = tmp_path / "kept.jsonl"
    budget = [7]

    def respond(body, headers):
        budget[0] -= 1
        return solve(body, headers) if budget[0] >= 0 else (400, {}, b"out of money")

    def build(url):
        teacher = ServerTeacher(url, "m", attempts_file=file)
        return build_chains(chain_sum(), {"chain_sum": 12}, seed=0, teacher=teacher, workers=3)

    with json_server(respond) as (url, log):
        with pytest.raises(UserError, match="out of money"):
            build(url)
        with open(file, "a", encoding="utf-8") as torn:
            torn.write('{"request": "a killed writer')
        budget[0] = 100
        before = len(log)
        chains, _ = build(url)
        assert len(log) - before == 12 - 7
        again, _ = build(url)
        assert len(log) - before == 12 - 7
    assert chains == again == build_chains(chain_sum(), {"chain_sum": 12}, seed=0)[0]


def test_other_sampling_is_asked_anew(json_server, tmp_path):
    file = tmp_path / "kept.jsonl"
    with json_server(solve) as (url, log):
        for temperature in (0.1, 0.2, 0.1):
            ask(url, attempts_file=file, sampling={"temperature": temperature})
    assert [body["temperature"] for _, body, _ in log] == [0.1, 0.2]


def test_verb_chains_writes_chains_and_prints_the_manifest(json_server, tmp_path, capsys):
    output = tmp_path / "chains.jsonl"
    only = ["--set", "stage.cold_start.chains.python=false", "--set", "stage.cold_start.chains.instructions=false"]
    with json_server(solve) as (url, log):
        command = ["data", "chains", str(SMOKE), "--stage", "cold_start", "--output", str(output), *only]
        command += ["--set", "stage.cold_start.chains.chain_sum=6", "--teacher-url", url, "--teacher-model", "m"]
        assert main(command) == 0, capsys.readouterr().err
    manifest = json.loads(capsys.readouterr().out)
    assert (
        manifest
        == {"kept": {"chain_sum": 6}, "dropped": {}, "total": 6}
        == json.loads((tmp_path / "chains.manifest.json").read_text())
    )
    chains = [Chain.from_dict(json.loads(line)) for line in output.read_text().splitlines()]
    assert len({chain.problem.prompt for chain in chains}) == 6
    assert len(log) == 6 == len((tmp_path / "chains.attempts.jsonl").read_text().splitlines())


def test_verb_chains_without_a_server_writes_what_the_stage_itself_would_build(tmp_path, capsys):
    changes = ["chains.python=false", "chains.instructions=false", "chains.chain_sum=6", "brief_share=1.0"]
    overrides = [f"stage.cold_start.{change}" for change in changes]
    command = ["data", "chains", str(SMOKE), "--stage", "cold_start", "--output", str(tmp_path / "chains.jsonl")]
    assert main([*command, *(word for change in overrides for word in ("--set", change))]) == 0
    recipe = load_recipe(SMOKE, overrides)
    chains, manifest = Materials(recipe, tmp_path).build_chains(recipe.stage["cold_start"])
    write_chains(tmp_path / "own.jsonl", chains, manifest)
    assert (tmp_path / "chains.jsonl").read_bytes() == (tmp_path / "own.jsonl").read_bytes()
    assert all("\n" not in chain.thinking for chain in chains)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--stage", "pretrain"], "no stage `pretrain` that builds chains"),
        (["--teacher-url", "http://h"], "only work together"),
        (["--samples", "0"], "`--samples` is 0"),
        (["--output", "no/such/folder/c.jsonl"], "not a writable folder"),
    ],
)
def test_verb_chains_refuses_wrong_options(tmp_path, capsys, options, message):
    given = ["--stage", "cold_start", "--output", str(tmp_path / "c.jsonl"), *options]
    assert main(["data", "chains", str(SMOKE), *given]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_verb_show_prints_problems_and_texts(capsys):
    assert main(["data", "show", str(SMOKE), "chain_sum", "-n", "2"]) == 0
    assert capsys.readouterr().out.count("-> reasoning_gym: ") == 2
    assert main(["data", "show", str(SMOKE), "python", "-n", "2", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["source"] for row in rows] == ["python", "python"]
    assert main(["data", "show", str(SMOKE), "corpus", "-n", "1"]) == 0
    assert capsys.readouterr().out.strip()
    assert main(["data", "show", str(SMOKE), "pyton"]) == 2
    assert "did you mean `python`?" in capsys.readouterr().err
