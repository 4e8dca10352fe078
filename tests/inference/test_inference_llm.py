"""`LLM` on a folder as `openqwq train` leaves it: a small random model and a tokenizer of single bytes."""

import shutil

import pytest
import torch

from openqwq.checkpoint.huggingface import save_model
from openqwq.errors import UserError
from openqwq.inference import LLM, SamplingParams
from openqwq.inference.params import recommended_sampling
from openqwq.model import create_model, preset
from openqwq.tokenizer import train_tokenizer
from openqwq.types import Message

FREE = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_tokens=20, seed=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llm") / "model"
    tokenizer = train_tokenizer(["nothing to merge"], 282)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "initializer_range": 0.3}
    model = create_model(preset("tiny").replace(vocab_size=282, max_position_embeddings=256, **shape), seed=3)
    save_model(model, folder)
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="module")
def llm(folder):
    return LLM(folder, max_num_seqs=4)


def test_outputs_have_vllms_shape_and_the_prompts_order(llm):
    outputs = llm.generate(["a", "longer prompt", "b"], FREE.replace(n=2))
    assert [output.prompt for output in outputs] == ["a", "longer prompt", "b"]
    assert [output.prompt_token_ids for output in outputs[::2]] == [(97 - 33,), (98 - 33,)]
    for completion in [c for output in outputs for c in output.outputs]:
        assert len(completion.token_ids) == len(completion.logprobs) == len(completion.policy_versions)
        assert completion.finish_reason in ("stop", "length")
        assert all(logprob < 0 for logprob in completion.logprobs)


def test_text_is_the_decoded_ids_without_the_end_token(llm):
    completions = llm.generate(["x"] * 1, FREE.replace(n=40, max_tokens=60))[0].outputs
    ends = set(llm.tokenizer.eos_token_ids)
    stopped = [c for c in completions if c.finish_reason == "stop"]
    assert stopped and len(stopped) < 40
    for c in completions:
        kept = c.token_ids[:-1] if c.finish_reason == "stop" else c.token_ids
        assert c.text == llm.tokenizer.decode(kept)
        assert (c.token_ids[-1] in ends) == (c.finish_reason == "stop")
        assert not ends & set(kept)


def test_a_text_and_its_token_ids_are_the_same_prompt(llm):
    ids = llm.tokenizer.encode("same")
    [by_text] = llm.generate("same", FREE)
    [by_ids] = llm.generate([ids], FREE)
    assert by_text.outputs[0].token_ids == by_ids.outputs[0].token_ids and by_ids.prompt is None


def test_prompts_may_have_all_of_vllms_forms(llm):
    ids = llm.tokenizer.encode("same")
    forms = ["same", ids, {"prompt": "same"}, {"prompt_token_ids": ids}]
    expected = llm.generate("same", FREE)[0].outputs
    for form in forms:
        assert [output.outputs for output in llm.generate(form, FREE)] == [expected]
    assert [output.outputs for output in llm.generate(forms, FREE)] == [expected] * 4
    for wrong in ([{"text": "same"}], [3.5], [None]):
        with pytest.raises(ValueError, match="a prompt is"):
            llm.generate(wrong, FREE)
    with pytest.raises(ValueError, match="2 prompts, but 1 sampling"):
        llm.generate(["a", "b"], [FREE])


def test_one_text_stands_for_a_list_of_one():
    params = SamplingParams(stop="ab", bad_words=["c"], answer_scripts="latin", stop_token_ids=None)
    assert (params.stop, params.bad_words, params.answer_scripts) == (("ab",), ("c",), ("latin",))
    assert params.stop_token_ids == () and params.replace(stop=None).stop == ()


def test_the_folder_of_a_run_means_its_final_model(folder, llm, tmp_path):
    (tmp_path / "final").symlink_to(folder)
    again = LLM(tmp_path, max_num_seqs=4)
    assert again.generate("x", FREE)[0].outputs == llm.generate("x", FREE)[0].outputs


def test_the_folder_says_how_to_sample(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "generation_config.json").unlink(missing_ok=True)
    (tmp_path / "generation_config.json").write_text('{"temperature": 0.0, "top_k": 7, "max_length": 5}')
    llm = LLM(tmp_path, max_num_seqs=4)
    assert llm.default_sampling_params == SamplingParams(temperature=0.0, top_k=7)
    assert llm.generate("x")[0].outputs == llm.generate("x", SamplingParams(temperature=0.0))[0].outputs


def test_stop_strings_end_the_sample_and_are_cut_from_the_text(llm):
    free = llm.generate("x", FREE.replace(ignore_eos=True))[0].outputs[0]
    stop = next(free.text[i : i + 2] for i in range(5, 18) if free.text[i : i + 2].isascii())
    [[cut]] = [o.outputs for o in llm.generate("x", FREE.replace(ignore_eos=True, stop=("never there", stop)))]
    assert (cut.finish_reason, cut.stop_reason, free.stop_reason) == ("stop", stop, None)
    assert cut.cumulative_logprob == pytest.approx(sum(cut.logprobs)) and cut.cumulative_logprob < 0
    assert cut.text == free.text[: free.text.index(stop)]
    assert cut.token_ids == free.token_ids[: len(cut.token_ids)] and len(cut.token_ids) < 20
    decode = llm.tokenizer.decode
    assert stop in decode(cut.token_ids) and stop not in decode(cut.token_ids[:-1])


def test_chat_renders_the_template_up_to_the_opened_thinking(llm):
    messages = [Message("user", "hi")]
    [output] = llm.chat(messages, FREE)
    assert output.prompt == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n"
    several = llm.chat([messages, [{"role": "user", "content": "hi"}]], FREE)
    assert [o.outputs[0].token_ids for o in several] == [output.outputs[0].token_ids] * 2


def test_a_prompt_that_does_not_fit_fails_alone(llm):
    good, long = llm.generate(["a", "b" * 300], FREE)
    assert good.outputs[0].finish_reason != "abort"
    assert long.outputs[0].finish_reason == "abort" and "300 tokens" in long.outputs[0].error


def test_a_text_that_is_no_unicode_fails_alone(llm):
    whole, half = llm.generate(["1+1=", "1+\ud83d"], SamplingParams(max_tokens=2, n=2, temperature=0.0))
    assert [len(sample.token_ids) for sample in whole.outputs] == [2, 2]
    assert [sample.finish_reason for sample in half.outputs] == ["abort", "abort"]
    assert half.outputs[1].error == "the text holds half a surrogate pair at character 2"


def test_a_preset_without_weights_takes_token_ids_only():
    llm = LLM("tiny", max_num_seqs=2, max_model_len=64)
    assert len(llm.generate([[1, 2, 3]], FREE)[0].outputs[0].token_ids) == 20
    with pytest.raises(UserError, match="no tokenizer"):
        llm.generate("text", FREE)
    with pytest.raises(UserError, match="stop strings need a tokenizer"):
        llm.engine.add_request((1,), FREE.replace(stop=("x",)))


def test_weights_are_float32_on_a_cpu(llm):
    assert llm.engine.model.dtype == torch.float32


def test_dtypes_and_devices_are_named_as_in_vllm(folder):
    for name, dtype in [("auto", torch.float32), ("bfloat16", torch.bfloat16)]:
        assert LLM(folder, dtype=name, device="cpu").engine.model.dtype == dtype
    for wrong in ({"dtype": "int8"}, {"dtype": "fp8"}, {"device": "cuda:99"}, {"device": "tpu"}):
        with pytest.raises(UserError, match=f"`{next(iter(wrong))}`"):
            LLM(folder, **wrong)


@pytest.mark.parametrize(
    ("content", "temperature"),
    [
        ('{"do_sample": false}', 0.0),
        ('{"do_sample": false, "temperature": 1.0, "top_k": 50}', 0.0),
        ('{"do_sample": true, "temperature": 0.3}', 0.3),
        ('{"temperature": 0.3, "do_sample": null}', 0.3),
    ],
)
def test_a_folder_that_asks_for_greedy_decoding_gets_it(tmp_path, content, temperature):
    (tmp_path / "generation_config.json").write_text(content)
    assert recommended_sampling(tmp_path)["temperature"] == temperature


@pytest.mark.parametrize("content", ["[]", '{"temperature": "0.6"}', '{"top_k": true}', '{"top_p": [1]}', "{"])
def test_recommended_sampling_that_is_no_numbers_is_refused(tmp_path, content):
    (tmp_path / "generation_config.json").write_text(content)
    with pytest.raises(UserError, match="generation_config"):
        recommended_sampling(tmp_path)


def test_end_tokens_of_generation_config_end_a_completion(folder, tmp_path):
    """<think> ends it here: a token that neither the tokenizer nor config.json names."""
    copy = shutil.copytree(folder, tmp_path / "model")
    plain = LLM(copy, max_num_seqs=1).engine.eos_token_ids
    (copy / "generation_config.json").write_text('{"eos_token_id": [280, 90000]}')
    assert LLM(copy, max_num_seqs=1).engine.eos_token_ids == plain | {280}
