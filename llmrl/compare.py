"""`python -m llmrl.compare`: base against trained on held-out prompts, with an interval and a plain verdict."""

import sys

from llmrl import rewards  # noqa: F401  (importing registers them)
from llmrl.config import CompareConfig
from llmrl.front_door import run


def work(config: CompareConfig) -> int:
    from llmrl.evaluation.run import compare_run  # here, as it loads torch

    return compare_run(config)


def main() -> int:
    """Compare base and trained; see `python -m llmrl.compare --help`."""
    return run("compare", CompareConfig, work)


if __name__ == "__main__":
    sys.exit(main())
