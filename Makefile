# `make help` lists the targets. What they build outside the tree goes to $DCDR_CACHE (default ~/.cache/dcdr).

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
BIN := .venv/bin
# A changed lock (or project file) is another stamp, so the packages are installed anew; else `setup` does nothing.
STAMP := .venv/.installed-$(shell cat requirements-dev.txt pyproject.toml | sha256sum | cut -c1-16)
SERVERS := kube-apiserver etcd toxiproxy kafka authorizer kafka-archives

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "  make %-10s %s\n", $$1, $$2 }'

.PHONY: demo
demo: prepare ## start the two data centers, switch a live workload over, kill one of them, and judge the result
	@$(BIN)/dcdr demo

.PHONY: test
test: ## everything that CI runs, from a cold cache if need be, and where its time went
	@$(PYTHON) tests/run.py test

.PHONY: check
check: ## format, lint, types, import arrows, unit tests: under a minute
	@$(PYTHON) tests/run.py check

.PHONY: integration
integration: prepare ## every test on real servers, the slow ones that CI leaves out too
	@$(BIN)/pytest -v tests/contract tests/integration

.PHONY: chaos
chaos: prepare ## kills, aborts and bad days on the real lab (resumable; ends in one table)
	@$(PYTHON) -m lab.toolchain.machine tests/chaos/apt-packages.txt
	@$(BIN)/python -m tests.chaos

.PHONY: bench
bench: prepare ## measure outage, drain and step times
	@$(BIN)/python -m bench

.PHONY: setup
setup: $(STAMP) ## create .venv from the hash-locked requirements (nothing to do when the lock is unchanged)

$(STAMP): | machine
	@mkdir -p .venv && flock .venv/.lock $(MAKE) packages

# Under the lock: a second `make` that waited for the first finds the work done.
.PHONY: packages
packages:
	@test ! -e $(STAMP) || exit 0; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or later is needed; set PYTHON=")'; \
	test -x $(BIN)/python -a -x $(BIN)/pip || $(PYTHON) -m venv .venv; \
	echo "installing the locked Python packages" >&2; \
	$(PIP) --require-hashes -r requirements-dev.txt; \
	$(PIP) --no-deps --no-build-isolation --editable .; \
	rm -f .venv/.installed-*; touch $(STAMP)

# Not compiled beforehand: of the thousands of modules of some packages few are ever imported.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile

.PHONY: machine
machine:
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) was not found: install Python 3.11 or later" >&2; exit 1; }
	@$(PYTHON) -m lab.toolchain.machine

.PHONY: toolchain
toolchain: machine ## build the lab's servers into the cache folder (minutes once, then nothing)
	@$(PYTHON) -m lab.toolchain $(SERVERS) >/dev/null

.PHONY: prepare
prepare: ## setup and toolchain, side by side
	@$(MAKE) -j2 setup toolchain

.PHONY: format
format: setup ## rewrite the code in the house's format
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

.PHONY: lock
lock: setup ## bring requirements*.txt, go.sum and jar checksums in line with what they lock (UPGRADE=1: newest)
	@$(COMPILE) -o requirements.txt pyproject.toml
	@$(COMPILE) --extra lab --group dev -c requirements.txt -o requirements-dev.txt pyproject.toml
	@for module in lab/toolchain/go/*/; do (cd $$module && GOWORK=off go mod tidy); done
	@$(BIN)/python -m lab.toolchain --lock-jars

COMPILE := $(BIN)/uv pip compile --quiet $(if $(UPGRADE),--upgrade) --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --custom-compile-command "make lock"

.PHONY: wheel
wheel: setup ## build dist/dcdr-*.whl
	@$(BIN)/python -m hatchling build -t wheel -d dist

.PHONY: clean
clean: ## remove what the tools left in the tree (neither .venv nor the cache folder)
	@rm -rf dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
