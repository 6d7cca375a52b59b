"""What `llmrl.ingest` does: ingest a folder and say so on the terminal."""

import sys
import time

from rich.console import Console

from llmrl.config import IngestConfig
from llmrl.retrieval.progress import Progress
from llmrl.retrieval.scan import Ingested, nothing_new

MOST_SHOWN = 10


def ingest_folder(config: IngestConfig) -> int:
    """Ingest as `config` says. Raises UserError."""
    console, begun = Console(highlight=False, soft_wrap=True), time.perf_counter()
    done = nothing_new(config)
    if done is not None:
        done.seconds = time.perf_counter() - begun
    else:
        done = _ingest(config, console)
    _tell(done, config, console)
    return 0


def _ingest(config: IngestConfig, console: Console) -> Ingested:
    import torch  # here and not above: where nothing has changed, neither it nor a model is loaded

    from llmrl.retrieval.ingest import ingest

    if config.threads:
        torch.set_num_threads(config.threads)
    try:
        return ingest(config, Progress(console))
    except KeyboardInterrupt:
        print("the index is as it was; the same command goes on from what was embedded", file=sys.stderr)
        raise


def _tell(done: Ingested, config: IngestConfig, console: Console) -> None:
    counts = done.counts
    for name, reason in done.skipped[:MOST_SHOWN]:
        console.print(f"left out: {name!r}: {reason}", style="yellow", markup=False)
    if len(done.skipped) > MOST_SHOWN:
        console.print(f"left out: {len(done.skipped) - MOST_SHOWN} more", style="yellow", markup=False)
    if not done.is_news:
        what = "nothing has changed"
    else:
        parts = [f"{done.added} new", f"{done.changed} changed", f"{done.removed} gone", f"{done.unchanged} as they were"]
        what = ", ".join(part for part in parts if not part.startswith("0 "))
        what += f"; {done.embedded} chunks embedded" if done.embedded else ""
    console.print(
        f"{what}; {counts['documents']} documents in {counts['chunks']} chunks, in {done.seconds:.1f} s", markup=False
    )
    if not counts["chunks"]:
        console.print(f"there is nothing to find in {config.docs}: no file in it has any text", style="yellow", markup=False)
    elif done.is_news:
        console.print(f"try it: python -m llmrl.ask index={config.index} 'question=\"...\"'", markup=False)
