"""Settings: recipes, a frozen, keyword-only dataclass tree read from TOML, and the options of an engine."""

from .algorithm import check_algorithm, rounds
from .build import recipe_from_dict, recipe_to_dict
from .engine import DraftOptions, EngineConfig, ModelOptions, make_config
from .load import load_recipe, recipe_from_tables
from .own_names import is_own, own_files, split_own
from .recipe import (
    TEXT_TYPES,
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
from .shipped import find_recipe, shipped_recipes

__all__ = [
    "TEXT_TYPES",
    "CorrectionConfig",
    "CurriculumConfig",
    "DraftOptions",
    "EngineConfig",
    "EntropyConfig",
    "EvalConfig",
    "GateConfig",
    "KLConfig",
    "LoRAConfig",
    "ModelConfig",
    "ModelOptions",
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
    "check_algorithm",
    "find_recipe",
    "is_own",
    "load_recipe",
    "make_config",
    "own_files",
    "recipe_from_dict",
    "recipe_from_tables",
    "recipe_to_dict",
    "rounds",
    "shipped_recipes",
    "split_own",
]
