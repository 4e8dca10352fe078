"""What the stages of a run are fed with: problems, tokenizer, model, documents, chains, pairs.

Everything here is a function of the recipe, so a resumed run makes it again; only what is costly or counted
(the tokenizer, the chains with their manifest) is kept in the run folder.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from openqwq.config import PretrainStage, Recipe, RewardModelStage, RLStage, SFTStage
from openqwq.data import (
    Chain,
    Mixture,
    PreferencePair,
    ProblemSource,
    build_chains,
    build_documents,
    build_pairs,
    build_sources,
    held_out,
    problem_texts,
    programmatic_teacher,
    read_chains,
    write_chains,
)
from openqwq.data.chains.build import Manifest, Teacher
from openqwq.errors import UserError
from openqwq.eval.judging import Judge
from openqwq.log import logger
from openqwq.model import Decoder, create_model, load_model, preset, resolve_folder
from openqwq.tokenizer import (
    Tokenizer,
    folder_end_ids,
    render_training_turn,
    train_tokenizer,
    with_qwq_template,
)
from openqwq.types import Message, Problem, SamplingParams

DOCUMENTS_PER_ENCODING = 64
"""Documents tokenized in one call: enough for the library's threads, few enough to begin at once."""
GATE_SPLIT = "gate"
ROLE_NAMES = ("user\nassistant\nsystem\n",) * 1000
"""Read by the learned tokenizer beside the corpus, which holds no chat: role names become single tokens."""


class Materials:
    """The recipe's data, made when it is first asked for."""

    def __init__(self, recipe: Recipe, folder: Path):
        self.recipe = recipe
        self.folder = folder

    @cached_property
    def sources(self) -> dict[str, ProblemSource]:
        return build_sources(self.recipe.source)

    @cached_property
    def families(self) -> dict[str, list[Problem]]:
        """The held-out problems of every evaluated family."""
        count = self.recipe.eval.problems_per_family
        return {name: held_out(self.sources[name], count) for name in self.recipe.eval.families}

    def gate_families(self, stage: RLStage) -> dict[str, list[Problem]]:
        """The held-out problems of a stage's regression gate, of the evaluated families of its kinds."""
        names = [name for name in self.recipe.eval.families if self.sources[name].kind in stage.gate.kinds]
        kinds = {self.sources[name].kind for name in names}
        if missing := [kind for kind in stage.gate.kinds if kind not in kinds]:
            raise UserError(
                f"a gate watches the kind `{missing[0]}`, but no family in [eval] has it",
                hint="add a family of that kind to `eval.families`, or take the kind out of `gate.kinds`",
            )
        return {n: held_out(self.sources[n], stage.gate.problems_per_family, split=GATE_SPLIT) for n in names}

    @cached_property
    def unseen(self) -> frozenset[str]:
        """Texts that no stage may train on: every evaluation's and every gate's.

        As many gate problems as evaluated ones are left out even where no gate looks at them, so that
        control arms without a gate are given the same chains.
        """
        gates = [s for s in self.recipe.stage.values() if isinstance(s, RLStage) and s.gate.kinds]
        spare = {
            name: held_out(self.sources[name], self.recipe.eval.problems_per_family, split=GATE_SPLIT)
            for name in self.families
        }
        groups = [self.families, spare, *(self.gate_families(stage) for stage in gates)]
        return problem_texts([problem for group in groups for problems in group.values() for problem in problems])

    @cached_property
    def verifier_options(self) -> dict[str, dict[str, Any]]:
        """Verifier name -> its options. Raises UserError when two sources want the same one with different options."""
        options: dict[str, dict[str, Any]] = {}
        for name, source in self.sources.items():
            config = self.recipe.source[name]
            verifier = str(getattr(source, "verifier", config.verifier or "math"))
            given = dict(config.verifier_options)
            if options.setdefault(verifier, given) != given:
                raise UserError(
                    f"source `{name}` gives the verifier `{verifier}` other options than another source does",
                    hint="give the sources that share a verifier the same `verifier_options`",
                )
        return options

    @property
    def eval_params(self) -> SamplingParams:
        """How the recipe's evaluation and its gates sample."""
        config = self.recipe.eval
        return SamplingParams(
            temperature=config.temperature,
            top_p=config.top_p,
            top_k=config.top_k,
            max_tokens=config.max_completion_tokens,
        )

    @cached_property
    def judge(self) -> Judge:
        return Judge(self.verifier_options)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The recipe's tokenizer: the one named, the one beside the model, or one learned from the corpus."""
        config, model = self.recipe.tokenizer, self.recipe.model
        if config.path or model.path:
            folder = config.path or resolve_folder(model.path)
            loaded = Tokenizer.load(folder)
            if config.path and model.path:
                loaded.end_ids += folder_end_ids(resolve_folder(model.path))
            return with_qwq_template(loaded, str(folder)) if config.chat_template == "qwq" else loaded
        kept = self.folder / "tokenizer"
        if not kept.is_dir():
            making = self.folder / ".tokenizer"
            shutil.rmtree(making, ignore_errors=True)
            train_tokenizer(self._tokenizer_texts(), config.vocab_size).save(making)
            os.replace(making, kept)
        return Tokenizer.load(kept)

    @property
    def opens_thinking(self) -> bool:
        """Whether prompts under the chat template end inside a thinking block."""
        return self.tokenizer.opens_thinking(self.tokenizer.encode_chat([Message("user", "1 + 1?")]))

    @property
    def tokenizer_files(self) -> list[Path]:
        """The files that make a model's folder speak: kept in the run folder in our own form."""
        kept = self.folder / "tokenizer"
        if not kept.is_dir():
            self.tokenizer.save(kept)
        return sorted(kept.iterdir())

    def new_model(self, device: torch.device) -> Decoder:
        """The model that the first stage starts from, in float32."""
        config = self.recipe.model
        if config.path:
            return load_model(config.path, device=device, dtype=torch.float32)
        own = {"vocab_size": self.tokenizer.vocab_size, "eos_token_id": self.tokenizer.eos_token_id}
        return create_model(
            preset(config.preset).replace(**{**own, **config.overrides}),
            seed=self.recipe.seed,
            device=device,
            dtype=torch.float32,
        )

    def documents(self, mix: Mapping[str, float], start: int) -> Iterator[Sequence[int]]:
        """Token ids of the documents of these text sources from number `start` on, each with its end token."""
        texts = self.texts(mix, start)
        while batch := list(islice(texts, DOCUMENTS_PER_ENCODING)):
            for ids in self.tokenizer.encode_documents(batch):
                yield [*ids, self.tokenizer.pad_token_id]

    def chains(self, name: str, stage: SFTStage) -> list[tuple[list[int], list[int]]]:
        """The stage's fixed set of chains as prompt and completion ids."""
        return [
            render_training_turn(self.tokenizer, chain.problem.messages, chain.thinking, chain.answer)
            for chain in read_chains(Path(stage.chains_file) if stage.chains_file else self._built(name, stage))
        ]

    def build_chains(
        self, stage: SFTStage, *, teacher: Teacher | None = None, workers: int = 1
    ) -> tuple[list[Chain], Manifest]:
        """The stage's chains as a teacher makes them, by default each family's own, and their manifest."""
        return build_chains(
            self.sources,
            stage.chains,
            seed=stage.chains_seed,
            exclude=self.unseen,
            teacher=teacher or partial(programmatic_teacher, brief_share=stage.brief_share),
            options={name: self.recipe.source[name].verifier_options for name in stage.chains},
            workers=workers,
        )

    def pairs(self, stage: RewardModelStage, *, is_held_out: bool) -> list[PreferencePair]:
        """The stage's preference pairs: those to train on, or the further ones that only measure."""
        total = sum(stage.pairs.values())
        pairs = []
        for name, count in stage.pairs.items():
            extra = -(-stage.held_out_pairs * count // total)
            first, wanted = (count, extra) if is_held_out else (0, count)
            source, seed = self.sources[name], self.recipe.seed
            pairs += build_pairs(source, wanted, seed=seed, first=first, exclude=self.unseen)
        return pairs[: stage.held_out_pairs] if is_held_out else pairs

    def mixture(self, name: str, stage: RLStage) -> Mixture:
        return Mixture(self.sources, stage.mix, seed=self.recipe.seed, stage=name, exclude=self.unseen)

    def texts(self, mix: Mapping[str, float], start: int) -> Iterator[str]:
        """Documents of these text sources from number `start` on."""
        return build_documents(
            self.recipe.source, mix, self.sources, seed=self.recipe.seed, exclude=self.unseen, start=start
        )

    def _tokenizer_texts(self) -> Iterator[str]:
        stages = [stage for stage in self.recipe.stage.values() if isinstance(stage, PretrainStage)]
        if not stages:
            raise UserError(
                "the recipe names no tokenizer, and has no pretraining corpus to learn one from",
                hint="set `path` in [tokenizer] or [model], or add a pretraining stage",
            )
        yield from ROLE_NAMES
        left = self.recipe.tokenizer.train_characters
        for text in self.texts(stages[0].mix, 0):
            if left <= 0:
                return
            left -= len(text)
            yield text

    def _built(self, name: str, stage: SFTStage) -> Path:
        """The file of the chains that the teachers made, with its manifest beside it."""
        file = self.folder / "chains" / f"{name}.jsonl"
        if not file.exists():
            chains, manifest = self.build_chains(stage)
            file.parent.mkdir(exist_ok=True)
            write_chains(file, chains, manifest)
            logger.info("%s: %d chains, dropped: %s", name, len(chains), dict(manifest.dropped) or "none")
        return file
