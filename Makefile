# Two commands do everything on a fresh machine: `make demo` and `make test`.
# The first use of either makes .venv and installs the package with the versions CI proved.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
WORK ?= work
# Threads that wait without spinning: on a shared machine spinning costs a factor of six.
export OMP_WAIT_POLICY ?= passive
export MPLBACKEND ?= agg

.PHONY: help demo test test-full lint clean

help:
	@echo "make demo       phantom cohort -> AGI-Net -> nnU-Net -> Dice-recovery table (12 min, 2 cores)"
	@echo "make test       lint and the default tests (under 15 min, 2 cores)"
	@echo "make test-full  the long checks too"
	@echo "make clean      remove what demo and test made, except $(VENV)"

$(INSTALLED): setup.py constraints.txt
	@echo ">> making $(VENV) and installing (about 6 GB with the CUDA build of torch; 2-4 minutes)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --progress-bar off --quiet -c constraints.txt -e '.[test]'
	@touch $@

demo: $(INSTALLED)
	$(BIN)/seg_eval run --missing flair --work $(WORK)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not gpu" -n 2 --dist loadscope

test-full: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope

clean:
	rm -rf $(WORK) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
