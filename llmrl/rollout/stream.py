"""Text as it is sampled."""

from collections.abc import Callable

import torch

from llmrl.models.load import LanguageModel


def as_it_comes(language_model: LanguageModel, on_text: Callable[[str], None]) -> Callable[[torch.Tensor], None]:
    """What `sample` may tell its tokens to, for one prompt: characters that are not whole yet wait for their last byte."""
    made: list[int] = []
    shown = ""

    def show(tokens: torch.Tensor) -> None:
        nonlocal shown
        token = int(tokens[0])
        if token not in language_model.stop_ids:
            made.append(token)
        text = str(language_model.tokenizer.decode(made, skip_special_tokens=False))
        if not text.endswith("\ufffd"):
            on_text(text[len(shown) :])
            shown = text

    return show
