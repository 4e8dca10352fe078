"""Data sets in the hub's layout: from a folder, from a hub that answers, from its cache; what each error says."""

import csv
import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from openqwq.config import SourceConfig
from openqwq.data import build_source, held_out
from openqwq.errors import UserError
from openqwq.verifiers import get_verifier

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
SHA = "5f" * 20


def rows(count, first=0):
    return [{"question": f"{i}+1?", "answer": f"one more\n#### {i + 1}"} for i in range(first, first + count)]


def write_jsonl(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in data), encoding="utf-8")


def source(folder, **fields):
    config = fields.pop("config", {"answer_after": "####"})
    return build_source("mine", SourceConfig(type="huggingface", path=str(folder), config=config, **fields))


def texts(built, split):
    return [built.problem(split, key).prompt for key in range(40)]


def test_a_split_is_found_by_its_files_names_and_cut_into_parts(tmp_path):
    write_jsonl(tmp_path / "data" / "train-00000-of-00002.jsonl", rows(10))
    write_jsonl(tmp_path / "data" / "train-00001-of-00002.jsonl", rows(10, 10))
    write_jsonl(tmp_path / "data" / "test.jsonl", rows(4, 100))
    built = source(tmp_path, kind="arithmetic", prompt_suffix=" Box it.")
    assert set(texts(built, "held_out")) == {"0+1? Box it.", "10+1? Box it."}
    assert set(texts(built, "gate")) == {"1+1? Box it.", "11+1? Box it."}
    assert len(set(texts(built, "train"))) == 16 and len(held_out(built, 2)) == 2
    problem = built.problem("train", 0)
    assert (problem.id, problem.source, problem.kind, problem.verifier) == (
        "mine/train/2",
        "mine",
        "arithmetic",
        "math",
    )
    assert problem.answer == "3"
    assert get_verifier("math")(problem, "</think>\\boxed{3}").status == "correct"


def test_a_split_of_its_own_is_held_out_and_shared_with_the_gate(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", rows(3))
    write_jsonl(tmp_path / "test.jsonl", rows(4, 100))
    built = source(tmp_path, config={"answer_after": "####", "held_out_split": "test"})
    assert texts(built, "train")[:4] == ["0+1?", "1+1?", "2+1?", "0+1?"]
    assert set(texts(built, "held_out")) == {"100+1?", "102+1?"} and set(texts(built, "gate")) == {"101+1?", "103+1?"}


def test_a_file_that_names_no_split_is_the_training_split(tmp_path):
    write_jsonl(tmp_path / "numbers.jsonl", rows(10))
    assert len(set(texts(source(tmp_path), "train"))) == 8


CARD = """---
license: mit
configs:
- config_name: main
  default: true
  data_files:
  - split: train
    path: main/a-*.jsonl
- config_name: hard
  data_files:
  - split: train
    path: ["**/hard.jsonl"]
---
# Numbers
"""


def test_the_card_names_subsets_and_their_files(tmp_path):
    (tmp_path / "README.md").write_text(CARD)
    write_jsonl(tmp_path / "main" / "a-1.jsonl", rows(10))
    write_jsonl(tmp_path / "hard.jsonl", rows(10, 500))
    assert source(tmp_path).problem("held_out", 0).prompt == "0+1?"
    hard = source(tmp_path, config={"subset": "hard", "answer_after": "####"})
    assert hard.problem("held_out", 0).prompt == "500+1?"
    with pytest.raises(UserError, match="no subset `easy`") as error:
        source(tmp_path, config={"subset": "easy"})
    assert error.value.hint == "set `subset` to one of main, hard"
    (tmp_path / "README.md").write_text(CARD.replace("  default: true\n", ""))
    with pytest.raises(UserError, match="has several subsets"):
        source(tmp_path)


def test_without_a_card_a_subset_is_a_folder(tmp_path):
    write_jsonl(tmp_path / "algebra" / "train.jsonl", rows(10))
    write_jsonl(tmp_path / "geometry" / "train.jsonl", rows(10, 70))
    built = source(tmp_path, config={"subset": "geometry", "answer_after": "####"})
    assert built.problem("held_out", 0).prompt == "70+1?"


def test_every_format_gives_the_same_problems(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    import pyarrow

    data = rows(12)
    write_jsonl(tmp_path / "jsonl" / "train.jsonl", data)
    for name in ("json", "csv", "gz", "parquet"):
        (tmp_path / name).mkdir()
    (tmp_path / "json" / "train.json").write_text(json.dumps(data, indent=1))
    with open(tmp_path / "csv" / "train.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["question", "answer"])
        writer.writeheader()
        writer.writerows(data)
    (tmp_path / "gz" / "train.jsonl.gz").write_bytes(gzip.compress((tmp_path / "jsonl" / "train.jsonl").read_bytes()))
    parquet.write_table(pyarrow.Table.from_pylist(data), tmp_path / "parquet" / "train.parquet")
    expected = [source(tmp_path / "jsonl").problem("train", key) for key in range(10)]
    for name in ("json", "csv", "gz", "parquet"):
        assert [source(tmp_path / name).problem("train", key) for key in range(10)] == expected


def test_columns_are_mapped_nested_ones_and_conversations_too(tmp_path):
    data = [
        {
            "talk": [{"from": "system", "value": "Be brief."}, {"from": "human", "value": f"{i}?"}],
            "reward": {"truth": i, "judge": "math"},
            "key": f"k{i}",
        }
        for i in range(10)
    ]
    write_jsonl(tmp_path / "train.jsonl", data)
    columns = {"prompt": "talk", "answer": "reward.truth", "id": "key", "verifier": "reward.judge"}
    problem = source(tmp_path, config={"columns": columns}, prompt_suffix="!").problem("held_out", 0)
    assert [(m.role, m.content) for m in problem.messages] == [("system", "Be brief."), ("user", "0?!")]
    assert (problem.id, problem.answer, problem.verifier) == ("k0", 0, "math")


def test_answers_may_be_tables_whole_rows_and_json(tmp_path):
    tests = [{"args": [1], "expected": 2}]
    data = [{"prompt": "f", "name": "f", "tests": json.dumps(tests)} for _ in range(10)]
    write_jsonl(tmp_path / "train.jsonl", data)
    table = {"entry_point": "name", "tests": "tests"}
    assert source(tmp_path, config={"columns": {"answer": table}}).problem("train", 0).answer == {
        "entry_point": "f",
        "tests": data[0]["tests"],
    }
    assert source(tmp_path, config={"columns": {"answer": "*"}}).problem("train", 0).answer == data[0]
    decoded = source(tmp_path, config={"columns": {"answer": "tests"}, "answer_json": True})
    assert decoded.problem("train", 0).answer == tests


@pytest.mark.parametrize(
    ("config", "row", "message"),
    [
        ({"spilt": "train"}, {}, "unknown key `spilt`"),
        ({"split": 3}, {}, "must be of type str"),
        ({"columns": {"gold": "answer"}}, {}, "unknown key `gold`"),
        ({"columns": {"prompt": 1}}, {}, "must name a column"),
        ({"split": "validation"}, {}, "has no split `validation`"),
        ({"columns": {"prompt": "text"}}, {}, "row 1 has no column `text`"),
        ({"columns": {"verifier": "question"}}, {}, r"no verifier `0\+1\?`"),
        ({"revision": "main"}, {}, "a folder has no revisions"),
        ({"answer_json": True}, {}, "is no JSON"),
        ({}, {"question": ""}, "row 11: the prompt is neither"),
        ({}, {"question": [{"role": "user"}], "answer": "1"}, "is no message"),
        ({}, {"question": [{"role": "assistant", "content": "x"}], "answer": "1"}, "last message is the assistant's"),
        ({}, {"q": "1"}, "row 11 has none of the columns prompt, question"),
        ({}, {"question": "1"}, "row 11 has none of the columns answer"),
        ({}, {"question": "1", "answer": "one"}, "holds no `####`"),
        ({}, {"question": "1", "answer": "one ####"}, "the answer in `answer` is empty"),
        ({}, [1], "row 11 is no table"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(tmp_path, config, row, message):
    write_jsonl(tmp_path / "train.jsonl", [*rows(10), row] if row else rows(10))
    with pytest.raises(UserError, match=message):
        source(tmp_path, config={"answer_after": "" if config else "####", **config})


def test_a_broken_file_a_missing_folder_and_two_places_are_user_errors(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"question": "1"')
    with pytest.raises(UserError, match=r"train\.jsonl cannot be read"):
        source(tmp_path)
    (tmp_path / "train.jsonl").unlink()
    (tmp_path / "train.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match=r"train\.parquet (cannot be read|is a Parquet file)"):
        source(tmp_path)
    with pytest.raises(UserError, match="no folder"):
        source(tmp_path / "nowhere")
    with pytest.raises(UserError, match="both `dataset` and `path` are set"):
        source(tmp_path, dataset="a/b")
    with pytest.raises(UserError, match="neither `dataset` nor `path` is set"):
        build_source("mine", SourceConfig(type="huggingface"))


class Hub(BaseHTTPRequestHandler):
    """The answers of the hub to those requests that its client makes for one data set at one commit."""

    files: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[str]] = []

    def do_GET(self):
        self.asked.append(self.path)
        if self.path.startswith("/api/datasets/someone/numbers"):
            if self.path.endswith("/revision/gone"):
                return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            siblings = [{"rfilename": name} for name in self.files]
            about = {"id": "someone/numbers", "sha": SHA, "siblings": siblings}
            return self.answer(200, json.dumps(about).encode(), {"Content-Type": "application/json"})
        name = self.path.partition("/resolve/")[2].partition("/")[2]
        if not self.path.startswith("/datasets/someone/numbers/") or name not in self.files:
            return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        return self.answer(200, self.files[name], {"ETag": f'"{name}"', "X-Repo-Commit": SHA})

    do_HEAD = do_GET

    def answer(self, status, body, headers):
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub of one data set on this machine, and an empty cache."""
    from huggingface_hub import constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    Hub.asked = []
    Hub.files = {
        "README.md": CARD.encode(),
        "main/a-1.jsonl": "".join(json.dumps(row) + "\n" for row in rows(10)).encode(),
        "hard.jsonl": b"{}",
    }
    yield server
    server.shutdown()
    server.server_close()


def from_hub(**config):
    options = {"answer_after": "####", **config}
    return build_source("mine", SourceConfig(type="huggingface", dataset="someone/numbers", config=options))


def test_a_data_set_is_downloaded_from_the_hub_and_found_again_without_it(hub, monkeypatch, caplog):
    first = [from_hub().problem("train", key) for key in range(8)]
    assert first[0].prompt == "2+1?" and first[0].answer == "3"
    assert any(path.endswith("/resolve/main/main/a-1.jsonl") for path in Hub.asked)
    assert not any("hard.jsonl" in path for path in Hub.asked)
    hub.shutdown()
    hub.server_close()
    with caplog.at_level("WARNING", logger="openqwq"):
        assert [from_hub().problem("train", key) for key in range(8)] == first
    assert "as it was downloaded before" in caplog.text


def test_a_hub_that_refuses_or_is_away_is_a_user_error_with_a_way_out(hub, monkeypatch):
    with pytest.raises(UserError, match="`someone/numbers` at revision `gone` could not be downloaded"):
        from_hub(revision="gone")
    with pytest.raises(UserError, match="`someone/else` could not be downloaded") as error:
        build_source("mine", SourceConfig(type="huggingface", dataset="someone/else"))
    assert "set `path` to a folder with it" in error.value.hint
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="`someone/numbers` could not be downloaded"):
        from_hub()


def test_gsm8k_as_it_is_published_is_judged_by_its_own_answers():
    folder = SHARED / "gsm8k"
    if not folder.is_dir():
        pytest.skip("needs shared/data/gsm8k")
    config = {"split": "test", "answer_after": "####"}
    built = source(folder, config=config)
    verifier = get_verifier("math")
    for problem in held_out(built, 20):
        assert verifier(problem, f"</think>\\boxed{{{problem.answer}}}").status == "correct"
