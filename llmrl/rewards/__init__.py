"""Rewards: text in, numbers out. They know `Sample`, never a trainer, and load no torch.

from llmrl.rewards import Reward, Sample, reward

@reward("shouts")
def shouts(sample: Sample, *, mark: str = "!") -> float:
    \"\"\"One for a response that ends in the mark.\"\"\"
    return float(sample.response.rstrip().endswith(mark))
"""

from llmrl.rewards import answers, end_of_sentence, no_repeat, python, random_walk  # noqa: F401  (importing registers)
from llmrl.rewards.base import Reward, Sample, Scores, reward, score

__all__ = ["Reward", "Sample", "Scores", "reward", "score"]
