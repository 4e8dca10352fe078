"""The decoder of all families: one definition for training, plain forward, prefill and cached decoding.

Every layer works on a flat row of tokens [N, C]; an attention context (attention.py) says where the documents
are and where keys and values live. Parameters have Hugging Face's names, so that loading is a copy.

Letters: N tokens, B rows, T tokens a row, C hidden size, H heads, K kv heads, D head dim, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from openqwq.kernels import choose_ops

from .attention.context import AttentionContext
from .attention.packed import PackedAttention
from .backend import HasOps, use_ops
from .config import DecoderConfig
from .rope import RotaryEmbedding


class Linear(HasOps, nn.Linear):
    """A linear layer that is allocated but not filled: weights come from a folder or from `init_weights`."""

    def reset_parameters(self) -> None:
        """Leave the memory as it is."""

    def forward(self, x: Tensor) -> Tensor:
        return self.ops.linear(x, self.weight, self.bias)


class Embedding(nn.Embedding):
    """An embedding that is allocated but not filled."""

    def reset_parameters(self) -> None:
        """Leave the memory as it is."""


class RMSNorm(HasOps, nn.Module):
    """x / rms(x) * weight (arXiv:1910.07467); the mean square is taken in float32."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return self.ops.rms_norm(x, self.weight, self.eps)


class Attention(HasOps, nn.Module):
    """Grouped-query attention (arXiv:2305.13245); biases, and norms of queries and keys, as the config says."""

    def __init__(self, config: DecoderConfig, layer: int):
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        q_size, kv_size = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
        self.q_proj = Linear(config.hidden_size, q_size, bias=config.attention_bias)
        self.k_proj = Linear(config.hidden_size, kv_size, bias=config.attention_bias)
        self.v_proj = Linear(config.hidden_size, kv_size, bias=config.attention_bias)
        self.o_proj = Linear(q_size, config.hidden_size, bias=config.output_bias)
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps) if config.qk_norm else None

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], context: AttentionContext) -> Tensor:
        heads = (-1, self.head_dim)
        q, k, v = (project(x).unflatten(-1, heads) for project in (self.q_proj, self.k_proj, self.v_proj))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = self.ops.rotate(q, *rotary), self.ops.rotate(k, *rotary)  # [N, H, D], [N, K, D]
        return self.o_proj(context.attend(self.layer, q, k, v))


class MLP(HasOps, nn.Module):
    """SwiGLU (arXiv:2002.05202) with gate x * sigmoid(swish_beta x)."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.swish_beta = config.swish_beta
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.ops.swiglu(self.gate_proj(x), self.up_proj(x), self.swish_beta))


class DecoderLayer(nn.Module):
    """Attention and MLP, each on the normalised residual stream."""

    def __init__(self, config: DecoderConfig, layer: int):
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], context: AttentionContext) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotary, context)
        return x + self.mlp(self.post_attention_layernorm(x))


class DecoderModel(HasOps, nn.Module):
    """The decoder without its head."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary = RotaryEmbedding(config)

    def forward(self, input_ids: Tensor, context: AttentionContext) -> Tensor:
        """Normalised hidden states [N, C] of flat `input_ids` [N]."""
        x = self.embed_tokens(input_ids)
        rotary = self.rotary(
            context.positions, x.dtype, getattr(context, "scaled", None), from_tables=self.ops.invariant
        )
        for layer in self.layers:
            x = layer(x, rotary, context)
        return self.norm(x)


class Decoder(HasOps, nn.Module):
    """The decoder with its language-model head, tied to the embedding when the config says so.

    Parameters are uninitialised: `create_model`, `load_model` and `init_weights` fill them.
    Its operations are those of its device and dtype, chosen anew when they change; `use_ops` exchanges them.
    """

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        self.model = DecoderModel(config)
        self.lm_head = None if config.tie_word_embeddings else Linear(config.hidden_size, config.vocab_size, False)
        use_ops(self, choose_ops(self.device, self.dtype))

    @property
    def device(self) -> torch.device:
        return self.model.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.embed_tokens.weight.dtype

    @property
    def batch_invariant(self) -> bool:
        """Whether what a token becomes depends on its own sequence alone (`set_batch_invariant`)."""
        return self.ops.invariant

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """After `to`, `half` and the like: operations of another device or dtype."""
        before = self.device, self.dtype
        super()._apply(fn, recurse)
        if (self.device, self.dtype) != before:
            use_ops(self, choose_ops(self.device, self.dtype))
        return self

    def rescale(self, rope_scaling: Mapping[str, Any]) -> None:
        """Extend the context by the rope scaling block of a config.json. Raises UserError for one that is none."""
        self.config = DecoderConfig.from_dict(self.config.to_dict() | {"rope_scaling": rope_scaling})
        self.model.rotary = RotaryEmbedding(self.config)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        lengths: Sequence[int] | None = None,
        context: AttentionContext | None = None,
    ) -> Tensor:
        """Logits, in the weights' dtype.

        input_ids [B, T]:             [B, T, V], causal. With `attention_mask` [B, T] (1 = token, 0 = padding, on
                                      either side) padding costs nothing, positions count tokens only, and the
                                      logits at padding are 0.
        input_ids [N] with `lengths`: [N, V] of documents that lie end to end.
        input_ids [N] with `context`: [N, V] as any attention context says, e.g. `PagedAttention`.
        """
        if input_ids.ndim == 1:
            return self.lm_head_logits(self.hidden_states(input_ids, lengths=lengths, context=context))
        batch, length = input_ids.shape
        if attention_mask is None:
            return self.lm_head_logits(self.hidden_states(input_ids.flatten(), lengths=[length] * batch)).unflatten(
                0, (batch, length)
            )
        mask = attention_mask.bool()
        lengths = [size for size in mask.sum(1).tolist() if size]
        packed = self.lm_head_logits(self.hidden_states(input_ids[mask], lengths=lengths))
        return packed.new_zeros(batch, length, packed.shape[-1]).masked_scatter(mask[..., None], packed)

    def hidden_states(
        self,
        input_ids: Tensor,
        *,
        lengths: Sequence[int] | None = None,
        shared: tuple[Tensor, Tensor] | None = None,
        context: AttentionContext | None = None,
    ) -> Tensor:
        """Final hidden states [N, C] of flat tokens [N]; `lm_head_logits` of the wanted rows gives their logits.

        Exactly one of `lengths` (documents end to end) and `context` must be given. shared: documents that begin
        alike share rows of input_ids: the row of each of their tokens, and the first token of each row (`Documents`).
        """
        if lengths is not None and context is None:
            context = PackedAttention(lengths, shared, ops=self.ops, device=input_ids.device)
        elif context is None or lengths is not None:
            raise ValueError("flat input_ids need either `lengths` or `context`")
        if len(context.positions) != len(input_ids):
            raise ValueError(f"{len(input_ids)} tokens were given, but lengths for {len(context.positions)}")
        return self.model(input_ids, context)

    def lm_head_logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., C]."""
        if self.lm_head is not None:
            return self.lm_head(hidden)
        return self.ops.linear(hidden, self.model.embed_tokens.weight)


def convert_swish_beta(
    state_dict: dict[str, Tensor], config: DecoderConfig, beta: float
) -> tuple[dict[str, Tensor], DecoderConfig]:
    """The same function under another `swish_beta`: new weights (the others shared) and their config.

    z sigmoid(b z) = (c/b) z' sigmoid(c z') with z' = (b/c) z, so gates times b/c and ups times c/b change nothing.
    """
    ratio = config.swish_beta / beta
    factors = {".mlp.gate_proj.weight": ratio, ".mlp.up_proj.weight": 1 / ratio}
    converted = {
        name: next((tensor * factor for suffix, factor in factors.items() if name.endswith(suffix)), tensor)
        for name, tensor in state_dict.items()
    }
    return converted, config.replace(swish_beta=beta)
