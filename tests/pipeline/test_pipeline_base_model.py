"""Which model a stage's adapters belong to."""

from pathlib import Path

from openqwq.config import load_recipe
from openqwq.pipeline.stages import base_model

RECIPE = Path(__file__).parents[2] / "recipes" / "tiny-from-scratch.toml"


def test_adapters_belong_to_the_policy_before_them_or_to_the_recipes_model(tmp_path):
    recipe = load_recipe(RECIPE)
    names = list(recipe.policy_stages)
    assert recipe.model.preset and base_model(recipe, names[0], tmp_path) == recipe.model.preset
    assert base_model(recipe, names[1], tmp_path) == str(tmp_path / "checkpoints" / names[0])
    hub = load_recipe(RECIPE, ['model.path="owner/name"', 'model.preset=""'])
    assert base_model(hub, names[0], tmp_path) == "owner/name"
    local = load_recipe(RECIPE, [f'model.path="{tmp_path}"', 'model.preset=""'])
    assert base_model(local, names[0], tmp_path) == str(tmp_path.resolve())
