"""The Qwen2 decoder with Hugging Face names: QwQ-32B, Qwen2.5 and everything smaller."""

from .attention import AttentionContext, DecodeAttention, ExtendAttention, PackedAttention, PrefillAttention
from .attention_mass import AttentionMass, measure_attention_mass
from .checksum import weight_checksum
from .config import Qwen2Config, YarnScaling
from .decode import DecodeKernel
from .decoders import RowDecoder, row_decoder
from .invariant import set_batch_invariant
from .kv_cache import KVCache
from .load import create_model, init_weights, load_model, load_weights, read_config, resolve_folder
from .native import native_kernels
from .paged import PagedAttention, PagedChunk
from .presets import HUB_NAMES, PRESETS, preset
from .quantize import PackedLinear, Quantization, quantize_weights
from .qwen2 import Qwen2ForCausalLM, convert_swish_beta
from .windows import AttentionWindows, PageMap, WindowedAttention, bands_of

__all__ = [
    "HUB_NAMES",
    "PRESETS",
    "AttentionContext",
    "AttentionMass",
    "AttentionWindows",
    "DecodeAttention",
    "DecodeKernel",
    "ExtendAttention",
    "KVCache",
    "PackedAttention",
    "PackedLinear",
    "PageMap",
    "PagedAttention",
    "PagedChunk",
    "PrefillAttention",
    "Quantization",
    "Qwen2Config",
    "Qwen2ForCausalLM",
    "RowDecoder",
    "WindowedAttention",
    "YarnScaling",
    "bands_of",
    "convert_swish_beta",
    "create_model",
    "init_weights",
    "load_model",
    "load_weights",
    "measure_attention_mass",
    "native_kernels",
    "preset",
    "quantize_weights",
    "read_config",
    "resolve_folder",
    "row_decoder",
    "set_batch_invariant",
    "weight_checksum",
]
