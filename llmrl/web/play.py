"""Type a text and see what each reward gives it."""

from importlib import resources

import streamlit as st
from streamlit.components.v2 import component

from llmrl.errors import RunError, UserError
from llmrl.registry import REWARDS
from llmrl.rewards import Reward, Sample, score
from llmrl.web.house import house
from llmrl.web.parts import empty, note, rows

HIDDEN = ("python", "context_gain", "random_walk")  # runs a file; compares answers with one another; is of a graph
FIRST = "The rain fell on the roof. The rain fell on the roof, and the cat went out"
writing = component(
    "llmrl_writing",
    html='<label for="text">Response</label><textarea id="text" rows="7" spellcheck="false"></textarea>',
    css=resources.files("llmrl.web").joinpath("writing.css").read_text(encoding="utf-8"),
    js=resources.files("llmrl.web").joinpath("writing.js").read_text(encoding="utf-8"),
)
"""A text area that tells what is in it while it is typed; Streamlit's own tells it when one leaves it."""


def page() -> None:
    st.title("Play with rewards", anchor=False)
    st.caption("What each reward gives a text, as you type. A reward sees the response, and the prompt before it.")
    _play()


@st.fragment
def _play() -> None:
    left, right = st.columns([3, 2])
    with right:
        rewards = _chosen()
    with left:
        prompt = st.text_input("Prompt", "It was a grey morning.", max_chars=house().config.max_characters)
        most = house().config.max_characters
        result = writing(
            data={"text": FIRST, "most": most}, default={"text": FIRST}, on_text_change=lambda: None, key="writing"
        )
        finished = st.toggle("It ended by itself", True, help="Off: it was cut off at its last token.")
        with st.expander("Sources and reference answer, for rewards that want them"):
            context = st.text_area(
                "Sources", "", max_chars=most, placeholder="[1] Tides\nThe moon pulls at the sea.",
                help="Each begins with a line of its number and title, as [1] Tides; its text is below.",
            )  # fmt: skip
            answer = st.text_input("Reference answer", "", max_chars=most)
    text = str(result.text or "")[:most]
    tokens = tuple(range(len(text.split())))
    one = Sample(
        prompt[:most], text, token_ids=tokens, finished=finished, max_new_tokens=max(32, len(tokens)),
        context=context[:most] or None, answer=answer[:most] or None,
    )  # fmt: skip
    with right:
        _show(one, rewards)


def _chosen() -> dict[str, Reward]:
    """Rewards with their weights."""
    known = [name for name in REWARDS if name not in HIDDEN]
    names = st.multiselect("Rewards", known, default=["no_repeat", "end_of_sentence"])
    summaries, made = REWARDS.summaries(), {}
    for name in names:
        weight = st.number_input(f"Weight of {name}", -100.0, 100.0, 1.0, 0.1, help=summaries.get(name))
        made[name] = REWARDS.get(name)(weight=weight)  # type: ignore[operator]
    return made


def _show(one: Sample, rewards: dict[str, Reward]) -> None:
    if not rewards:
        empty("No reward is chosen.", "Choose one above.")
        return
    table, total = [], 0.0
    for name, each in rewards.items():
        try:
            value = score({name: each}, [one]).components[name][0]
        except (UserError, RunError) as error:
            note(str(error), "warning")
            continue
        total += each.weight * value
        table.append((name, f"{value:+.3f}", f"{each.weight:g}", f"{each.weight * value:+.3f}"))
    st.metric("Total" if len(table) == len(rewards) else "Total of those below", f"{total:+.3f}")
    rows(("reward", "value", "weight", "weighted"), table)
