"""A model lent to TRL: what it must be for TRL to learn rightly, and how it comes back."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from llmrl.models.load import LanguageModel
from llmrl.models.policy import position_ids


@contextmanager
def lent(language_model: LanguageModel) -> Iterator[None]:
    """The model as TRL is to have it, dropout off and positions counted; afterwards it is as it was but for its weights.

    TRL, transformers and accelerate change its config, its generation config, its tokenizer's padding and its forward method;
    all of that would be saved with it, and be in the way of the final comparison.
    """
    model, tokenizer = language_model.model.requires_grad_(True), language_model.tokenizer
    kept = [(each, dict(vars(each))) for each in (model.config, model.generation_config) if each is not None]
    pad, end, dropouts = tokenizer.pad_token, tokenizer.eos_token, list(_dropouts(model))
    if end is None and language_model.stop_ids:  # as of many GGUF files; TRL can do without neither
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(language_model.stop_ids[0])
    if pad is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(language_model.pad_id)
    hook = model.register_forward_pre_hook(count_positions, with_kwargs=True)
    for module, name, _ in dropouts:
        setattr(module, name, 0.0)
    try:
        yield
    finally:
        hook.remove()
        for module, name, share in dropouts:
            setattr(module, name, share)
        for name in ("forward", "_original_forward"):
            vars(model).pop(name, None)  # the class's own shows again
        for each, before in kept:
            vars(each).clear()
            vars(each).update(before)
        tokenizer.pad_token, tokenizer.eos_token = pad, end
        model.eval()
        language_model.has_changed()


def count_positions(model: nn.Module, arguments: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A hook before the forward pass: positions count real tokens only, so that TRL's left padding changes nothing.

    TRL names no positions, and a model with absolute ones, such as GPT-2, would then count the padding.
    """
    mask = named.get("attention_mask")
    if mask is not None and mask.dim() == 2 and named.get("position_ids") is None and named.get("past_key_values") is None:
        named["position_ids"] = position_ids(mask)
    return arguments, named


count_positions.engine_does_too = True  # type: ignore[attr-defined]


def _dropouts(model: nn.Module) -> Iterator[tuple[nn.Module, str, float]]:
    """(module, attribute, share) of every dropout: TRL trains in training mode, and GRPO and RLOO sample in it, too."""
    for module in model.modules():
        for name in ("p",) if isinstance(module, nn.Dropout) else ("attention_dropout",):  # a number in Llama's kin
            if isinstance(share := getattr(module, name, None), float):
                yield module, name, share
