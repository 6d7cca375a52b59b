"""TRL's GRPO: group relative policy optimisation, with our model, prompts and rewards."""

from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from llmrl.trainers.protocol import Outcome, Workbench
from llmrl.trainers.trl_adapter import group_arguments, policy_and_data, reward_function, run_trl
from llmrl.trainers.trl_steps import Steps


class GRPO:
    """Sample several responses to each prompt and learn which of them were better; see `GRPOConfig` of `llmrl.config`."""

    def __init__(self, workbench: Workbench) -> None:
        if workbench.config.grpo is None:
            raise ValueError("trainer=grpo needs the section grpo of the config")
        self.bench, self.settings = workbench, workbench.config.grpo

    def train(self) -> Outcome:
        """Train to the last step, or to the one in which a stop was asked for. Raises RunError where a reward does."""
        updates = self.settings.epochs * self.settings.batch_size // self.settings.minibatch_size
        return run_trl(self.bench, updates, self.settings.batch_size, self._make)

    def _make(self, steps: Steps) -> GRPOTrainer:
        settings = self.settings
        arguments = GRPOConfig(
            **group_arguments(self.bench, settings),
            loss_type=settings.loss_type.value,
            scale_rewards=settings.scale_rewards.value,
        )
        return GRPOTrainer(
            reward_funcs=reward_function(self.bench, steps), args=arguments, **policy_and_data(self.bench, settings)
        )
