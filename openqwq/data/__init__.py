"""Data: problem sources, mixtures, held-out sets, the pretraining corpus, cold-start chains, preference pairs."""

from .chains.build import Attempt, Chain, build_chains, programmatic_teacher, read_chains, write_chains
from .corpus import CorpusSource, plain_prompt
from .mixture import Mixture, problem_texts
from .pairs import PreferencePair, build_pairs
from .sources.build import ProblemSource, build_source, build_sources, held_out
from .texts import build_documents

__all__ = [
    "Attempt",
    "Chain",
    "CorpusSource",
    "Mixture",
    "PreferencePair",
    "ProblemSource",
    "build_chains",
    "build_documents",
    "build_pairs",
    "build_source",
    "build_sources",
    "held_out",
    "plain_prompt",
    "problem_texts",
    "programmatic_teacher",
    "read_chains",
    "write_chains",
]
