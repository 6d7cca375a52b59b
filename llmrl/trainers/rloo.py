"""TRL's RLOO: REINFORCE leave-one-out, with our model, prompts and rewards."""

from trl.trainer.rloo_config import RLOOConfig
from trl.trainer.rloo_trainer import RLOOTrainer

from llmrl.trainers.protocol import Outcome, Workbench
from llmrl.trainers.trl_adapter import group_arguments, policy_and_data, reward_function, run_trl
from llmrl.trainers.trl_steps import Steps


class RLOO:
    """Sample several responses to each prompt and learn which of them were better; see `RLOOConfig` of `llmrl.config`."""

    def __init__(self, workbench: Workbench) -> None:
        if workbench.config.rloo is None:
            raise ValueError("trainer=rloo needs the section rloo of the config")
        self.bench, self.settings = workbench, workbench.config.rloo

    def train(self) -> Outcome:
        """Train to the last step, or to the one in which a stop was asked for. Raises RunError where a reward does."""
        updates = self.settings.epochs * self.settings.batch_size // self.settings.minibatch_size
        return run_trl(self.bench, updates, self.settings.batch_size, self._make)

    def _make(self, steps: Steps) -> RLOOTrainer:
        settings = self.settings
        arguments = RLOOConfig(
            **group_arguments(self.bench, settings),
            normalize_advantages=settings.normalize_advantages,
        )
        return RLOOTrainer(
            reward_funcs=reward_function(self.bench, steps), args=arguments, **policy_and_data(self.bench, settings)
        )
