"""The work that contestants do. Imported in the peers' environments, too: the standard library alone.

The seed work is what the original system did: a distilgpt2-shaped model, eight prompts of 3 to 12 tokens, exactly 35 new tokens
each sampled with top-k 50 and top-p 0.95, a KL term against a frozen reference, four passes of updates over the samples.
"""

from dataclasses import dataclass

PROMPTS = (
    "The capital of a country is", "Rain falls when", "The largest animal in the sea is",
    "Bread rises because of the yeast that", "Why is grass green", "A long time ago, near a quiet river, there lived",
    "Early in the morning, a traveller found", "My favourite season is",
)  # fmt: skip


@dataclass(frozen=True)
class Work:
    batch: int
    minibatch: int
    new_tokens: int
    epochs: int = 4
    top_k: int = 0
    top_p: float = 1.0
    prompt_tokens: int | None = None  # exactly so many, where the short prompts above are not used

    def prompts(self) -> list[str]:
        return [PROMPTS[number % len(PROMPTS)] for number in range(self.batch)]


WORKS = {
    "seed": Work(batch=8, minibatch=8, new_tokens=35, top_k=50, top_p=0.95),
    "smollm2": Work(batch=32, minibatch=16, new_tokens=35),
    "long": Work(batch=32, minibatch=16, new_tokens=128, prompt_tokens=64),
}
