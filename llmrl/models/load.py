"""Load any causal language model: packaged, from the hub or its cache, a folder, a GGUF file, or a run folder.

No code from a model repository is run and no pickle is read: safetensors and GGUF only.
"""

import contextlib
import copy
import hashlib
import inspect
import io
import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from llmrl.config import Device, ModelConfig, Precision
from llmrl.engine import Engine, engine_of, has_changed, keep_freed_memory
from llmrl.errors import UserError, one_line
from llmrl.models.places import locate

transformers_logging.disable_progress_bar()  # a run has one progress bar, its own
transformers_logging.set_verbosity_error()


@dataclass
class LanguageModel:
    """A causal language model with what is needed to sample from it and to train it."""

    model: PreTrainedModel  # weights in fp32; of a reference in the precision that its passes read
    tokenizer: PreTrainedTokenizerBase
    name: str  # as the person wrote it
    source: str  # the folder or file the weights came from
    device: torch.device
    bf16: bool  # matrix products in bf16
    stop_ids: tuple[int, ...]  # tokens that end a text
    context_length: int | None  # tokens, prompt and response together; None where the model states no limit

    @property
    def pad_id(self) -> int:
        """Fills the rows of a batch to one length. Masked everywhere, so any token serves and the vocabulary is not touched."""
        pad = self.tokenizer.pad_token_id
        return pad if isinstance(pad, int) else 0

    def autocast(self) -> AbstractContextManager[Any]:
        """Matrix products in the model's precision inside this context."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if self.bf16 else nullcontext()

    @property
    def engine(self) -> Engine | None:
        """What computes passes over this model faster than its own forward pass, where its architecture is known to it."""
        return engine_of(self.model, self.bf16)

    def has_changed(self) -> None:
        """To be called when somebody else's optimiser has changed the weights: torch does not count all of their ways."""
        has_changed(self.model.parameters())

    def frozen_copy(self) -> "LanguageModel":
        """A copy with weights of its own that are never trained: the reference."""
        twin = copy.copy(self)
        twin.model = copy.deepcopy(self.model).eval().requires_grad_(False)
        return twin


def load(config: ModelConfig) -> LanguageModel:
    """Load a model and its tokenizer as `config` says, weights in fp32, dropout off. Raises UserError in one line."""
    device = choose_device(config.device)
    source = locate(config)
    if device.type == "cpu":
        keep_freed_memory()
    try:
        if source.suffix == ".gguf":
            model, tokenizer = _load_gguf(source)
        else:
            model, tokenizer = _load_folder(source)
    except UserError:
        raise
    except Exception as error:  # a damaged file breaks its parser in any way it likes
        raise UserError(
            f"model {config.name_or_path!r} could not be loaded: {type(error).__name__}: {one_line(error)[:300]}"
        ) from error
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        raise UserError(f"model {config.name_or_path!r} ({type(model).__name__}) has no key-value cache, which sampling needs")
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:  # type: ignore[union-attr]
        raise UserError(
            f"model {config.name_or_path!r}: its tokenizer has {len(tokenizer)} tokens, the model only "
            f"{model.get_input_embeddings().weight.shape[0]}"  # type: ignore[union-attr]
        )
    tokenizer.padding_side = "left"
    return LanguageModel(
        model=model.eval().to(device),  # type: ignore[arg-type]
        tokenizer=tokenizer,
        name=config.name_or_path,
        source=str(source),
        device=device,
        bf16=choose_bf16(config.precision, device),
        stop_ids=_stop_ids(model, tokenizer),
        context_length=getattr(model.config, "max_position_embeddings", None),
    )


def choose_device(device: Device) -> torch.device:
    if device is Device.cuda and not torch.cuda.is_available():
        raise UserError("model.device=cuda, but torch sees no CUDA device; use model.device=auto")
    return torch.device("cuda" if device is not Device.cpu and torch.cuda.is_available() else "cpu")


def choose_bf16(precision: Precision, device: torch.device) -> bool:
    """Whether products run in bf16: as asked, or where the processor multiplies bf16 in hardware."""
    if precision is not Precision.auto:
        return precision is Precision.bf16
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))


def _load_folder(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    _refuse_unfit(config, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model, found = AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, output_loading_info=True
    )  # type: ignore[misc]
    if missing := sorted(found["missing_keys"]) or sorted(map(str, found["mismatched_keys"])):
        raise UserError(
            f"model {str(folder)!r}: its weights lack {len(missing)} of the model's tensors or have them in another shape "
            f"(first: {missing[0]}); they would have been random"
        )
    return model, tokenizer


ENCODERS = {"albert", "bert", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert", "modernbert", "rembert",
            "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta", "xlm-roberta-xl", "xmod"}  # fmt: skip
"""Families that have a causal class, too, which attends to both sides unless the config says is_decoder."""


def _refuse_unfit(config: Any, folder: Path) -> None:
    """Encoders load as causal models without a word and write nonsense."""
    architectures = config.architectures or [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type, "")]
    causal = any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures) and (
        config.model_type not in ENCODERS or getattr(config, "is_decoder", False)
    )
    if config.is_encoder_decoder or not causal:
        kind = "an encoder-decoder" if config.is_encoder_decoder else "no causal language model"
        raise UserError(
            f"model {str(folder)!r} is {kind} ({', '.join(architectures) or config.model_type}); llmrl trains causal language "
            "models, such as GPT-2, Llama or Qwen"
        )


def _load_gguf(path: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """De-quantise, then rebuild as an ordinary model: one that remembers its GGUF origin refuses to be saved."""
    with contextlib.redirect_stderr(io.StringIO()):  # the converter's own progress bars
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, trust_remote_code=False)
        read = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    settings = read.config.to_dict()
    settings.pop("quantization_config", None)
    config = type(read.config).from_dict(settings)
    model = type(read)(config)
    model.load_state_dict(read.state_dict())
    if read.generation_config is not None:
        model.generation_config = read.generation_config
    return model, tokenizer


def _stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Every token that model or tokenizer says ends a text."""
    found: set[int] = set()
    generation = getattr(model, "generation_config", None)
    for value in (tokenizer.eos_token_id, model.config.eos_token_id, getattr(generation, "eos_token_id", None)):
        found |= {token for token in (value if isinstance(value, list | tuple) else [value]) if isinstance(token, int)}
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    if isinstance(end, int) and tokenizer.convert_ids_to_tokens(end) == "<|endoftext|>":
        found.add(end)
    size = model.get_input_embeddings().weight.shape[0]  # type: ignore[union-attr]
    return tuple(sorted(token for token in found if 0 <= token < size))


def fingerprint(model: PreTrainedModel) -> str:
    """SHA-256 of all weights, in the order of their names: the same model, the same letters."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a folder that plain `AutoModelForCausalLM.from_pretrained` loads: safetensors, fp32, tokenizer beside it."""
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    readable = (folder / "config.json").stat().st_mode  # safetensors makes its files readable to their owner alone
    for path in folder.glob("*.safetensors"):
        path.chmod(readable)
