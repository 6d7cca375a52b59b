"""Make the tiny model that ships in `llmrl/assets/tiny`, from text to model card.

    python scripts/pretrain_tiny.py train                       # about an hour on two cores
    python scripts/pretrain_tiny.py sample --teacher FOLDER     # more text of the same kind, if wanted

`train` learns a byte-level BPE vocabulary and a GPT-2 of 7.5 million parameters from
`scripts/data/simple-english.jsonl.gz`. Two texts in a hundred, chosen by their hash, are never trained on; the loss on them is
what the model card reports. Matrices of the trunk are optimised by Muon (https://kellerjordan.github.io/posts/muon/), which
gets further than AdamW per pass over a small corpus; everything else by AdamW.
"""

import argparse
import ctypes
import gzip
import hashlib
import json
import math
import random
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

HERE = Path(__file__).resolve().parent
TEXT = HERE / "data" / "simple-english.jsonl.gz"
TINY = HERE.parent / "llmrl" / "assets" / "tiny"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
END_OF_TEXT = "<|endoftext|>"


def read_texts(paths: list[Path]) -> tuple[list[str], list[str]]:
    """(train, held-out) texts of gzipped JSON lines; a text's own hash decides its side, whatever order the files come in."""
    train, held_out = [], []
    for path in paths:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                text = json.loads(line)
                side = held_out if int(hashlib.sha256(text.encode()).hexdigest(), 16) % 50 == 0 else train
                side.append(text)
    return train, held_out


def learn_vocabulary(texts: list[str], size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE: any string can be encoded, and decoding gives it back exactly."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def pack(documents: list[torch.Tensor], length: int, rng: random.Random) -> torch.Tensor:
    """[rows, length + 1] of the documents in a fresh order and from a fresh offset, so that no two passes cut alike."""
    order = rng.sample(range(len(documents)), len(documents))
    stream = torch.cat([documents[i] for i in order])
    stream = stream[rng.randrange(length) :]
    rows = (len(stream) - 1) // length
    return stream[: rows * length + 1].unfold(0, length + 1, length)


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[torch.Tensor]:
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [torch.tensor([tokenizer.eos_token_id, *row]) for row in ids]


def build_optimizers(model: GPT2LMHeadModel, lr: float) -> list[torch.optim.Optimizer]:
    trunk = [p for n, p in model.named_parameters() if p.ndim == 2 and ".h." in n]
    rest = [p for n, p in model.named_parameters() if not (p.ndim == 2 and ".h." in n)]
    return [
        torch.optim.Muon(trunk, lr=lr, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def token_loss(model: torch.nn.Module, rows: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy in nats per token; products in bf16, the softmax in fp32."""
    rows = rows.to(DEVICE)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        logits = model(input_ids=rows[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())


def accumulate(model: GPT2LMHeadModel, batch: torch.Tensor) -> float:
    """Add the batch's gradient, 2,048 tokens at a time so that activations stay small; its mean loss."""
    loss = 0.0
    for part in batch.split(2048 // (batch.shape[1] - 1)):
        part_loss = token_loss(model, part) * (len(part) / len(batch))
        part_loss.backward()
        loss += part_loss.item()
    return loss


@torch.no_grad()
def held_out_loss(model: GPT2LMHeadModel, rows: torch.Tensor) -> float:
    model.eval()
    loss = sum(token_loss(model, part).item() * len(part) for part in rows.split(8)) / len(rows)
    model.train()
    return loss


def keep_freed_memory() -> None:
    """Tell glibc to reuse the memory of activations: handing it back and faulting it in anew costs a third of the time."""
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD, its upper limit
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
    except (OSError, AttributeError):
        pass  # not glibc: slower, nothing else


def train(args: argparse.Namespace) -> None:
    keep_freed_memory()
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    train_texts, held_out_texts = read_texts(args.text)
    tokenizer = learn_vocabulary(train_texts, args.vocabulary)
    documents = encode(tokenizer, train_texts)
    held_out = pack(encode(tokenizer, held_out_texts), args.length, random.Random(0))
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=512, n_embd=args.width, n_layer=args.layers, n_head=args.width // 64,
        bos_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, activation_function="gelu_pytorch_tanh",
        attn_implementation="eager",  # faster than the fused kernel at this width on a CPU
    )  # fmt: skip
    model = GPT2LMHeadModel(config).to(DEVICE)
    optimizers = build_optimizers(model, args.lr)
    tokens = sum(map(len, documents))
    steps = math.ceil(args.passes * tokens / (args.batch * args.length))
    print(f"{model.num_parameters() / 1e6:.2f} M parameters, {tokens / 1e6:.2f} M tokens, {steps} steps", flush=True)
    rows, row, start, running = pack(documents, args.length, rng), 0, time.perf_counter(), []
    for step in range(steps):
        # The last passes see rows twice as long, so that every position the model has is trained.
        length = args.length if step < 0.85 * steps else 2 * args.length
        batch_rows = args.batch * args.length // length
        if row + batch_rows > len(rows) or rows.shape[1] != length + 1:
            rows, row = pack(documents, length, rng), 0
        batch, row = rows[row : row + batch_rows], row + batch_rows
        loss = accumulate(model, batch)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        # Warm up for 2 % of the steps, hold, and fall linearly to zero over the last 60 %.
        factor = min(1.0, (step + 1) / (0.02 * steps), (steps - step) / (0.6 * steps))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = args.lr * factor
            optimizer.step()
            optimizer.zero_grad()
        running.append(loss)
        if (step + 1) % 100 == 0 or step + 1 == steps:
            seen = (step + 1) * args.batch * args.length
            report(step + 1, steps, seen, tokens, running, held_out_loss(model, held_out), start)
            running = []
        if (step + 1) % 500 == 0:
            save(model, tokenizer, args.out)
    save(model, tokenizer, args.out)
    record = {
        "parameters": model.num_parameters(),
        "texts": len(train_texts),
        "tokens": tokens,
        "passes": args.passes,
        "steps": steps,
        "tokens_per_step": args.batch * args.length,
        "learning_rate": args.lr,
        "seed": args.seed,
        **held_out_figures(model, tokenizer, held_out_texts, held_out),
        "seconds": round(time.perf_counter() - start),
        "device": DEVICE,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    (args.out / "training.json").write_text(json.dumps(record, indent=2) + "\n")


def held_out_figures(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, texts: list[str], rows: torch.Tensor
) -> dict[str, float]:
    """What the model card says of texts that were never trained on."""
    tokens = sum(map(len, encode(tokenizer, texts)))
    return {
        "held_out_texts": len(texts),
        "held_out_loss_nats_per_token": round(held_out_loss(model, rows), 4),
        "held_out_bytes_per_token": round(sum(len(text.encode()) for text in texts) / tokens, 3),
    }


def report(step: int, steps: int, seen: int, tokens: int, losses: list[float], held_out: float, start: float) -> None:
    elapsed = time.perf_counter() - start
    print(
        f"step {step}/{steps} pass {seen / tokens:.2f} loss {sum(losses) / len(losses):.3f} held-out {held_out:.3f} "
        f"{seen / elapsed:.0f} tokens/s {elapsed:.0f} s",
        flush=True,
    )


def save(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Weights in bf16: half the bytes, and rounding them moves the held-out loss in the fourth digit only."""
    weights = {name: value.to("cpu", torch.bfloat16) for name, value in model.state_dict().items()}
    copy = GPT2LMHeadModel(model.config).to(torch.bfloat16)
    copy.load_state_dict(weights)
    copy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


CHARACTERS = "child farmer baker sailor teacher fox bear owl robot king queen rabbit dragon nurse painter".split()
PLACES = "forest village harbour desert mountain kitchen school garden island station library market".split()
THINGS = "key lamp letter kite boat drum coin map cake clock bell mirror book seed".split()
TOPICS = "rain sleep money music trees bread honesty the moon bees courage light paper rivers memory friendship salt".split()
FORMS = [
    "Write a short story about a {character} in a {place}.",
    "Tell a story about a {character} who finds a {thing}.",
    "Write a diary entry of a {character} who lost a {thing}.",
    "Explain {topic} in simple words.",
    "Why does {topic} matter? Answer in a few sentences.",
    "Give some friendly advice about {topic}.",
    "Write a conversation between a {character} and a {other}.",
    "Describe a {place} in the morning.",
    "What would a {character} say about {topic}?",
    "Write a short letter from a {character} to a {other}.",
]


@torch.no_grad()
def sample(args: argparse.Namespace) -> None:
    """Ask an instruction-tuned teacher for short texts: random words in ten forms, kept if plain, whole and not looping."""
    rng = random.Random(args.seed)
    torch.manual_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.teacher, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    teacher = AutoModelForCausalLM.from_pretrained(args.teacher, dtype=torch.bfloat16).eval().to(DEVICE)
    kept, openings = 0, set()
    with gzip.open(args.out, "at", encoding="utf-8") as out:
        while kept < args.texts:
            asked = [
                rng.choice(FORMS).format(
                    character=rng.choice(CHARACTERS), other=rng.choice(CHARACTERS), place=rng.choice(PLACES),
                    thing=rng.choice(THINGS), topic=rng.choice(TOPICS),
                )
                for _ in range(64)
            ]  # fmt: skip
            chats = [
                tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
                for text in asked
            ]
            batch = tokenizer(chats, return_tensors="pt", padding=True, add_special_tokens=False).to(DEVICE)
            output = teacher.generate(
                **batch, do_sample=True, temperature=0.8, top_k=60, max_new_tokens=180, pad_token_id=tokenizer.pad_token_id
            )
            for text in tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True):
                text = clean(text)
                if text and text[:40] not in openings:
                    openings.add(text[:40])
                    out.write(json.dumps(text) + "\n")
                    kept += 1
            print(f"{kept} texts", flush=True)


def clean(text: str) -> str | None:
    """The text cut after its last full sentence, or None if it has markup, non-ASCII, talk of assistants, or repeats itself."""
    for curly, plain in (("’", "'"), ("‘", "'"), ("“", '"'), ("”", '"'), ("–", "-"), ("—", " - ")):
        text = text.replace(curly, plain)
    text = text[: max(text.rfind(mark) for mark in ".!?") + 1].strip()
    words = text.lower().split()
    fours = list(zip(words, words[1:], words[2:], words[3:], strict=False))
    if len(words) < 8 or not text.isascii() or any(mark in text for mark in ("**", "http", "```", "<", "#", "[", " AI ")):
        return None
    return text if len(set(fours)) > 0.9 * len(fours) else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    training = commands.add_parser("train", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    training.add_argument("--text", type=Path, nargs="+", default=[TEXT], help="gzipped JSON lines, one string a line")
    training.add_argument("--out", type=Path, default=TINY)
    training.add_argument("--vocabulary", type=int, default=4096)
    training.add_argument("--width", type=int, default=320)
    training.add_argument("--layers", type=int, default=5)
    training.add_argument("--length", type=int, default=256, help="tokens in a row")
    training.add_argument("--batch", type=int, default=32, help="rows in a step")
    training.add_argument("--passes", type=float, default=7)
    training.add_argument("--lr", type=float, default=3e-3)
    training.add_argument("--seed", type=int, default=0)
    training.set_defaults(run=train)
    sampling = commands.add_parser("sample", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    sampling.add_argument("--teacher", required=True, help="an instruction-tuned model whose output may be redistributed")
    sampling.add_argument("--out", type=Path, default=Path("simple-english-more.jsonl.gz"))
    sampling.add_argument("--texts", type=int, default=1000)
    sampling.add_argument("--seed", type=int, default=0)
    sampling.set_defaults(run=sample)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
