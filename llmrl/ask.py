"""`python -m llmrl.ask`: answer with retrieved context and citations."""

import sys

from llmrl import rewards  # noqa: F401  (importing registers them)
from llmrl.config import AskConfig
from llmrl.front_door import run


def work(config: AskConfig) -> int:
    from llmrl.rollout.ask import ask  # here, as it loads torch

    return ask(config)


def main() -> int:
    """Ask an index; see `python -m llmrl.ask --help`."""
    return run("ask", AskConfig, work)


if __name__ == "__main__":
    sys.exit(main())
