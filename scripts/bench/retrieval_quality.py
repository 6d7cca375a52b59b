"""How well documents are found: nDCG@10 on the Python FAQ, for each retriever and for the settings that were tried.

    python scripts/fetch_corpus.py; python scripts/fetch_models.py minilm
    python scripts/bench/retrieval_quality.py            # docs/results/retrieval_quality.{json,md}

Each answer of the FAQ is a document, its question taken out; the questions are asked. The sizes of chunks and the weight of the
blend were chosen by these tables and are the defaults since; the demo corpus was looked at, too, so that neither set is unseen.
The glossary and the library reference were not looked at before the settings were fixed, and are measured at the defaults alone.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from fetch_corpus import corpora_folder
from rich.console import Console

from llmrl.config import ChunksConfig, EmbedderConfig, Fusion, IngestConfig, RetrieverConfig
from llmrl.models.places import cache_folder
from llmrl.retrieval.ingest import ingest
from llmrl.retrieval.progress import Progress
from llmrl.retrieval.questions import evaluate, read_questions
from llmrl.retrieval.search import Searcher
from llmrl.tracking.run_folder import machine

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
MINILM = cache_folder() / "sentence-transformers--all-MiniLM-L6-v2"
SIZES = ((60, 12), (100, 20), (150, 30), (200, 40))
FEW = 300
"""Questions of the library reference."""
WEIGHTS = (0.5, 0.6, 0.7, 0.8, 0.9)


def made(docs: str, folder: Path, size: tuple[int, int]) -> Path:
    index = folder / f"{Path(docs).parent.name}-{size[0]}-{size[1]}"
    config = IngestConfig(
        docs=docs, index=str(index), retriever=RetrieverConfig(name="hybrid"), embedder=EmbedderConfig(name=str(MINILM)),
        chunks=ChunksConfig(max_tokens=size[0], overlap_tokens=size[1]),
    )  # fmt: skip
    ingest(config, Progress(Console()))
    return index


def ndcg(index: Path, questions: str, **options: Any) -> dict[str, float]:
    searcher = Searcher(RetrieverConfig(index=str(index), **options))
    found = evaluate(searcher, read_questions(questions), [10])
    return {name: mean(each.scores[name] for each in found) for name in found[0].scores} | {"questions": len(found)}


def measured(docs: str, questions: str, folder: Path, sizes: tuple[tuple[int, int], ...]) -> list[dict[str, Any]]:
    rows = []
    for size in sizes:
        index = made(docs, folder, size)
        ways: list[tuple[str, dict[str, Any]]] = [("bm25", {"name": "bm25"}), ("dense", {"name": "dense"})]
        ways += [(f"hybrid, blend {weight}", {"name": "hybrid", "dense_weight": weight}) for weight in WEIGHTS]
        ways += [
            (f"hybrid, ranks {weight}", {"name": "hybrid", "fusion": Fusion.rrf, "dense_weight": weight})
            for weight in (0.5, 0.7)
        ]
        for name, options in ways:
            rows.append({"max_tokens": size[0], "overlap_tokens": size[1], "way": name, **ndcg(index, questions, **options)})
            print(f"  {size[0]} tokens, {name}: {rows[-1]['ndcg@10']:.3f}", flush=True)
    return rows


def render(found: dict[str, Any]) -> str:
    default = ChunksConfig()
    lines = [
        "# Finding documents", "",
        "Made by `python scripts/bench/retrieval_quality.py`: documents ranked by their best chunk, all-MiniLM-L6-v2, no reranker. "
        "BM25 with k1 1.2, b 0.75, stop words left out, words cut to stems; the blend adds standardised scores, its number is the "
        f"vectors' share. Defaults are {default.max_tokens} tokens with {default.overlap_tokens} shared and a blend of "
        f"{RetrieverConfig().dense_weight}. {found['date']}.", "",
        "The size of chunks and the blend were chosen by these tables, and by a trial with questions of another kind, after looking at "
        "both sets: neither is unseen. The last two were not looked at before.", "",
    ]  # fmt: skip
    titles = {
        "faq": "The Python FAQ", "demo": "The demo corpus",
        "glossary": "Unseen: the Python glossary (What is meant by ...?)",
        "reference": "Unseen: the library reference (What does the function ... do?)",
    }  # fmt: skip
    for part, title in titles.items():
        rows = found[part]
        ways = list(dict.fromkeys(row["way"] for row in rows))
        sizes = list(dict.fromkeys((row["max_tokens"], row["overlap_tokens"]) for row in rows))
        by = {(row["way"], row["max_tokens"]): row for row in rows}
        lines += [
            f"## {title}: nDCG@10 of {rows[0]['questions']:.0f} questions", "",
            "| chunks of at most | " + " | ".join(f"{size} tokens, {shared} shared" for size, shared in sizes) + " |",
            "| --- |" + " --- |" * len(sizes),
            *(f"| {way} | " + " | ".join(f"{by[way, size]['ndcg@10']:.3f}" for size, _ in sizes) + " |" for way in ways), "",
        ]  # fmt: skip
    return "\n".join(lines)


def _some(questions: Path, place: Path, name: str) -> Path:
    """All questions of the glossary; of the reference, some of its own, drawn by a fixed seed."""
    lines = questions.read_text(encoding="utf-8").splitlines(keepends=True)
    if name == "reference":
        lines = random.Random(1).sample([line for line in lines if json.loads(line)["id"].startswith("reference/")], FEW)
    place.write_text("".join(lines), encoding="utf-8")
    return place


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "retrieval_quality.json")
    args = parser.parse_args()
    faq, default = corpora_folder() / "python-faq", ChunksConfig()
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        found = {
            "date": time.strftime("%Y-%m-%d"), "machine": machine(),
            "faq": measured(str(faq / "docs"), str(faq / "questions.jsonl"), folder, SIZES),
            "demo": measured(
                "packaged:demo/docs", "packaged:demo/questions.jsonl", folder, ((default.max_tokens, default.overlap_tokens),)
            ),
        }  # fmt: skip
        for name in ("glossary", "reference"):
            corpus = corpora_folder() / ("python-glossary" if name == "glossary" else "python-qa")
            asked = _some(corpus / "questions.jsonl", folder / f"{name}.jsonl", name)
            found[name] = measured(str(corpus / "docs"), str(asked), folder, ((default.max_tokens, default.overlap_tokens),))
    args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    args.out.with_suffix(".md").write_text(render(found), encoding="utf-8")
    print(render(found))


if __name__ == "__main__":
    main()
