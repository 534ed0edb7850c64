# Everything runs from a bare clone: the first target that needs Python makes .venv and installs the project into it.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
TYPED := build/typed# the tree as it is installed, with training/ and reports/ inside xeval/: mypy follows no import hook
READY := $(VENV)/.ready
PYTEST_ARGS ?=
BENCH_ARGS ?=
export PYTHONHASHSEED := 0

.PHONY: help demo quick test test-all test-device photos bench docs lint clean

help:
	@echo "make demo      train, score and compare four methods on real digits (5 to 9 minutes on two cores)"
	@echo "make quick     the same, small (about a minute)"
	@echo "make test      the test suite"
	@echo "make test-all  the suite with the long proofs"
	@echo "make test-device  metrics, explainers and training on the accelerator that is there, against the CPU"
	@echo "make photos    two methods on the photos that XEVAL_TEST_PHOTOS names"
	@echo "make bench     every benchmark, and their table in benchmarks/README.md (about half an hour on two idle cores)"
	@echo "make docs      the pages that are written from the registry"
	@echo "make lint      ruff and mypy --strict"

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	@touch $(READY)

demo: $(READY)
	$(BIN)/xeval demo

quick: $(READY)
	$(BIN)/xeval demo --quick --out xeval-demo-quick

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow and not device" $(PYTEST_ARGS)

test-all: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

test-device: $(READY)
	$(BIN)/python -m pytest -m device tests/device $(PYTEST_ARGS)

photos: $(READY)
	$(BIN)/python -m pytest -s tests/test_photos.py $(PYTEST_ARGS)

bench: $(READY)
	$(BIN)/python -m benchmarks $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.table

docs: $(READY)
	$(BIN)/python -m docs.generate docs

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf $(TYPED) && mkdir -p $(TYPED)/xeval
	ln -s $(CURDIR)/xeval/* $(CURDIR)/training $(CURDIR)/reports $(TYPED)/xeval
	ln -s $(CURDIR)/benchmarks $(CURDIR)/docs $(CURDIR)/tests $(TYPED)
	cd $(TYPED) && $(abspath $(BIN))/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache

clean:
	rm -rf $(VENV) build dist *.egg-info xeval-demo xeval-demo-quick
