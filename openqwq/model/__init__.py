"""One decoder for Qwen2, Qwen3, Llama and Mistral models, with Hugging Face names."""

from openqwq.kernels.layouts import Quantization

from .attention.context import AttentionContext, PagedChunk
from .attention.packed import PackedAttention
from .attention.paged import PagedAttention
from .attention.windows import AttentionWindows, PageMap, WindowedAttention, bands_of
from .attention_mass import AttentionMass, measure_attention_mass
from .backend import HasOps, set_batch_invariant, use_ops
from .checksum import weight_checksum
from .config import DecoderConfig, YarnScaling
from .decoder import Decoder, convert_swish_beta
from .fused.cpu import CpuFusedDecoder
from .fused.fused_decoder import FusedDecoder, fused_decoder
from .kv_cache import KVCache
from .load import create_model, init_weights, load_model, load_weights, read_config, resolve_folder
from .packed_linear import PackedLinear
from .presets import HUB_NAMES, PRESETS, preset
from .quantize import quantize_weights

__all__ = [
    "HUB_NAMES",
    "PRESETS",
    "AttentionContext",
    "AttentionMass",
    "AttentionWindows",
    "CpuFusedDecoder",
    "Decoder",
    "DecoderConfig",
    "FusedDecoder",
    "HasOps",
    "KVCache",
    "PackedAttention",
    "PackedLinear",
    "PageMap",
    "PagedAttention",
    "PagedChunk",
    "Quantization",
    "WindowedAttention",
    "YarnScaling",
    "bands_of",
    "convert_swish_beta",
    "create_model",
    "fused_decoder",
    "init_weights",
    "load_model",
    "load_weights",
    "measure_attention_mass",
    "preset",
    "quantize_weights",
    "read_config",
    "resolve_folder",
    "set_batch_invariant",
    "use_ops",
    "weight_checksum",
]
