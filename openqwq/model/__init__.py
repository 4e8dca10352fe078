"""The Qwen2 decoder with Hugging Face names: QwQ-32B, Qwen2.5 and everything smaller."""

from .attention.packed import AttentionContext, DecodeAttention, ExtendAttention, PackedAttention, PrefillAttention
from .attention.paged import PagedAttention, PagedChunk
from .attention.windows import AttentionWindows, PageMap, WindowedAttention, bands_of
from .attention_mass import AttentionMass, measure_attention_mass
from .checksum import weight_checksum
from .config import Qwen2Config, YarnScaling
from .decoder import Qwen2ForCausalLM, convert_swish_beta
from .fused.cpu import DecodeKernel
from .fused.fused_decoder import RowDecoder, row_decoder
from .invariant import set_batch_invariant
from .kv_cache import KVCache
from .load import create_model, init_weights, load_model, load_weights, read_config, resolve_folder
from .native import native_kernels
from .presets import HUB_NAMES, PRESETS, preset
from .quantize import PackedLinear, Quantization, quantize_weights

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
