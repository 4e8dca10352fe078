"""The recipe's fields: every default stands here, once, with one line of meaning under it.

A recipe is a TOML file: `[model]`, `[tokenizer]`, `[source.NAME]`, `[stage.NAME]` in the order
in which they run, `[eval]`, `[[target]]`. `load.py` reads it into this tree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from .rl_tables import (
    CorrectionConfig,
    CurriculumConfig,
    EntropyConfig,
    GateConfig,
    KLConfig,
    LoRAConfig,
    ValueConfig,
)


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
    chat_template: Literal["", "qwq"] = ""
    """"qwq" replaces the tokenizer's chat template by QwQ-32B's, whose prompts open the thinking; "": its own."""
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
    """"reasoning_gym", "python_functions", "instructions", "jsonl", "python", "huggingface", "verifiers"; texts:
    "corpus" or "text"."""
    kind: str = ""
    """What results are grouped by: "math", "code", "instruction"; empty: the type's own kind."""
    dataset: str = ""
    """The generator's or data set's name, e.g. "chain_sum"."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The generator's options, e.g. `{min_terms = 2, max_terms = 4}`."""
    path: str = ""
    """The file of a "jsonl" or "text" source, the folder of a "huggingface" one; of a "python" one the function that
    makes the problems, e.g. "problems.py:make"."""
    held_out_path: str = ""
    """Problems to evaluate on, as in `path`; empty: a tenth of the source's own. Types "jsonl" and "python"."""
    verifier: str = ""
    """The verifier's name, or a function of yours, e.g. "rewards.py:score"; empty: the type's own verifier."""
    verifier_options: Mapping[str, Any] = field(default_factory=dict)
    """The verifier's typed options."""
    prompt_suffix: str = ""
    """Appended to each problem's text, e.g. QwQ's sentence about \\boxed{}."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What every stage has."""

    kind: ClassVar[str]
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW; unnamed, where `model.path` is set: by the kind of stage and the model's size."""
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
    """A resumable checkpoint is also written after this many seconds, at least 20 times what a save takes; 0: never."""
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ("tensorboard",)
    """Where the metrics go beside metrics.jsonl; TensorBoard is left out where it is not installed."""


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
    source_samples_per_prompt: Mapping[str, int] = field(default_factory=dict)
    """Sources of `mix` whose problems get another number of rollouts."""
    source_weights: Mapping[str, float] = field(default_factory=dict)
    """Factor of the loss of a source's tokens; 1 where it is not named."""
    updates_per_batch: int = 1
    """Mini-batches of whole groups, one optimiser update each, that a batch is split into; 1 is fully on-policy."""
    max_staleness: int = 0
    """Steps by which a token's weights may be older than those it trains; above 0 sampling and training overlap."""
    max_completion_tokens: int = 128
    """Longest completion that is sampled."""
    thinking_budget: int = 0
    """Tokens after which a thinking is closed and the answer asked for, by text that is not trained; 0: never."""
    temperature: float = 1.0
    """Sampling temperature of rollouts; it is part of the policy that is trained."""
    top_p: float = 1.0
    """Rollouts are drawn from the likeliest tokens of this mass, and training renormalises over them; 1: from all."""
    top_k: int = 0
    """Rollouts are drawn from so many likeliest tokens, renormalised as well; 0: from all."""
    min_p: float = 0.0
    """Rollouts are drawn from tokens of at least this share of the likeliest one's probability; 0: from all."""
    rollout_quantization: Literal["none", "bf16", "int8", "int4"] = "none"
    """Rollouts come from a copy with weights rounded so, made anew at each update; needs `correction`."""
    rollout_kv_cache_dtype: Literal["auto", "bfloat16", "int8"] = "auto"
    """What keys and values of rollouts are rounded to; "auto": nothing. Needs `correction`."""
    batch_invariant: Literal["off", "auto", "on"] = "off"
    """Sampler and trainer agree to the last bit: a CPU, float32 and a C compiler; "auto": where they are to be had."""
    advantage: Literal["group", "rloo", "reinforce", "gae"] = "group"
    """Minus the group's mean, the others' mean (RLOO), nothing (REINFORCE++), or a value model's guess (PPO)."""
    advantage_scale: Literal["none", "std", "batch", "source"] = "none"
    """"none" (Dr. GRPO); "std": divided by the group's deviation (GRPO); "batch", "source": whitened over all trained
    tokens of the batch (REINFORCE++), or of each source in it."""
    loss: Literal["ppo", "cispo", "gspo"] = "ppo"
    """Clipped token ratios (PPO, GRPO, DAPO), clipped and detached ones (CISPO), or a rollout's own ratio (GSPO)."""
    loss_aggregation: Literal["token", "sequence", "constant"] = "token"
    """"token": every token of the batch weighs the same (DAPO, eq. 8); "sequence": every rollout does (GRPO);
    "constant": a token weighs 1 / (rollouts x max_completion_tokens) (Dr. GRPO)."""
    clip_low: float = 0.2
    """Ratios below 1 - clip_low stop earning (PPO)."""
    clip_high: float = 0.28
    """Ratios above 1 + clip_high stop earning (DAPO's clip-higher)."""
    max_refills: int = 3
    """Rounds in which groups without signal (all rewards equal) are replaced by new problems (DAPO)."""
    reward: Literal["verifier", "random", "none"] = "verifier"
    """"random" pays a fair coin, not the verdict: a control arm; "none" nothing: `kl` and demonstrations teach."""
    overlong_tokens: int = 0
    """Over the last so many tokens before `max_completion_tokens` up to 1 is taken from the reward (DAPO, eq. 13)."""
    truncated: Literal["score", "mask"] = "score"
    """"mask" leaves rollouts that were cut at `max_completion_tokens` out of the training (DAPO's overlong filter)."""
    reference: str = ""
    """Model folder that `kl` compares with (a teacher: on-policy distillation); empty: the stage's first weights."""
    kl: KLConfig = field(default_factory=KLConfig)
    """Penalty for leaving the reference."""
    entropy: EntropyConfig = field(default_factory=EntropyConfig)
    """Bonus for entropy."""
    correction: CorrectionConfig = field(default_factory=CorrectionConfig)
    """Importance correction of rollouts that are not the trainer's own."""
    value: ValueConfig = field(default_factory=ValueConfig)
    """The value model of `advantage = "gae"`."""
    demonstrations_file: str = ""
    """Chains as `openqwq data chains` writes them, imitated beside the policy gradient; empty: none."""
    demonstrations_per_step: int = 32
    """Chains of one update."""
    demonstrations_weight: float = 0.1
    """Factor of their mean loss per token."""
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    """Train adapters only; they are merged into the weights at the stage's end."""
    activation_checkpointing: Literal["none", "mlp", "layer"] = "none"
    """Activations that the backward pass computes again: none, those within MLPs, or all within layers."""
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    """Difficulty pools."""
    keep_every: int = 0
    """Resumable checkpoints of steps that this divides are never pruned; 0: only the newest two stay."""
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
    min_change: float | None = None
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

    @property
    def policy_stages(self) -> tuple[str, ...]:
        """The stages that change the policy, in order: all but reward models."""
        return tuple(name for name, stage in self.stage.items() if not isinstance(stage, RewardModelStage))

    @property
    def evaluated_stages(self) -> tuple[str, ...]:
        """The stages after which held-out problems are answered."""
        return (self.eval.after or self.policy_stages) if self.eval.families else ()
