"""What parity.py compares: quantities with their tolerances, and the rows of its tables with the causes of what differs.

Sources are those of TRL 0.11.3 (`trl/`) and transformers 4.46.3.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Quantity:
    """A tensor or number that both sides work out."""

    label: str
    unit: str
    tolerance: float  # largest absolute difference that is rounding, in the unit
    relative: bool = True  # whether a relative difference says something: not of what is 0 but for rounding


@dataclass(frozen=True)
class Row:
    """One comparison. `ours` names a variant of llmrl, or a peer that is itself compared to `peer`."""

    quantity: str
    ours: str = "llmrl"
    peer: str = "TRL, right"
    differs: bool = False  # whether a difference is expected
    ours_quantity: str | None = None  # where it is stored under another name


@dataclass(frozen=True)
class Section:
    title: str
    text: str  # the cause, if there is something to explain
    rows: tuple[Row, ...]


QUANTITIES = {
    "logprobs": Quantity("log-probability", "nats", 2e-5),
    "reference_logprobs": Quantity("log-probability, reference", "nats", 2e-5),
    "values": Quantity("value", "reward", 1e-5),
    "kl": Quantity("KL of a token", "nats", 2e-5),
    "rewards": Quantity("reward of a token", "reward", 1e-5),
    "returns": Quantity("return", "reward", 1e-5),
    "advantages": Quantity("advantage, whitened", "deviations", 1e-5),
    "entropy": Quantity("entropy, mean", "nats", 1e-5),
    "policy_loss": Quantity("policy loss, ratio 1", "deviations", 1e-6, relative=False),
    "value_loss": Quantity("value loss", "reward²", 5e-6),
    "moved.policy_loss": Quantity("policy loss, log-probabilities moved", "deviations", 1e-6),
    "moved.policy_clipfrac": Quantity("share clipped, log-probabilities moved", "", 1e-6),
    "moved.approx_kl": Quantity("approximate KL, log-probabilities moved", "nats", 1e-6),
    "moved.value_loss": Quantity("value loss, values moved", "reward²", 5e-6),
    "moved.value_clipfrac": Quantity("share clipped, values moved", "", 1e-6),
    "one.gradient": Quantity("gradient of the first step, clipped", "", 3e-7),
    "one.change": Quantity("change of weights, one step", "learning rates", 5e-3),
    "one.grad_norms": Quantity("norm of the gradient the optimiser was given", "", 1e-5),
    "one.objective_kl": Quantity("objective/kl", "nats per response", 1e-5),
    "one.value_loss": Quantity("value loss, as logged", "reward²", 5e-6),
    "one.explained_variance": Quantity("val/var_explained", "", 1e-5),
    "one.objective_entropy": Quantity("objective/entropy", "nats per response", 1e-4),
    "several.grad_norms": Quantity("norms of the gradients the optimiser was given, four steps", "", 2e-4),
    "several.change": Quantity("change of weights, four steps", "learning rates", 2e-2),
    "several.policy_loss": Quantity("policy loss, mean of four steps", "deviations", 5e-6),
    "several.value_loss": Quantity("value loss, mean of four steps", "reward²", 5e-6),
    "several.policy_clipfrac": Quantity("share of ratios clipped, mean of four steps", "", 1e-6),
    "several.value_clipfrac": Quantity("share of values clipped, mean of four steps", "", 1e-6),
    "several.approx_kl": Quantity("approximate KL, mean of four steps", "nats", 1e-5),
}

TOKENWISE = ("logprobs", "reference_logprobs", "values", "kl", "rewards", "returns")
STEP = ("one.gradient", "one.change")
FOUR_STEPS = (
    "several.policy_loss",
    "several.value_loss",
    "several.policy_clipfrac",
    "several.value_clipfrac",
    "several.approx_kl",
)


def explained(names: tuple[str, ...], before: str, after: str, peer: str = "TRL, right") -> tuple[Row, ...]:
    """Each quantity twice: as it stands, where it differs, and with the convention in question applied, where it agrees."""
    return tuple(row for name in names for row in (Row(name, before, peer, differs=True), Row(name, after, peer)))


AGREES = """\
TRL pads on the right here, where its positions are those of the tokens. KL is log p - log p_ref and the score is on the last
real token in both; both take the last token, the one that ends the text, into every mean, and nothing after it: TRL masks
rewards and values before its GAE walks back over the padding, so that it enters the last token with 0, as llmrl does. The
dropout of 0.1 in TRL's value head never acts: `batched_forward_pass` calls `eval()` before the pass that is learned from. Moved
log-probabilities and values are the old ones plus fixed normal noise of 0.3, often past the clip ranges. The policy loss of the
first pass is minus the mean of whitened advantages: 0 but for rounding. "transformers" is the plain model on each row alone,
with nothing to pad."""

WHITENING = """\
TRL's `masked_whiten` (`trl/core.py`) divides by the deviation with Bessel's correction (`masked_var(unbiased=True)`), llmrl by
the one without, as openai/lm-human-preferences does. With n real tokens in the batch, TRL's advantages are sqrt((n - 1) / n)
times llmrl's, and so is the policy's part of loss and gradient; the value's part is the same. With that factor applied the
optimiser step agrees, too. Adam's first step is near g / (|g| + epsilon): where a gradient g is near 0, a little of it is a
large part of a learning rate."""

POSITIONS = """\
TRL's `batched_forward_pass` gives the model no `position_ids`, and GPT-2 in transformers then counts from the row's first place
(`torch.arange` in `GPT2Model.forward`), padding included. With `padding_side="left"`, as prompts are padded for sampling, every
row shorter than the longest is computed at positions that are too high. llmrl counts real tokens. The plain model on each row
alone agrees with llmrl and with TRL padded right, and not with TRL padded left. With each row's positions raised by its
padding, llmrl gives what TRL gives."""

CLIPPING = """\
`PPOTrainer.__init__` keeps `self.model_params = filter(...)`, an iterator, and the first `clip_grad_norm_` uses it up: from the
second optimiser step on TRL clips nothing, whatever `max_grad_norm` says. llmrl clips at every step. Four epochs of one step
each: with llmrl clipping at the first alone, weights and losses agree after all four, with ratios and values past their clip
ranges."""

METRICS = """\
They steer nothing. `val/var_explained` is 1 - E[(V - R)²] / Var(R) in TRL (`record_step_stats`), the variance with Bessel's
correction, so that a constant error counts; llmrl's is 1 - Var(R - V) / Var(R). `objective/entropy` is the sum of -log p of the
sampled tokens in TRL, an estimate of what llmrl works out from the whole distribution."""

SECTIONS = (
    Section(
        "What agrees as it stands",
        AGREES,
        (
            *(Row(name) for name in TOKENWISE),
            Row("logprobs", peer="transformers"),
            *(Row(name) for name in ("entropy", "policy_loss", "value_loss", "moved.policy_clipfrac", "moved.approx_kl")),
            *(Row(name) for name in ("moved.value_loss", "moved.value_clipfrac", "one.grad_norms", "one.value_loss")),
            Row("one.objective_kl"),
        ),
    ),
    Section(
        "Whitening: the variance",
        WHITENING,
        explained(("advantages", "moved.policy_loss", *STEP), "llmrl", "whitening"),
    ),
    Section(
        "Padding on the left: positions",
        POSITIONS,
        (
            Row("logprobs", "TRL, right", "transformers"),
            Row("logprobs", "TRL, left", "transformers", differs=True),
            *explained((*TOKENWISE, "advantages", "value_loss", *STEP), "whitening", "whitening, positions", "TRL, left"),
        ),
    ),
    Section(
        "Gradient clipping after the first step",
        CLIPPING,
        (
            *explained(("several.grad_norms", "several.change"), "whitening", "whitening, clipping"),
            *(Row(name, "whitening, clipping") for name in FOUR_STEPS),
        ),
    ),
    Section(
        "Two metrics of the same name",
        METRICS,
        tuple(
            row
            for name in ("one.explained_variance", "one.objective_entropy")
            for row in (Row(name, differs=True), Row(name, ours_quantity=f"{name}_of_trl"))
        ),
    ),
)
