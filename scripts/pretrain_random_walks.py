"""Make the graph, the wandering GPT-2 and the start nodes of `llmrl/assets/random_walks`: a task whose optimum is known.

    python scripts/pretrain_random_walks.py      # about a minute on one core

After trlX's example of that name, from its description. The graph has 21 nodes, named a to u. Each possible edge is there with
probability 0.1; nothing leads out of a, the goal; graphs are drawn until every node has a way to a, and the farthest needs at
least four moves. The model learns, by next-token prediction, random walks of at most ten moves that end at a, or are cut.
"""

import argparse
import itertools
import json
import random
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from llmrl.rewards import Sample
from llmrl.rewards.random_walk import RandomWalk, moves_to

FOLDER = Path(__file__).resolve().parent.parent / "llmrl" / "assets" / "random_walks"
NODES = [chr(ord("a") + number) for number in range(21)]
GOAL, END_OF_TEXT, MOVES = "a", "<|endoftext|>", 10
SEED, EDGE_PROBABILITY, FARTHEST = 0, 0.1, 4


def draw_graph(rng: random.Random) -> dict[str, list[str]]:
    """Edges from each node, drawn until every node has a way to the goal."""
    while True:
        edges = {
            node: [other for other in NODES if other != node and node != GOAL and rng.random() < EDGE_PROBABILITY]
            for node in NODES
        }
        moves = moves_to(GOAL, {node: set(targets) for node, targets in edges.items()})
        if len(moves) == len(NODES) - 1 and max(moves.values()) >= FARTHEST:
            return edges


def random_walk(edges: dict[str, list[str]], rng: random.Random) -> list[str]:
    """A start that is not the goal and at most ten uniform moves; what reaches the goal ends with end of text."""
    walk = [rng.choice(NODES[1:])]
    while walk[-1] != GOAL and len(walk) <= MOVES:
        walk.append(rng.choice(edges[walk[-1]]))
    return [*walk, END_OF_TEXT] if walk[-1] == GOAL else walk


def make_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {name: number for number, name in enumerate([*NODES, END_OF_TEXT])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=END_OF_TEXT))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT, clean_up_tokenization_spaces=False)


def train(model: GPT2LMHeadModel, edges: dict[str, list[str]], steps: int, rng: random.Random) -> float:
    """Next-token prediction on fresh walks; the goal's padding is not learned. Returns the mean loss of the last 50 steps."""
    number = {name: place for place, name in enumerate([*NODES, END_OF_TEXT])}
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    losses = []
    for _ in range(steps):
        walks = [random_walk(edges, rng) for _ in range(256)]
        tokens = torch.zeros(256, MOVES + 2, dtype=torch.long)
        mask = torch.zeros(256, MOVES + 2)
        for row, walk in enumerate(walks):
            tokens[row, : len(walk)] = torch.tensor([number[name] for name in walk])
            mask[row, : len(walk)] = 1
        logits = model(tokens[:, :-1]).logits
        each = F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
        loss = (each * mask[:, 1:]).sum() / mask[:, 1:].sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return sum(losses[-50:]) / 50


@torch.no_grad()
def wander(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, reward: RandomWalk, each: int) -> dict[str, float]:
    """What the model's own walks are like: the share without a false move, and their mean reward."""
    starts = [node for node in NODES[1:] for _ in range(each)]
    tokens = torch.tensor([[tokenizer.convert_tokens_to_ids(start)] for start in starts])
    made = model.generate(
        tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=MOVES + 1, do_sample=True, top_k=0,
        pad_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    walks = [[token for token in row if token != END_OF_TEXT] for row in map(tokenizer.convert_ids_to_tokens, made.tolist())]
    valid = sum(all(b in reward.edges[a] for a, b in itertools.pairwise(walk)) for walk in walks)
    scores = reward([Sample(prompt=walk[0], response=" ".join(walk[1:])) for walk in walks])
    return {"valid": valid / len(walks), "reward": sum(scores) / len(scores)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1200)
    args = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # the last digits of the weights depend on it
    rng, began = random.Random(SEED), time.perf_counter()
    edges = draw_graph(rng)
    FOLDER.mkdir(parents=True, exist_ok=True)
    shortest = moves_to(GOAL, {node: set(targets) for node, targets in edges.items()})
    graph = {"goal": GOAL, "seed": SEED, "edges": edges, "shortest": dict(sorted(shortest.items()))}
    (FOLDER / "graph.json").write_text(json.dumps(graph, indent=1) + "\n", encoding="utf-8")
    (FOLDER / "starts.txt").write_text("\n".join(NODES[1:]) + "\n", encoding="utf-8")
    tokenizer = make_tokenizer()
    config = GPT2Config(
        vocab_size=len(NODES) + 1, n_positions=32, n_embd=96, n_layer=3, n_head=4, resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, bos_token_id=len(NODES), eos_token_id=len(NODES),
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    loss = train(model, edges, args.steps, rng)
    model.eval().save_pretrained(FOLDER)
    tokenizer.save_pretrained(FOLDER)
    (FOLDER / "model.safetensors").chmod(0o644)
    figures = wander(model, tokenizer, RandomWalk(), each=200)
    (FOLDER / "README.md").write_text(card(model, edges, shortest, loss, figures), encoding="utf-8")
    print(json.dumps({"loss": loss, **figures, "seconds": round(time.perf_counter() - began)}))


def card(
    model: GPT2LMHeadModel, edges: dict[str, list[str]], shortest: dict[str, int], loss: float, figures: dict[str, float]
) -> str:
    return (
        "# A GPT-2 that wanders through a graph\n\n"
        "Made by `python scripts/pretrain_random_walks.py`, from nothing but its seed; Apache-2.0, as llmrl.\n\n"
        f"{len(NODES)} nodes, {sum(map(len, edges.values()))} edges (`graph.json`); the goal is `{GOAL}`, "
        f"{max(shortest.values())} moves from the farthest start, {sum(shortest.values()) / len(shortest):.2f} on average. "
        f"{model.num_parameters():,} parameters: GPT-2, {model.config.n_layer} layers of {model.config.n_embd}, a token for "
        f"each node and one for the end.\n\nLoss {loss:.3f} nats per token. 200 walks from each start: "
        f"{figures['valid']:.1%} without a move the graph does not have, mean reward {figures['reward']:.3f} "
        "(`reward=random_walk`; a shortest walk has 1).\n"
    )


if __name__ == "__main__":
    main()
