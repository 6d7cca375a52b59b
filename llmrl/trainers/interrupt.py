"""Ctrl-C and SIGTERM: the first asks the run to stop after the step it is in, the second stops it at once."""

import signal
import sys
from types import FrameType, TracebackType


class StopSignal:
    """A context in which `requested` becomes true at the first signal, and the second raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignal":
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._handle)
            except ValueError:  # not in the main thread: whoever runs us there stops us their own way
                break
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        print("llmrl: stopping after this step; once more stops at once", file=sys.stderr, flush=True)
