"""What Hydra finds when it looks for plug-ins: two names. The work is in llmrl.sweeps, loaded when a sweep begins."""

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class _LlmrlSweeper(Sweeper):
    """Keeps what Hydra hands over."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.given = (hydra_context, config, task_function)


class GridSweeper(_LlmrlSweeper):
    """`hydra/sweeper=grid`: every combination."""

    def __init__(self, params: dict[str, str] | None = None, max_batch_size: int | None = None) -> None:
        self.params, self.max_batch_size = params or {}, max_batch_size

    def sweep(self, arguments: list[str]) -> None:
        from llmrl.sweeps.grid import run_grid
        from llmrl.sweeps.launch import Launch

        run_grid(
            Launch(*self.given), [*(f"{key}={value}" for key, value in self.params.items()), *arguments], self.max_batch_size
        )


class OptunaSweeper(_LlmrlSweeper):
    """`hydra/sweeper=optuna`: what Optuna proposes."""

    def __init__(self, params: dict[str, str] | None = None, **settings: object) -> None:
        self.params, self.settings = params or {}, settings

    def sweep(self, arguments: list[str]) -> None:
        from llmrl.errors import UserError
        from llmrl.sweeps.launch import Launch

        try:
            from llmrl.sweeps.search import SearchSettings, run_search
        except ModuleNotFoundError as error:
            why = f"hydra/sweeper=optuna is not installed ({error.name} is missing): pip install 'llmrl[optuna]'"
            raise UserError(why) from None
        words = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        run_search(Launch(*self.given), words, SearchSettings(**self.settings))  # type: ignore[arg-type]
