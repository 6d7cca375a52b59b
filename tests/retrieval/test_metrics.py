"""Ranking metrics against trec_eval."""

import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from llmrl.retrieval.metrics import ndcg_at, recall_at, reciprocal_rank

NAMES = [f"d{number}" for number in range(12)]


@given(st.permutations(NAMES), st.sets(st.sampled_from(NAMES), min_size=1), st.integers(0, 12))
def test_as_trec_eval_has_them(order: list[str], relevant: set[str], length: int) -> None:
    ranked = order[:length]
    run = {"q": {name: float(len(ranked) - rank) for rank, name in enumerate(ranked)}} if ranked else {"q": {"none": 1.0}}
    wanted = {"ndcg_cut.5", "ndcg_cut.10", "recall.5", "recip_rank"}
    told = pytrec_eval.RelevanceEvaluator({"q": dict.fromkeys(relevant, 1)}, wanted).evaluate(run)["q"]
    assert ndcg_at(ranked, relevant, 5) == pytest.approx(told["ndcg_cut_5"])
    assert ndcg_at(ranked, relevant, 10) == pytest.approx(told["ndcg_cut_10"])
    assert recall_at(ranked, relevant, 5) == pytest.approx(told["recall_5"])
    assert reciprocal_rank(ranked, relevant) == pytest.approx(told["recip_rank"])
