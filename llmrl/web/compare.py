"""Base beside trained: one response of each as it comes, and averages, so that nobody is fooled by one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import streamlit as st

from llmrl.config import ModelConfig, RolloutConfig, TrainConfig, read_train_config
from llmrl.errors import UserError
from llmrl.registry import REWARDS
from llmrl.rewards import Reward
from llmrl.serving.limits import checked_lines, checked_text
from llmrl.serving.places import Run
from llmrl.serving.response import Arm, Piece, Response
from llmrl.serving.worker import Tell
from llmrl.web.house import house, pace
from llmrl.web.parts import (
    WANTS_SOURCES,
    carried_out,
    chips,
    empty,
    kept,
    model_name,
    note,
    rows,
    said,
    told_of_another_base,
)

if TYPE_CHECKING:
    from llmrl.evaluation.comparison import Comparison

BASE = ""
"""The base's place among runs, which have names."""
STOPPED = "stopped"
OWN = "python"  # a reward that runs a file; it is offered where a run was trained with it
SAMPLES = (64, 128, 256)
"""An average is taken over so many responses of each; fewer say nothing."""


@dataclass
class Asked:
    """What a visitor asked for, and what came of it."""

    prompts: list[str]
    runs: list[Run]
    base: str
    rollout: RolloutConfig
    greedy: bool
    seed: int
    rewards: dict[str, Reward]
    responses: list[dict[str, Response]] = field(default_factory=list, compare=False)  # of each prompt: arm to response
    averages: dict[str, "Comparison"] = field(default_factory=dict, compare=False)

    def models(self) -> dict[str, ModelConfig]:
        """The base first, computed alike."""
        return {
            BASE: ModelConfig(name_or_path=self.base),
            **{run.name: ModelConfig(name_or_path=str(run.folder.path)) for run in self.runs},
        }


def page() -> None:
    st.title("Compare", anchor=False)
    st.caption("A base beside what training made of it: same prompt, same seed, same decoding.")
    runs = [run for run in house().places.runs() if run.has_model]
    base, chosen = _models(runs)
    prompts = _prompts()
    configs = _configs(chosen)
    rollout, greedy = _decoding(configs)
    rewards = _rewards(configs, chosen)
    answer, another, many = _buttons()
    if answer or another or many:
        asked = _asked(prompts, chosen, base, rollout, greedy, rewards)
        if asked is not None and many:
            _average(asked)
        elif asked is not None:
            st.session_state.compared = asked
            _stream(asked)
            return
    before: Asked | None = st.session_state.get("compared")
    if before is None or not (any(before.responses) or before.averages):
        empty("Nothing was asked yet.", "Write a prompt and press Answer.")
    else:
        _show(before)


def _models(runs: Sequence[Run]) -> tuple[str, list[Run]]:
    bases = house().places.bases(runs)
    left, right = st.columns([1, 2])
    kept("base to compare", bases, bases[0])
    base = left.selectbox(
        "Base", bases, format_func=model_name, help="What every run beside it was trained from.", key="base to compare",
        persist_state="session",
    )  # fmt: skip
    fitting = {run.name: run for run in runs if run.model == base}
    if not fitting:
        with right:
            empty(f"No run started from {model_name(base)} yet.", command=f"python -m llmrl.train model.name_or_path={base}")
    kept(f"runs of {base}", list(fitting), list(fitting)[:1])
    names = right.multiselect(
        "Trained from it", list(fitting), max_selections=3, placeholder="choose one run or more", key=f"runs of {base}",
        persist_state="session",
    )  # fmt: skip
    return base, [fitting[name] for name in names]


def _prompts() -> str:
    return st.text_area(
        "Prompt", "Once upon a time", height=90, max_chars=None, key="prompt", persist_state="session",
        help=f"A line each for several prompts, at most {house().config.max_prompts}.",
    )  # fmt: skip


def _configs(chosen: Sequence[Run]) -> list[TrainConfig]:
    """Without rewards that run a file: looking at a run runs nothing that it names."""
    found = []
    for run in chosen:
        try:
            found.append(read_train_config(run.folder.path / "config.yaml", without=(OWN,)))
        except UserError as error:
            note(str(error), "error")
    return found


def _decoding(configs: Sequence[TrainConfig]) -> tuple[RolloutConfig, bool]:
    trained = configs[0].rollout if configs else RolloutConfig(max_new_tokens=48)
    most = house().config.max_new_tokens
    with st.expander("Seed and decoding"):
        first, second, third, fourth = st.columns(4)
        first.number_input("Seed", 0, 2**31 - 1, key="seed", help="The same for every model.", persist_state="session")

        def slider(place: Any, name: str, low: Any, high: Any, own: Any, **options: Any) -> Any:
            """Begins with the run's own value, which another run may have otherwise."""
            value = min(max(own, low), high)
            return place.slider(name, low, high, value, key=f"{name} {value}", persist_state="session", **options)

        tokens = slider(second, "Tokens at most", 1, most, trained.max_new_tokens)
        temperature = slider(third, "Temperature", 0.1, 2.0, trained.temperature, step=0.05)
        top_p = slider(fourth, "Top p", 0.05, 1.0, trained.top_p, step=0.05, help="1 keeps the whole distribution.")
        greedy = st.toggle(
            "The likeliest token always", help="No chance at all; the seed and the temperature mean nothing.", key="greedy",
            persist_state="session",
        )  # fmt: skip
    made = replace(
        trained, max_new_tokens=tokens, temperature=temperature, top_p=top_p, min_new_tokens=min(trained.min_new_tokens, tokens)
    )
    return made, greedy


def _rewards(configs: Sequence[TrainConfig], runs: Sequence[Run]) -> dict[str, Reward]:
    trained: dict[str, Reward] = {}
    for config in configs:
        if any(name in trained and trained[name] != each for name, each in config.reward.items()):
            note("the runs were trained with one reward at different settings; all are scored by those of the first", "warning")
        trained = {**config.reward, **trained}
    own = next((run for run in runs if OWN in run.rewards), None) if house().is_own else None
    known = [name for name in REWARDS if name not in (OWN, *WANTS_SOURCES)] + [OWN] * (own is not None)
    left_out = [name for name in trained if name in WANTS_SOURCES]
    with st.expander("Rewards"):
        names = st.multiselect(
            "Scored by", known, default=[name for name in trained if name in known] or ["no_repeat"],
            key=f"rewards of {sorted(trained)}", persist_state="session",
            help="Those that the runs were trained with, at their weights, unless you choose others.",
        )  # fmt: skip
        if left_out:
            st.caption(f"Trained with {', '.join(left_out)}, too, which want sources: a bare prompt has none. See Ask.")
        if own is not None and OWN not in names:
            st.caption(f"{own.name} was trained with a Python function of its own; choose {OWN} to run the file that it names.")
    made = {name: trained[name] if name in trained else REWARDS.get(name)() for name in names if name != OWN}  # type: ignore[operator]
    if OWN in names and own is not None:
        try:
            made[OWN] = read_train_config(own.folder.path / "config.yaml").reward[OWN]
        except (UserError, KeyError) as error:
            note(str(error), "error")
    return made


def _buttons() -> tuple[bool, bool, int]:
    """(answer, again with another seed, how many samples to average over or 0)."""
    st.session_state.setdefault("seed", 0)
    first, second, third, fourth = st.columns([1, 1.4, 1.4, 1.4], vertical_alignment="bottom")
    answer = first.button("Answer", type="primary", width="stretch")
    another = second.button("Again with another seed", width="stretch", on_click=_next_seed)
    most = house().config.max_samples
    choices = [number for number in SAMPLES if number <= most] or SAMPLES[:1]
    samples = third.selectbox("Samples of each", choices, key="samples", persist_state="session")
    many = fourth.button(
        "Average over many", width="stretch", help="The mean reward of each, with the interval of their difference."
    )
    return answer, another, int(samples) if many else 0


def _next_seed() -> None:
    st.session_state.seed = (st.session_state.get("seed", 0) + 1) % 2**31


def _asked(
    text: str, runs: list[Run], base: str, rollout: RolloutConfig, greedy: bool, rewards: dict[str, Reward]
) -> Asked | None:
    config = house().config
    try:
        pace().step()
        checked_text(text, config.max_characters * config.max_prompts, "prompt")
        prompts = checked_lines(text, config, "prompt")
    except UserError as error:
        note(str(error), "error")
        return None
    return Asked(prompts, runs, base, rollout, greedy, int(st.session_state.seed), rewards)


def _stream(asked: Asked) -> None:
    """Each model's response to each prompt as it comes. What is there when the visitor stops it stays."""
    stop = st.empty()
    stop.button("Stop")
    told_of_another_base(asked.models()[BASE], asked.runs)
    for prompt in asked.prompts:
        asked.responses.append({})
        places = _places(asked.models(), asked.base)
        for name in asked.models():
            made = _respond(asked, prompt, name, *places[name])
            if made is None:
                del asked.responses[-1][name]
            else:
                asked.responses[-1][name] = made
                _fill(places[name][0], made, asked.responses[-1].get(BASE))
    stop.empty()
    _warn_of_one(asked)


def _respond(asked: Asked, prompt: str, name: str, box: Any, waiting: Any) -> Response | None:
    """One response, shown as it comes and kept so far; None where there is none, which is shown."""
    so_far = asked.responses[-1][name] = Response(prompt, "", 0, False, trouble=STOPPED)

    def told(piece: Piece) -> None:
        so_far.text += piece.text
        so_far.tokens += 1

    def work(tell: Tell) -> Response:
        from llmrl.serving.answers import respond  # here, as it loads torch

        arm = Arm(name, asked.models()[name])
        return respond(house().shelf, arm, prompt, asked.rollout, asked.seed, asked.greedy, asked.rewards, tell)

    return carried_out(work, told, waiting, lambda: box.html(said(so_far.text, prompt)))


def _places(models: Mapping[str, ModelConfig], base: str) -> dict[str, tuple[Any, Any]]:
    """(box of the text, line for who is waited for) of each arm, side by side."""
    columns = st.columns(len(models))
    found = {}
    for name, column in zip(models, columns, strict=True):
        with column:
            st.html(f"<strong>{'base' if name == BASE else 'trained'}</strong>")
            st.text(model_name(base) if name == BASE else name)
            found[name] = (st.empty(), st.empty())
            found[name][0].html(said(""))
    return found


def _fill(box: Any, made: Response, base: Response | None) -> None:
    beside = base if base is not made else None
    shown = {
        name: (value, beside.components.get(name) if beside else None, made.weights[name])
        for name, value in made.components.items()
    }
    if made.total is not None and (len(shown) > 1 or any(weight != 1 for *_, weight in shown.values())):
        shown = {"reward": (made.total, beside.total if beside else None, 1.0), **shown}
    end = "" if made.trouble == STOPPED else ", ended by itself" if made.finished else ", cut off"
    with box.container():
        trouble = f'<div class="meta">{said(made.trouble)}</div>' if made.trouble else ""
        st.html(said(made.text, made.prompt) + chips(shown) + f'<div class="meta">{made.tokens} tokens{end}</div>' + trouble)


def _show(asked: Asked) -> None:
    for responses in filter(None, asked.responses):
        places = _places({name: model for name, model in asked.models().items() if name in responses}, asked.base)
        for name, made in responses.items():
            _fill(places[name][0], made, responses.get(BASE))
    _warn_of_one(asked)
    for name, comparison in asked.averages.items():
        _show_average(asked, name, comparison)


def _warn_of_one(asked: Asked) -> None:
    if asked.responses and asked.runs:
        how = "the likeliest token always" if asked.greedy else f"temperature {asked.rollout.temperature:g}"
        st.caption(
            f"One sample of each, seed {asked.seed}, {how}, at most {asked.rollout.max_new_tokens} tokens: it says little. "
            "Average over many before you believe it."
        )


def _average(asked: Asked) -> None:
    if not asked.runs or not asked.rewards:
        note("an average compares: choose a run beside the base, and a reward", "warning")
        return
    if asked.greedy:
        note("an average is over samples: the likeliest token always would be the same response again and again", "warning")
        return
    samples = int(st.session_state.get("samples", SAMPLES[0]))
    models = asked.models()
    for run in asked.runs:
        stop, bar, waiting, done = st.empty(), st.progress(0.0, "sampling"), st.empty(), [0]
        stop.button("Stop", key=f"stop {run.name}")
        total = 2 * max(samples, len(asked.prompts))

        def told(more: int, done: list[int] = done, bar: Any = bar, total: int = total) -> None:
            done[0] += more
            bar.progress(min(1.0, done[0] / total), f"{done[0]} of about {total} responses")

        def work(tell: Tell, run: Run = run) -> "Comparison":
            from llmrl.serving.answers import average  # here, as it loads torch

            return average(
                house().shelf, Arm("base", models[BASE]), Arm(run.name, models[run.name]), asked.prompts, asked.rollout,
                asked.seed, asked.rewards, samples, tell,
            )  # fmt: skip

        made = carried_out(work, told, waiting, long=True)
        stop.empty()
        bar.empty()
        if made is not None:
            asked.averages[run.name] = made
            before: Asked | None = st.session_state.get("compared")
            if before is not None and before is not asked and before == asked:
                asked.responses = before.responses
            st.session_state.compared = asked


def _show_average(asked: Asked, name: str, made: "Comparison") -> None:
    st.divider()
    gap = made.difference
    st.html(f'<div class="verdict">{made.verdict}: {gap.mean:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})</div>')
    st.text(
        f"{name}: {made.samples} responses of each, at most {asked.rollout.max_new_tokens} tokens; 95 % interval over "
        f"{gap.resampled}"
    )
    span = "{0.mean:+.3f} ({0.low:+.3f} to {0.high:+.3f})"
    only = f" {next(iter(made.components))}" if len(made.components) == 1 else ""
    table = [(f"reward{only}", f"{made.base_reward:.3f}", f"{made.trained_reward:.3f}", span.format(gap))]
    if len(made.components) > 1:
        table += [(f"reward {key}", "", "", span.format(each)) for key, each in made.components.items()]
    table += [
        ("repeat themselves", f"{made.base.repeating:.0%}", f"{made.trained.repeating:.0%}", ""),
        ("words", f"{made.base.words:.1f}", f"{made.trained.words:.1f}", ""),
        ("ended by themselves", f"{made.base.finished:.0%}", f"{made.trained.finished:.0%}", ""),
        (
            "perplexity under the base",
            f"{made.base.perplexity_under_base:.1f}",
            f"{made.trained.perplexity_under_base:.1f}",
            "",
        ),
        ("KL to the base, nats per response", "", f"{round(made.kl, 2) + 0.0:.2f}", ""),
    ]
    rows(("", "base", "trained", "difference, 95 % interval"), table)
