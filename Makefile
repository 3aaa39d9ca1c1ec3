# Every target does its own set-up in .venv: a fresh machine needs Python 3.11 or newer and make, and a C++ compiler for
# the fast scan on a CPU. PYTHON, DATA and RESULTS may be set on the command line: make smoke PYTHON=python3.12
PYTHON ?= python3
RESULTS ?= results/runs
BIN := .venv/bin

.PHONY: smoke test faults fuzz slurm bench lint setup clean
.DELETE_ON_ERROR:

smoke: setup
	$(BIN)/python runner.py run smoke --results $(RESULTS) --jobs 2
	$(BIN)/python runner.py tables smoke --results $(RESULTS)
	$(BIN)/python runner.py report --results $(RESULTS)

# Two processes of one thread each: several threads per process spin on cores that another one needs. Each begins with a
# half of the tests, and takes over from the other what that one has not reached.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

# Every fault at FAULTS random moments, or with as many damaged files; FAULTS_SEED=N for other moments. `make test` tries
# one of each. FAULTS_LOG=FILE gets a line of JSON per kind (docs/faults.md).
FAULTS ?= 50
faults: setup
	FAULTS=$(FAULTS) OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/faults

# A SLURM of this host alone, in a temporary folder, a suite on it, and a node that is killed (root; docs/scaling.md).
slurm: setup
	@folder=$$(mktemp -d) && tests/slurm/start $$folder && { SLURM_CONF=$$folder/slurm.conf OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest -s tests/slurm; status=$$?; tests/slurm/stop $$folder; sleep 1; rm -rf $$folder; exit $$status; }

# Damaged and hostile files and words, as many as SECONDS allow; FUZZ_LOG=FILE gets the number of cases (SECURITY.md).
SECONDS ?= 600
fuzz: setup
	FUZZ_SECONDS=$(SECONDS) OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/fuzz

# Every way of taking an operator, a layer, a network, each checked and then timed; BENCH=--benchmark-json=FILE to keep it.
bench: setup
	$(BIN)/python -m pytest tests/benchmarks -o python_files='bench_*.py' -o python_functions='bench_*' \
		--benchmark-enable --benchmark-min-rounds=3 --benchmark-max-time=0.5 --benchmark-group-by=group \
		--benchmark-sort=min --benchmark-columns=min,median,iqr,rounds $(BENCH)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

setup: .venv/.installed

# torch first and alone: its pinned build is small where a CPU build is at hand, and nothing else may choose another.
.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is older than Python 3.11; try make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test,cluster]'
	@touch $@

clean:
	rm -rf .venv
