# make demo                  the full pipeline on local text
# make test                  the test suite (make lint: ruff and mypy)
# make rehearse              every command of docs/reproduce.md at the size of a demo
# make check-export          exports loaded by transformers 4 as well (in an environment of its own)
# make check-gpu             every GPU path compared with the reference, then steps of 1.3b and 3b (benchmarks/README.md)
# make check-loops           an order in accelerate, Trainer and Lightning (in the environment of bench-peers)
# make elastic COUNT=10000   compare COUNT random elastic schedules with a plain list
# make torture COUNT=100     fault-injection campaigns, COUNT attempts each (docs/torture.md); without COUNT their defaults
# make cluster               two nodes with sshd and a real Slurm in namespaces of this machine, as root (docs/clusters.md)
# Every target but check-gpu first sets up .venv from constraints.txt. You need Python 3.11 and make.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
# three on two cores, because two leave the cores idle 40 % of the time; each takes up to 1.5 GB, its ranks included
TEST_WORKERS ?= 3
DEMO ?= demo
COUNT ?= 10000
PEERS ?= .venv-peers
TRANSFORMERS4 ?= .venv-transformers4
BENCH_SCORES ?= 1e9
BENCH_SCORES_IN_MEMORY ?= 1e8
BENCH_SAMPLES ?= 100000
BENCH_CURRICULUM ?= 1e6
BENCH ?= --rounds 5
BENCH_STEP ?=
CHECK_GPU ?=
GPU_PYTHON ?= python3
WHEELS ?= wheels
TORTURE ?=
CLUSTER ?=

.PHONY: setup demo test rehearse check-export check-loops elastic torture cluster lint clean bench-peers bench-data bench-step check-gpu gpu-wheels

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 is needed: set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/pdpc demo output=$(DEMO)

# compiled first, or each of the interpreters that the tests start compiles our modules again
test: setup
	$(BIN)/python -m compileall -q models curriculum train launch tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder --durations 10

rehearse: setup
	OMP_NUM_THREADS=1 PDPC_REHEARSE=1 $(BIN)/python -m pytest -s tests/docs/test_reproduce.py

# two environments: exports are written and read by .venv (transformers 5), and read and saved again by transformers 4
check-export: $(TRANSFORMERS4)/.ready
	OMP_NUM_THREADS=1 PDPC_TRANSFORMERS4=$(TRANSFORMERS4)/bin/python \
		$(BIN)/python -m pytest -v tests/models/huggingface/test_generations.py

$(TRANSFORMERS4)/.ready: $(VENV)/.ready tests/models/huggingface/transformers4.txt
	$(PYTHON) -m venv $(TRANSFORMERS4)
	$(TRANSFORMERS4)/bin/python -m pip install --quiet --no-deps --requirement tests/models/huggingface/transformers4.txt
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > \
		"$$($(TRANSFORMERS4)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/main_environment.pth"
	touch $@

check-loops: setup bench-peers
	OMP_NUM_THREADS=1 PDPC_PEERS=$(PEERS)/bin/python $(BIN)/python -m pytest -v tests/curriculum/order/test_other_loops.py

elastic: setup
	OMP_NUM_THREADS=1 PDPC_ELASTIC_SCHEDULES=$(COUNT) $(BIN)/python -m pytest -s tests/curriculum/order/test_elastic.py

# TORTURE='--only kills --seed 7' passes arguments; TMPDIR=/dev/shm keeps the working files in memory
torture: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.torture \
		$(if $(filter command environment,$(firstword $(origin COUNT))),--count $(COUNT)) $(TORTURE)

cluster: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.cluster $(CLUSTER)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# make bench-peers: a separate environment with the peers that the benchmarks compare with (benchmarks/README.md)
bench-peers: $(PEERS)/.ready

$(PEERS)/.ready: pyproject.toml constraints.txt benchmarks/peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(PEERS)/bin/python -m pip install --quiet --constraint constraints.txt --editable .
	$(PEERS)/bin/python -m pip install --quiet --no-deps --requirement benchmarks/peers.txt
	touch $@

bench-data: bench-peers
	$(PEERS)/bin/python -m benchmarks.arrange_scale --samples $(BENCH_SCORES) $(BENCH)
	$(PEERS)/bin/python -m benchmarks.arrange_memory --samples $(BENCH_SCORES_IN_MEMORY) $(BENCH)
	$(PEERS)/bin/python -m benchmarks.reading --samples $(BENCH_SAMPLES) $(BENCH)
	$(PEERS)/bin/python -m benchmarks.deepspeed_curriculum --samples $(BENCH_CURRICULUM) $(BENCH)

# training steps on the CPU compared with Hugging Face's Trainer and litgpt; BENCH_STEP='--layers 2 --steps 2' makes it smaller
bench-step: bench-peers
	$(PEERS)/bin/python -m benchmarks.train_step $(BENCH) $(BENCH_STEP)
	$(PEERS)/bin/python -m benchmarks.step_memory $(BENCH) $(BENCH_STEP)

# on a node with a GPU, without internet and with its own torch: GPU_PYTHON is the Python that has it (3.11 to 3.13)
check-gpu:
	$(GPU_PYTHON) -m benchmarks.gpu --wheels $(WHEELS) $(CHECK_GPU)

# what such a node lacks (DeepSpeed without compiled parts, Hydra, Liger, ...), at most 60 MB, to be copied to it
gpu-wheels: setup
	rm -rf $(WHEELS)
	$(BIN)/python -m benchmarks.gpu.wheels $(WHEELS)

clean:
	rm -rf $(DEMO) .pytest_cache .mypy_cache .ruff_cache .hypothesis
