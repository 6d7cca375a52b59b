"""Every setting of proximal policy optimisation."""

from dataclasses import dataclass, field
from enum import Enum

from llmrl.config.checks import above, at_least, between, divides, refuse
from llmrl.errors import UserError


class Schedule(Enum):
    linear = "linear"
    cosine = "cosine"
    constant = "constant"


class KLEstimator(Enum):
    """With r = reference / policy, each token (Schulman, Approximating KL Divergence, 2020)."""

    k1 = "k1"  # -log r
    k2 = "k2"  # (log r)^2 / 2
    k3 = "k3"  # r - 1 - log r


class KLPlace(Enum):
    reward = "reward"
    loss = "loss"


class ScoreNormalization(Enum):
    none = "none"
    scale = "scale"
    standardize = "standardize"


class ValueHead(Enum):
    linear = "linear"
    mlp = "mlp"


@dataclass
class PPOConfig:
    """Proximal policy optimisation. A response is an episode; a batch of them is sampled, learned from, and dropped."""

    batch_size: int = 32  # responses sampled per step; enough for whitening, few enough for a step in seconds
    minibatch_size: int = 16  # responses per optimiser step; divides batch_size; half a batch, so that an epoch has two
    micro_batch_size: int | None = None  # responses per pass, to save memory; same gradient (in bf16, rounded); null: minibatch
    epochs: int = 4  # passes over each batch, in a fresh order; four, as in lm-human-preferences
    lr: float = 2e-5  # learning rate of the policy at its highest; suits 100 M parameters, smaller models want more
    value_lr: float = 1e-3  # learning rate of the value head, which starts from zero and has to catch up
    lr_schedule: Schedule = Schedule.linear  # linear to 0 over the run, as in lm-human-preferences, cosine, or constant
    warmup_steps: int = 0  # steps in which the learning rates rise to their highest; 0: a first batch is as good as any
    adam_beta1: float = 0.9  # Adam's decay of the mean; its authors' value
    adam_beta2: float = 0.95  # Adam's decay of the square: short, as a run has few steps
    adam_eps: float = 1e-5  # Adam's epsilon, as in the original implementation
    weight_decay: float = 0.0  # decoupled weight decay; 0, as the KL term already holds the policy near its start
    max_grad_norm: float = 1.0  # gradient clipping, Euclidean norm over policy and value head; most steps stay below 1
    clip_range: float = 0.2  # epsilon: the probability ratio is clipped to 1 -+ epsilon; 0.2 is the PPO paper's
    value_clip_range: float = 0.2  # values may move this far per batch, in units of the scaled reward; as lm-human-preferences
    vf_coef: float = 0.1  # weight of the value loss; 0.1, as in lm-human-preferences
    entropy_coef: float = 0.0  # weight of an entropy bonus; 0 as the KL term already keeps the policy broad
    gamma: float = 1.0  # discount per token: 1, a response is short and judged whole
    gae_lambda: float = 0.95  # lambda of generalised advantage estimation; 0.95, as in lm-human-preferences
    whiten_advantages: bool = True  # to mean 0 and deviation 1 over real tokens: the learning rate then fits any reward
    kl_coef: float = 0.05  # reward lost per nat of log(policy / reference); some nats then cost a fair part of a score of 1
    kl_place: KLPlace = KLPlace.reward  # reward: part of each token's reward; loss: a term of the loss
    kl_estimator: KLEstimator = KLEstimator.k1  # k1 is the one whose gradient is unbiased in the reward, k2 in the loss
    kl_target: float | None = None  # adapt kl_coef to hold the KL here, in nats per response; null: kl_coef is fixed
    kl_horizon: int = 300  # episodes in which kl_coef changes by a fifth at most; short, as a run on one machine has few
    stop_update_kl: float | None = None  # end a step's update where policy and sampler are this far apart, nats per token
    stop_run_kl: float | None = None  # end the run where a batch's KL to the reference is above this, nats per response
    score_normalization: ScoreNormalization = ScoreNormalization.none  # by running deviation (scale), less running mean, too
    score_scale: float = 1.0  # the weighted reward is divided by this before learning, so that advantages are about 1
    score_clip: float | None = None  # afterwards clipped to -+ this; null: no clipping
    missing_eos_penalty: float = 0.0  # taken from the scaled score of a response that did not end by itself
    whiten_rewards: bool = False  # divide token rewards by their deviation, the mean kept; off: advantages are whitened
    value_head: ValueHead = ValueHead.linear  # linear, for which few samples suffice, or mlp, a hidden layer of twice the width
    frozen_layers: int = 0  # so many of the lowest layers are not trained and are shared with the reference; 0: all are trained
    lora_rank: int = 0  # train low-rank adapters of this rank in place of the weights; 0: train the weights
    lora_alpha: int = 16  # adapters are scaled by lora_alpha / lora_rank; twice the usual rank of 8
    lora_targets: list[str] = field(default_factory=list)  # names of the layers that get adapters; []: every linear layer
    gradient_checkpointing: bool = False  # keep fewer activations and compute them again: less memory, a third slower
    max_skipped_updates: int = 20  # optimiser steps in a row lost to a loss or gradient that is not finite end the run

    def __post_init__(self) -> None:
        self._check_ranges()
        self._check_sizes()
        self._check_combinations()

    def _check_ranges(self) -> None:
        for name in (
            "lr", "value_lr", "score_scale", "max_grad_norm", "adam_eps", "clip_range", "value_clip_range", "lora_alpha",
            "kl_target", "stop_update_kl", "stop_run_kl", "score_clip",
        ):  # fmt: skip
            above(f"ppo.{name}", getattr(self, name), 0)
        for name in ("vf_coef", "entropy_coef", "kl_coef", "missing_eos_penalty", "weight_decay"):
            at_least(f"ppo.{name}", getattr(self, name), 0)
        for name in ("batch_size", "minibatch_size", "micro_batch_size", "epochs", "kl_horizon", "max_skipped_updates"):
            at_least(f"ppo.{name}", getattr(self, name), 1)
        for name in ("warmup_steps", "frozen_layers", "lora_rank"):
            at_least(f"ppo.{name}", getattr(self, name), 0)
        for name in ("gamma", "gae_lambda"):
            between(f"ppo.{name}", getattr(self, name), 0, 1)
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise refuse(f"ppo.{name}", getattr(self, name), "it must be at least 0 and below 1")

    def _check_sizes(self) -> None:
        divides("ppo.minibatch_size", self.minibatch_size, "ppo.batch_size", self.batch_size)
        if self.micro_batch_size is not None:
            divides("ppo.micro_batch_size", self.micro_batch_size, "ppo.minibatch_size", self.minibatch_size)

    def _check_combinations(self) -> None:
        if self.kl_place is KLPlace.loss and self.kl_estimator is KLEstimator.k1:
            raise UserError(
                "ppo.kl_place=loss with ppo.kl_estimator=k1 does nothing: the expected gradient of k1 is zero; "
                "use k2 or k3 in the loss, or ppo.kl_place=reward"
            )
        if self.kl_place is KLPlace.reward and self.kl_estimator is not KLEstimator.k1:
            raise UserError(
                f"ppo.kl_estimator={self.kl_estimator.value} in the reward gives a biased gradient (arXiv 2512.21852): "
                "use k1 there, or ppo.kl_place=loss"
            )
        if self.kl_target is not None and self.kl_coef == 0:
            raise UserError("ppo.kl_target needs ppo.kl_coef above 0 to start from: it is adapted by factors")
        if self.kl_target is not None and self.kl_horizon < self.batch_size:
            raise UserError(
                f"ppo.kl_horizon={self.kl_horizon} is too short for ppo.batch_size={self.batch_size}: kl_coef would "
                f"swing with every batch; make it at least {self.batch_size}"
            )
        if self.kl_target is not None and self.stop_run_kl is not None and self.stop_run_kl <= self.kl_target:
            raise UserError(
                f"ppo.stop_run_kl={self.stop_run_kl} would end the run before the KL reaches ppo.kl_target={self.kl_target}"
            )
        if self.lora_rank and self.frozen_layers:
            raise UserError("ppo.lora_rank and ppo.frozen_layers are two ways to train fewer weights: choose one")
        if (self.lora_targets or self.lora_alpha != 16) and not self.lora_rank:
            name = "lora_targets" if self.lora_targets else "lora_alpha"
            raise UserError(f"ppo.{name} is for adapters: set ppo.lora_rank, too")
        if self.kl_horizon != 300 and self.kl_target is None:
            raise UserError("ppo.kl_horizon is for a kl_coef that adapts: set ppo.kl_target, too")
