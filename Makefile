# The newcomer's commands: `make run` and `make test`. Each sets up everything it needs.

PYTHON ?= $(shell .ci/find-python)
RULES ?= rules/default.yaml
BIN := .venv/bin
AS_ROOT := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: run test accuracy bench lint bpf clean

run: .venv/run  ## intercept new flows and print who opened them (Ctrl-C ends it)
	$(AS_ROOT) $(BIN)/tunowner run --rules $(RULES) $(RUN_ARGS)

test: .venv/dev  ## all tests; those that need root are run when root, and say so otherwise
	$(BIN)/pytest $(PYTEST_ARGS)

accuracy: .venv/dev  ## who is right, in a table: tunowner, and what others do (all of it needs root)
	$(BIN)/python -m tests.accuracy

bench: .venv/dev  ## figures beside those of peers, measured in the same run (needs root)
	$(BIN)/python -m tests.bench

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --platform linux
	$(BIN)/mypy --platform win32 --exclude tunowner/backends/linux/ tunowner

bpf:  ## compile the eBPF programs again; commit what it makes (needs clang-14, llvm-14, bpftool)
	.ci/build-bpf owner $(CURDIR)/tunowner/backends/linux/bpf/owner.bpf.o
	.ci/build-bpf table $(CURDIR)/tunowner/backends/linux/bpf/table.bpf.load

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build

.venv/run: pyproject.toml .ci/packages
	.ci/packages run
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	touch $@

.venv/dev: .venv/run
	.ci/packages test
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@
