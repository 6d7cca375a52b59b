"""Passes over a language model, as fast as the processor allows: for learning over packed batches, for sampling by a cache."""

from llmrl.engine.decode import Decoder
from llmrl.engine.engine import Engine, engine_of, lighten
from llmrl.engine.head import Objective
from llmrl.engine.memory import give_back_memory, keep_freed_memory
from llmrl.engine.packing import Lower, Packed, pack
from llmrl.engine.prepacked import can_prepack, prepack_linears
from llmrl.engine.weights import Weight, has_changed

__all__ = [
    "Decoder",
    "Engine",
    "Lower",
    "Objective",
    "Packed",
    "Weight",
    "can_prepack",
    "engine_of",
    "give_back_memory",
    "has_changed",
    "keep_freed_memory",
    "lighten",
    "pack",
    "prepack_linears",
]
