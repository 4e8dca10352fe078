"""Recipes: one frozen, keyword-only dataclass tree, read from TOML."""

from .recipe import (
    EvalConfig,
    GateConfig,
    ModelConfig,
    PretrainStage,
    Recipe,
    RewardModelStage,
    RLStage,
    SFTStage,
    SourceConfig,
    Stage,
    TargetConfig,
    TokenizerConfig,
)

__all__ = [
    "EvalConfig",
    "GateConfig",
    "ModelConfig",
    "PretrainStage",
    "RLStage",
    "Recipe",
    "RewardModelStage",
    "SFTStage",
    "SourceConfig",
    "Stage",
    "TargetConfig",
    "TokenizerConfig",
]
