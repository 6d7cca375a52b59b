"""What `llmrl.retrieval.evaluate` does: how well an index finds the documents that answer questions."""

from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from llmrl.config import EvaluateRetrievalConfig
from llmrl.evaluation.bootstrap import Interval, paired_interval
from llmrl.retrieval.questions import evaluate, read_questions, write
from llmrl.retrieval.search import Searcher

MOST_SHOWN = 10


def evaluate_index(config: EvaluateRetrievalConfig) -> int:
    """Rank documents for every question and say how well. Raises UserError."""
    if config.threads:
        torch.set_num_threads(config.threads)
    config.retriever.index = config.index
    questions, searcher = read_questions(config.questions), Searcher(config.retriever)
    found = evaluate(searcher, questions, config.at)
    means = {name: _mean([each.scores[name] for each in found]) for name in found[0].scores}
    console = Console(highlight=False, soft_wrap=True)
    skipped = len(questions) - len(found)
    answered = f"{len(found)} of {len(questions)} questions (no document answers the other {skipped})"
    console.print(
        f"{answered if skipped else f'{len(found)} questions'}, retriever={searcher.name}, {searcher.index.count} chunks",
        markup=False,
    )
    table = Table("metric", "mean", "95 % interval", box=None, padding=(0, 2, 0, 0))
    for name, each in means.items():
        table.add_row(name, f"{each.mean:.3f}", f"{each.low:.3f} to {each.high:.3f}")
    console.print(table)
    for each in [each for each in found if not each.scores["mrr"]][:MOST_SHOWN]:
        console.print(f"not found: {each.question.text!r} ({', '.join(each.question.paths)})", style="yellow", markup=False)
    if config.out is not None:
        told = {
            "retriever": searcher.name, "index_manifest_sha256": searcher.index.sha256, "questions": len(found),
            "mean": {name: {"mean": each.mean, "low": each.low, "high": each.high} for name, each in means.items()},
            "each": [{"id": each.question.id, "ranked": each.ranked, **each.scores} for each in found],
        }  # fmt: skip
        write(Path(config.out).expanduser(), told)
    return 0


def _mean(values: list[float]) -> Interval:
    """Questions are resampled."""
    return paired_interval(np.array(values)[:, None], seed=0)
