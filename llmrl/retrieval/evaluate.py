"""`python -m llmrl.retrieval.evaluate`: recall@k, MRR and nDCG from a file of questions whose documents are known."""

import sys

from llmrl import rewards  # noqa: F401  (importing registers them)
from llmrl.config import EvaluateRetrievalConfig
from llmrl.front_door import run


def work(config: EvaluateRetrievalConfig) -> int:
    from llmrl.evaluation.retrieval import evaluate_index  # here, as it loads torch

    return evaluate_index(config)


def main() -> int:
    """Evaluate an index; see `python -m llmrl.retrieval.evaluate --help`."""
    return run("retrieval.evaluate", EvaluateRetrievalConfig, work)


if __name__ == "__main__":
    sys.exit(main())
