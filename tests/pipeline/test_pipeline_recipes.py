"""The shipped recipes' texts can be drawn: what is held out leaves enough to train on."""

from itertools import islice
from pathlib import Path

import pytest

from openqwq.config import PretrainStage, load_recipe
from openqwq.pipeline.materials import Materials

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize("name", ["tiny-from-scratch.toml", "smoke.toml"])
def test_pretraining_texts_of_shipped_recipes_can_be_drawn(name, tmp_path):
    materials = Materials(load_recipe(RECIPES / name), tmp_path)
    stages = [s for s in materials.recipe.stage.values() if isinstance(s, PretrainStage)]
    for stage in stages:
        texts = list(islice(materials.texts(stage.mix, 0), 1500))
        assert len(set(texts)) > 1400
    assert stages
