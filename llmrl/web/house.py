"""What all visitors share: the config, the one thread that computes, and what is on the shelf."""

import json
import os
import sys
import threading
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from llmrl.config import AppConfig, ModelConfig, packaged
from llmrl.errors import UserError
from llmrl.serving.limits import Pace, Paces
from llmrl.serving.places import EXAMPLE, TINY, Places
from llmrl.serving.worker import Tell, Worker
from llmrl.web.serve import SETTINGS, exposure

if TYPE_CHECKING:
    from llmrl.serving.shelf import Shelf

DRAWN_SECONDS = 1.5
"""Until a browser has drawn the first page, for which it wants a processor itself."""
DEMO = "demo"
"""The index that is made from the documents that come with llmrl, where there is none of that name."""


class House:
    """One for the server."""

    def __init__(self) -> None:
        self.config = AppConfig(**json.loads(os.environ.get(SETTINGS, "{}")))
        self.places, self.worker = Places(Path(self.config.outputs)), Worker(self.config.max_waiting)
        self.warning = exposure(str(st.get_option("server.address") or "0.0.0.0"))
        self.is_own = not self.warning  # nobody but whoever sits at this machine is let in
        if self.warning and SETTINGS not in os.environ:  # the command has said so already
            print(f"llmrl app: {self.warning}", file=sys.stderr)
        self.paces = Paces(self.config.requests_per_minute)
        self._warm = threading.Lock()
        self.is_loading = False  # what the first visitor will want

    @cached_property
    def shelf(self) -> "Shelf":
        """For the worker's thread alone: it loads torch."""
        import torch

        from llmrl.serving.shelf import Shelf

        if self.config.threads:
            torch.set_num_threads(self.config.threads)
        return Shelf()

    def warm_up(self) -> None:
        """Load what the first visitor will want, once, when he has the first page before him."""
        if self._warm.acquire(blocking=False):
            timer = threading.Timer(DRAWN_SECONDS, self._warmed_up)
            timer.daemon = True
            timer.start()

    def _warmed_up(self) -> None:
        self.is_loading = True
        try:
            self.worker.result(self._load)
        except Exception as error:  # the first visitor who asks meets it, too, and is told
            if threading.main_thread().is_alive():  # else the server was stopped, and nothing can be loaded any more
                print(f"llmrl app: the models were not loaded: {type(error).__name__}: {error}", file=sys.stderr)
        finally:
            self.is_loading = False

    def _load(self, tell: Tell) -> None:
        from llmrl.serving import answers  # noqa: F401

        for name in (TINY, str(packaged(EXAMPLE))):
            try:
                self.shelf.language_model(ModelConfig(name_or_path=name))
            except UserError as error:
                print(f"llmrl app: {error}", file=sys.stderr)

    def indexes(self) -> list[str]:
        """Names of what can be searched, the demo among them."""
        found = self.places.indexes()
        return found if DEMO in found else [*found, DEMO]

    def index(self, name: str) -> Path:
        """The folder of an index; the demo is made if need be. For the worker's thread. Raises UserError."""
        folder = self.places.inside(name)
        if name == DEMO and DEMO not in self.places.indexes():
            from llmrl.config import IngestConfig, RetrieverConfig
            from llmrl.retrieval.ingest import ingest
            from llmrl.serving.indexing import Quiet

            settings = RetrieverConfig(name="bm25")
            ingest(IngestConfig(docs="packaged:demo/docs", index=str(folder), retriever=settings), Quiet())
        if not folder.is_dir():
            raise UserError(f"the index {name!r} has gone")
        return folder


@st.cache_resource(show_spinner=False)
def house() -> House:
    """The server's."""
    return House()


def pace() -> Pace:
    """This visitor's: his address's, or of a visitor at this machine the browser tab's."""
    if address := st.context.ip_address:
        return house().paces.of(address)
    if "pace" not in st.session_state:
        st.session_state.pace = Pace(house().config.requests_per_minute)
    return st.session_state.pace
