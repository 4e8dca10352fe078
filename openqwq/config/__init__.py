"""Recipes: one frozen, keyword-only dataclass tree, read from TOML."""

from .build import recipe_from_dict, recipe_to_dict
from .load import load_recipe
from .recipe import (
    CorrectionConfig,
    CurriculumConfig,
    EntropyConfig,
    EvalConfig,
    GateConfig,
    KLConfig,
    LoRAConfig,
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
    ValueConfig,
)

__all__ = [
    "CorrectionConfig",
    "CurriculumConfig",
    "EntropyConfig",
    "EvalConfig",
    "GateConfig",
    "KLConfig",
    "LoRAConfig",
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
    "ValueConfig",
    "load_recipe",
    "recipe_from_dict",
    "recipe_to_dict",
]
