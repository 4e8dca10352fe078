"""llama.cpp through the low-level functions of llama-cpp-python, whose `Llama` runs one sequence at a time.

The loop is that of llama.cpp's own server: free places take the next request, a prompt that several requests share is
computed once and its cache copied, and every step decodes all places at once. The GGUF file is written from the
Hugging Face folder, narrow ones by llama.cpp's own quantizer.
"""

from __future__ import annotations

import ctypes
import json
import os
from pathlib import Path

from . import Requests, Run

PLACES = 32
LONGEST = 1280  # tokens of a sequence
STEP = 512  # tokens of a prompt at once, llama.cpp's default
FILE = "model.gguf"
TYPES = {"bf16": "BF16", "int8": "Q8_0", "int4": "Q4_0"}
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def convert(folder: Path, kind: str, out: Path) -> None:
    """A float32 GGUF file, then quantized where it is to be narrow."""
    import llama_cpp

    write_gguf(folder, out / FILE)
    if kind == "float32":
        return
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{TYPES[kind]}")
    options.nthread, options.pure = 1, True
    whole = out / "float32.gguf"
    (out / FILE).rename(whole)
    if llama_cpp.llama_model_quantize(os.fsencode(whole), os.fsencode(out / FILE), ctypes.byref(options)):
        raise RuntimeError(f"llama.cpp could not quantize to {kind}")
    whole.unlink()


def write_gguf(folder: Path, path: Path) -> None:
    """The weights under llama.cpp's names, without a vocabulary."""
    import gguf
    from safetensors import safe_open

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (it is no dictionary)
                writer.add_tensor(gguf_name(name), tensors.get_tensor(name).astype("float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(name: str) -> str:
    """llama.cpp's name of a tensor."""
    stem, suffix = name.rsplit(".", 1)
    if stem in NAMES:
        return f"{NAMES[stem]}.{suffix}"
    _, _, layer, rest = stem.split(".", 3)
    return f"blk.{layer}.{LAYER_NAMES[rest]}.{suffix}"


def start(folder: str, kind: str, threads: int) -> tuple[Run, int]:
    """A context of 32 places over one cache in float32."""
    import llama_cpp

    silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(silent, None)
    llama_cpp.llama_backend_init()
    path = Path(folder) / FILE
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), llama_cpp.llama_model_default_params())
    options = llama_cpp.llama_context_default_params()
    options.n_seq_max, options.n_ctx = PLACES + 1, (PLACES + 1) * LONGEST
    options.n_batch, options.n_ubatch = PLACES * LONGEST, STEP
    options.n_threads = options.n_threads_batch = threads
    options.type_k = options.type_v = llama_cpp.GGML_TYPE_F32
    options.kv_unified = False
    context = llama_cpp.llama_init_from_model(model, options)
    if not context:
        raise RuntimeError("llama.cpp could not open the model")
    places = Places(context, silent)
    return places.run, llama_cpp.llama_model_size(model)


class Places:
    """Sequences that run at once, each in a place of its own; one more place keeps a prompt that several share."""

    def __init__(self, context, silent):
        import llama_cpp

        self.c, self.context, self.silent = llama_cpp, context, silent
        self.memory = llama_cpp.llama_get_memory(context)
        self.batch = llama_cpp.llama_batch_init(PLACES * LONGEST, 0, 1)
        self.kept: list[int] = []

    def run(self, requests: Requests, sampled: bool) -> list[list[int]]:
        """One token for every place at each step, until all requests have theirs."""
        c = self.c
        c.llama_memory_clear(self.memory, False)
        self.kept = []
        chain = c.llama_sampler_chain_init(c.llama_sampler_chain_default_params())
        c.llama_sampler_chain_add(chain, c.llama_sampler_init_dist(0) if sampled else c.llama_sampler_init_greedy())
        out: list[list[int]] = [[] for _ in requests]
        waiting, running = list(reversed(range(len(requests)))), {}
        while waiting or running:
            starting = {}
            for place in [place for place in range(PLACES) if place not in running][: len(waiting)]:
                i = waiting.pop()
                shared = bool(waiting) and requests[waiting[-1]][0] == requests[i][0]
                starting[place] = self.begin(place, requests[i][0], shared)
                running[place] = i
            self.batch.n_tokens = 0
            rows = {}
            for place, i in running.items():
                tokens, position = starting.get(place) or (out[i][-1:], len(requests[i][0]) + len(out[i]) - 1)
                rows[place] = self.add(place, tokens, position)
            self.decode()
            for place, row in rows.items():
                i = running[place]
                out[i].append(c.llama_sampler_sample(chain, self.context, row))
                if len(out[i]) == requests[i][1]:
                    c.llama_memory_seq_rm(self.memory, place, -1, -1)
                    del running[place]
        c.llama_sampler_free(chain)
        return out

    def begin(self, place: int, prompt: list[int], shared: bool) -> tuple[list[int], int]:
        """What is left to compute of a prompt and its position: all but what is shared with the requests behind it."""
        c = self.c
        if prompt != self.kept and not shared:
            return prompt, 0
        if prompt != self.kept:
            c.llama_memory_seq_rm(self.memory, PLACES, -1, -1)
            self.batch.n_tokens = 0
            self.add(PLACES, prompt[:-1], 0)
            self.decode()
            self.kept = prompt
        c.llama_memory_seq_cp(self.memory, PLACES, place, -1, -1)
        return prompt[-1:], len(prompt) - 1

    def add(self, place: int, tokens: list[int], position: int) -> int:
        """Put tokens into the batch; the index of the last, whose logits are asked for."""
        batch, first = self.batch, self.batch.n_tokens
        for i, token in enumerate(tokens, first):
            batch.token[i], batch.pos[i], batch.logits[i] = token, position + i - first, 0
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, place
        batch.n_tokens = first + len(tokens)
        batch.logits[batch.n_tokens - 1] = 1
        return batch.n_tokens - 1

    def decode(self) -> None:
        if self.c.llama_decode(self.context, self.batch):
            raise RuntimeError("llama.cpp could not decode: its cache is full")
