"""How far an ingest is: files read, chunks embedded per second, and the time left."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.0f} {task.fields['unit']}/s" if task.speed else "")


class Progress:
    """Bars on a terminal; elsewhere a line where something begins."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def say(self, what: str) -> None:
        if self.console.is_terminal:
            self.console.print(what, style="dim", markup=False)

    @contextmanager
    def files(self, total: int) -> Iterator[Callable[[str], None]]:
        """The callable is told the name of each file when it is read."""
        with self._bar("reading", "files", total) as advance:
            yield lambda name: advance(1)

    @contextmanager
    def chunks(self, total: int) -> Iterator[Callable[[int], None]]:
        """The callable is told how many more chunks are embedded."""
        with self._bar("embedding", "chunks", total) as advance:
            yield advance

    @contextmanager
    def questions(self, total: int) -> Iterator[Callable[[int], None]]:
        """The callable is told how many more questions are answered."""
        with self._bar("answering", "questions", total) as advance:
            yield advance

    @contextmanager
    def _bar(self, what: str, unit: str, total: int) -> Iterator[Callable[[int], None]]:
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit), _Speed(),
            TimeRemainingColumn(),
        )  # fmt: skip
        with Bar(*columns, console=self.console, transient=True, disable=not self.console.is_terminal or not total) as bar:
            task = bar.add_task(what, total=total, unit=unit)
            yield lambda count: bar.advance(task, count)
