# Two commands do everything on a machine with Python 3.11 or newer: `make demo` and `make test`.
# Each makes .venv, installs what is missing, and runs.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt
# Where the compiled kernels of tests and demo go, so that the test workers share them.
export NBLOSS_CACHE_DIR := $(CURDIR)/build/cache
# Compiling makes the tests busy; more workers than cores would only wait for each other.
WORKERS ?= 2

# What one runs while working: the compiler, each loss in each type and layout, and what users see of
# mistakes. Everything else is for `make test`.
QUICK := layers formula codegen checked_memory definitions losses own_losses distances contract

.PHONY: help demo check test docs bench test-gpu sanitize-gpu bench-gpu lint types format clean

help:
	@echo "make demo    train with seven losses of torch.nn and of nbloss.nn; table and figure"
	@echo "make check   run the quick tests: two minutes, once their kernels are compiled"
	@echo "make test    run all tests"
	@echo "make docs    build the site into build/docs"
	@echo "make bench   time all losses beside torch's; report in docs/benchmarks (15 minutes)"
	@echo "make test-gpu, make sanitize-gpu, make bench-gpu"
	@echo "             the same on a CUDA device, in an environment of your own: GPU_PYTHON=python3"
	@echo "make lint    check style and formatting"
	@echo "make types   check types"
	@echo "make format  format all files"
	@echo "make clean   remove what the other targets made"

# The stamps say what has been installed, and are out of date when the requirements change.
.venv/torch: constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) torch
	@touch $@

.venv/demo: .venv/torch pyproject.toml
	$(PIP) --editable ".[demo]"
	@touch $@

.venv/dev: .venv/torch pyproject.toml
	$(PIP) --editable ".[dev]"
	@touch $@

.venv/docs: .venv/torch pyproject.toml
	$(PIP) --editable ".[docs]"
	@touch $@

.venv/bench: .venv/torch pyproject.toml
	$(PIP) --editable ".[bench]"
	@touch $@

demo: .venv/demo
	$(BIN)/python docs/gallery/plot_seven_losses.py --output build/demo/seven_losses.png

check: .venv/dev
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal -q $(QUICK:%=tests/test_%.py)

# Once compiled, and the definitions once more as plain Python, where coverage can see into them;
# the CUDA kernels in the simulator, which they have to be asked for.
test: .venv/dev
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal
	NUMBA_ENABLE_CUDASIM=1 NUMBA_DISABLE_JIT=1 $(BIN)/python -m pytest tests/test_cuda_simulator.py \
		--numprocesses $(WORKERS) --dist worksteal
	NUMBA_DISABLE_JIT=1 $(BIN)/python -m pytest tests/test_definitions.py \
		--cov nbloss/losses --cov-fail-under 100

# Warnings are errors. The gallery's pages are run. Nothing of what the tests need is installed.
docs: .venv/docs
	$(BIN)/python -m sphinx --fail-on-warning --keep-going -q -b html docs build/docs
	@echo "The site is in build/docs/index.html."

# Compilers warn of what does not concern the times.
bench: .venv/bench
	@mkdir -p build
	$(BIN)/python -m pytest benchmarks -q -W ignore -p no:cacheprovider \
		--benchmark-quiet --benchmark-json build/benchmarks.json
	$(BIN)/python benchmarks/report.py build/benchmarks.json

# On a CUDA device: with a torch that is built for it, in an environment that has this package's
# requirements, such as `pip install -e ".[bench,cuda13]"`. Its Python is not ours to choose.
GPU_PYTHON ?= python3
SANITIZER ?= compute-sanitizer

test-gpu:
	$(GPU_PYTHON) -m pytest -m cuda tests/test_cuda_device.py

# What the sanitizers are slow at, large input and torch.compile, is left out.
sanitize-gpu:
	for tool in memcheck racecheck; do \
		$(SANITIZER) --tool $$tool --error-exitcode 1 $(GPU_PYTHON) -m pytest -m cuda \
			tests/test_cuda_device.py -k "cases or kinks or order or any_width or out_of_range" \
			|| exit 1; \
	done

bench-gpu:
	$(GPU_PYTHON) benchmarks/gpu.py

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev
	$(BIN)/mypy
	$(BIN)/mypy tests/typed_use.py

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf docs/losses docs/auto_examples docs/sg_execution_times.rst .venv build dist
	rm -rf .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis
