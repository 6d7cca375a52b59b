"""What one visitor may ask for, and how often."""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from llmrl.config import AppConfig
from llmrl.errors import UserError


def checked_text(text: str, most: int, what: str) -> str:
    """The text, without what surrounds it. Raises UserError where it is empty or longer than `most` characters."""
    kept = text.strip()
    if not kept:
        raise UserError(f"the {what} is empty: write something first")
    if len(kept) > most:
        raise UserError(f"the {what} has {len(kept):,} characters; {most:,} are the most that are taken here")
    if any("\ud800" <= letter <= "\udfff" for letter in kept):
        raise UserError(f"the {what} holds half of a character, which no model reads")
    return kept


def checked_lines(text: str, config: AppConfig, what: str) -> list[str]:
    """Each line that is not empty. Raises UserError where there is none, or too many, or one is too long."""
    lines = [checked_text(line, config.max_characters, what) for line in text.splitlines() if line.strip()]
    if not lines:
        raise UserError(f"the {what} is empty: write something first")
    if len(lines) > config.max_prompts:
        raise UserError(f"{len(lines)} {what}s; {config.max_prompts} are the most that are taken here")
    return lines


class Pace:
    """Of one visitor: so many requests a minute."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = most, clock
        self._times: deque[float] = deque()
        self._lock = threading.Lock()

    def step(self) -> None:
        """Count a request. Raises UserError where it is one too many."""
        with self._lock:
            now = self._clock()
            while self._times and now - self._times[0] >= 60:
                self._times.popleft()
            if len(self._times) >= self._most:
                raise UserError(
                    f"{self._most} requests a minute are the most here; the next in {60 - (now - self._times[0]):.0f} s"
                )
            self._times.append(now)


class Paces:
    """Of visitors who come from elsewhere, by address: loading the page again begins no new minute."""

    def __init__(self, most: int, addresses: int = 10_000) -> None:
        self._most, self._addresses = most, addresses
        self._paces: OrderedDict[str, Pace] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, address: str) -> Pace:
        """An address's; those that were not heard of for longest are forgotten."""
        with self._lock:
            pace = self._paces.setdefault(address, Pace(self._most))
            self._paces.move_to_end(address)
            while len(self._paces) > self._addresses:
                self._paces.popitem(last=False)
            return pace
