"""docs/results/speed.md from the figures of speed.json."""

from collections.abc import Iterator, Mapping
from typing import Any

Found = Mapping[str, Any]
GB = 1e9


def render(parts: Found) -> str:
    """Every part that there is, bars first."""
    lines = ["# Speed", "", "Made by `python scripts/bench/speed.py`. Contestants load once and take turns on the same work; the first",
             "round of each is thrown away, and medians of the rounds after it are quoted. GB are 10^9 bytes; memory is the",
             "most the process ever held, its libraries included.", ""]  # fmt: skip
    if "limits" in parts:
        lines += _limits(parts["limits"])
    lines += _bars(parts)
    for name, title in (("seed", "Seed work"), ("smollm2", "SmolLM2 work"), ("long", "Long work")):
        if name in parts:
            lines += _work(name, title, parts)
    if "rollout" in parts:
        lines += _rollout(parts)
    if "scaling" in parts:
        lines += _scaling(parts["scaling"])
    return "\n".join(lines) + "\n"


def _limits(part: Found) -> list[str]:
    found, versions = part["found"], part["versions"]
    return [
        f"{found['processor']} ({', '.join(found['features'])}), {part['machine']['processors']} processors, {found['threads']} threads; "
        f"torch {versions['torch']}, transformers {versions['transformers']}, TRL {versions['trl']}; {part['date']}.",
        f"A matrix product of {found['size']} x {found['size']} reaches {found['fp32_flops'] / 1e9:.0f} GFLOP/s in fp32 and "
        f"{found['bf16_flops'] / 1e9:.0f} in bf16; memory is read at {found['read_bytes_per_s'] / GB:.0f} GB/s and copied at "
        f"{found['copy_bytes_per_s'] / GB:.0f} (read and write together).",
        "",
    ]  # fmt: skip


def update_flops(figures: Found, epochs: int = 4) -> float:
    """Model FLOPs of a round's update: 6 for each weight of a layer and token read, and of the output layer and token predicted.

    Two forward and four backward; attention's own products, norms and the optimiser are not counted.
    """
    trunk = figures["trunk_parameters"] * figures["tokens_read"]
    return 6.0 * epochs * (trunk + figures["head_parameters"] * figures["tokens_predicted"])


def rollout_flops(figures: Found) -> float:
    """Model FLOPs of sampling: 2 for each weight and token, of the output layer for sampled tokens alone."""
    read, made = figures["tokens_read"], figures["tokens_predicted"]
    return 2.0 * (figures["trunk_parameters"] * read + figures["head_parameters"] * made)


def _peak(figures: Found, parts: Found) -> float:
    """FLOP/s of a product in bf16: as measured before the turns of a contestant, or beforehand."""
    return figures.get("peak_flops") or parts.get("limits", {}).get("found", {}).get("bf16_flops", 0.0)


def _in_turn(figures: Found) -> str:
    return f" ({figures['peak_flops'] / 1e9:.0f}, measured before each turn)" if "peak_flops" in figures else ""


def _bars(parts: Found) -> list[str]:
    rows = list(_bar_rows(parts))
    if not rows:
        return []
    return [
        "## Bars", "", "| what | bar | measured | reached |", "| --- | --- | --- | --- |", *rows, "",
        "What is between llmrl and a bar that it does not reach: under each work below, the share of the processor's peak that the "
        "bar would need; of sampling, the shares of peak and bandwidth. At batch 8 llmrl reads its weights at a fraction of the "
        "bandwidth: hundreds of small operations a token, not memory, are the limit there. Memory: the sums are under each "
        "work." + _shares(parts) + _imports(parts), "",
    ]  # fmt: skip


def _shares(parts: Found) -> str:
    """Of the profile, one stage after the other."""
    if "profile" not in parts:
        return ""
    said = []
    for stage in ("update", "rollout"):
        works = [each[stage] for each in parts["profile"]["works"].values()]
        products = [each["kinds"].get("products", 0) / max(each["seconds"], sum(each["kinds"].values())) for each in works]
        said.append(f"{min(products):.0%} to {max(products):.0%} of {'an' if stage == 'update' else 'a'} {stage}'s time")
    return f" By kind of operation, [profile.md](profile.md): products are {' and '.join(said)}."


def _imports(parts: Found) -> str:
    seconds = parts.get("startup", {}).get("found", {}).get("imports_median_s")
    return (
        f" A Python that does nothing but import torch and transformers, in turn with the command, takes {seconds:.1f} s."
        if seconds
        else ""
    )


def _bar(what: str, bar: float, measured: float, unit: str = "x", at_most: bool = False) -> str:
    reached = measured <= bar if at_most else measured >= bar
    shown = f"{measured:.0%}" if unit == "%" else f"{measured:.2f}{unit}"
    wanted = f"{bar:.0%}" if unit == "%" else f"{bar:g}{unit}"
    return f"| {what} | at {'most' if at_most else 'least'} {wanted} | {shown} | {'yes' if reached else 'no'} |"


def _bar_rows(parts: Found) -> Iterator[str]:
    if "seed" in parts:
        found = parts["seed"]["found"]
        own = found["llmrl PPO"]["samples_per_s"]
        yield _bar(
            "seed work, samples/s against TRL 0.11.3 PPO as the original configured it", 8,
            own / found["TRL 0.11.3 PPO, minibatch 1"]["samples_per_s"],
        )  # fmt: skip
        for peer in ("GRPO", "RLOO"):
            best = max(each["samples_per_s"] for name, each in found.items() if peer in name)
            yield _bar(f"seed work, samples/s against TRL 1.16 {peer}, its best precision", 4, own / best)
        full, frozen = found["llmrl PPO"], found["llmrl PPO, 4 of 6 layers frozen"]
        yield _bar(
            "update with two thirds of the layers frozen, against our own full one", 2, full["update_s"] / frozen["update_s"]
        )
    for name in ("seed", "long"):
        if name in parts:
            found = parts[name]["found"]
            share = found["llmrl PPO"]["peak_bytes"] / found["TRL 0.11.3 PPO, minibatch 1"]["peak_bytes"]
            yield _bar(f"{name} work, peak memory against TRL 0.11.3", 0.5, share, at_most=True)
    if "long" in parts and "limits" in parts:
        figures = parts["long"]["found"]["llmrl PPO"]
        share = update_flops(figures) / figures["update_s"] / _peak(figures, parts)
        yield _bar("long work, update's share of the matrix-product peak", 0.5, share, "%")
    for setting, found in parts.get("rollout", {}).get("found", {}).items():
        best = max(each["tokens_per_s"] for name, each in found.items() if name.startswith("generate"))
        for own, how in (("llmrl", ""), ("llmrl, as in training", ", as in training")):
            rate = found[own]["tokens_per_s"]
            yield _bar(f"rollout, tokens/s against `generate`, {setting}{how}", 2 if setting.endswith(" 8") else 3, rate / best)
            for name, each in found.items():
                if name.startswith("vLLM"):
                    yield _bar(f"rollout, tokens/s against vLLM, {setting}{how}", 1, rate / each["tokens_per_s"])
    if "time to reward" in parts:
        seconds = parts["time to reward"]["median_s"]
        yield _bar("time to reward on SmolLM2, median of three seeds", 90, seconds, " s", at_most=True)
    if "gpu" in parts:
        figures = parts["gpu"]["found"]["llmrl PPO"]
        share = update_flops(figures) / figures["update_s"] / _peak(figures, parts)
        yield _bar("on a GPU, 135 M and batch 256, update's share of the matrix-product peak", 0.4, share, "%")
    if "startup" in parts:
        yield _bar("`model=tiny`: command to first finished step", 5, parts["startup"]["found"]["median_s"], " s", at_most=True)


def _work(name: str, title: str, parts: Found) -> list[str]:
    part = parts[name]
    own = part["found"]["llmrl PPO"]["samples_per_s"]
    lines = [
        f"## {title}", "", f"{part['date']}, {part['machine']['processors']} processors. Seconds of a round by stage.", "",
        "| contestant | precision | samples/s | llmrl is faster by | rollout s | experience s | update s | round s (fastest to slowest) | peak GB | rounds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for contestant, figures in part["found"].items():
        cells = [
            contestant, figures["precision"], f"{figures['samples_per_s']:.2f}", f"{own / figures['samples_per_s']:.1f}x",
            *(f"{figures[stage]:.2f}" if stage in figures else "" for stage in ("rollout_s", "experience_s", "update_s")),
            f"{figures['seconds']:.2f} ({figures['fastest_s']:.2f} to {figures['slowest_s']:.2f})",
            f"{figures['peak_bytes'] / GB:.2f}", figures["rounds"],
        ]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    figures = part["found"]["llmrl PPO"]
    if "note" in part:
        lines += ["", part["note"]]
    if peak := _peak(figures, parts):
        update, rollout = update_flops(figures) / figures["update_s"], rollout_flops(figures) / figures["rollout_s"]
        lines += [
            "",
            f"llmrl's update makes {update / 1e9:.0f} GFLOP/s, {update / peak:.0%} of the bf16 peak{_in_turn(figures)}; its rollout "
            f"{rollout / 1e9:.0f}, {rollout / peak:.0%}. Counted: 2 for each weight and token going forward, 4 going backward; "
            "attention's own products and the optimiser are not.",
            "",
            _what_limits(figures, part["found"], peak),
        ]  # fmt: skip
    return [*lines, ""]


def _what_limits(figures: Found, found: Found, peak: float) -> str:
    """What a round can't do without, at the measured peak; and what memory it can't do without."""
    scored = 2 * rollout_flops(figures)  # policy and reference read the batch once each
    total = update_flops(figures) + scored + rollout_flops(figures)
    bound = total / peak
    text = (
        f"A round's products are {total / 1e12:.2f} TFLOP, {bound:.2f} s at the peak; llmrl takes {figures['seconds']:.2f} s, "
        f"{bound / figures['seconds']:.0%} of the peak from end to end."
    )
    for peer, times in (("TRL 0.11.3 PPO, minibatch 1", 8), ("TRL 1.16 GRPO, bf16", 4), ("TRL 1.16 RLOO, bf16", 4)):
        if peer in found:
            needed = found[peer]["seconds"] / times
            text += f" {times} times {peer} would be {needed:.2f} s, {bound / needed:.0%} of the peak throughout."
    parameters = figures["trunk_parameters"] + figures["head_parameters"]
    text += (
        f" Memory: weights and both of Adam's moments in fp32 are {12 * parameters / GB:.2f} GB, the bf16 copy, its gradient and the "
        f"reference {6 * parameters / GB:.2f} GB, the libraries about 0.4 GB: {18 * parameters / GB + 0.4:.2f} GB of the "
        f"{figures['peak_bytes'] / GB:.2f}; the rest is what the layers keep of a minibatch for the backward pass "
        "(`ppo.micro_batch_size` makes it smaller) and what glibc keeps."
    )
    return text


def _rollout(parts: Found) -> list[str]:
    part, limits = parts["rollout"], parts.get("limits", {}).get("found")
    sizes = {
        title: parts[work]["found"]["llmrl PPO"]["trunk_parameters"] + parts[work]["found"]["llmrl PPO"]["head_parameters"]
        for title, work in (("distilgpt2 shape", "seed"), ("SmolLM2-135M", "smollm2")) if work in parts
    }  # fmt: skip
    lines = [
        "## Sampling alone", "", f"{part['date']}. 35 new tokens, full distribution; tokens per second, and "
        "what each needs before its first. All rows have the same prompt, and the weights stay as they are: llmrl reads the prompt once "
        "and lays the weights out once. As in training, each row has its own prompt, and the weights are new in every round; the others have one prompt and the same weights here, too. Of the peak: 2 products a weight and "
        "token, against the measured peak of bf16; of the bandwidth: all weights once a token step, against what was measured for reading.", "",
        "| model, batch | contestant | tokens/s | llmrl is faster by | of the peak | of the bandwidth | load s | peak GB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for setting, found in part["found"].items():
        for name, each in found.items():
            ratio, rate = found["llmrl"]["tokens_per_s"] / each["tokens_per_s"], each["tokens_per_s"]
            model, _, batch = setting.partition(", batch ")
            shares = "| | "
            if limits and model in sizes:
                width = 4 if "fp32" in name else 2
                read = rate / int(batch) * width * sizes[model] / limits["read_bytes_per_s"]
                peak = limits["fp32_flops"] if "fp32" in name else _peak(each, parts)
                shares = f"| {2 * rate * sizes[model] / peak:.0%} | {read:.0%} "
            lines.append(
                f"| {setting} | {name} | {rate:.0f} | {ratio:.2f}x {shares}| {each['load_s']:.0f} | {each['peak_bytes'] / GB:.2f} |"
            )
    return [*lines, ""]


def _scaling(part: Found) -> list[str]:
    lines = [
        "## Scaling", "", f"{part['date']}. llmrl PPO, four epochs, minibatches of at most 16, exact lengths; one round after the first.",
        "", "| model | batch | new tokens | samples/s | tokens/s | rollout s | update s | peak GB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for point, each in part["found"].items():
        model, batch, length = point.split("|")
        lines.append(
            f"| {model} | {batch} | {length} | {each['samples_per_s']:.2f} | {each['samples_per_s'] * int(length):.0f} | "
            f"{each['rollout_s']:.2f} | {each['update_s']:.2f} | {each['peak_bytes'] / GB:.2f} |"
        )
    return [*lines, ""]
