# Everything starts from a fresh checkout with Python >= 3.11 and make; `make setup` is implied by the others.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: setup demo test lint bench bench-methods bench-rewinding bench-plasticity bench-itself bench-gpu older-runtime soak soak-ranks sweep-models fuzz fuzz-guided fuzz-networks clean

setup: $(READY)

# The constraints file applies to build environments too, hence the variable besides the flag.
$(READY): pyproject.toml constraints.txt setup.py $(wildcard kernels/*)
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "granet needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: $(READY)
	$(BIN)/python scripts/demo.py

# One process a core; a test that is slow does not hold up the others. `make test TESTS=tests/test_x.py` runs some.
test: $(READY)
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal $(TESTS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Everything that a CPU can measure, but for the comparison of methods, which trains fifteen networks.
bench: $(READY)
	$(BIN)/python -m benchmarks.step_cost
	$(BIN)/python -m benchmarks.selection_cost
	$(BIN)/python -m benchmarks.update_cost
	$(BIN)/python -m benchmarks.update_memory
	$(BIN)/python -m benchmarks.scaling
	$(BIN)/python -m benchmarks.throughput
	$(BIN)/python -m benchmarks.input_resident
	$(BIN)/python -m benchmarks.input_streaming
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.checkpoint_size
	$(BIN)/python -m benchmarks.checkpoint_time
	$(BIN)/python -m benchmarks.checkpoint_memory
	$(BIN)/python -m benchmarks.checkpoint_background
	$(BIN)/python -m benchmarks.export_size
	$(BIN)/python -m benchmarks.export_load

bench-methods: $(READY)
	$(BIN)/python -m benchmarks.methods

# Three ways to retrain a pruned network, three seeds. Some minutes; --data DIR takes an image folder instead.
bench-rewinding: $(READY)
	$(BIN)/python -m benchmarks.rewinding

# The experiment behind GraNet at a small scale, three seeds; --data DIR takes an image folder instead. Long.
bench-plasticity: $(READY)
	$(BIN)/python -m benchmarks.plasticity

# 25 measurements that show whether granet bench can be believed here. About ten minutes.
bench-itself: $(READY)
	$(BIN)/python -m benchmarks.bench_against_itself

# Networks of random sparse weights in ONNX Runtime: its dense layers against the kernels.
bench-kernels: $(READY)
	$(BIN)/python -m benchmarks.kernels

# Everything that a machine with a GPU can tell, with the Python that is there; installs nothing.
bench-gpu:
	$(PYTHON) -m benchmarks.gpu --json runs/gpu.json

# A fresh export opened by an older ONNX Runtime, in an environment of its own.
older-runtime: $(READY)
	$(BIN)/python -m scripts.open_in_older_runtime

# 100,000 damaged and forged checkpoints: each must be refused, or be what it was before. Some minutes.
fuzz: $(READY)
	$(BIN)/python -m fuzz.mutate --count 100000

# The same search led by coverage, ten minutes; needs atheris, which not every Python has.
fuzz-guided: $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt atheris
	$(BIN)/python -m fuzz.guided -max_total_time=600

# 2,000 generated networks, trained, resumed, inspected, planned and some exported: each works or is refused beforehand.
fuzz-networks: $(READY)
	$(BIN)/python -m fuzz.train_networks --count 2000

# A million damaged islands under the sanitizers for addresses and undefined behaviour, and 10,000 random layers
# against double precision on every instruction set. Needs g++ or clang++, nothing else. Half an hour.
fuzz-kernels:
	mkdir -p runs
	$(PYTHON) kernels/build.py --fuzz --sanitize runs/fuzz-kernels
	runs/fuzz-kernels damage 1000000 $$(date +%s)
	$(PYTHON) kernels/build.py --fuzz runs/fuzz-kernels
	runs/fuzz-kernels layers 10000 $$(date +%s)

# 20 random kills of a random rank of four under torchrun: the run must restart by itself and end byte-identical.
soak-ranks: $(READY)
	$(BIN)/python -m scripts.soak_ranks --kills 20 --ranks 4

# 200 random kills, in the middle of saves too: every run must resume and end byte-identical. Some minutes.
soak: $(READY)
	$(BIN)/python -m scripts.soak --kills 200

# All classification networks of torchvision and a small one of each of timm's families, through every command. Hours;
# stopped, it goes on where it was. `make sweep-models SWEEP="--only '^timm' --again"` sweeps some.
sweep-models: $(READY)
	$(BIN)/python -m scripts.sweep_models $(SWEEP)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
