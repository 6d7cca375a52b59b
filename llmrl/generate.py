"""`python -m llmrl.generate`: sample from any model or run folder."""

import sys

from llmrl import rewards  # noqa: F401  (importing registers them)
from llmrl.config import GenerateConfig
from llmrl.front_door import run


def work(config: GenerateConfig) -> int:
    from llmrl.rollout.generate import generate  # here, as it loads torch

    return generate(config)


def main() -> int:
    """Sample responses; see `python -m llmrl.generate --help`."""
    return run("generate", GenerateConfig, work)


if __name__ == "__main__":
    sys.exit(main())
