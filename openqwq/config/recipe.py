"""The recipe's fields: every default stands here, once, with one line of meaning under it.

A recipe is a TOML file: `[model]`, `[tokenizer]`, `[source.NAME]`, `[stage.NAME]` in the order
in which they run, `[eval]`, `[[target]]`. `load.py` reads it into this tree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The weights that the first stage starts from: random ones of a preset's shape, or a folder's."""

    preset: str = ""
    """Start from random weights in the shape of this preset ("tiny", "qwq-32b", "qwen2.5-0.5b", ...)."""
    path: str = ""
    """Start from this Hugging Face folder or hub name instead; relative paths are relative to the recipe."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Model fields changed from the preset, by their Hugging Face names, e.g. `hidden_size = 192`."""


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """The tokenizer: one that exists, or one learned from the pretraining corpus."""

    path: str = ""
    """Folder of a tokenizer to use; empty: the one in `model.path`, else one is trained."""
    vocab_size: int = 1024
    """Entries of a trained tokenizer, the special tokens included."""
    train_characters: int = 2_000_000
    """Characters of the pretraining corpus that a trained tokenizer is learned from."""


TEXT_TYPES = ("corpus", "text")
"""Sources of these types give texts without a question: only pretraining and replay draw from them."""


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Where problems (or pretraining texts) come from; the table's name is the source's name."""

    type: str
    """"reasoning_gym", "python_functions", "instructions", "jsonl", "hub"; texts: "corpus", "text"."""
    kind: str = ""
    """What results are grouped by: "math", "code", "instruction"; empty: the type's own kind."""
    dataset: str = ""
    """The generator's or data set's name, e.g. "chain_sum"."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The generator's options, e.g. `{min_terms = 2, max_terms = 4}`."""
    path: str = ""
    """The file of a "jsonl" or "text" source."""
    verifier: str = ""
    """The verifier's name; empty: the type's own verifier."""
    verifier_options: Mapping[str, Any] = field(default_factory=dict)
    """The verifier's typed options."""
    prompt_suffix: str = ""
    """Appended to each problem's text, e.g. QwQ's sentence about \\boxed{}."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What every stage has."""

    kind: ClassVar[str]
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW."""
    muon_learning_rate: float = 0.0
    """Peak rate of Muon on the hidden matrices, scheduled as `learning_rate` is; 0: AdamW for all parameters."""
    final_learning_rate: float = 0.0
    """Learning rate at the stage's last step, as a fraction of the peak (linear decay after warm-up)."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises from 0."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay, on matrices only."""
    beta1: float = 0.9
    """AdamW's first moment decay."""
    beta2: float = 0.95
    """AdamW's second moment decay."""
    max_grad_norm: float = 1.0
    """The gradient is scaled down to this global norm."""
    tokens_per_microbatch: int = 16_384
    """Upper bound of the packed tokens in one forward and backward pass; changes memory, not the gradient."""
    checkpoint_every: int = 0
    """Steps between resumable checkpoints; 0: only at the stage's end."""
    checkpoint_seconds: float = 60.0
    """A resumable checkpoint is also written after this many seconds; 0: never by time."""


@dataclass(frozen=True, kw_only=True)
class PretrainStage(Stage):
    """Next-token prediction over packed, document-masked text."""

    kind: ClassVar[str] = "pretrain"
    mix: Mapping[str, float] = field(default_factory=dict)
    """Text sources and their share of the documents."""
    tokens: int = 1_000_000
    """Tokens to train on in all."""
    tokens_per_step: int = 8_192
    """Tokens of one optimiser step."""
    sequence_length: int = 512
    """Documents longer than this are cut into pieces."""


@dataclass(frozen=True, kw_only=True)
class SFTStage(Stage):
    """Supervised fine-tuning on a fixed set of reasoning chains: the cold start."""

    kind: ClassVar[str] = "sft"
    chains: Mapping[str, int] = field(default_factory=dict)
    """How many chains of each source (its category) the fixed set holds."""
    chains_file: str = ""
    """JSON lines of chains, as `openqwq data chains` writes them, in place of generated ones."""
    chains_seed: int = 0
    """Seed of the fixed set of chains: the same chains whatever the recipe's seed is."""
    brief_share: float = 0.0
    """Share of the programmatic chains whose thinking leaves the working out and only states the result."""
    epochs: float = 1.0
    """Passes over the set."""
    chains_per_step: int = 64
    """Chains of one optimiser step."""
    replay: Mapping[str, float] = field(default_factory=dict)
    """Text sources and their share of the documents that are trained on beside the chains, against forgetting."""
    replay_per_step: int = 0
    """Replayed documents of one optimiser step; of each at most the first `tokens_per_microbatch` tokens."""


@dataclass(frozen=True, kw_only=True)
class RewardModelStage(Stage):
    """A scalar head on the model so far, trained on preference pairs (Bradley-Terry)."""

    kind: ClassVar[str] = "reward_model"
    pairs: Mapping[str, int] = field(default_factory=dict)
    """How many preference pairs of each source are drawn."""
    held_out_pairs: int = 256
    """Further pairs that are only used to report accuracy and calibration."""
    epochs: float = 1.0
    """Passes over the pairs."""
    pairs_per_step: int = 32
    """Pairs of one optimiser step."""


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """The regression gate: the stage stops, and its last good weights stand, if a kind falls too far."""

    kinds: tuple[str, ...] = ()
    """Kinds that must not fall, e.g. ["math", "code"]; empty: no gate."""
    max_drop: float = 0.02
    """Largest fall of the held-out mean score from the stage's start, in [0, 1]."""
    every: int = 10
    """Steps between looks."""
    problems_per_family: int = 128
    """Held-out problems a family for one look; drawn apart from the final evaluation's."""


@dataclass(frozen=True, kw_only=True)
class RLStage(Stage):
    """Reinforcement learning on verified rewards: group advantages, token-level clipped policy gradient."""

    kind: ClassVar[str] = "rl"
    mix: Mapping[str, float] = field(default_factory=dict)
    """Problem sources and their share of each step's problems."""
    steps: int = 100
    """Optimiser batches: one rollout batch each."""
    prompts_per_step: int = 32
    """Problems whose groups make one batch."""
    samples_per_prompt: int = 8
    """Rollouts of each problem; group advantages need at least 2."""
    updates_per_batch: int = 1
    """Mini-batches of whole groups, one optimiser update each, that a batch is split into; 1 is fully on-policy."""
    max_staleness: int = 0
    """Policy versions by which a rollout may lag behind the trainer; only 0 (synchronous) exists so far."""
    max_completion_tokens: int = 128
    """Longest completion that is sampled."""
    temperature: float = 1.0
    """Sampling temperature of rollouts; top-p and top-k are off so that log-probs are the policy's own."""
    advantage_scale: Literal["none", "std"] = "none"
    """"none": reward minus the group's mean (Dr. GRPO); "std": also divided by its deviation (GRPO)."""
    loss_aggregation: Literal["token", "sequence"] = "token"
    """"token": every token of the batch weighs the same (DAPO, eq. 8); "sequence": every rollout does (GRPO)."""
    clip_low: float = 0.2
    """Ratios below 1 - clip_low stop earning (PPO)."""
    clip_high: float = 0.28
    """Ratios above 1 + clip_high stop earning (DAPO's clip-higher)."""
    max_refills: int = 3
    """Rounds in which groups without signal (all rewards equal) are replaced by new problems (DAPO)."""
    reward: Literal["verifier", "random"] = "verifier"
    """"random" pays a fair coin instead of the verdict: a control arm."""
    reward_model: str = ""
    """The reward-model stage whose scores are mixed into the reward; empty: none."""
    reward_model_weight: float = 0.0
    """Share w of the reward model: reward = verdict * ((1 - w) + w * sigmoid(score))."""
    reward_model_sources: tuple[str, ...] = ()
    """Sources that the reward model scores; the others are paid by their verifier alone."""
    gate: GateConfig = field(default_factory=GateConfig)
    """Stops the stage when an ability that it must keep is falling."""


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Held-out evaluation after every stage: problem seeds are disjoint from training's."""

    families: tuple[str, ...] = ()
    """Sources to evaluate on."""
    after: tuple[str, ...] = ()
    """Stages after which to evaluate; empty: after every stage that changes the policy."""
    greedy_after: tuple[str, ...] = ()
    """Stages after which greedy decoding is scored as well."""
    problems_per_family: int = 512
    """Problems of each family; the same ones after every stage."""
    temperature: float = 0.6
    """QwQ's recommended sampling."""
    top_p: float = 0.95
    """QwQ's recommended sampling."""
    top_k: int = 40
    """QwQ's recommended sampling."""
    max_completion_tokens: int = 128
    """Longest completion; one that is cut counts as wrong under the strict score."""
    show_problems: int = 10
    """Problems that the report shows side by side before and after RL."""


@dataclass(frozen=True, kw_only=True)
class TargetConfig:
    """What the run must show; `openqwq train` says which targets are missed and exits 1.

    The change of the mean strict score of all families of a kind, in points (0 to 100), from the
    evaluation after stage `over` to the one after stage `stage`.
    """

    what: str
    """A sentence for people."""
    stage: str
    """The later stage."""
    over: str
    """The earlier stage."""
    kinds: tuple[str, ...]
    """Kinds whose families are averaged."""
    families: tuple[str, ...] = ()
    """Only these families of the kinds; empty: all."""
    min_change: float
    """The least change in points; negative for "may fall by at most"."""
    min_change_low: float | None = None
    """The least lower bound of the change's 95% interval."""
    max_change: float | None = None
    """The most change in points; for control arms that must show no lift."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole run."""

    name: str
    """Names the run; its default output folder is runs/NAME."""
    seed: int = 0
    """Seeds the weights, the order of data and the sampling."""
    threads: int = 0
    """CPU threads; 0: the machine's physical cores."""
    model: ModelConfig = field(default_factory=ModelConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    source: Mapping[str, SourceConfig] = field(default_factory=dict)
    stage: Mapping[str, Stage] = field(default_factory=dict)
    """The stages in the order in which they run."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    target: tuple[TargetConfig, ...] = ()
