"""What the person sees while a run trains: a progress bar in a terminal, plain lines elsewhere."""

import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class ProgressDisplay:
    """Reward, KL and time left. Use as a context manager; call `step` once a training step."""

    def __init__(self, steps: int, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        self._steps, self._first = steps, 0
        self._started = time.perf_counter()
        self._warned: set[str] = set()
        self._progress: Progress | None = None
        if self.console.is_terminal:
            self._progress = Progress(
                TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(), TextColumn("left"), console=self.console,
            )  # fmt: skip
            self._task = self._progress.add_task("train", total=steps, figures="")

    def begin_at(self, step: int) -> None:
        """How many steps were done before, by a run that is gone on with."""
        self._first = step
        self._started = time.perf_counter()
        if self._progress:
            self._progress.update(self._task, completed=step)

    def __enter__(self) -> "ProgressDisplay":
        if self._progress:
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._progress:
            self._progress.stop()

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        shown = {"objective/scores": "reward {:.3f}", "objective/kl": "kl {:.2f}", "samples/s": "{:.1f} samples/s"}
        if "objective/scores" not in metrics:  # what is learned is not sampled
            shown = {"loss": "loss {:.3f}", "samples/s": "{:.1f} examples/s"}
        figures = "  ".join(text.format(metrics[name]) for name, text in shown.items() if name in metrics)
        if self._progress:
            self._progress.update(self._task, completed=step, figures=figures)
            return
        left = (time.perf_counter() - self._started) / (step - self._first) * (self._steps - step)
        self.console.print(f"step {step}/{self._steps}  {figures}  {left:.0f} s left")

    def warn(self, kind: str, text: str) -> bool:
        """A warning above the bar, the first of its kind only. Returns whether it was the first."""
        if kind in self._warned:
            return False
        self._warned.add(kind)
        self.console.print(f"warning: {text}", style="yellow", markup=False)
        return True

    def has_warned(self, kind: str) -> None:
        """A warning of this kind was given before the run was gone on with."""
        self._warned.add(kind)

    def say(self, text: str) -> None:
        """A line above the bar."""
        self.console.print(text, markup=False)
