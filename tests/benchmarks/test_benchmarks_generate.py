"""`benchmarks/generate.py` without its peers: tables, ranking, who is absent, and going on after an interruption."""

import json
import sys
from pathlib import Path

import pytest
import torch

from openqwq.checkpoint.huggingface import save_model
from openqwq.model import create_model, preset

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SAME = {"first": 1.0, "all": 1.0}


@pytest.fixture
def peers(monkeypatch):
    """The package of the peers, importable as it is for the script."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import peers.report

    return peers


@pytest.fixture
def generate(peers):
    import generate

    return generate


def row(rates: dict, agreement: dict = SAME, num_bytes: int = 100, decoding: float = 400.0) -> dict:
    return {
        "rounds": rates, "agreement": agreement, "bytes": num_bytes, "version": "1", "decode_tokens_per_s": decoding
    }  # fmt: skip


def test_table_has_ratios_to_ours_and_the_share_of_the_memory(peers):
    engines = {
        "openqwq": row({"one": [300.0, 400.0], "tail": [1000.0]}),
        "llama.cpp": row({"one": [160.0], "tail": [None]}, decoding=160.0),
        "vLLM": row({"one": [800.0]}, {"first": 0.5, "all": 0.9}, decoding=800.0),
    }
    shape = {"read_bytes_per_s": 80_000.0, "engines": engines}
    peers.report.summarize(shape)
    assert peers.report.table(shape, "float32") == [
        "| engine | one | tail | share of memory | same first / all |",
        "|---|---:|---:|---:|---:|",
        "| openqwq | 400 | 1,000 | 50% | 100% / 100% |",
        "| llama.cpp | 160 (2.50x) | over the limit | 20% | 100% / 100% |",
        "| vLLM | 800 |  | 100% | 50% / 90% |",
    ]
    assert peers.report.table(shape, "int8") == []


def test_narrow_weights_are_compared_with_ours_of_the_same_width(peers):
    engines = {
        "openqwq": row({"one": [10.0]}),
        "openqwq int4": row({"one": [60.0]}, {"first": 0.6, "all": 0.1}),
        "llama.cpp Q4_0": row({"one": [40.0]}, {"first": 0.3, "all": 0.1}),
        "onnxruntime-genai int4": row({"one": [30.0]}, {"first": 0.2, "all": 0.1}),
    }
    shape = {"read_bytes_per_s": 40_000.0, "engines": engines}
    peers.report.summarize(shape)
    assert [line.split(" | ")[1] for line in peers.report.table(shape, "int4")[2:]] == ["60.0", "40.0 (1.50x)", "30.0"]


def test_report_names_forms_failures_differences_and_absent_peers(peers, capsys):
    failed = {"version": "1", "rounds": {}, "failed": "one: no such operator"}
    engines = {
        "openqwq": row({"one": [4.0]}),
        "transformers": row({"one": [2.0]}, {"first": 1.0, "all": 0.94}),
        "vLLM": failed,
    }
    shape = {"read_bytes_per_s": 2e9, "engines": engines, "reference": "transformers", "absent": ["gguf"]}
    peers.report.summarize(shape)
    peers.report.print_report("5m, 1 thread", shape)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "5m, 1 thread: 2.0 GB/s read from memory"
    assert "transformers: its tokens differ from transformers's; not ranked" in lines
    assert "vLLM: failed at one: no such operator" in lines
    assert "continuous batching: openqwq, vLLM" in lines
    assert "static batches of 32 in order of arrival, each as long as its longest: transformers" in lines
    assert lines[-1] == "absent: gguf"


@pytest.mark.parametrize(("new", "decodes"), [(4, True), (1, False)])
def test_a_single_requests_decoding_is_measured_without_its_prompt(peers, monkeypatch, new, decodes):
    from peers import measure

    clock = [0.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])

    def run(requests, sampled):  # a second a prompt, a quarter for each token after the first
        assert len(requests) == 1 and not sampled
        clock[0] += 1 + 0.25 * (requests[0][1] - 1)
        return [[7] * new for _, new in requests]

    rates = measure.rate(run, [([5, 6, 9, 8], new)], False)
    assert rates == ({"tokens_per_s": 4 / 1.75, "decode_tokens_per_s": 4.0} if decodes else {"tokens_per_s": 4.0})


def test_agreement_counts_first_tokens_and_all(peers):
    shares = peers.report.agreement([[1, 2, 3, 4], [5, 6, 7, 8]], [[1, 2, 9, 9], [9, 6, 9, 9]])
    assert shares == {"first": 0.5, "all": 3 / 8}
    assert peers.report.agreement([[1, 2]], []) == {"first": 0.0, "all": 0.0}


def test_a_peer_lives_in_the_first_interpreter_that_has_it(generate, tmp_path):
    def interpreter(name: str, found: dict[str, str]) -> str:
        versions = {engine.distribution: found.get(engine.distribution) for engine in generate.ENGINES.values()}
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\necho '{json.dumps(versions)}'\n")
        path.chmod(0o755)
        return str(path)

    here = interpreter("here", {"torch": "2", "transformers": "5"})
    there = interpreter("there", {"torch": "1", "onnxruntime-genai": "0.18", "transformers": "4"})
    pythons, versions = generate.find_engines([here, there])
    assert pythons["openqwq"] == pythons["transformers"] == here
    assert pythons["onnxruntime-genai int4"] == there
    assert versions["transformers"] == "5"
    assert "llama.cpp" not in pythons


def test_the_probe_finds_what_this_interpreter_has(generate):
    pythons, versions = generate.find_engines([sys.executable])
    assert pythons["openqwq"] == sys.executable
    assert versions["openqwq"] == torch.__version__


@pytest.fixture
def fake_run(generate, monkeypatch, tmp_path):
    """`main` without a process: what was asked of which engine, and the rates that it is told."""
    asked: list[tuple[str, str]] = []

    def run(self, engine, work):
        asked.append((engine, work))
        if work == "convert":
            return {"converted": False}
        if work == "check":
            return {"tokens": [[1, 2]] if engine != "transformers continuous" else [[1, 3]]}
        if engine == "transformers continuous" and work == "batch":
            raise generate.EngineFailedError("Traceback\nOSError: gone")
        return None if work == "tail" else {"tokens_per_s": float(len(asked)), "bytes": None}

    engines = ("openqwq", "transformers", "transformers continuous")
    found = dict.fromkeys(engines, sys.executable)
    monkeypatch.setattr(generate.Runner, "run", run)
    monkeypatch.setattr(generate, "find_engines", lambda interpreters: (found, dict.fromkeys(engines, "1")))
    monkeypatch.setattr(generate, "read_bandwidth", lambda: 1e9)
    monkeypatch.setattr(generate, "describe_machine", lambda: {"commit": "a"})
    monkeypatch.setattr(generate, "SHAPES", {"5m": {"preset": "tiny"}})
    output = tmp_path / "generate.json"

    def main(*options: str) -> dict:
        command = ["generate.py", "--output", str(output), "--models", str(tmp_path / "models"), *options]
        monkeypatch.setattr(sys, "argv", command)
        assert generate.main() == 0
        return json.loads(output.read_text())["shapes"]["5m, 1 thread"]

    return asked, main


def test_what_is_measured_is_not_measured_again(fake_run):
    asked, main = fake_run
    engines = ("--engines", "openqwq,transformers,llama.cpp")
    main(*engines, "--work", "one")
    first = asked.copy()
    assert [item for item in first if item[1] == "one"] == [("openqwq", "one"), ("transformers", "one")]
    checked = [engine for engine, work in first if work == "check"]
    assert checked == ["transformers", "openqwq", "transformers"]  # the first is what the others are compared with
    main(*engines, "--work", "one")
    assert asked == first
    shape = main(*engines, "--work", "one,tail", "--rounds", "2")
    measured = [item for item in asked[len(first) :] if item[1] not in ("convert", "check")]
    assert measured == [
        ("openqwq", "tail"),
        ("transformers", "tail"),
        ("openqwq", "one"),
        ("transformers", "one"),
        ("openqwq", "tail"),
        ("transformers", "tail"),
    ]
    rates = shape["engines"]["openqwq"]
    assert rates["tokens_per_s"] == {"one": max(rates["rounds"]["one"]), "tail": None}
    assert rates["bytes"] == shape["float32_bytes"]
    main(*engines, "--work", "one", "--fresh")
    assert ("openqwq", "one") in asked[-6:]


def test_a_failing_peer_is_noted_and_the_others_go_on(fake_run, capsys):
    asked, main = fake_run
    shape = main("--engines", "transformers continuous,openqwq", "--work", "one,batch,prefill")
    assert shape["engines"]["transformers continuous"]["failed"] == "batch: OSError: gone"
    assert shape["engines"]["transformers continuous"]["agreement"] == {"first": 1.0, "all": 0.5}
    assert ("transformers continuous", "prefill") not in asked
    assert set(shape["engines"]["openqwq"]["tokens_per_s"]) == {"one", "batch", "prefill"}
    assert "absent: llama-cpp-python" in capsys.readouterr().out


def test_float32_bytes_are_those_of_the_parameters(fake_run):
    _, main = fake_run
    model = create_model(preset("tiny"), seed=0)
    assert main("--engines", "openqwq", "--work", "one")["float32_bytes"] == sum(p.nbytes for p in model.parameters())


def test_repeats_have_other_tokens_but_the_same_lengths_and_groups(peers):
    import peers.measure

    requests = [([3, 9, 4], 5), ([3, 9, 4], 2), ([9, 9, 8], 1)]
    assert peers.measure.other_prompts(requests, 10, 0) == requests
    others = peers.measure.other_prompts(requests, 10, 1)
    assert [new for _, new in others] == [5, 2, 1]
    assert others[0][0] == others[1][0] == [8, 7, 9]  # 257 is 5 modulo the seven tokens 3 to 9
    assert others[2][0] == [7, 7, 6]


def test_a_rate_is_of_the_fastest_repeat_and_wants_exact_lengths(peers, monkeypatch):
    import peers.measure

    clock = iter([0.0, 1.5, 10.0, 10.5, 20.0, 20.75])
    monkeypatch.setattr(peers.measure.time, "perf_counter", lambda: next(clock))
    rates = peers.measure.rate(lambda work, _: [[0] * new for _, new in work], [([3, 9], 6), ([4, 4], 4)], False)
    assert rates == {"tokens_per_s": 20.0}
    monkeypatch.setattr(peers.measure.time, "perf_counter", lambda: 0.0)
    with pytest.raises(RuntimeError, match=r"asked for \[6\] tokens, got \[5\]"):
        peers.measure.rate(lambda work, _: [[0] * 5], [([3, 9], 6)], False)


def test_static_batches_keep_the_order_and_cut_what_is_too_long(peers):
    from peers.hugging import in_batches

    seen = []

    def generate(prompts, longest, sampled):
        seen.append((len(prompts), longest, sampled))
        return [[prompt[0]] * longest for prompt in prompts]

    requests = [([i], 1 + i % 3) for i in range(40)]
    assert in_batches(requests, True, generate) == [[i] * (1 + i % 3) for i in range(40)]
    assert seen == [(32, 3, True), (8, 3, True)]


def test_gguf_names_are_llama_cpps(peers):
    from peers.llama import gguf_name

    names = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.layers.11.self_attn.o_proj.weight": "blk.11.attn_output.weight",
        "model.layers.0.self_attn.q_proj.bias": "blk.0.attn_q.bias",
        "model.layers.0.mlp.down_proj.weight": "blk.0.ffn_down.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    assert {name: gguf_name(name) for name in names} == names


@pytest.mark.parametrize("tied", [True, False])
def test_the_traced_decoder_computes_what_the_model_does(peers, tmp_path, tied):
    from peers.decoder import Decoder

    model = create_model(preset("tiny").replace(tie_word_embeddings=tied, torch_dtype="float32"), seed=0)
    save_model(model, tmp_path)
    decoder = Decoder(tmp_path)
    ids = torch.randint(0, 1024, (2, 7), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = model(ids)
        cache = [torch.zeros(2, decoder.kv_heads, 0, decoder.head_size) for _ in range(2 * decoder.layers)]
        parts = []
        for first, last in ((0, 4), (4, 7)):
            places = torch.arange(first, last).expand(2, -1)
            seen = torch.ones(2, last, dtype=torch.long)
            logits, *cache = decoder(ids[:, first:last], seen, places, torch.arange(2), *cache)
            parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, 1), wanted, rtol=0, atol=2e-5)
