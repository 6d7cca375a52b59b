"""What each command takes: the whole config of a run, and of sampling and comparing."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from llmrl.config.checks import at_least, between
from llmrl.config.ppo import PPOConfig
from llmrl.config.retrieval import ContextConfig, PromptingConfig, RetrieverConfig
from llmrl.config.sections import (
    EvaluationConfig,
    FinalModel,
    ModelConfig,
    PromptsConfig,
    RolloutConfig,
    RolloutEngine,
    SweepConfig,
    TrackerConfig,
    TrainerConfig,
)
from llmrl.config.trl import GRPOConfig, RLOOConfig, SFTConfig, TRLConfig
from llmrl.errors import UserError, one_line
from llmrl.registry import REWARDS


@dataclass
class TrainConfig:
    """Everything about one training run."""

    seed: int = 0  # of sampling, data order and everything else that is random; 0 to 2^32 - 1
    resume: str | None = None  # a run folder to go on with; auto: this command's own unfinished run, if there is one
    model: ModelConfig = field(default_factory=ModelConfig)
    reward: dict[str, Any] = field(default_factory=dict)  # name to reward; `reward=[a,b]` adds them up by weight
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    ppo: PPOConfig | None = None  # with trainer=ppo
    grpo: GRPOConfig | None = None  # with trainer=grpo
    rloo: RLOOConfig | None = None  # with trainer=rloo
    sft: SFTConfig | None = None  # with trainer=sft
    retriever: RetrieverConfig = field(default_factory=RetrieverConfig)
    context: ContextConfig = field(default_factory=ContextConfig)
    prompting: PromptingConfig = field(default_factory=PromptingConfig)
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)

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
        if self.retriever.name != "none" and self.retriever.index is None:
            raise UserError(
                f"retriever={self.retriever.name} needs an index: retriever.index=FOLDER, made by python -m llmrl.ingest"
            )
        if self.sweep.prune and not self.trainer.eval_every:
            raise UserError("sweep.prune goes by the held-out reward while training: set trainer.eval_every, too")
        self._check_sections()

    def _check_sections(self) -> None:
        """Each trainer has a section of its own name, if it has options; those of another trainer would mean nothing."""
        for name in optional_sections(type(self)):
            if (name == self.trainer.name) != (getattr(self, name) is not None):
                raise UserError(
                    f"the section {name} goes with trainer={name} and no other; this is trainer={self.trainer.name}"
                )
        section = getattr(self, self.trainer.name, None)
        if section is not None and section.warmup_steps >= self.trainer.steps:
            key = f"{self.trainer.name}.warmup_steps={section.warmup_steps}"
            raise UserError(f"{key} leaves nothing of trainer.steps={self.trainer.steps}: make it less")
        if isinstance(section, TRLConfig):
            self._check_trl()

    def _check_trl(self) -> None:
        """What TRL's trainers can't do."""
        name, rollout = self.trainer.name, self.rollout
        wanted = {
            "rollout.min_new_tokens": rollout.min_new_tokens > 0, "rollout.stop": bool(rollout.stop),
            "rollout=vllm": rollout.engine is RolloutEngine.vllm,
            "sweep.prune": self.sweep.prune, "trainer.patience": self.trainer.patience is not None,
            "trainer.final=best": self.trainer.final is FinalModel.best,
        }  # fmt: skip
        if refused := [key for key, is_set in wanted.items() if is_set]:
            raise UserError(f"{refused[0]} is for trainer=ppo: trainer={name} is TRL's own, which does not do it")
        if self.resume is not None:
            raise UserError(
                f"resume= is for trainer=ppo: trainer={name} is TRL's own; its checkpoints are pickles, which llmrl never reads"
            )


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
class AskConfig:
    """Answer questions from an index, with citations."""

    index: str = MISSING  # a folder made by llmrl.ingest
    question: Any = None  # quote it twice for the shell: 'question="Why is the sky dark?"'; null: asked for, one after another
    file: str | None = None  # a file of questions: JSON lines with the key `question`
    out: str | None = None  # write JSON lines here instead of to the terminal
    model: ModelConfig = field(default_factory=ModelConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    retriever: RetrieverConfig = field(default_factory=RetrieverConfig)
    prompting: PromptingConfig = field(default_factory=PromptingConfig)
    greedy: bool = True  # the likeliest token always; off: sampled
    min_grounded: float = 0.5  # "I don't know" where a smaller share of the answer's words stands in its sources; 0: never
    batch_size: int = 8  # questions of a file answered at once
    seed: int = 0  # of sampling
    threads: int = 0  # processor threads; 0: leave it to torch

    def __post_init__(self) -> None:
        at_least("batch_size", self.batch_size, 1)
        at_least("threads", self.threads, 0)
        between("min_grounded", self.min_grounded, 0, 1)
        between("seed", self.seed, 0, 2**32 - 1)
        if self.question is not None and self.file is not None:
            raise UserError("give one of question= and file=")


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


@dataclass
class AppConfig:
    """The app: compare, ask, look at runs and play with rewards in a browser."""

    host: str = "localhost"  # what it listens at; 0.0.0.0 lets everybody in who reaches this machine
    port: int = 8501  # and where
    outputs: str = "outputs"  # runs, sweeps and indexes below this folder are shown, with the models they name
    max_characters: int = 4000  # of a prompt or a question
    max_prompts: int = 16  # prompts of a list
    max_new_tokens: int = 256  # at least 2: tokens of a response
    max_samples: int = 256  # at least 64: responses of each model that an average is taken over
    max_upload_mb: int = 20  # files that are uploaded together
    max_uploads_mb: int = 2000  # everything that was ever uploaded, with its indexes
    max_waiting: int = 32  # requests of all visitors that may wait
    requests_per_minute: int = 60  # of each visitor; those who come through a proxy of another machine count as one
    threads: int = 0  # processor threads; 0: leave it to torch

    def __post_init__(self) -> None:
        between("port", self.port, 1, 65535)
        at_least("threads", self.threads, 0)
        for name in (
            "max_characters", "max_prompts", "max_new_tokens", "max_samples", "max_upload_mb", "max_uploads_mb", "max_waiting",
            "requests_per_minute",
        ):  # fmt: skip
            at_least(name, getattr(self, name), {"max_samples": 64, "max_new_tokens": 2}.get(name, 1))
        if not self.host.strip():
            raise UserError("host is empty: localhost for this machine alone, 0.0.0.0 for everybody")
        self.outputs = str(Path(self.outputs).expanduser().absolute())


def read_train_config(path: Path, without: Collection[str] = ()) -> TrainConfig:
    """The config that a run was started with, from its config.yaml, checked as if it were new. Raises UserError.

    A reward `python` runs the file that it names: `without` are rewards to leave out, for whoever only looks.
    """
    try:
        raw = OmegaConf.load(path)
        raw.reward = {name: each for name, each in raw.reward.items() if name not in without}
        schema = OmegaConf.structured(TrainConfig)
        schema.reward = {name: OmegaConf.structured(REWARDS.get(name)) for name in raw.reward}
        return OmegaConf.to_object(OmegaConf.merge(schema, raw))  # type: ignore[return-value]
    except (OSError, YAMLError, OmegaConfBaseException, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path} can't be read as a run's config: {one_line(error)}") from error


MAY_DIFFER = ("resume", "sweep", "tracker", "evaluation.enabled", "evaluation.samples", "evaluation.examples")
"""What may change when a run goes on: nothing of it reaches training or the looks at held-out prompts."""


def plain(config: TrainConfig) -> dict[str, Any]:
    """A config as nested plain containers."""
    return OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True)  # type: ignore[return-value]


def first_difference(
    then: TrainConfig | Mapping[str, Any], now: TrainConfig | Mapping[str, Any]
) -> tuple[str, Any, Any] | None:
    """(dotted key, value then, value now) of the first option in which two configs differ, if it matters to training."""
    before, after = (dict(flat(each if isinstance(each, Mapping) else plain(each))) for each in (then, now))
    for key in sorted(before.keys() | after.keys()):
        may_differ = any(key == each or key.startswith(f"{each}.") for each in MAY_DIFFER)
        if not may_differ and before.get(key) != after.get(key):
            return key, before.get(key), after.get(key)
    return None


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every option."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def section_type(annotation: object) -> type | None:
    """The dataclass of a section's annotation, `Section` or `Section | None`; None for an option."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and is_dataclass(candidate):
            return candidate
    return None


def optional_sections(schema: type) -> list[str]:
    """Names of the sections `Section | None`: each goes with the trainer of its name."""
    return [item.name for item in fields(schema) if section_type(item.type) and not isinstance(item.type, type)]


def option_keys(schema: type, prefix: str = "") -> Iterator[str]:
    """Every dotted key that a dataclass schema allows, parents included."""
    for item in fields(schema):
        yield prefix + item.name
        if section := section_type(item.type):
            yield from option_keys(section, f"{prefix}{item.name}.")
