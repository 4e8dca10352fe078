"""The recipe's fields: every default is here, once, with its meaning in one line under it.

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
    """Initial weights: random in a preset's shape, or loaded from a folder."""

    preset: str = ""
    """Preset whose shape gets random weights, e.g. "tiny", "qwen2.5-0.5b", "qwq-32b"."""
    path: str = ""
    """Hugging Face folder or hub name to start from instead; relative to the recipe file."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Overrides of preset fields by their Hugging Face names, e.g. `hidden_size = 192`."""


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """The tokenizer: an existing one, or one trained on the pretraining corpus."""

    path: str = ""
    """Tokenizer folder; empty: the one in `model.path`, else a new one is trained."""
    chat_template: Literal["", "qwq"] = ""
    """Chat template: "qwq" for QwQ-32B's, whose prompts end in `<think>`; "": the tokenizer's own."""
    vocab_size: int = 1024
    """Vocabulary size of a trained tokenizer, special tokens included."""
    train_characters: int = 2_000_000
    """Characters of the pretraining corpus to train the tokenizer on."""


TEXT_TYPES = ("corpus", "text")
"""Source types with plain texts, no questions: only for pretraining and replay."""


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One source of problems or pretraining texts; the table's name is the source's name."""

    type: str
    """"reasoning_gym", "python_functions", "instructions", "jsonl", "python", "huggingface", "verifiers"; texts:
    "corpus" or "text"."""
    kind: str = ""
    """Group for results: "math", "code", "instruction", ...; empty: the type's default."""
    dataset: str = ""
    """Name of the generator or data set, e.g. "chain_sum"."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Options of the generator, e.g. `{min_terms = 2, max_terms = 4}`."""
    path: str = ""
    """File ("jsonl", "text"), folder ("huggingface") or function ("python", e.g. "problems.py:make")."""
    held_out_path: str = ""
    """Evaluation problems, in the form of `path` ("jsonl", "python"); empty: 10% of the source is held out."""
    verifier: str = ""
    """Verifier name or reward function, e.g. "rewards.py:score"; empty: the type's default."""
    verifier_options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the verifier."""
    prompt_suffix: str = ""
    """Text appended to each problem, e.g. QwQ's sentence about \\boxed{}."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Fields of every stage."""

    kind: ClassVar[str]
    learning_rate: float = 1e-3
    """Peak AdamW learning rate; if unset and `model.path` is set, chosen by stage kind and model size."""
    muon_learning_rate: float = 0.0
    """Peak Muon learning rate for hidden matrices, same schedule; 0: AdamW for all parameters."""
    final_learning_rate: float = 0.0
    """Final learning rate as a fraction of the peak (linear decay after warm-up)."""
    warmup_steps: int = 0
    """Steps of linear warm-up from 0."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW), matrices only."""
    beta1: float = 0.9
    """AdamW's first moment decay."""
    beta2: float = 0.95
    """AdamW's second moment decay."""
    max_grad_norm: float = 1.0
    """Global gradient-norm clip."""
    tokens_per_microbatch: int = 16_384
    """Maximum packed tokens per forward and backward pass; affects memory, not the gradient."""
    checkpoint_every: int = 0
    """Steps between resumable checkpoints; 0: only at the end of the stage."""
    checkpoint_seconds: float = 60.0
    """Seconds between resumable checkpoints, at least 20 times the duration of a save; 0: no timed checkpoints."""
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ("tensorboard",)
    """Trackers in addition to metrics.jsonl; TensorBoard is skipped if not installed."""


@dataclass(frozen=True, kw_only=True)
class PretrainStage(Stage):
    """Next-token prediction over packed, document-masked text."""

    kind: ClassVar[str] = "pretrain"
    mix: Mapping[str, float] = field(default_factory=dict)
    """Text sources and their relative share of documents."""
    tokens: int = 1_000_000
    """Total training tokens."""
    tokens_per_step: int = 8_192
    """Tokens per optimiser step."""
    sequence_length: int = 512
    """Maximum document length in tokens; longer documents are split."""


@dataclass(frozen=True, kw_only=True)
class SFTStage(Stage):
    """Supervised fine-tuning on a fixed set of reasoning chains: the cold start."""

    kind: ClassVar[str] = "sft"
    chains: Mapping[str, int] = field(default_factory=dict)
    """Number of chains per source in the fixed set."""
    chains_file: str = ""
    """JSON-lines file of chains, as written by `openqwq data chains`, instead of generated ones."""
    chains_seed: int = 0
    """Seed of the fixed set of chains, independent of the recipe's seed."""
    brief_share: float = 0.0
    """Share of generated chains whose thinking only states the result, without the working."""
    epochs: float = 1.0
    """Passes over the chains."""
    chains_per_step: int = 64
    """Chains per optimiser step."""
    replay: Mapping[str, float] = field(default_factory=dict)
    """Text sources replayed with the chains to prevent forgetting, and their relative share."""
    replay_per_step: int = 0
    """Replayed documents per optimiser step, each cut to `tokens_per_microbatch` tokens."""


@dataclass(frozen=True, kw_only=True)
class RewardModelStage(Stage):
    """A scalar head on the current model, trained on preference pairs (Bradley-Terry)."""

    kind: ClassVar[str] = "reward_model"
    pairs: Mapping[str, int] = field(default_factory=dict)
    """Number of preference pairs per source."""
    held_out_pairs: int = 256
    """Additional pairs, used only to report accuracy and calibration."""
    epochs: float = 1.0
    """Passes over the pairs."""
    pairs_per_step: int = 32
    """Pairs per optimiser step."""


@dataclass(frozen=True, kw_only=True)
class RLStage(Stage):
    """Reinforcement learning on verified rewards: group advantages, token-level clipped policy gradient."""

    kind: ClassVar[str] = "rl"
    mix: Mapping[str, float] = field(default_factory=dict)
    """Problem sources and their relative share of each step."""
    steps: int = 100
    """Number of steps; each samples and trains on one rollout batch."""
    prompts_per_step: int = 32
    """Problems per step."""
    samples_per_prompt: int = 8
    """Rollouts per problem (group size); group advantages need at least 2."""
    source_samples_per_prompt: Mapping[str, int] = field(default_factory=dict)
    """Group size for individual sources, overriding `samples_per_prompt`."""
    source_weights: Mapping[str, float] = field(default_factory=dict)
    """Loss weight per source; defaults to 1."""
    updates_per_batch: int = 1
    """Mini-batches (of whole groups) per step, one optimiser update each; 1: fully on-policy."""
    max_staleness: int = 0
    """Maximum age in steps of the weights that sampled a token; above 0 sampling and training overlap."""
    max_completion_tokens: int = 128
    """Maximum completion length in tokens."""
    thinking_budget: int = 0
    """Thinking budget in tokens; then `</think>` is inserted (masked from the loss). 0: unlimited."""
    temperature: float = 1.0
    """Sampling temperature of rollouts; part of the trained policy."""
    top_p: float = 1.0
    """Nucleus sampling mass of rollouts; training renormalises over the same tokens. 1: off."""
    top_k: int = 0
    """Top-k of rollouts, renormalised in training too; 0: off."""
    min_p: float = 0.0
    """Minimum probability of sampled tokens, relative to the most likely token; 0: off."""
    rollout_quantization: Literal["none", "bf16", "int8", "int4"] = "none"
    """Sample from a quantised copy of the weights, refreshed at each update; needs `correction`."""
    rollout_kv_cache_dtype: Literal["auto", "bfloat16", "int8"] = "auto"
    """KV-cache dtype of rollouts; "auto": unrounded, otherwise needs `correction`."""
    batch_invariant: Literal["off", "auto", "on"] = "off"
    """Bitwise-equal log-probs in sampler and trainer (CPU, float32, compiled kernels). "auto": if available."""
    advantage: Literal["group", "rloo", "reinforce", "gae"] = "group"
    """Baseline: the group's mean, the other rollouts' mean (RLOO), none (REINFORCE++) or a value model (PPO)."""
    advantage_scale: Literal["none", "std", "batch", "source"] = "none"
    """Scaling: "none" (Dr. GRPO); "std": by the group's standard deviation (GRPO); "batch" or "source": whitened over
    all trained tokens of the batch (REINFORCE++) or of each source."""
    loss: Literal["ppo", "cispo", "gspo"] = "ppo"
    """Clipped token ratios (PPO, GRPO, DAPO), clipped and detached ratios (CISPO) or sequence ratios (GSPO)."""
    loss_aggregation: Literal["token", "sequence", "constant"] = "token"
    """Loss average: "token": over all tokens (DAPO, eq. 8); "sequence": over rollouts (GRPO); "constant": sum divided
    by rollouts x max_completion_tokens (Dr. GRPO)."""
    clip_low: float = 0.2
    """Lower clip bound of the importance ratio, 1 - clip_low (PPO)."""
    clip_high: float = 0.28
    """Upper clip bound of the importance ratio, 1 + clip_high (DAPO's clip-higher)."""
    max_refills: int = 3
    """Maximum rounds of replacing groups without signal (all rewards equal) by new problems (DAPO)."""
    reward: Literal["verifier", "random", "none"] = "verifier"
    """Reward: the verifier's; "random": a coin flip (control); "none": learn from `kl` and demonstrations only."""
    overlong_tokens: int = 0
    """Length of the soft overlong penalty zone before `max_completion_tokens`, in tokens (DAPO, eq. 13)."""
    truncated: Literal["score", "mask"] = "score"
    """Rollouts cut at `max_completion_tokens`: "score" them, or "mask" them from the loss (DAPO's overlong filter)."""
    reference: str = ""
    """Reference model for `kl` (a teacher: on-policy distillation); empty: the stage's initial weights."""
    kl: KLConfig = field(default_factory=KLConfig)
    """KL penalty towards the reference."""
    entropy: EntropyConfig = field(default_factory=EntropyConfig)
    """Entropy bonus."""
    correction: CorrectionConfig = field(default_factory=CorrectionConfig)
    """Importance correction for off-policy rollouts."""
    value: ValueConfig = field(default_factory=ValueConfig)
    """The value model of `advantage = "gae"`."""
    demonstrations_file: str = ""
    """Chains, as written by `openqwq data chains`, for an SFT loss added to the policy gradient; empty: none."""
    demonstrations_per_step: int = 32
    """Demonstrations per update."""
    demonstrations_weight: float = 0.1
    """Weight of the demonstrations' mean loss per token."""
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    """Train LoRA adapters only; merged into the weights at the end of the stage."""
    activation_checkpointing: Literal["none", "mlp", "layer"] = "none"
    """Activations recomputed in the backward pass: none, inside MLPs, or inside whole layers."""
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    """Difficulty pools."""
    keep_every: int = 0
    """Keep every N-th step's checkpoint forever; 0: keep only the newest two."""
    reward_model: str = ""
    """Reward-model stage whose scores are mixed into the reward; empty: none."""
    reward_model_weight: float = 0.0
    """Weight w of the reward model: reward = verdict * ((1 - w) + w * sigmoid(score))."""
    reward_model_sources: tuple[str, ...] = ()
    """Sources scored by the reward model; the others use their verifier alone."""
    gate: GateConfig = field(default_factory=GateConfig)
    """Regression gate: stops the stage when a protected skill falls."""


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Held-out evaluation after every stage, on problems that training never draws."""

    families: tuple[str, ...] = ()
    """Sources to evaluate on."""
    after: tuple[str, ...] = ()
    """Stages after which to evaluate; empty: after every stage that changes the policy."""
    greedy_after: tuple[str, ...] = ()
    """Stages after which greedy decoding is scored as well."""
    problems_per_family: int = 512
    """Problems per family, the same after every stage."""
    temperature: float = 0.6
    """QwQ-32B's recommended value."""
    top_p: float = 0.95
    """QwQ-32B's recommended value."""
    top_k: int = 40
    """QwQ-32B's recommended value."""
    max_completion_tokens: int = 128
    """Maximum completion length in tokens; truncated completions count as wrong (strict score)."""
    show_problems: int = 10
    """Problems shown side by side before and after RL in the report."""


@dataclass(frozen=True, kw_only=True)
class TargetConfig:
    """A target of the run; `openqwq train` lists missed targets and exits with 1.

    The change of the mean strict score of all families of a kind, in points (0 to 100), from the
    evaluation after stage `over` to the one after stage `stage`.
    """

    what: str
    """Description shown to people."""
    stage: str
    """The later stage."""
    over: str
    """The earlier stage."""
    kinds: tuple[str, ...]
    """Kinds whose families are averaged, e.g. ["math"]."""
    families: tuple[str, ...] = ()
    """Only these families of the kinds; empty: all."""
    min_change: float | None = None
    """Minimum change in points; negative: may fall by at most this."""
    min_change_low: float | None = None
    """Minimum lower bound of the change's 95% interval."""
    max_change: float | None = None
    """Maximum change in points, for control arms that must not gain."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole run."""

    name: str
    """Name of the run; the default output folder is runs/NAME."""
    seed: int = 0
    """Seed of weights, data order and sampling."""
    threads: int = 0
    """CPU threads; 0: the machine's physical cores."""
    model: ModelConfig = field(default_factory=ModelConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    source: Mapping[str, SourceConfig] = field(default_factory=dict)
    stage: Mapping[str, Stage] = field(default_factory=dict)
    """The stages, in execution order."""
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
