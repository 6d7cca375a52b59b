"""How fast documents become an index, and questions their context.

    python scripts/fetch_corpus.py; python scripts/fetch_models.py minilm
    python scripts/bench/retrieval_speed.py              # docs/results/retrieval_speed.{json,md}; most of an hour on two cores
    python scripts/bench/retrieval_speed.py million      # some parts; the others keep the figures they had

`embedding`: chunks per second of llmrl and of `SentenceTransformer.encode` in fp32 with batches of 32 in the order of files,
in turns on the same chunks. `ingest`: all of Python's documentation, again with nothing changed, again with one file changed;
memory at a tenth of the corpus and at all of it. `search`: time from a question to its context. `million`: a million
vectors, by each kind of index.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from fetch_corpus import corpora_folder
from sentence_transformers import SentenceTransformer

from llmrl.config import ChunksConfig, EmbedderConfig, Neighbours, RetrieverConfig
from llmrl.models.places import cache_folder
from llmrl.retrieval.chunks import cut
from llmrl.retrieval.embedder import Embedder
from llmrl.retrieval.readers import find_files, read
from llmrl.retrieval.search import Searcher
from llmrl.retrieval.vectors import Vectors, build
from llmrl.tracking.run_folder import machine

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
MINILM = cache_folder() / "sentence-transformers--all-MiniLM-L6-v2"
DOCS = corpora_folder() / "python-docs"
ROUNDS, CHUNKS_A_ROUND = 5, 640


def some_passages(embedder: Embedder, most: int) -> list[str]:
    """Chunks of every few files, in the order of the files."""
    from llmrl.config import ReadingConfig

    options, found = ChunksConfig(), []
    for path in find_files(DOCS).files[::7]:
        for document in read(path, path.name, ReadingConfig()):
            for chunk in cut(document.text, document.headings, embedder.spans, options.max_tokens, options.overlap_tokens):
                found.append(document.text[chunk.start : chunk.end])
        if len(found) >= most:
            return found[:most]
    return found


def embedding() -> dict[str, Any]:
    embedder = Embedder(EmbedderConfig(name=str(MINILM)))
    plain = SentenceTransformer(str(MINILM), device="cpu", local_files_only=True)
    passages = some_passages(embedder, CHUNKS_A_ROUND * (ROUNDS + 1))
    ours, theirs, cosines = [], [], []
    for number in range(ROUNDS + 1):
        part = passages[number * CHUNKS_A_ROUND : (number + 1) * CHUNKS_A_ROUND]
        begun = time.perf_counter()
        expected = plain.encode(part, batch_size=32, normalize_embeddings=True, show_progress_bar=False)
        between = time.perf_counter()
        found = embedder.passages(sorted(part, key=len))
        ended = time.perf_counter()
        order = sorted(range(len(part)), key=lambda i: len(part[i]))
        cosines.append(float((np.asarray(expected)[order] * found).sum(-1).min()))
        theirs.append(len(part) / (between - begun))
        ours.append(len(part) / (ended - between))
        print(f"  round {number}: llmrl {ours[-1]:.1f} chunks/s, encode {theirs[-1]:.1f}", flush=True)
    return {
        "chunks_per_s": median(ours[1:]), "encode_chunks_per_s": median(theirs[1:]), "least_cosine": min(cosines),
        "ratio": median(a / b for a, b in zip(ours[1:], theirs[1:], strict=True)), "bf16": embedder.bf16,
        "threads": torch.get_num_threads(), "chunks": len(passages),
    }  # fmt: skip


def timed_ingest(docs: Path, index: Path) -> dict[str, Any]:
    """A process of its own, with its peak memory."""
    words = [
        "-m", "llmrl.ingest", f"docs={docs}", f"index={index}", "retriever=hybrid", f"embedder.name={MINILM}",
    ]  # fmt: skip
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, told
    seconds = time.perf_counter() - begun
    print(f"  {told.strip().splitlines()[0]} ({seconds:.1f} s, {usage.ru_maxrss / 1e6:.2f} GB)", flush=True)
    return {"seconds": seconds, "peak_bytes": usage.ru_maxrss * 1024, "said": told.strip().splitlines()[0]}


def ingesting() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as work:
        docs, tenth, index = Path(work) / "docs", Path(work) / "tenth", Path(work) / "index"
        shutil.copytree(DOCS, docs)
        for path in sorted(docs.rglob("*.html"))[::10]:
            place = tenth / path.relative_to(docs)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
        found = {"tenth": timed_ingest(tenth, Path(work) / "small"), "all": timed_ingest(docs, index)}
        found["unchanged"] = timed_ingest(docs, index)
        page = docs / "tutorial" / "appetite.html"
        page.write_text(page.read_text(encoding="utf-8").replace("Python", "Python ", 3), encoding="utf-8")
        found["one_changed"] = timed_ingest(docs, index)
        found["search"] = searching(index)
    return found


def searching(index: Path) -> dict[str, Any]:
    searcher = Searcher(RetrieverConfig(name="auto", index=str(index)))
    lines = (corpora_folder() / "python-faq" / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line)["question"] for line in lines]
    for question in questions[:10]:
        searcher.search(question)
    whole, embed = [], []
    for question in questions[10:110]:
        begun = time.perf_counter()
        searcher.index.embed(question)
        between = time.perf_counter()
        searcher.search(question)
        whole.append(time.perf_counter() - between)
        embed.append(between - begun)
    return {"chunks": searcher.index.count, "median_s": median(whole), "slowest_s": max(whole), "embedding_s": median(embed)}


def million(count: int = 1_000_000, dimension: int = 384, clumps: int = 2_000) -> dict[str, Any]:
    """Vectors in clumps of all sizes, as texts lie; queries are near some of them, and none of them."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(clumps, dimension)).astype(np.float32)
    weights = rng.pareto(1.5, clumps) + 0.1
    array = np.empty((count, dimension), dtype=np.float32)
    for start in range(0, count, 50_000):
        size = min(50_000, count - start)
        part = centres[rng.choice(clumps, size, p=weights / weights.sum())]
        part = part + 0.9 * rng.normal(size=(size, dimension)).astype(np.float32)
        array[start : start + size] = part / np.linalg.norm(part, axis=1, keepdims=True)
    queries = array[rng.choice(count, 200, replace=False)] + 0.4 / dimension**0.5 * rng.normal(size=(200, dimension))
    queries = (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)
    exact = [np.argpartition(-(array @ query), 10)[:10] for query in queries]
    found: dict[str, Any] = {"vectors": count, "dimension": dimension}
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        np.save(folder / "vectors.npy", array)
        for kind in Neighbours:
            begun = time.perf_counter()
            told = build(array, kind, folder / "neighbours.faiss")
            built = time.perf_counter() - begun
            vectors = Vectors.load(folder, told)
            times, hits = [], 0
            for query, nearest in zip(queries, exact, strict=True):
                begun = time.perf_counter()
                rows, _ = vectors(query, 10)
                times.append(time.perf_counter() - begun)
                hits += len(set(rows.tolist()) & set(nearest.tolist()))
            path = folder / "neighbours.faiss"
            size = path.stat().st_size if kind is not Neighbours.flat else array.nbytes
            found[kind.value] = {
                "build_s": built, "bytes": size, "queries_per_s": 1 / median(times), "recall_at_10": hits / (10 * len(queries)),
                "manifest": told,
            }  # fmt: skip
            print(f"  {kind.value}: {found[kind.value]}", flush=True)
            del vectors
    return found


PARTS: dict[str, Callable[[], dict[str, Any]]] = {"embedding": embedding, "ingest": ingesting, "million": million}


def render(found: dict[str, Any]) -> str:
    lines = [
        "# Retrieval: speed",
        "",
        "Made by `python scripts/bench/retrieval_speed.py`; all-MiniLM-L6-v2, 384 numbers a vector.",
        "",
    ]
    if "embedding" in found:
        each = found["embedding"]
        lines += [
            f"**Embedding**: {each['chunks_per_s']:.0f} chunks/s against {each['encode_chunks_per_s']:.0f} of "
            f"`SentenceTransformer.encode` in fp32 with batches of 32: **{each['ratio']:.2f} times** (bar 2), in turns, medians, "
            f"{each['threads']} threads, {'bf16' if each['bf16'] else 'fp32'}; least cosine between the two {each['least_cosine']:.4f}.",
            "",
        ]  # fmt: skip
    if "ingest" in found:
        each = found["ingest"]
        lines += [
            "| ingest of Python's documentation | seconds, start of Python included | peak GB | said |",
            "| --- | --- | --- | --- |",
        ]
        for name, title in (
            ("tenth", "a tenth of it"), ("all", "all of it"), ("unchanged", "nothing changed"), ("one_changed", "one file changed"),
        ):  # fmt: skip
            one = each[name]
            lines.append(f"| {title} | {one['seconds']:.1f} | {one['peak_bytes'] / 1e9:.2f} | {one['said']} |")
        one = each["search"]
        lines += [
            "", f"**Search**: {1e3 * one['median_s']:.1f} ms from a question to its chunks among {one['chunks']:,} (slowest of 100: "
            f"{1e3 * one['slowest_s']:.1f}), of which {1e3 * one['embedding_s']:.1f} are the question's embedding (bar 30 ms at 20,000).", "",
        ]  # fmt: skip
    if "million" in found:
        each = found["million"]
        lines += [
            f"**{each['vectors']:,} synthetic vectors** of {each['dimension']} numbers, in clumps of all sizes; one query at a time.", "",
            "| kind | built in s | size beside the vectors, GB | queries/s | recall@10 |", "| --- | --- | --- | --- | --- |",
        ]  # fmt: skip
        for kind in Neighbours:
            one = each[kind.value]
            size = "0" if kind is Neighbours.flat else f"{one['bytes'] / 1e9:.2f}"
            lines.append(
                f"| {kind.value} | {one['build_s']:.0f} | {size} | {one['queries_per_s']:.0f} | {one['recall_at_10']:.3f} |"
            )
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    args = parser.parse_args()
    path = RESULTS / "retrieval_speed.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for part in args.parts or PARTS:
        print(part, flush=True)
        kept |= {part: PARTS[part](), "machine": machine(), "date": time.strftime("%Y-%m-%d")}
        path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        path.with_suffix(".md").write_text(render(kept), encoding="utf-8")
    print(render(kept))


if __name__ == "__main__":
    main()
