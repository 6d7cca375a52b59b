"""What loads, what is refused, and how it is said."""

import json
import socket
import threading
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertModel, GPT2Config, GPT2LMHeadModel

from llmrl.config import ASSETS, ModelConfig, Precision
from llmrl.errors import UserError
from llmrl.models.load import LanguageModel, load, save
from tests.conftest import Command, refused


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder of random weights with the tiny model's tokenizer."""
    model = GPT2LMHeadModel(GPT2Config(vocab_size=4096, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0))
    save(model, AutoTokenizer.from_pretrained(ASSETS / "tiny"), tmp_path / "model")
    return tmp_path / "model"


def test_the_tiny_model(tiny: LanguageModel) -> None:
    assert tiny.stop_ids == (tiny.tokenizer.eos_token_id,)
    assert tiny.context_length == 512
    assert not tiny.model.training
    assert all(parameter.dtype is torch.float32 for parameter in tiny.model.parameters())
    assert sum(path.stat().st_size for path in (ASSETS / "tiny").iterdir()) <= 16 * 2**20
    for text in ("Hello, world!", " naïve – 日本語 😀\n\n\ttabs", "  two  spaces "):
        ids = tiny.tokenizer(text)["input_ids"]
        assert tiny.tokenizer.decode(ids) == text


def test_a_folder_loads_and_the_vocabulary_is_not_touched(folder: Path) -> None:
    loaded = load(ModelConfig(name_or_path=str(folder)))
    assert loaded.model.get_input_embeddings().weight.shape[0] == 4096
    assert len(loaded.tokenizer) == 4096
    assert loaded.pad_id == 0  # the tokenizer has no pad token, and was given none
    assert loaded.tokenizer.pad_token_id is None


def test_what_is_saved_loads_without_llmrl(tiny: LanguageModel, tmp_path: Path) -> None:
    save(tiny.model, tiny.tokenizer, tmp_path / "final")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "final")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "final")
    batch = tokenizer("Once upon a time", return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, tiny.model(**batch).logits)
    assert not list((tmp_path / "final").glob("*.bin"))


def test_precision_is_as_asked() -> None:
    assert not load(ModelConfig(name_or_path="packaged:tiny", precision=Precision.fp32)).bf16
    assert load(ModelConfig(name_or_path="packaged:tiny", precision=Precision.bf16)).bf16


def test_a_model_without_safetensors_is_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    torch.save({}, folder / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(UserError, match=r"no \.safetensors weights; pickled weights are not read"):
        load(ModelConfig(name_or_path=str(folder)))


def test_code_of_a_model_repository_is_not_run(folder: Path, tmp_path: Path) -> None:
    trace = tmp_path / "it-ran"
    (folder / "evil.py").write_text(f"open({str(trace)!r}, 'w')\nclass C: ...\n", encoding="utf-8")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C"}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UserError, match="could not be loaded"):
        load(ModelConfig(name_or_path=str(folder)))
    assert not trace.exists()


def test_an_encoder_is_refused(folder: Path) -> None:
    BertModel(BertConfig(vocab_size=100, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)).save_pretrained(folder)
    with pytest.raises(UserError, match=r"no causal language model \(BertModel\)"):
        load(ModelConfig(name_or_path=str(folder)))


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"it has no config\.json"):
        load(ModelConfig(name_or_path=str(tmp_path)))
    with pytest.raises(UserError, match="there is no such folder"):
        load(ModelConfig(name_or_path=str(tmp_path / "missing")))


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"not a model")
    with pytest.raises(UserError, match="does not begin with the letters GGUF"):
        load(ModelConfig(name_or_path=str(tmp_path / "model.gguf")))
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\x03\0\0\0")
    with pytest.raises(UserError, match="could not be loaded"):
        load(ModelConfig(name_or_path=str(tmp_path / "cut.gguf")))
    with pytest.raises(UserError, match="there is no such file"):
        load(ModelConfig(name_or_path=str(tmp_path / "missing.gguf")))


@pytest.mark.parametrize("answers", [False, True])
def test_a_hub_out_of_reach_is_said_within_ten_seconds(command: Command, tmp_path: Path, answers: bool) -> None:
    """One hub refuses the connection, the other takes it and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if not answers:
            server.close()
        else:
            threading.Thread(target=lambda: [server.accept() for _ in range(8)], daemon=True).start()
        start = time.perf_counter()
        done = command(
            "train", "model=distilgpt2", "tracker=none", "hydra.run.dir=run",
            env={"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(tmp_path / "hf"), "LLMRL_CACHE": str(tmp_path)},
        )  # fmt: skip
        seconds = time.perf_counter() - start
    line = refused(done)
    assert "'distilbert/distilgpt2' is not in the cache and the hub cannot be reached" in line
    assert "model.name_or_path=FOLDER" in line
    assert "model=tiny" in line
    assert seconds < 12  # ten, and two for a busy machine
    assert not (tmp_path / "run").exists()


@pytest.mark.real_model
def test_gguf_loads_trains_and_saves_as_an_ordinary_model(smollm2_folder: Path, tmp_path: Path) -> None:
    loaded = load(ModelConfig(name_or_path=str(smollm2_folder / "SmolLM2-135M-Instruct.Q4_1.gguf"), precision=Precision.fp32))
    assert loaded.model.num_parameters() == pytest.approx(134.5e6, rel=0.001)
    assert len(loaded.stop_ids) == 2  # <|im_end|> and <|endoftext|>
    batch = loaded.tokenizer("The capital of France is", return_tensors="pt")
    logits = loaded.model(**batch).logits
    assert loaded.tokenizer.decode(logits[0, -1].argmax()) == " Paris"
    logits.logsumexp(-1).mean().backward()
    assert loaded.model.model.embed_tokens.weight.grad.abs().sum() > 0
    save(loaded.model, loaded.tokenizer, tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    with torch.no_grad():
        assert torch.allclose(again(**batch).logits, logits, atol=1e-4)


def test_weights_that_lack_a_tensor_are_refused(folder: Path) -> None:
    """transformers would fill it with random numbers."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["transformer.h.0.attn.c_attn.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lack 1 of the model's tensors .*transformer\.h\.0\.attn\.c_attn\.weight"):
        load(ModelConfig(name_or_path=str(folder)))


def test_an_encoder_with_a_causal_head_is_refused(folder: Path) -> None:
    from transformers import BertLMHeadModel

    config = BertConfig(vocab_size=100, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, is_decoder=False)
    BertLMHeadModel(config).save_pretrained(folder)
    with pytest.raises(UserError, match="no causal language model"):
        load(ModelConfig(name_or_path=str(folder)))


def test_a_model_without_a_key_value_cache_is_refused(folder: Path) -> None:
    from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

    for path in folder.glob("*.safetensors"):
        path.unlink()
    OpenAIGPTLMHeadModel(OpenAIGPTConfig(vocab_size=4096, n_embd=32, n_layer=1, n_head=2)).save_pretrained(folder)
    with pytest.raises(UserError, match="no key-value cache"):
        load(ModelConfig(name_or_path=str(folder)))


def test_saved_weights_are_as_readable_as_the_rest(folder: Path) -> None:
    modes = {path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert len(modes) == 1, modes
