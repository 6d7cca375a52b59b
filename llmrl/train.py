"""`python -m llmrl.train`: config in, objects built, training called."""

import sys

from llmrl import rewards  # noqa: F401  (importing registers them)
from llmrl.config import TrainConfig
from llmrl.front_door import run


def work(config: TrainConfig) -> int:
    from llmrl.models.places import locate  # here, as it loads the hub's client: --help and --cfg do without

    locate(config.model)  # a model that is not there is said before torch is loaded, which takes seconds
    from llmrl.pages.run import write_report
    from llmrl.trainers.run import train  # here, as it loads torch: --help and --cfg do without

    return train(config, write_report)


def main() -> int:
    """Train a model; see `python -m llmrl.train --help`."""
    return run("train", TrainConfig, work)


if __name__ == "__main__":
    sys.exit(main())
