"""One generic registry; the rooms that own the things registered make their own instance of it."""

import difflib
import importlib
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from typing import Any, Generic, TypeVar, cast

from llmrl.errors import UserError

T = TypeVar("T")


def did_you_mean(name: str, known: Mapping[str, object] | list[str]) -> str:
    """A clause that names the nearest of the known names, and all of them when they are few; empty when there are none."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"{hint} Known: {', '.join(names)}" if 0 < len(names) <= (8 if near else 30) else hint


class Registry(Generic[T]):
    """Names to things, each with one line of meaning.

    A target may be the thing itself or the string `module:attribute`, imported on first use, so that listing what exists never
    loads torch. Names registered by installed packages under the entry point group `llmrl.<plural>` are found on first miss.
    """

    def __init__(self, kind: str, plural: str) -> None:
        self.kind = kind
        self.plural = plural
        self._targets: dict[str, T | str] = {}
        self._summaries: dict[str, str] = {}
        self._plugins_loaded = False

    def register(self, name: str, target: T | str, summary: str) -> None:
        """Raises ValueError if the name is taken by something else: silently replacing a thing hides bugs."""
        if name in self._targets and self._targets[name] is not target:
            raise ValueError(f"{self.kind} {name!r} is registered twice: {self._targets[name]!r} and {target!r}")
        self._targets[name] = target
        self._summaries[name] = summary

    def load_plugins(self) -> None:
        """Import the modules that installed packages name under the group `llmrl.<plural>`; importing registers."""
        if self._plugins_loaded:
            return
        self._plugins_loaded = True
        for point in metadata.entry_points(group=f"llmrl.{self.plural}"):
            try:
                point.load()
            except Exception as error:  # somebody else's package: name it instead of dying without a clue
                raise UserError(f"{self.kind} plug-in {point.name!r} ({point.value}) could not be imported: {error}") from error

    def check(self, name: str) -> None:
        """Raises UserError, with the nearest name, if there is none such; imports nothing of ours."""
        if name not in self._targets:
            self.load_plugins()
        if name not in self._targets:
            raise UserError(f"there is no {self.kind} {name!r}{did_you_mean(name, self._targets)}")

    def get(self, name: str) -> T:
        """The thing of that name, imported if need be. Raises UserError, with the nearest name, if there is none such."""
        self.check(name)
        target = self._targets[name]
        if isinstance(target, str):
            module, _, attribute = target.partition(":")
            target = cast(T, getattr(importlib.import_module(module), attribute))
            self._targets[name] = target
        return cast(T, target)

    def summaries(self) -> dict[str, str]:
        """Name to its one line, sorted by name."""
        self.load_plugins()
        return dict(sorted(self._summaries.items()))

    def __contains__(self, name: str) -> bool:
        return name in self._targets

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._targets))


TRAINERS: Registry[Callable[..., Any]] = Registry("trainer", "trainers")
RETRIEVERS: Registry[Callable[..., Any]] = Registry("retriever", "retrievers")
REWARDS: Registry[Callable[..., Any]] = Registry("reward", "rewards")

TRAINERS.register("ppo", "llmrl.ppo.trainer:PPOTrainer", "proximal policy optimisation with a value head and per-token KL")
TRAINERS.register("grpo", "llmrl.trainers.grpo:GRPO", "group relative policy optimisation, by TRL")
TRAINERS.register("rloo", "llmrl.trainers.rloo:RLOO", "REINFORCE leave-one-out, by TRL")
TRAINERS.register("sft", "llmrl.trainers.sft:SFT", "supervised fine-tuning on answers, by TRL")
RETRIEVERS.register("none", "llmrl.config:RetrieverConfig", "no retrieval: the prompt stands alone")
RETRIEVERS.register("auto", "llmrl.config:RetrieverConfig", "what the index was made for")
RETRIEVERS.register("dense", "llmrl.retrieval.retrievers:Dense", "by the cosine of an embedder's vectors")
RETRIEVERS.register("bm25", "llmrl.retrieval.retrievers:BM25", "by the words that question and chunk share; needs no model")
RETRIEVERS.register("hybrid", "llmrl.retrieval.retrievers:Hybrid", "by vectors and words together")
RETRIEVERS.register(
    "qdrant", "llmrl.retrieval.qdrant:Qdrant", "by the cosine, found by a Qdrant server, or in memory to try it"
)
