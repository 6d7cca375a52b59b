"""How contestants take turns: each is a process that loads once, then does one round whenever it is told to.

Imported in the peers' environments, too: the standard library alone.
"""

import json
import resource
import sys
from collections.abc import Callable
from typing import Any


def wait() -> bool:
    """Until it is this contestant's turn; False when there are no more."""
    return sys.stdin.readline().strip() == "go"


def answer(**figures: Any) -> None:
    """Say how the round went, with the most memory the process has had until now; on a GPU, the GPU's."""
    peak, torch = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
    print("answer " + json.dumps({**figures, "peak_bytes": peak}), flush=True)


def take_turns(one_round: Callable[[], dict[str, Any]]) -> None:
    """Answer once loaded, then do a round at each turn."""
    answer(loaded=True)
    while wait():
        answer(**one_round())
