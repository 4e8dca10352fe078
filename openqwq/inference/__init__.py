"""The engine that samples from a model: batched, KV-cached, with log-probs that training can trust.

from openqwq.inference import LLM, Engine, SamplingParams
"""

from openqwq.types import SamplingParams

from .engine import Engine, RequestOutput

__all__ = ["Engine", "RequestOutput", "SamplingParams"]
