"""Qwen2's decoder in plain PyTorch operators, with the cache as arguments: what OpenVINO's frontend traces."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn


class Decoder(nn.Module):
    """`forward(input_ids, attention_mask, position_ids, beam_idx, k0, v0, k1, ...)`: the logits, then the new cache."""

    def __init__(self, folder: Path):
        super().__init__()
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        weights: dict[str, Tensor] = {}
        for file in sorted(folder.glob("*.safetensors")):
            weights |= load_file(file)
        self.heads, self.kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        self.layers, self.eps = config["num_hidden_layers"], config["rms_norm_eps"]
        self.head_size = config["hidden_size"] // self.heads
        for name, weight in weights.items():
            self.register_buffer(name.replace(".", "_"), weight.float())
        self.tied = "lm_head.weight" not in weights
        halves = torch.arange(0, self.head_size, 2).float() / self.head_size
        self.register_buffer("frequencies", 1.0 / config["rope_theta"] ** halves)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, beam_idx: Tensor, *past: Tensor
    ) -> tuple[Tensor, ...]:
        x = F.embedding(input_ids, self.model_embed_tokens_weight)  # [B, T, C]
        angles = position_ids[:, None, :, None].float() * self.frequencies  # [B, 1, T, D/2]
        angles = torch.cat((angles, angles), -1)
        cos, sin = angles.cos(), angles.sin()
        places = torch.arange(attention_mask.shape[1])
        seen = places[None, None, None, :] <= places[-input_ids.shape[1] :][None, None, :, None]
        mask = seen & attention_mask.bool()[:, None, None, :]  # [B, 1, T, S]
        cache: list[Tensor] = []
        for layer in range(self.layers):
            name = f"model_layers_{layer}_"
            keys, values = (tensor.index_select(0, beam_idx) for tensor in past[2 * layer : 2 * layer + 2])
            y, keys, values = self.attend(name, self.norm(x, f"{name}input_layernorm"), keys, values, cos, sin, mask)
            cache += [keys, values]
            x = x + y
            y = self.norm(x, f"{name}post_attention_layernorm")
            gate = F.silu(self.linear(y, f"{name}mlp_gate_proj"))
            x = x + self.linear(gate * self.linear(y, f"{name}mlp_up_proj"), f"{name}mlp_down_proj")
        head = self.model_embed_tokens_weight if self.tied else self.lm_head_weight
        return (F.linear(self.norm(x, "model_norm"), head), *cache)

    def attend(self, name, x, past_keys, past_values, cos, sin, mask) -> tuple[Tensor, Tensor, Tensor]:
        batch, length = x.shape[0], x.shape[1]

        def project(part: str, heads: int) -> Tensor:
            y = self.linear(x, f"{name}self_attn_{part}_proj")
            return y.view(batch, length, heads, self.head_size).transpose(1, 2)

        queries, keys = rotate(project("q", self.heads), cos, sin), rotate(project("k", self.kv_heads), cos, sin)
        keys = torch.cat((past_keys, keys), -2)  # [B, K, S, D]
        values = torch.cat((past_values, project("v", self.kv_heads)), -2)
        wide = (repeat(tensor, self.heads // self.kv_heads) for tensor in (keys, values))
        y = F.scaled_dot_product_attention(queries, *wide, attn_mask=mask)
        y = y.transpose(1, 2).reshape(batch, length, self.heads * self.head_size)
        return self.linear(y, f"{name}self_attn_o_proj"), keys, values

    def linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias", None))

    def norm(self, x: Tensor, name: str) -> Tensor:
        return getattr(self, f"{name}_weight") * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


def repeat(x: Tensor, times: int) -> Tensor:
    """Every kv head `times` times."""
    batch, heads, length, size = x.shape
    return x[:, :, None].expand(batch, heads, times, length, size).reshape(batch, heads * times, length, size)
