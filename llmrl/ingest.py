"""`python -m llmrl.ingest`: a folder of documents to a searchable index."""

import sys

from llmrl import rewards  # noqa: F401  (importing registers them)
from llmrl.config import IngestConfig
from llmrl.front_door import run


def work(config: IngestConfig) -> int:
    from llmrl.retrieval.run import ingest_folder  # here, as it loads torch

    return ingest_folder(config)


def main() -> int:
    """Make an index; see `python -m llmrl.ingest --help`."""
    return run("ingest", IngestConfig, work)


if __name__ == "__main__":
    sys.exit(main())
