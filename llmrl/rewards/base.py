"""What a reward is, how one is registered, and how several are added up."""

import dataclasses
import inspect
import math
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.config_store import ConfigStore

from llmrl.config import CONF_DIR
from llmrl.errors import RunError, UserError, one_line
from llmrl.registry import REWARDS

T = TypeVar("T")


@dataclass(frozen=True)
class Sample:
    """One response, as a reward sees it."""

    prompt: str
    response: str
    prompt_id: str = ""
    token_ids: tuple[int, ...] = ()  # of the response, the end-of-text token included if it was sampled
    finished: bool = True  # the model ended the response by itself
    max_new_tokens: int = 32  # tokens the response was allowed
    context: str | None = None  # retrieved text that stands in the prompt
    answer: str | None = None  # reference answer


@dataclass
class Reward(ABC):
    """Base of every reward: a dataclass whose fields are its parameters and whose call scores samples, one number each."""

    weight: float = 1.0  # factor of this reward in the sum

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight):
            raise UserError(f"reward.{self.name}.weight={self.weight} is out of range: it must be a finite number")

    @property
    def name(self) -> str:
        """What it is registered as."""
        return next((name for name in REWARDS if REWARDS.get(name) is type(self)), type(self).__name__)

    @abstractmethod
    def __call__(self, samples: Sequence[Sample]) -> Sequence[float]:
        """One finite number per sample."""


@dataclass(frozen=True)
class Scores:
    """Rewards of a batch of B samples."""

    total: list[float]  # [B], the weighted sum
    components: dict[str, list[float]]  # name to [B], unweighted
    weights: dict[str, float]


def reward(name: str) -> Callable[[T], T]:
    """Register a `Reward` subclass, or a function from one `Sample` to a number.

    A function's keyword-only parameters, which need annotations and defaults, become the reward's parameters. The first line of
    the docstring is what listings show. Afterwards `reward=<name>` selects it and `reward.<name>.<parameter>=...` sets it.
    """

    def register(thing: T) -> T:
        schema = thing if isinstance(thing, type) else _from_function(name, thing)  # type: ignore[arg-type]
        if not (isinstance(schema, type) and issubclass(schema, Reward)):
            raise TypeError(f"reward {name!r} must be a function of a Sample or a subclass of Reward, not {thing!r}")
        if not dataclasses.is_dataclass(schema) or "__dataclass_fields__" not in vars(schema):
            schema = dataclass(schema)
        summary = (inspect.getdoc(thing) or "no description").splitlines()[0].rstrip(".")
        REWARDS.register(name, schema, summary)
        package = f"reward.{name}"
        # As the schema that a file conf/reward/<name>.yaml names; where there is no such file, as the choice itself, too.
        store = ConfigStore.instance().store
        store(group="reward_schema", name=name, node=schema, package=package, provider="llmrl")
        if not (CONF_DIR / "reward" / f"{name}.yaml").is_file():
            store(group="reward", name=name, node=schema, package=package, provider="llmrl")
        return thing

    return register


def _from_function(name: str, function: Callable[..., float]) -> type[Reward]:
    """A reward class that calls `function` once per sample."""
    parameters = list(inspect.signature(function).parameters.values())
    options = [p for p in parameters[1:] if p.kind is inspect.Parameter.KEYWORD_ONLY]
    if len(options) != len(parameters) - 1 or any(p.default is p.empty or p.annotation is p.empty for p in options):
        raise TypeError(
            f"reward {name!r}: its function takes one Sample, then keyword-only parameters with annotation and default: "
            f"def {name}(sample, *, bonus: float = 1.0)"
        )
    names = [p.name for p in options]

    def call(self: Reward, samples: Sequence[Sample]) -> list[float]:
        arguments = {key: getattr(self, key) for key in names}
        return [function(sample, **arguments) for sample in samples]

    columns = [(p.name, p.annotation, field(default=p.default)) for p in options]
    return make_dataclass(name, columns, bases=(Reward,), namespace={"__call__": call, "__doc__": function.__doc__})


def score(rewards: Mapping[str, Reward], samples: Sequence[Sample]) -> Scores:
    """Score samples by every reward and add up by weight.

    Raises RunError naming the reward, and the sample where one can be found, if a reward raises or returns something that
    is not one finite number per sample.
    """
    components: dict[str, list[float]] = {}
    for name, each in rewards.items():
        try:
            values = each(samples)
        except UserError:
            raise
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            raise RunError(
                f"reward {name!r} raised {type(error).__name__}: {one_line(error)} ({Path(where.filename).name}, line "
                f"{where.lineno}); {_culprit(each, samples)}"
            ) from error
        components[name] = _checked(name, values, samples)
    weights = {name: each.weight for name, each in rewards.items()}
    total = [sum(weights[name] * components[name][i] for name in components) for i in range(len(samples))]
    return Scores(total=total, components=components, weights=weights)


def _checked(name: str, values: Any, samples: Sequence[Sample]) -> list[float]:
    try:
        values = list(values)
    except TypeError:
        raise RunError(
            f"reward {name!r} returned {values!r}; it must return a list of {len(samples)} numbers, one per sample"
        ) from None
    if len(values) != len(samples):
        raise RunError(
            f"reward {name!r} returned {len(values)} values for {len(samples)} samples; it must return one per sample"
        )
    checked = []
    for value, sample in zip(values, samples, strict=True):
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            raise RunError(
                f"reward {name!r} returned {str(value)[:80]!r}, which is no number, for {_described(sample)}"
            ) from None
        if not math.isfinite(number):
            raise RunError(f"reward {name!r} returned {number} for {_described(sample)}; it must be finite")
        checked.append(number)
    return checked


def _culprit(each: Reward, samples: Sequence[Sample]) -> str:
    """The first sample that makes the reward raise on its own."""
    for sample in samples:
        try:
            each([sample])
        except Exception:  # whatever it is, it is this sample's
            return f"first at {_described(sample)}"
    return f"on a batch of {len(samples)} samples, though on none of them alone"


def _described(sample: Sample) -> str:
    response = sample.response if len(sample.response) <= 80 else sample.response[:77] + "..."
    return f"sample {sample.prompt_id or '?'} with response {response!r}"
