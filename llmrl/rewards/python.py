"""A person's own reward, from a file or a module, without a fork or a package."""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from omegaconf import MISSING

from llmrl.config import absolute_if_there
from llmrl.errors import UserError, one_line
from llmrl.registry import did_you_mean
from llmrl.rewards.base import Reward, Sample, reward


@reward("python")
@dataclass
class PythonReward(Reward):
    """Your own function: reward.python.function=my_file.py:my_reward.

    The function takes one `Sample` (or, if its first parameter is called `samples`, the list of them) and returns a number (or
    a list of them). `parameters` are passed as keyword arguments. The file is run, as any program you start is: only name files
    you trust. In a sweep each job runs the file anew; a module is imported once in a process, and jobs share its globals.
    """

    function: str = MISSING  # FILE.py:NAME or package.module:NAME
    parameters: dict[str, Any] = field(default_factory=dict)  # keyword arguments of the function

    def __post_init__(self) -> None:
        super().__post_init__()
        try:  # a missing file or name, or a parameter the function does not take, is refused before any model loads
            inspect.signature(self._loaded).bind(None, **self.parameters)
        except TypeError as error:
            raise UserError(f"reward.python.parameters do not fit {self.function}: {error}") from None
        except ValueError:
            pass  # a built-in function without a signature
        where, _, name = self.function.rpartition(":")
        self.function = f"{absolute_if_there(where)}:{name}" if where.endswith(".py") else self.function

    def __call__(self, samples: Sequence[Sample]) -> Sequence[float]:
        if next(iter(inspect.signature(self._loaded).parameters), "") == "samples":
            return self._loaded(list(samples), **self.parameters)
        return [self._loaded(sample, **self.parameters) for sample in samples]

    @cached_property
    def _loaded(self) -> Callable[..., Any]:
        where, _, name = self.function.rpartition(":")
        if not where or not name:
            raise UserError(f"reward.python.function={self.function!r} must be FILE.py:NAME or package.module:NAME")
        module = _import(where)
        function = getattr(module, name, None)
        if not callable(function):
            known = [key for key, value in vars(module).items() if inspect.isfunction(value)]
            raise UserError(f"reward.python.function: {where} has no function {name!r}{did_you_mean(name, known)}")
        return function


def _import(where: str) -> ModuleType:
    try:
        if not where.endswith(".py"):
            return importlib.import_module(where)
        path = Path(where).expanduser().resolve()
        if not path.is_file():
            raise UserError(f"reward.python.function: there is no file {where}")
        spec = importlib.util.spec_from_file_location(f"llmrl_user_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise UserError(f"reward.python.function: {where} is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"reward.python.function: {where} could not be imported: {type(error).__name__}: {one_line(error)}"
        ) from error
