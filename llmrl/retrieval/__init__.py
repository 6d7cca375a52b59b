"""Documents to chunks to vectors to search to context."""

import logging

for _talks in ("faiss.loader", "sentence_transformers", "httpx"):  # of every step they take, at the level of information
    logging.getLogger(_talks).setLevel(logging.WARNING)
