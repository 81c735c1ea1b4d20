# Two commands do everything on a fresh machine: `make demo` and `make test`.
# The first use of either makes .venv and installs the package with the versions CI proved.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
WORK ?= work
# Any Python with torch, CuPy, pytest and hypothesis can check the GPU:
# `make gpu-check PYTHON_GPU=python3` makes no $(VENV).
PYTHON_GPU ?= $(BIN)/python
# Threads that wait without spinning: on a shared machine spinning costs a factor of six.
export OMP_WAIT_POLICY ?= passive
export MPLBACKEND ?= agg

.PHONY: help install demo test test-full lint browser viewer bench bench-layers bench-networks bench-cohort gpu-check clean

help:
	@echo "make install    $(VENV) with all commands, pinned to what the tests ran with (2-4 min)"
	@echo "make demo       phantom cohort -> AGI-Net -> nnU-Net -> Dice-recovery table (12 min, 2 cores)"
	@echo "make test       lint, types and the default tests (8 min, 2 cores)"
	@echo "make test-full  the long checks too"
	@echo "make bench      what rolling costs on this CPU, as tables (40 min, idle; ARGS=--quick: 2; bench-layers, bench-networks)"
	@echo "make bench-cohort  memory and waiting as a cohort grows (half an hour; DATA=COHORT of native size)"
	@echo "make gpu-check  all that is claimed of an NVIDIA GPU, as a table (10 min; PYTHON_GPU=python3: no $(VENV))"
	@echo "make clean      remove what demo and test made, except $(VENV)"

# Where there is an NVIDIA driver, the CuPy for torch's CUDA; without it a GPU rolls in plain torch.
define install_cupy
if nvidia-smi >/dev/null 2>&1; then \
	extra=$$($(BIN)/python -c 'from cuda_ops.launcher import extra; print(extra())') && \
	test -n "$$extra" && echo ">> an NVIDIA GPU: installing '.[$$extra]'" && \
	$(BIN)/python -m pip install --progress-bar off --quiet -c constraints.txt -e ".[$$extra]" || \
	echo "no CuPy was installed: this GPU rolls in plain torch" >&2; \
fi
endef

$(INSTALLED): setup.py constraints.txt
	@echo ">> making $(VENV) and installing (about 6 GB with the CUDA build of torch; 2-4 minutes)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --progress-bar off --quiet -c constraints.txt -e '.[test]'
	@$(install_cupy)
	@touch $@

install: $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/seg_eval run --missing flair --work $(WORK)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# The report is tried in a real browser; as root on Debian it is installed here.
CHROMIUM = $(firstword $(foreach name,chromium chromium-browser google-chrome google-chrome-stable,$(shell command -v $(name) 2>/dev/null)))

define install_chromium
if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	echo ">> installing Debian's chromium for the tests of the report"; \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
else \
	echo "no chromium here: the tests of the report will fail; apt-get install chromium" >&2; \
fi
endef

browser:
	@$(if $(CHROMIUM),true,$(install_chromium))

# With NiiVue a case in 3-D is tried, too; without a network that test is skipped and says why.
viewer: $(INSTALLED)
	@$(BIN)/seg_eval fetch-viewer >/dev/null || true

test: lint browser viewer
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not gpu" -n 2 --dist loadscope

test-full: lint browser viewer
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope

# ARGS goes to both (--quick); what fits one alone (--only, --json) to its own target.
bench: bench-layers bench-networks

bench-layers: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m cuda_ops.bench $(ARGS)

bench-networks: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m synth3d.experiments.bench $(ARGS)

# DATA is a cohort of native size; without it phantoms are made.
bench-cohort: $(INSTALLED)
	OMP_NUM_THREADS=1 BENCH_DATA=$(DATA) $(BIN)/python -m synth3d.experiments.bench.footprint $(ARGS)

# Needs no installation of ours. ARGS: --quick, --keep-going, --only, --list; --rehearse needs no GPU.
gpu-check: export PYTHONPATH := $(CURDIR):$(PYTHONPATH)
gpu-check: $(if $(filter $(BIN)/python,$(PYTHON_GPU)),$(INSTALLED))
	@$(PYTHON_GPU) -m scripts.gpu_check $(ARGS)

clean:
	rm -rf $(WORK) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
