"""A model whose matrices are wide enough for groups of 4-bit weights."""

import torch

from openqwq.model import DecoderConfig

SMALL = DecoderConfig(
    vocab_size=282,
    hidden_size=64,
    intermediate_size=256,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    initializer_range=0.3,
)
IDS = torch.arange(40).view(2, 20)
