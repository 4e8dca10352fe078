"""What a run would stumble over later, looked for before anything is written: all but the weights is made once.

Public: `preflight`, `code_digests`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from random import Random

from openqwq.config import PretrainStage, Recipe, RewardModelStage, RLStage, SFTStage, own_files
from openqwq.data import programmatic_teacher, read_chains
from openqwq.data.keys import item_key
from openqwq.data.sources.finite import FiniteSource
from openqwq.errors import UserError
from openqwq.train.trackers import check_trackers
from openqwq.verifiers import Verifier

from .materials import Materials


def preflight(materials: Materials) -> list[str]:
    """Raise UserError for the first thing of the recipe that cannot be made; what was not looked at.

    Sources, held-out and gate problems, verifiers, files of chains, texts, and a first batch of each stage are made.
    """
    recipe = materials.recipe
    for stage in recipe.stage.values():
        check_trackers(stage.trackers)
    _check_verifiers(materials)
    held_out = materials.unseen
    for name, stage in recipe.stage.items():
        _check_stage(materials, name, stage)
    unchecked = [f"the weights of {recipe.model.path}"] if recipe.model.path else []
    if any(isinstance(stage, RLStage | SFTStage) for stage in recipe.stage.values()) and not held_out:
        unchecked.append("held-out problems: [eval] names no families, so nothing is evaluated")
    return unchecked


def _check_verifiers(materials: Materials) -> None:
    """Make each verifier that problems ask for, so that its options are checked, and show it a problem."""
    for name, source in materials.sources.items():
        problems = list(source.part("train")) if isinstance(source, FiniteSource) else []
        problems = problems or [source.problem("train", item_key("train", "preflight", name))]
        for asked in sorted({problem.verifier for problem in problems}):
            if asked not in materials.judge.strict:
                raise UserError(
                    f"problems of the source `{name}` ask for the verifier `{asked}`, which is not there",
                    hint=f"known: {', '.join(materials.judge.strict)}",
                )
            verifier: Verifier = materials.judge.strict[asked]
            for problem in problems:
                if problem.verifier == asked and (lacking := verifier.missing_columns(problem)):
                    have = ", ".join(problem.metadata) or "none"
                    raise UserError(
                        f"`{verifier.name}` needs `{lacking[0]}`, which problem `{problem.id}` of the source `{name}` "
                        f"lacks",
                        hint=f"its further columns are {have}; or give it under `verifier_options`",
                    )


def _check_stage(materials: Materials, name: str, stage: object) -> None:
    if isinstance(stage, PretrainStage):
        next(materials.texts(stage.mix, 0))
    elif isinstance(stage, SFTStage):
        if stage.chains_file and not read_chains(Path(stage.chains_file)):
            raise UserError(f"`chains_file` of stage `{name}` is {stage.chains_file}, which holds no chains")
        for source in stage.chains:
            problem = materials.sources[source].problem("chains", item_key("chains", "preflight", source))
            programmatic_teacher(problem, Random(0))
        if stage.replay:
            next(materials.texts(stage.replay, 0))
    elif isinstance(stage, RewardModelStage):
        for source in stage.pairs:
            materials.sources[source].problem("pairs", item_key("pairs", "preflight", source))
    elif isinstance(stage, RLStage):
        materials.mixture(name, stage).batch(0, min(stage.prompts_per_step, 32))
        if stage.demonstrations_file:
            read_chains(Path(stage.demonstrations_file))
        if stage.gate.kinds:
            materials.gate_families(stage)


def code_digests(recipe: Recipe) -> dict[str, str]:
    """SHA-256 of each of the user's own Python files that the recipe names, by path."""
    named = [
        [source.verifier, source.verifier_options, source.path, source.held_out_path]
        for source in recipe.source.values()
    ]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(set(own_files(named)))}
