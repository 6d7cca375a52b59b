"""The site: four pages, and what stands on each of them."""

from pathlib import Path

import streamlit as st

from llmrl.web import ask, compare, play, runs
from llmrl.web.house import house
from llmrl.web.parts import note

FILES = Path(__file__).parent
PAGES = (
    (compare.page, "Compare", ":material/compare_arrows:", "compare"),
    (ask.page, "Ask", ":material/forum:", "ask"),
    (runs.page, "Runs", ":material/monitoring:", "runs"),
    (play.page, "Play with rewards", ":material/tune:", "rewards"),
)


def show() -> None:
    """What Streamlit runs for a visitor, again at everything he does."""
    st.set_page_config(page_title="llmrl", page_icon=str(FILES / "icon.svg"), layout="wide")
    st.html(f"<style>{(FILES / 'style.css').read_text(encoding='utf-8')}</style>")
    made = [
        st.Page(page, title=title, icon=icon, url_path=path, default=not number)
        for number, (page, title, icon, path) in enumerate(PAGES)
    ]
    chosen = st.navigation(made, position="top")
    if house().warning:
        note(house().warning, "warning")
    chosen.run()
    house().warm_up()
