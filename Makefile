# make train   a tiny model learns not to repeat itself, in about a minute
# make test    every test
# make check   ruff, pyright, import-linter
# make bench   what speed and quality figures are made with

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
ARGS ?=

.PHONY: train test check bench format clean browser

train: $(VENV)/.core
	$(BIN)/python -m llmrl.train experiment=quickstart $(ARGS)

test: $(VENV)/.dev browser
	$(BIN)/python scripts/fetch_models.py smollm2 minilm distilgpt2-shape --quiet
	$(BIN)/python -m pytest --numprocesses auto $(ARGS)

browser:
	@command -v chromium >/dev/null || \
	{ test "$$(id -u)" = 0 && command -v apt-get >/dev/null && { apt-get update -qq; apt-get install -yqq chromium >/dev/null; }; } || \
	echo "Chromium is missing, and the tests that look at pages need it: apt-get install chromium"

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev
	$(PIP) --editable '.[bench]'
	$(BIN)/python scripts/fetch_models.py
	$(BIN)/python scripts/fetch_corpus.py
	$(BIN)/python scripts/bench/speed.py
	$(BIN)/python scripts/bench/profile_stages.py
	$(BIN)/python scripts/bench/time_to_reward.py --peers
	$(BIN)/python scripts/bench/vllm_rollout.py
	$(BIN)/python scripts/bench/retrieval_quality.py
	$(BIN)/python scripts/bench/retrieval_speed.py
	$(BIN)/python scripts/bench/rag_grounded.py
	$(BIN)/python scripts/bench/tiny_quality.py
	$(BIN)/python scripts/bench/parity.py
	$(BIN)/python scripts/bench/kill.py
	$(BIN)/python scripts/bench/adaptive_kl.py
	$(BIN)/python scripts/bench/random_walks.py
	$(BIN)/python scripts/bench/trainers.py
	$(BIN)/python scripts/bench/sweeps.py
	$(BIN)/python scripts/bench/app.py
	$(BIN)/python scripts/bench/learning.py quickstart
	$(BIN)/python scripts/bench/learning.py smollm2

# An installation is done once for each state of the files that say what to install.
$(VENV)/.core: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[dev]'
	touch $@ $(VENV)/.core

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
