"""Recipes: one frozen, keyword-only dataclass tree, read from TOML."""

from .build import recipe_from_dict, recipe_to_dict
from .load import load_recipe
from .recipe import (
    TEXT_TYPES,
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
    "TEXT_TYPES",
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
    "load_recipe",
    "recipe_from_dict",
    "recipe_to_dict",
]
