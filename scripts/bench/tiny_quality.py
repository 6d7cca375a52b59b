"""How good the tiny model's English is: perplexity that SmolLM2-135M gives its continuations, against SmolLM2's own.

    python scripts/bench/tiny_quality.py          # writes docs/results/tiny_model.{json,md}, which the model card quotes

200 packaged openings, which neither model was trained on; one continuation of 35 tokens each, temperature 1, full distribution.
A continuation's perplexity is that of its text after its prompt, per SmolLM2 token, in fp32. The ratio of the medians is the
figure; below 1 would mean text that SmolLM2 finds likelier than its own.
"""

import argparse
import hashlib
import json
from pathlib import Path
from statistics import median, quantiles

import torch

from llmrl.config import ModelConfig, Precision, PromptsConfig, RolloutConfig
from llmrl.models.load import LanguageModel, load
from llmrl.prompts import Prompt
from llmrl.prompts.sources import read_prompts
from llmrl.rollout import sample
from llmrl.tracking.run_folder import machine

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
JUDGE = "HuggingFaceTB/SmolLM2-135M-Instruct"


def continuations(language_model: LanguageModel, prompts: list[Prompt], tokens: int, seed: int) -> list[str]:
    generator = torch.Generator().manual_seed(seed)
    texts: list[str] = []
    for start in range(0, len(prompts), 50):
        texts += sample(language_model, prompts[start : start + 50], RolloutConfig(max_new_tokens=tokens), generator).texts
    return texts


@torch.no_grad()
def perplexity(judge: LanguageModel, prompt: str, continuation: str) -> float | None:
    """exp of the mean negative log-probability of the continuation's tokens; None where there is no continuation."""
    before = judge.tokenizer(prompt)["input_ids"]
    both = judge.tokenizer(prompt + continuation)["input_ids"]
    shared = next((i for i, (a, b) in enumerate(zip(before, both, strict=False)) if a != b), min(len(before), len(both)))
    if len(both) <= shared:
        return None
    ids = torch.tensor([both])
    logprobs = judge.model(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
    return float((-logprobs[shared - 1 :].mean()).exp())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="packaged:tiny")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=35)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry", action="store_true", help="print, write nothing")
    args = parser.parse_args()
    openings = sorted(read_prompts(PromptsConfig()), key=lambda prompt: hashlib.sha256(prompt.text.encode()).digest())
    prompts = openings[: args.prompts]
    judge = load(ModelConfig(name_or_path=JUDGE, precision=Precision.fp32))
    tiny = load(ModelConfig(name_or_path=args.model, precision=Precision.fp32))
    found, texts = {}, {}
    for name, model in (("tiny", tiny), ("smollm2", judge)):
        texts[name] = continuations(model, prompts, args.tokens, args.seed)
        scores = [perplexity(judge, p.text, text) for p, text in zip(prompts, texts[name], strict=True)]
        known = [score for score in scores if score is not None]
        low, _, high = quantiles(known, n=4)
        found[name] = {
            "median": round(median(known), 2), "quartiles": [round(low, 2), round(high, 2)],
            "scored": len(known), "empty": len(scores) - len(known),
        }  # fmt: skip
    ratio = found["tiny"]["median"] / found["smollm2"]["median"]
    result = {
        "ratio_of_medians": round(ratio, 2), "perplexity": found, "prompts": len(prompts), "tokens": args.tokens,
        "temperature": 1.0, "seed": args.seed, "machine": machine(), "threads": torch.get_num_threads(),
    }  # fmt: skip
    step = len(prompts) // 10
    examples = [(prompts[i].text, texts["tiny"][i]) for i in range(0, 10 * step, step)]
    print(json.dumps(result, indent=2))
    for prompt, text in examples:
        print(f"- {prompt} |{text}")
    if not args.dry:
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / "tiny_model.json").write_text(
            json.dumps({**result, "examples": examples}, indent=1) + "\n", encoding="utf-8"
        )
        (RESULTS / "tiny_model.md").write_text(render(result, examples), encoding="utf-8")


def render(result: dict, examples: list[tuple[str, str]]) -> str:
    rows = "\n".join(
        f"| {name} | {each['median']} | {each['quartiles'][0]} to {each['quartiles'][1]} | {each['scored']} | {each['empty']} |"
        for name, each in result["perplexity"].items()
    )
    quoted = "\n".join(f"- **{prompt}**{text.replace(chr(10), ' / ')}" for prompt, text in examples)
    return (
        "# The tiny model's English\n\nMade by `python scripts/bench/tiny_quality.py`.\n\n"
        f"{result['prompts']} packaged openings, continuations of {result['tokens']} tokens, temperature 1, full distribution; "
        f"perplexity under SmolLM2-135M-Instruct in fp32.\n\n"
        "| model | median perplexity | quartiles | continuations | ended at once |\n| --- | --- | --- | --- | --- |\n"
        f"{rows}\n\n**Ratio of the medians: {result['ratio_of_medians']}** (bar 8, aim 4).\n\n"
        f"Ten continuations, every {result['prompts'] // 10}th, none picked:\n\n{quoted}\n"
    )


if __name__ == "__main__":
    main()
