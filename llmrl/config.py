"""The schema of every option a person can choose: type, unit, range and one line of meaning each.

Values live in `conf/`; this module holds what they may be. Importing it loads neither torch nor transformers. A value out of
its range raises `UserError` naming the key, the value and what is allowed. Each field's comment is shown by `--help <group>`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from llmrl.errors import UserError, one_line
from llmrl.registry import RETRIEVERS, REWARDS, TRAINERS

_PACKAGE = Path(__file__).resolve().parent
CONF_DIR = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"
"""Absolute: a relative config path fails through a console script."""


def refuse(key: str, value: object, allowed: str) -> UserError:
    return UserError(f"{key}={value} is out of range: {allowed}")


def at_least(key: str, value: float | None, minimum: float) -> None:
    if value is not None and not (value >= minimum and math.isfinite(value)):
        raise refuse(key, value, f"it must be at least {minimum}")


def above(key: str, value: float | None, minimum: float) -> None:
    if value is not None and not (value > minimum and math.isfinite(value)):
        raise refuse(key, value, f"it must be above {minimum}")


def between(key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise refuse(key, value, f"it must be between {low} and {high}")


def absolute_if_there(path: str) -> str:
    """A path that exists, made absolute, so that a run's config means the same from every folder; anything else as it is."""
    return str(Path(path).expanduser().resolve()) if Path(path).expanduser().exists() else path


class Precision(Enum):
    """Number format of matrix products; weights, optimiser state and statistics are fp32 always."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class Device(Enum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class PromptSource(Enum):
    openings = "openings"
    text = "text"
    jsonl = "jsonl"
    sentences = "sentences"


class TrackerKind(Enum):
    wandb = "wandb"
    tensorboard = "tensorboard"
    none = "none"


class WandbMode(Enum):
    auto = "auto"
    online = "online"
    offline = "offline"


@dataclass
class ModelConfig:
    """Which causal language model, and how it is computed."""

    name_or_path: str = MISSING  # hub name, folder, .gguf file, run folder, or packaged:tiny
    revision: str | None = None  # branch, tag or commit on the hub
    precision: Precision = Precision.auto  # of matrix products: auto is bf16 where the processor has it
    device: Device = Device.auto  # auto is cuda where there is one

    def __post_init__(self) -> None:
        if not self.name_or_path.strip():
            raise UserError("model.name_or_path is empty: give a hub name, a folder, a .gguf file or a run folder")
        self.name_or_path = absolute_if_there(self.name_or_path)


@dataclass
class RolloutConfig:
    """How responses are sampled, in training and in every comparison of the run."""

    max_new_tokens: int = 32  # tokens, at least 1: a response ends here or at the end-of-text token
    temperature: float = 1.0  # above 0: divides the logits in every log-probability, not in sampling alone
    top_k: int = 0  # keep the k likeliest tokens; 0 keeps all, which PPO wants
    top_p: float = 1.0  # keep the likeliest tokens of this total probability, in (0, 1]; 1 keeps all

    def __post_init__(self) -> None:
        at_least("rollout.max_new_tokens", self.max_new_tokens, 1)
        above("rollout.temperature", self.temperature, 0)
        at_least("rollout.top_k", self.top_k, 0)
        if not 0 < self.top_p <= 1:
            raise refuse("rollout.top_p", self.top_p, "it must be above 0 and at most 1")


@dataclass
class PPOConfig:
    """Proximal policy optimisation. A response is an episode; a batch of them is sampled, learned from, and dropped."""

    lr: float = 2e-5  # learning rate of the policy at its start; falls linearly to 0 over the run
    value_lr: float = 1e-3  # learning rate of the value head, which starts from zero and has to catch up
    batch_size: int = 32  # responses sampled per step
    minibatch_size: int = 16  # responses per optimiser step; divides batch_size
    epochs: int = 4  # passes over each batch, in a fresh order
    clip_range: float = 0.2  # epsilon: the probability ratio is clipped to 1 -+ epsilon
    value_clip_range: float = 0.2  # values may move this far per batch, in units of the scaled reward
    vf_coef: float = 0.1  # weight of the value loss
    entropy_coef: float = 0.0  # weight of an entropy bonus; 0 as the KL term already keeps the policy broad
    gamma: float = 1.0  # discount per token: 1, a response is short and judged whole
    gae_lambda: float = 0.95  # lambda of generalised advantage estimation
    kl_coef: float = 0.05  # reward lost per nat of log(policy / reference), each token
    score_scale: float = 1.0  # the weighted reward is divided by this before learning, so that advantages are about 1
    score_clip: float | None = None  # afterwards clipped to -+ this; null: no clipping
    missing_eos_penalty: float = 0.0  # taken from the scaled score of a response that did not end by itself
    whiten_advantages: bool = True  # subtract the mean and divide by the deviation, over real tokens of the batch
    max_grad_norm: float = 1.0  # gradient clipping, Euclidean norm over policy and value head together
    adam_beta1: float = 0.9  # Adam's decay of the mean
    adam_beta2: float = 0.95  # Adam's decay of the square: short, as a run has few steps
    adam_eps: float = 1e-5  # Adam's epsilon, as in the original implementation
    weight_decay: float = 0.0  # decoupled weight decay

    def __post_init__(self) -> None:
        for name in ("lr", "value_lr", "score_scale", "max_grad_norm", "adam_eps", "clip_range", "value_clip_range"):
            above(f"ppo.{name}", getattr(self, name), 0)
        for name in ("vf_coef", "entropy_coef", "kl_coef", "missing_eos_penalty", "weight_decay"):
            at_least(f"ppo.{name}", getattr(self, name), 0)
        for name in ("batch_size", "minibatch_size", "epochs"):
            at_least(f"ppo.{name}", getattr(self, name), 1)
        for name in ("gamma", "gae_lambda"):
            between(f"ppo.{name}", getattr(self, name), 0, 1)
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise refuse(f"ppo.{name}", getattr(self, name), "it must be at least 0 and below 1")
        above("ppo.score_clip", self.score_clip, 0)
        if self.batch_size % self.minibatch_size:
            fits = max(n for n in range(1, self.batch_size + 1) if self.batch_size % n == 0 and n <= self.minibatch_size)
            raise UserError(
                f"ppo.minibatch_size={self.minibatch_size} does not divide ppo.batch_size={self.batch_size}; "
                f"try ppo.minibatch_size={fits}"
            )


@dataclass
class TrainerConfig:
    """What every trainer shares: how long, how often it looks up, and what it keeps."""

    name: str = "ppo"  # a registered trainer
    steps: int = 20  # batches sampled and learned from, at least 1
    eval_every: int = 0  # steps between samples from held-out prompts; 0: only before and after
    eval_prompts: int = 32  # held-out prompts sampled each time, one response each
    checkpoint_every: int = 10  # steps between checkpoints; 0: only at the end or when stopped
    keep_checkpoints: int = 2  # the newest so many are kept
    samples_every: int = 5  # steps between tables of samples
    threads: int = 0  # processor threads; 0: leave it to torch

    def __post_init__(self) -> None:
        TRAINERS.check(self.name)
        for name in ("steps", "eval_prompts", "keep_checkpoints"):
            at_least(f"trainer.{name}", getattr(self, name), 1)
        for name in ("eval_every", "checkpoint_every", "samples_every", "threads"):
            at_least(f"trainer.{name}", getattr(self, name), 0)


@dataclass
class EvaluationConfig:
    """The comparison of base and trained on held-out prompts that ends every run."""

    enabled: bool = True  # off: the run ends without a verdict
    samples: int = 128  # responses of each model, at least 64 so that an interval means something
    batch_size: int = 64  # responses sampled at once
    seed: int = 1234  # of sampling and of the bootstrap: the same for both models, apart from the run's
    examples: int = 4  # pairs shown side by side

    def __post_init__(self) -> None:
        at_least("evaluation.samples", self.samples, 64)
        at_least("evaluation.batch_size", self.batch_size, 1)
        at_least("evaluation.examples", self.examples, 0)
        between("evaluation.seed", self.seed, 0, 2**32 - 1)


@dataclass
class PromptsConfig:
    """Where prompts come from. A fixed hash of its text decides whether a prompt is for training or held out."""

    source: PromptSource = PromptSource.openings  # packaged openings, lines of text, JSON lines, sentences of a text
    path: str | None = None  # the file, for every source but the packaged one
    field: str = "prompt"  # jsonl: the key of the prompt
    id_field: str = "id"  # jsonl: the key of its name, if there is one
    answer_field: str = "answer"  # jsonl: the key of a reference answer, if there is one
    words: int = 8  # sentences: words of each sentence that are given
    held_out_share: float = 0.3  # share of the prompts that is never trained on, in (0, 1)

    def __post_init__(self) -> None:
        at_least("prompts.words", self.words, 1)
        if not 0 < self.held_out_share < 1:
            raise refuse("prompts.held_out_share", self.held_out_share, "it must be above 0 and below 1")
        if self.source is PromptSource.openings and self.path is not None:
            raise UserError(
                "prompts.path is for prompts=text, prompts=jsonl or prompts=sentences; the packaged openings take none"
            )
        if self.source is not PromptSource.openings and not self.path:
            raise UserError(f"prompts={self.source.value} needs a file: prompts.path=FILE")
        if self.path:
            self.path = absolute_if_there(self.path)


@dataclass
class TrackerConfig:
    """Where numbers and samples go, beside the JSON lines that every run writes."""

    kind: TrackerKind = TrackerKind.wandb  # wandb, tensorboard or none
    project: str = "llmrl"  # Weights & Biases project
    entity: str | None = None  # Weights & Biases team or user
    name: str | None = None  # of the run; null: the run folder's name
    group: str | None = None  # runs shown together
    tags: list[str] = field(default_factory=list)  # labels
    mode: WandbMode = WandbMode.auto  # auto: online where a key is configured, else offline in the run folder
    init_timeout: float = 20.0  # seconds to wait for the server before going offline

    def __post_init__(self) -> None:
        above("tracker.init_timeout", self.init_timeout, 0)


@dataclass
class RetrieverConfig:
    """Retrieval of context for each prompt."""

    name: str = "none"  # a registered retriever

    def __post_init__(self) -> None:
        RETRIEVERS.check(self.name)


@dataclass
class TrainConfig:
    """Everything about one training run."""

    seed: int = 0  # of sampling, data order and everything else that is random; 0 to 2^32 - 1
    resume: str | None = None  # a run folder to go on with, from its newest checkpoint
    model: ModelConfig = field(default_factory=ModelConfig)
    reward: dict[str, Any] = field(default_factory=dict)  # name to reward; `reward=[a,b]` adds them up by weight
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)
    retriever: RetrieverConfig = field(default_factory=RetrieverConfig)
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        between("seed", self.seed, 0, 2**32 - 1)
        if self.resume is not None and not self.resume.strip():
            raise UserError("resume= is empty: name the run folder to go on with")
        if not self.reward:
            raise UserError(
                "no reward: choose at least one, for example reward=no_repeat or reward=[no_repeat,end_of_sentence]"
            )
        if all(getattr(reward, "weight", 1) == 0 for reward in self.reward.values()):
            raise UserError("every reward has weight 0: there is nothing to learn from")


@dataclass
class GenerateConfig:
    """Sample from any model or run folder."""

    model: ModelConfig = field(default_factory=ModelConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    run: str | None = None  # a run folder, or latest: its trained model, in place of `model`
    prompt: Any = None  # quote it twice for the shell: 'prompt="Once upon a time"'; several: 'prompt=["One day","Rain"]'
    file: str | None = None  # a file of prompts: .jsonl with the key `prompt`, or one a line
    out: str | None = None  # write JSON lines here instead of to the terminal
    samples: int = 1  # responses per prompt
    greedy: bool = False  # the likeliest token always, instead of sampling
    stream: bool = True  # show tokens as they come, where there is one response and a terminal
    batch_size: int = 32  # responses sampled at once
    seed: int = 0  # of sampling
    threads: int = 0  # processor threads; 0: leave it to torch

    def __post_init__(self) -> None:
        at_least("samples", self.samples, 1)
        at_least("batch_size", self.batch_size, 1)
        at_least("threads", self.threads, 0)
        between("seed", self.seed, 0, 2**32 - 1)
        if (self.prompt is None) == (self.file is None):
            raise UserError("give one of prompt= and file=, for example 'prompt=\"Once upon a time\"'")


@dataclass
class CompareConfig:
    """Base against trained on the held-out prompts of a run."""

    run: str = MISSING  # a run folder, or latest
    base: str | None = None  # the model to compare with; null: the one the run started from
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    held_out: bool = True  # off: on the prompts the run was trained on
    threads: int = 0  # processor threads; 0: leave it to torch

    def __post_init__(self) -> None:
        at_least("threads", self.threads, 0)


def read_train_config(path: Path) -> TrainConfig:
    """The config that a run was started with, from its config.yaml, checked as if it were new. Raises UserError."""
    try:
        raw = OmegaConf.load(path)
        schema = OmegaConf.structured(TrainConfig)
        schema.reward = {name: OmegaConf.structured(REWARDS.get(name)) for name in raw.reward}
        return OmegaConf.to_object(OmegaConf.merge(schema, raw))  # type: ignore[return-value]
    except (OSError, YAMLError, OmegaConfBaseException, AttributeError) as error:
        raise UserError(f"{path} can't be read as a run's config: {one_line(error)}") from error


def option_keys(schema: type, prefix: str = "") -> Iterator[str]:
    """Every dotted key that a dataclass schema allows, parents included."""
    for item in fields(schema):
        yield prefix + item.name
        if isinstance(item.type, type) and is_dataclass(item.type):
            yield from option_keys(item.type, f"{prefix}{item.name}.")
