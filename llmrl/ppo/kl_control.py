"""The coefficient of the KL term: fixed, or adapted so that the KL stays near a target."""

from dataclasses import dataclass


@dataclass
class KLController:
    """Ziegler et al., Fine-Tuning Language Models from Human Preferences, 2019, section 2.2: log-space proportional.

    The KL is summed over each response, the horizon is counted in episodes and the error is clipped to a fifth, so that one
    horizon of episodes changes the coefficient by about a fifth (e^0.2) at most.
    """

    coef: float
    target: float | None = None  # nats per response; None: the coefficient is fixed
    horizon: int = 300  # episodes

    def update(self, kl: float, episodes: int) -> None:
        """After a batch of `episodes` responses whose mean KL was `kl`, in nats per response."""
        if self.target is None:
            return
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.coef *= 1 + error * episodes / self.horizon
