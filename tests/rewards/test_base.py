"""Registering rewards, adding them up, and naming the one that misbehaves."""

import numpy as np
import pytest
import torch

from llmrl.errors import RunError
from llmrl.registry import REWARDS
from llmrl.rewards import Reward, Sample, reward, score

SAMPLES = [Sample(prompt="p", response=text, prompt_id=f"id-{text}") for text in ("a", "bb", "ccc")]


def test_a_function_of_one_sample_becomes_a_reward_with_parameters() -> None:
    @reward("test_length")
    def length(sample: Sample, *, per_letter: float = 2.0) -> float:
        """Longer is better."""
        return per_letter * len(sample.response)

    made = REWARDS.get("test_length")(per_letter=3.0, weight=0.5)
    assert isinstance(made, Reward)
    assert REWARDS.summaries()["test_length"] == "Longer is better"
    scores = score({"test_length": made}, SAMPLES)
    assert scores.components == {"test_length": [3, 6, 9]}
    assert scores.total == [1.5, 3.0, 4.5]


def test_a_function_with_parameters_that_config_cannot_set_is_refused() -> None:
    with pytest.raises(TypeError, match="keyword-only parameters with annotation and default"):

        @reward("test_positional")
        def positional(sample: Sample, bonus: float) -> float:
            return bonus


def test_components_are_weighted_and_kept_apart() -> None:
    class Constant(Reward):
        def __init__(self, value: float, weight: float) -> None:
            self.value, self.weight = value, weight

        def __call__(self, samples):
            return [self.value] * len(samples)

    scores = score({"one": Constant(1, 2), "ten": Constant(10, -0.5)}, SAMPLES)
    assert scores.total == [2 - 5] * 3
    assert scores.components == {"one": [1] * 3, "ten": [10] * 3}
    assert scores.weights == {"one": 2, "ten": -0.5}


class Misbehaving(Reward):
    def __init__(self, how) -> None:
        self.how, self.weight = how, 1.0

    def __call__(self, samples):
        return self.how(samples)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (lambda samples: [1 / (len(s.response) - 2) for s in samples], r"reward 'bad' raised ZeroDivisionError.*sample id-bb"),
        (lambda samples: None, "reward 'bad' returned None"),
        (lambda samples: 3.0, r"returned 3\.0"),
        (lambda samples: torch.tensor(3.0), "returned tensor"),
        (lambda samples: [10**400, 0, 0], "returned '1000"),
        (lambda samples: [1.0], "returned 1 values for 3 samples"),
        (lambda samples: [1.0, float("nan"), 1.0], "returned nan for sample id-bb"),
        (lambda samples: [1.0, 1.0, None], "returned 'None', which is no number, for sample id-ccc"),
        (lambda samples: ["x", 1.0, 1.0], "returned 'x', which is no number, for sample id-a"),
    ],
)
def test_a_misbehaving_reward_is_named_with_the_sample(how, said: str) -> None:
    with pytest.raises(RunError, match=said):
        score({"good": Misbehaving(lambda samples: [0.0] * len(samples)), "bad": Misbehaving(how)}, SAMPLES)


def test_numbers_of_other_kinds_are_taken() -> None:
    assert score({"np": Misbehaving(lambda s: np.arange(3))}, SAMPLES).total == [0, 1, 2]
    assert score({"torch": Misbehaving(lambda s: torch.arange(3))}, SAMPLES).total == [0, 1, 2]
    assert score({"bool": Misbehaving(lambda s: [True, False, True])}, SAMPLES).total == [1, 0, 1]
