"""The reward with a known optimum: cases by hand, and shortest walks by another algorithm."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrl.config import packaged
from llmrl.errors import UserError
from llmrl.rewards import Sample
from llmrl.rewards.random_walk import RandomWalk, moves_to, read_graph

#  b -> c -> a,  b -> d -> e -> a,  d -> b
GRAPH = {"goal": "a", "edges": {"b": ["c", "d"], "c": ["a"], "d": ["e", "b"], "e": ["a"], "a": []}}


@pytest.fixture
def reward(tmp_path: Path) -> RandomWalk:
    (tmp_path / "graph.json").write_text(json.dumps(GRAPH), encoding="utf-8")
    return RandomWalk(graph=str(tmp_path / "graph.json"), max_moves=5)


@pytest.mark.parametrize(
    ("start", "walk", "expected"),
    [
        ("b", "c a", 1.0),  # L = S = 2
        ("b", "d e a", 1 - 1 / 4),  # L = 3, S = 2, M = 5: 1 - 1 / (6 - 2)
        ("b", "d b c a", 1 - 2 / 4),
        ("b", "d b d e a", 1 / 4),  # L = M: 1 / (M + 1 - S)
        ("c", "a", 1.0),
        ("x y b", "c a", 1.0),  # the last node of the prompt is the start
        ("b", "d b d b c a", 0.0),  # six moves
        ("b", "a", 0.0),  # no such edge
        ("b", "c", 0.0),  # does not arrive
        ("b", "c a b", 0.0),  # goes on after the goal
        ("b", "c z", 0.0),  # no such node
        ("b", "", 0.0),
        ("z", "c a", 0.0),
        ("", "c a", 0.0),
        ("a", "", 0.0),  # already there: there is nothing to walk
    ],
)
def test_by_hand(reward: RandomWalk, start: str, walk: str, expected: float) -> None:
    assert reward([Sample(prompt=start, response=walk)]) == [pytest.approx(expected)]


@given(st.integers(2, 9), st.floats(0, 0.6), st.integers(0, 2**31))
def test_the_fewest_moves_against_floyd_and_warshall(size: int, share: float, seed: int) -> None:
    edge = np.random.default_rng(seed).random((size, size)) < share
    far = np.where(edge, 1.0, np.inf)
    np.fill_diagonal(far, 0)
    for middle in range(size):
        far = np.minimum(far, far[:, [middle]] + far[[middle], :])
    expected = {str(node): int(far[node, 0]) for node in range(1, size) if np.isfinite(far[node, 0])}
    assert moves_to("0", {str(i): {str(j) for j in range(size) if edge[i, j]} for i in range(size)}) == expected


def test_the_packaged_graph_is_what_its_card_says() -> None:
    """Every one of 20 starts has a way; and always taking an edge that comes nearer earns 1 from each."""
    path = packaged("packaged:random_walks/graph.json")
    edges, goal = read_graph(path)
    shortest = moves_to(goal, edges)
    assert shortest == json.loads(path.read_text(encoding="utf-8"))["shortest"]
    starts = packaged("packaged:random_walks/starts.txt").read_text(encoding="utf-8").split()
    assert sorted(shortest) == sorted(starts)
    assert len(starts) == 20
    reward = RandomWalk()
    for start in starts:
        walk = [start]
        while walk[-1] != goal:
            walk.append(min(edges[walk[-1]], key=lambda node: shortest.get(node, 0)))
        assert reward([Sample(prompt=start, response=" ".join(walk[1:]))]) == [1.0]


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"goal": "a"}', '{"goal": "a", "edges": []}', '{"goal": "a", "edges": {}}']
)
def test_what_is_no_graph_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "graph.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"reward\.random_walk\.graph=.*graph\.json"):
        RandomWalk(graph=str(tmp_path / "graph.json"))
    with pytest.raises(UserError, match="is no graph: FileNotFoundError"):
        RandomWalk(graph=str(tmp_path / "missing.json"))


def test_too_few_moves_are_refused(reward: RandomWalk) -> None:
    with pytest.raises(UserError, match=r"max_moves=1 is out of range: the farthest start needs 2"):
        RandomWalk(graph=reward.graph, max_moves=1)
