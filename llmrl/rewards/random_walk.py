"""A reward with a known optimum: the shortest walk through a graph."""

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmrl.config import PACKAGED, absolute_if_there, packaged
from llmrl.errors import UserError
from llmrl.rewards.base import Reward, Sample, reward


@reward("random_walk")
@dataclass
class RandomWalk(Reward):
    """How close a walk through a directed graph comes to the shortest one to its goal, in [0, 1].

    Prompt and response are names of nodes with spaces between; the walk starts at the last node of the prompt. With L the moves
    made when the goal is reached, S the fewest that are needed from that start and M the most that count:

        reward = 1 - (L - S) / (M + 1 - S)    1 for a shortest walk, falling evenly to 1 / (M + 1 - S) at L = M

    and 0 for a walk that makes a move the graph does not have, says anything that is no node, does not reach the goal in M
    moves, or goes on after it: the goal has no moves.
    """

    graph: str = f"{PACKAGED}random_walks/graph.json"  # JSON file: "goal", and "edges" from each node to a list of nodes
    max_moves: int = 10  # M, at least as many as the farthest start needs

    def __post_init__(self) -> None:
        super().__post_init__()
        self.graph = absolute_if_there(self.graph)
        self.edges, self.goal = read_graph(packaged(self.graph))
        self.shortest = moves_to(self.goal, self.edges)
        if self.max_moves < max(self.shortest.values()):
            raise UserError(
                f"reward.random_walk.max_moves={self.max_moves} is out of range: the farthest start needs "
                f"{max(self.shortest.values())}"
            )

    def __call__(self, samples: Sequence[Sample]) -> list[float]:
        return [self._score(sample.prompt.split()[-1:], sample.response.split()) for sample in samples]

    def _score(self, start: list[str], walk: list[str]) -> float:
        at = start[0] if start else ""
        if at not in self.shortest or len(walk) > self.max_moves:
            return 0.0
        fewest = self.shortest[at]
        for node in walk:
            if node not in self.edges.get(at, ()):
                return 0.0
            at = node
        return 1 - (len(walk) - fewest) / (self.max_moves + 1 - fewest) if at == self.goal else 0.0


def read_graph(path: Path) -> tuple[dict[str, set[str]], str]:
    """(edges from each node, the goal). Raises UserError if the file is not such a graph."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        edges, goal = {str(node): set(map(str, targets)) for node, targets in raw["edges"].items()}, str(raw["goal"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"reward.random_walk.graph={path} is no graph: {type(error).__name__}: {error}") from None
    if not moves_to(goal, edges):
        raise UserError(f"reward.random_walk.graph={path}: no node leads to the goal {goal!r}")
    return edges, goal


def moves_to(goal: str, edges: Mapping[str, set[str]]) -> dict[str, int]:
    """The fewest moves to the goal from every other node that can reach it: a breadth-first search backwards."""
    before: dict[str, set[str]] = {}
    for node, targets in edges.items():
        for target in targets:
            before.setdefault(target, set()).add(node)
    distance, queue = {goal: 0}, deque([goal])
    while queue:
        node = queue.popleft()
        for each in before.get(node, ()):
            if each not in distance:
                distance[each] = distance[node] + 1
                queue.append(each)
    return {node: moves for node, moves in distance.items() if node != goal}
