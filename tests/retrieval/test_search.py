"""Ranking by hand, each way to search on a small index, and what is refused."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llmrl.config import Fusion, Language, Neighbours, RetrieverConfig, WordsConfig
from llmrl.errors import UserError
from llmrl.retrieval.retrievers import best, standardised
from llmrl.retrieval.search import Searcher, searcher_for
from llmrl.retrieval.vectors import Vectors, build
from llmrl.retrieval.words import Words
from tests.retrieval.conftest import Make, write


def searcher(tmp_path: Path, name: str = "auto", **options: object) -> Searcher:
    return Searcher(RetrieverConfig(name=name, index=str(tmp_path / "index"), **options))  # type: ignore[arg-type]


def test_bm25_by_hand() -> None:
    """Lucene's variant: idf = ln(1 + (N - n + 0.5) / (n + 0.5)), tf / (tf + k1 (1 - b + b l / mean l))."""
    config = WordsConfig(k1=1.2, b=0.75, language=Language.none)
    words = Words.build(["aa aa bb", "bb cc", "cc dd ee ff"], config)
    mean = 3.0
    idf = math.log(1 + (3 - 1 + 0.5) / 1.5)
    expected = idf * 2 / (2 + 1.2 * (0.25 + 0.75 * 3 / mean))
    assert words.scores("aa", 3) == pytest.approx([expected, 0, 0])
    assert words.scores("unknown", 3) == pytest.approx([0, 0, 0])


def test_stop_words_and_stems() -> None:
    words = Words.build(["The running dogs", "the"], WordsConfig())
    assert words.scores("a dog runs", 2)[0] > 0
    assert words.scores("the", 2) == pytest.approx([0, 0])
    plain = Words.build(["The running dogs", "the"], WordsConfig(stemming=False, stop_words=False))
    assert plain.scores("dog", 2) == pytest.approx([0, 0])
    assert plain.scores("the", 2).min() > 0


def test_best_rows() -> None:
    scores = np.array([1, 3, 2, 3, 0], dtype=np.float32)
    assert best(scores, 3, None).tolist() == [1, 3, 2]
    assert best(scores, 9, None).tolist() == [1, 3, 2, 0, 4]
    assert best(scores, 2, np.array([0, 2, 4])).tolist() == [2, 0]


def test_standardised() -> None:
    assert standardised(np.array([1, 2, 3], dtype=np.float32)) == pytest.approx([-math.sqrt(1.5), 0, math.sqrt(1.5)])
    assert standardised(np.ones(3, dtype=np.float32)).tolist() == [0, 0, 0]


def test_each_way_to_search_finds_what_is_meant(make: Make, tmp_path: Path) -> None:
    make("hybrid")
    for name in ("dense", "bm25", "hybrid", "auto"):
        hits = searcher(tmp_path, name).search("How does yeast make dough rise?", 2)
        assert hits[0].chunk.path == "bread.txt", name
        assert hits[0].score >= hits[-1].score
    assert set(hits[0].scores) == {"cosine", "bm25"}
    assert searcher(tmp_path, "dense").search("How often is the sea high?", 1)[0].chunk.heading == "Tides > Times"


def test_scores_are_the_cosine_and_the_blend(make: Make, tmp_path: Path) -> None:
    make("hybrid")
    dense, hybrid = searcher(tmp_path, "dense"), searcher(tmp_path, "hybrid", k=100)
    question = "Why does it rain?"
    query = dense.index.embed(question)
    for hit in dense.search(question, 3):
        row = dense.index.ids.tolist().index(hit.chunk.id)
        assert hit.score == pytest.approx(float(dense.index.vectors.array[row].astype(np.float64) @ query), abs=1e-5)
    hits = hybrid.search(question)
    assert len(hits) == hybrid.index.count
    cosines, words = (np.array([hit.scores[name] for hit in hits]) for name in ("cosine", "bm25"))
    blended = 0.8 * (cosines - cosines.mean()) / cosines.std() + 0.2 * (words - words.mean()) / words.std()
    assert [hit.score for hit in hits] == pytest.approx(blended.tolist(), abs=1e-4)


def test_reciprocal_ranks(make: Make, tmp_path: Path) -> None:
    make("hybrid")
    question = "sea water"
    fused = searcher(tmp_path, "hybrid", fusion=Fusion.rrf, dense_weight=0.6, rrf_k=10, k=100).search(question)
    near = [hit.chunk.id for hit in searcher(tmp_path, "dense", k=100).search(question)]
    said = [hit.chunk.id for hit in searcher(tmp_path, "bm25", k=100).search(question)]
    assert 0 < len(said) < len(near)
    for hit in fused:
        expected = 0.6 / (11 + near.index(hit.chunk.id))
        if hit.chunk.id in said:
            expected += 0.4 / (11 + said.index(hit.chunk.id))
        assert hit.score == pytest.approx(expected, rel=1e-4)


def test_what_shares_no_word_is_not_found_by_words(make: Make, tmp_path: Path) -> None:
    make("bm25")
    assert searcher(tmp_path).search("quantum chromodynamics", 10) == []
    assert {hit.chunk.path for hit in searcher(tmp_path).search("yeast", 10)} == {"bread.txt"}


def test_more_than_there_is(make: Make, tmp_path: Path) -> None:
    make("dense")
    found = searcher(tmp_path, k=1000).search("water")
    assert len(found) == searcher(tmp_path).index.count
    assert len({hit.chunk.id for hit in found}) == len(found)


def test_filters_and_least_scores(make: Make, docs: Path, tmp_path: Path) -> None:
    write(docs, {"notes.md": "---\nauthor: Ann\n---\n\n# Notes\n\nThe sea is salty.\n"})
    make("hybrid")
    for name in ("dense", "bm25", "hybrid"):
        assert {hit.chunk.path for hit in searcher(tmp_path, name, path="sub/*").search("water drops", 9)} == {"sub/rain.md"}
        assert {h.chunk.path for h in searcher(tmp_path, name, where={"author": "Ann"}).search("the sea", 9)} == {"notes.md"}
        assert searcher(tmp_path, name, path="nowhere/*").search("the sea", 9) == []
    everything = searcher(tmp_path, "dense", k=9).search("the sea")
    least = everything[1].score
    assert [hit.score >= least for hit in searcher(tmp_path, "dense", k=9, min_score=least).search("the sea")] == [True, True]
    assert searcher(tmp_path, "hybrid", min_score=0.99).search("the sea") == []


def test_diversity(make: Make, docs: Path, tmp_path: Path) -> None:
    """Of two chunks that say nearly the same, the second gives way to another."""
    write(docs, {"yeast.txt": "Yeast turns sugar into gas, and that gas makes the dough rise."})
    make("hybrid", max_tokens=20)
    alike = searcher(tmp_path, "dense").search("What makes dough rise?", 2)
    assert float(np.prod([("dough rise" in hit.chunk.text) for hit in alike])) == 1
    other = searcher(tmp_path, "dense", mmr=0.4).search("What makes dough rise?", 2)
    assert other[0].chunk.id == alike[0].chunk.id
    assert other[1].chunk.id != alike[1].chunk.id
    make("bm25", index="words")
    with pytest.raises(UserError, match=r"retriever\.mmr compares vectors"):
        Searcher(RetrieverConfig(name="auto", index=str(tmp_path / "words"), mmr=0.5))


def test_what_an_index_lacks_is_said(make: Make, tmp_path: Path) -> None:
    make("bm25")
    with pytest.raises(UserError, match="retriever=dense needs vectors, and the index was made without"):
        searcher(tmp_path, "dense")


@pytest.mark.parametrize(("question", "message"), [(" \n", "is empty"), ("word " * 10_000, "50,000 characters")])
def test_questions_that_are_none(make: Make, tmp_path: Path, question: str, message: str) -> None:
    make("bm25")
    with pytest.raises(UserError, match=message):
        searcher(tmp_path).search(question)


def random_vectors(count: int, dimension: int = 32) -> np.ndarray:
    """In clumps, as real ones lie."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(50, dimension))
    found = centres[rng.integers(0, 50, count)] + 0.5 * rng.normal(size=(count, dimension))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def test_flat_search_is_exact() -> None:
    array = random_vectors(500)
    query = array[7]
    rows, cosines = Vectors(array)(query, 5)
    assert rows.tolist() == np.argsort(-(array @ query))[:5].tolist()
    assert cosines == pytest.approx((array @ query)[rows])
    rows, _ = Vectors(array)(query, 5, np.array([3, 9, 400]))
    assert sorted(rows.tolist()) == [3, 9, 400]


@pytest.mark.parametrize("kind", [Neighbours.hnsw, Neighbours.ivfpq])
def test_approximate_search_says_how_well_it_finds(kind: Neighbours, tmp_path: Path) -> None:
    array = random_vectors(12_000)
    np.save(tmp_path / "vectors.npy", array)
    told = build(array, kind, tmp_path / "neighbours.faiss")
    vectors = Vectors.load(tmp_path, told)
    assert not vectors.is_exact
    found = total = 0
    for row in range(0, 12_000, 240):
        nearest = set(np.argsort(-(array @ array[row]))[:10].tolist())
        rows, cosines = vectors(array[row], 10)
        found, total = found + len(nearest & set(rows.tolist())), total + 10
        assert np.all(np.diff(cosines) <= 1e-6)
        assert rows.min() >= 0
    assert found / total == pytest.approx(told["recall_at_10"], abs=0.1)
    assert told["recall_at_10"] > 0.8
    allowed = np.arange(0, 12_000, 100)
    rows, _ = vectors(array[0], 5, allowed)
    assert set(rows.tolist()) <= set(allowed.tolist())
    assert len(rows) == 5


def test_too_few_vectors_for_lists(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs at least 10,000 chunks"):
        build(random_vectors(100), Neighbours.ivfpq, tmp_path / "neighbours.faiss")


def test_a_cross_encoder_orders_anew(make: Make, tmp_path: Path) -> None:
    """A small one with weights of its own: its scores are what counts, whatever they are."""
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    from llmrl.models.places import cache_folder

    folder = tmp_path / "reranker"
    BertForSequenceClassification(
        BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=1)
    ).save_pretrained(folder)
    BertTokenizerFast.from_pretrained(cache_folder() / "sentence-transformers--all-MiniLM-L6-v2").save_pretrained(folder)
    make("bm25")
    plain, anew = searcher(tmp_path, k=9), searcher(tmp_path, k=9, reranker=str(folder))
    hits = anew.search("water and yeast")
    told = [float(anew.reranker.predict([("water and yeast", hit.chunk.text)])[0]) for hit in hits]
    assert [hit.score for hit in hits] == pytest.approx(told, abs=1e-4)
    assert told == sorted(told, reverse=True)
    assert {hit.chunk.id for hit in hits} == {hit.chunk.id for hit in plain.search("water and yeast")}
    with pytest.raises(UserError, match="there is no such folder"):
        searcher(tmp_path, reranker=str(tmp_path / "none")).search("water")


def test_an_index_that_is_open_outlives_the_next(make: Make, docs: Path, tmp_path: Path) -> None:
    make("hybrid")
    before = searcher(tmp_path)
    write(docs, {"more.txt": "Cheese is made of milk."})
    make("hybrid")
    assert before.search("What is cheese made of?")[0].chunk.path != "more.txt"
    assert searcher(tmp_path).search("What is cheese made of?")[0].chunk.path == "more.txt"
    assert replace(before.config, k=2).k == 2


def test_jobs_of_a_process_share_an_open_index_until_it_changes(make: Make, docs: Path, tmp_path: Path) -> None:
    make()
    config = RetrieverConfig(name="bm25", index=str(tmp_path / "index"))
    first = searcher_for(config)
    assert searcher_for(replace(config)) is first
    hits = first.search_kept("When is high water?", 2)
    assert first.search_kept("When is high water?", 2) is hits
    assert [hit.chunk.id for hit in first.search_kept("When is high water?", 1)] == [hit.chunk.id for hit in hits[:1]]
    assert searcher_for(replace(config, k=config.k + 1)) is not first
    again = searcher_for(config)
    write(docs, {"snow.md": "# Snow\n\nSnow is frozen rain, and lies in winter.\n"})
    make()
    fresh = searcher_for(config)
    assert fresh is not again
    assert fresh.search("frozen snow in winter")[0].chunk.path == "snow.md"
