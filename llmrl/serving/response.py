"""What a model said, as pages hold it; knows no torch."""

from dataclasses import dataclass, field

from llmrl.config import ModelConfig


@dataclass(frozen=True)
class Piece:
    """Text that has just been said."""

    at: str  # which of the answers side by side
    text: str


@dataclass
class Response:
    """What a model said to a prompt, and what that is worth."""

    prompt: str
    text: str
    tokens: int
    finished: bool  # it ended by itself
    components: dict[str, float] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)  # of the components
    total: float | None = None  # the weighted sum
    trouble: str = ""  # why a reward could not be worked out, or that it was stopped


@dataclass(frozen=True)
class Arm:
    """One of the models side by side."""

    name: str
    model: ModelConfig
