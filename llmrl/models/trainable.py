"""Which weights are trained, and the frozen reference that goes with them.

Three ways: every weight, with a frozen copy as the reference; the upper layers, with the lower ones shared by policy and
reference; or low-rank adapters, where the reference is the same model with its adapters off.
"""

import copy
import sys
import warnings
from dataclasses import replace
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from llmrl.engine import lighten
from llmrl.errors import UserError
from llmrl.models.load import LanguageModel


def train_all(language_model: LanguageModel) -> LanguageModel:
    """Every weight of `language_model` is trained. Returns the reference: a frozen copy."""
    reference = language_model.frozen_copy()
    language_model.model.requires_grad_(True)
    return reference


def lightened(reference: LanguageModel, policy: LanguageModel) -> LanguageModel:
    """The reference without the fp32 weights that no pass over it reads; what it shares with the policy stays."""
    lighten(reference.model, reference.bf16, list(policy.model.parameters()))
    return reference


def freeze_trunk(language_model: LanguageModel, layers: int) -> LanguageModel:
    """All but the lowest `layers` layers are trained. Returns the reference, which shares what is frozen with the policy.

    The embeddings are frozen with the trunk, and the output layer too if it is tied to them: trained, it would change what
    enters the trunk, and with it the reference. Raises UserError if the model has no more layers than that.
    """
    model = language_model.model
    model.requires_grad_(True)
    for parameter in frozen_by(language_model, layers):
        parameter.requires_grad_(False)
    shared = {id(parameter): parameter for parameter in model.parameters() if not parameter.requires_grad}
    reference = copy.copy(language_model)
    reference.model = copy.deepcopy(model, shared).eval().requires_grad_(False)
    return reference


def frozen_by(language_model: LanguageModel, layers: int) -> list[nn.Parameter]:
    """The parameters that `freeze_trunk` freezes. Raises UserError if the model has no more layers than that."""
    model = language_model.model
    blocks = _blocks(model)
    if layers >= len(blocks):
        raise UserError(
            f"ppo.frozen_layers={layers} would leave nothing to train: model {language_model.name!r} has {len(blocks)} layers"
        )
    frozen: list[nn.Module] = list(blocks[:layers])
    frozen += [module for module in model.modules() if isinstance(module, nn.Embedding)]
    return [parameter for module in frozen for parameter in module.parameters()]


def add_adapters(language_model: LanguageModel, rank: int, alpha: int, targets: list[str]) -> LanguageModel:
    """Low-rank adapters (Hu et al., LoRA, 2021) are put into the model, and they alone are trained; at first they do nothing.

    Returns the reference: the same weights with the adapters off. Raises UserError if `targets` names no layer of the model.
    """
    from peft import LoraConfig, get_peft_model  # here, as few runs need it and it takes a tenth of a second

    config = LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=targets or "all-linear", lora_dropout=0.0, bias="none", task_type="CAUSAL_LM",
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in language_model.model.modules()),  # GPT-2 stores transposed
    )  # type: ignore[arg-type]  # fmt: skip
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of peft's own use of transformers
            adapted = get_peft_model(language_model.model, config)
    except ValueError as error:
        names = sorted({name.rpartition(".")[2] for name, module in language_model.model.named_modules() if _is_linear(module)})
        raise UserError(
            f"ppo.lora_targets={targets} names no layers of model {language_model.name!r}; it has {', '.join(names)}"
        ) from error
    adapted.eval()
    reference = copy.copy(language_model)
    reference.model = _AdaptersOff(adapted)  # type: ignore[assignment]
    return reference


class _AdaptersOff(nn.Module):
    """What the model computes without its adapters."""

    def __init__(self, adapted: Any) -> None:
        super().__init__()
        self.adapted = adapted

    def forward(self, **inputs: Any) -> Any:
        with self.adapted.disable_adapter():
            return self.adapted.get_base_model()(**inputs)


def merged(language_model: LanguageModel) -> LanguageModel:
    """The model as an ordinary one: itself, or a copy with its adapters added into the weights."""
    if "peft" not in sys.modules:
        return language_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    if not any(isinstance(module, BaseTunerLayer) for module in language_model.model.modules()):
        return language_model
    model = copy.deepcopy(language_model.model)
    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, module.get_base_layer())
    return replace(language_model, model=model)


def _blocks(model: PreTrainedModel) -> nn.ModuleList:
    """The layers, lowest first: the one list of modules that is as long as the config says the model is deep."""
    depth = model.config.get_text_config().num_hidden_layers
    found = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == depth]
    if not found:
        raise UserError(f"the layers of {type(model).__name__} can't be found: ppo.frozen_layers can't be used with it")
    return found[0]


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | Conv1D)
