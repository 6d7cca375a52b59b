"""Settings of the trainers that TRL runs. Names are those of `PPOConfig` where they mean the same."""

from dataclasses import dataclass
from enum import Enum

from llmrl.config.checks import above, at_least, divides, refuse
from llmrl.config.ppo import Schedule
from llmrl.errors import UserError


class LossType(Enum):
    """How token losses are averaged; see TRL's `GRPOConfig.loss_type`."""

    grpo = "grpo"
    dr_grpo = "dr_grpo"
    dapo = "dapo"
    bnpo = "bnpo"


class RewardScaling(Enum):
    group = "group"
    batch = "batch"
    none = "none"


@dataclass
class TRLConfig:
    """What all trainers of TRL share."""

    batch_size: int = 32  # responses (sft: examples) per step
    micro_batch_size: int | None = None  # rows per pass, to save memory; null: the minibatch (sft: the batch)
    lr: float = 2e-5  # learning rate at its highest
    lr_schedule: Schedule = Schedule.linear  # linear or cosine to 0 over the run, or constant
    warmup_steps: int = 0  # steps in which the learning rate rises to its highest
    adam_beta1: float = 0.9  # Adam's decay of the mean
    adam_beta2: float = 0.95  # Adam's decay of the square: short, as a run has few steps
    adam_eps: float = 1e-8  # Adam's epsilon
    weight_decay: float = 0.0  # decoupled weight decay
    max_grad_norm: float = 1.0  # gradient clipping, Euclidean norm
    gradient_checkpointing: bool = False  # keep fewer activations and compute them again: less memory, a third slower

    def __post_init__(self) -> None:
        for name in ("lr", "max_grad_norm", "adam_eps"):
            above(self.key(name), getattr(self, name), 0)
        for name in ("warmup_steps", "weight_decay"):
            at_least(self.key(name), getattr(self, name), 0)
        for name in ("batch_size", "micro_batch_size"):
            at_least(self.key(name), getattr(self, name), 1)
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise refuse(self.key(name), getattr(self, name), "it must be at least 0 and below 1")

    @classmethod
    def key(cls, name: str) -> str:
        """The option's full name: the section is named after the class."""
        return f"{cls.__name__.removesuffix('Config').lower()}.{name}"


@dataclass
class GroupConfig(TRLConfig):
    """What trainers share that compare several responses to the same prompt instead of training a value head."""

    num_generations: int = 8  # responses to each prompt, at least 2; divides batch_size
    minibatch_size: int = 16  # responses per optimiser step; divides batch_size
    epochs: int = 4  # passes over each batch
    clip_range: float = 0.2  # epsilon: the probability ratio is clipped to 1 -+ epsilon
    kl_coef: float = 0.0  # weight of the KL to the reference, TRL's beta; 0: there is no reference

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self.key("num_generations"), self.num_generations, 2)
        at_least(self.key("kl_coef"), self.kl_coef, 0)
        above(self.key("clip_range"), self.clip_range, 0)
        for name in ("minibatch_size", "epochs"):
            at_least(self.key(name), getattr(self, name), 1)
        batch = self.key("batch_size")
        divides(self.key("num_generations"), self.num_generations, batch, self.batch_size)
        divides(self.key("minibatch_size"), self.minibatch_size, batch, self.batch_size)
        if self.num_generations > self.batch_size:
            raise UserError(f"{self.key('num_generations')}={self.num_generations} is more than {batch}={self.batch_size}")
        if self.micro_batch_size is not None:
            divides(self.key("micro_batch_size"), self.micro_batch_size, self.key("minibatch_size"), self.minibatch_size)


@dataclass
class GRPOConfig(GroupConfig):
    """Group relative policy optimisation by TRL: the advantage of a response is its reward against its group's."""

    loss_type: LossType = LossType.dapo  # dapo averages over tokens, as ppo does; grpo over responses first
    scale_rewards: RewardScaling = RewardScaling.group  # divide by the deviation of the group, of the batch, or not


@dataclass
class RLOOConfig(GroupConfig):
    """REINFORCE leave-one-out by TRL: the baseline of a response is the mean reward of the others to its prompt."""

    kl_coef: float = 0.05  # reward lost per nat of log(policy / reference), TRL's beta and its default
    normalize_advantages: bool = True  # to mean 0 and deviation 1 over the batch, so that the reward's scale does not matter


@dataclass
class SFTConfig(TRLConfig):
    """Supervised fine-tuning by TRL on the prompts' answers, or on the texts themselves where there are none."""

    max_length: int = 512  # tokens of an example; the rest is cut off

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("sft.max_length", self.max_length, 2)
        if self.micro_batch_size is not None:
            divides("sft.micro_batch_size", self.micro_batch_size, "sft.batch_size", self.batch_size)
