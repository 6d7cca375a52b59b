"""Sections that every trainer shares: model, sampling, prompts, tracker, evaluation, and how a run goes."""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from llmrl.config.checks import above, absolute_if_there, at_least, between, refuse
from llmrl.errors import UserError
from llmrl.registry import TRAINERS


class Precision(Enum):
    """Number format of matrix products; weights, optimiser state and statistics are fp32 always."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class Device(Enum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class FinalModel(Enum):
    last = "last"
    best = "best"


class RolloutEngine(Enum):
    llmrl = "llmrl"
    vllm = "vllm"


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


class KeepModel(Enum):
    none = "none"
    reference = "reference"
    upload = "upload"


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
    min_new_tokens: int = 0  # a response may not end before so many tokens, in sampling and in every log-probability
    stop: list[str] = field(default_factory=list)  # a response ends at one of these texts, too; \n is a line break, \t a tab
    include_stop: bool = False  # whether that text is part of the response that is scored
    engine: RolloutEngine = RolloutEngine.llmrl  # what samples in training: llmrl, or vllm where it is installed
    vllm_eager: bool = True  # vllm: without compiling, which takes it most of a minute

    def __post_init__(self) -> None:
        at_least("rollout.max_new_tokens", self.max_new_tokens, 1)
        above("rollout.temperature", self.temperature, 0)
        at_least("rollout.top_k", self.top_k, 0)
        if not 0 < self.top_p <= 1:
            raise refuse("rollout.top_p", self.top_p, "it must be above 0 and at most 1")
        at_least("rollout.min_new_tokens", self.min_new_tokens, 0)
        if self.min_new_tokens > self.max_new_tokens:
            raise UserError(
                f"rollout.min_new_tokens={self.min_new_tokens} is more than rollout.max_new_tokens={self.max_new_tokens}"
            )
        self.stop = [text.replace("\\n", "\n").replace("\\t", "\t") for text in self.stop]  # as a shell hands them over
        if any(not text for text in self.stop):
            raise UserError("rollout.stop holds an empty text, which would end every response at once")
        if self.engine is RolloutEngine.llmrl and not self.vllm_eager:
            raise UserError("rollout.vllm_eager is for rollout=vllm")
        if self.engine is RolloutEngine.vllm and self.stop:
            raise UserError("rollout.stop is not for rollout=vllm; use rollout=sample, or responses that end by a token")
        if self.include_stop and not self.stop:
            raise UserError("rollout.include_stop is for rollout.stop, which is empty")


@dataclass
class TrainerConfig:
    """What every trainer shares: how long, how often it looks up, and what it keeps."""

    name: str = "ppo"  # a registered trainer
    steps: int = 20  # batches sampled and learned from, at least 1
    eval_every: int = 0  # steps between looks at held-out prompts; 0: only the comparison at the end
    eval_prompts: int = 32  # held-out prompts sampled each time, one response each
    patience: int | None = None  # looks in a row without a better held-out reward, then the run ends; null: never
    final: FinalModel = FinalModel.last  # which model becomes final/: the last, or the best by held-out reward
    checkpoint_every: int = 10  # steps between checkpoints; 0: only at the end or when stopped
    keep_checkpoints: int = 2  # the newest so many are kept, and the best by held-out reward
    samples_every: int = 5  # steps between tables of samples
    threads: int = 0  # processor threads; 0: leave it to torch

    def __post_init__(self) -> None:
        TRAINERS.check(self.name)
        for name in ("steps", "eval_prompts", "patience", "keep_checkpoints"):
            at_least(f"trainer.{name}", getattr(self, name), 1)
        for name in ("eval_every", "checkpoint_every", "samples_every", "threads"):
            at_least(f"trainer.{name}", getattr(self, name), 0)
        for key, wanted in (("patience", self.patience is not None), ("final=best", self.final is FinalModel.best)):
            if wanted and not self.eval_every:
                raise UserError(f"trainer.{key} goes by the held-out reward while training: set trainer.eval_every, too")

    @property
    def selects(self) -> bool:
        """Whether held-out rewards decide what becomes of the run; the final comparison then needs other prompts."""
        return self.patience is not None or self.final is FinalModel.best


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
    """Where prompts come from. A fixed hash of its text, or of the document that answers, decides whether one is held out."""

    source: PromptSource = PromptSource.openings  # packaged openings, lines of text, JSON lines, sentences of a text
    path: str | None = None  # the file, for every source but the packaged one
    field: str = "prompt"  # jsonl: the key of the prompt
    id_field: str = "id"  # jsonl: the key of its name, if there is one
    answer_field: str = "answer"  # jsonl: the key of a reference answer, if there is one
    gold_field: str = "path"  # jsonl: the key of the document (or a list of them) that answers, if there is one
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
    group: str | None = None  # runs shown together; null: in a sweep, the sweep folder's name
    tags: list[str] = field(default_factory=list)  # labels
    mode: WandbMode = WandbMode.auto  # auto: online where a key is configured, else offline in the run folder
    init_timeout: float = 20.0  # seconds the server has to answer before the run is logged offline; training does not wait
    finish_timeout: float = 15.0  # seconds the server has, at the end, to take what is left; 2 s more a MB of an uploaded model
    model: KeepModel = KeepModel.reference  # wandb: the final model as an artifact: its path and checksum, uploaded, or none

    def __post_init__(self) -> None:
        above("tracker.init_timeout", self.init_timeout, 0)
        above("tracker.finish_timeout", self.finish_timeout, 0)


@dataclass
class SweepConfig:
    """How the jobs of a sweep (-m) go together."""

    resume: str | None = None  # a sweep folder to go on with: what is missing, failed or was killed is run; latest: the newest
    prune: bool = False  # end a job early whose held-out reward is below the median of the others' at the same step
    prune_after: int = 2  # looks at held-out prompts that every job is given (trainer.eval_every)
    prune_least: int = 4  # other jobs that must have come as far

    def __post_init__(self) -> None:
        if self.resume is not None and not self.resume.strip():
            raise UserError("sweep.resume= is empty: name the sweep folder to go on with")
        at_least("sweep.prune_after", self.prune_after, 1)
        at_least("sweep.prune_least", self.prune_least, 1)
