# make test   everything, on a fresh Debian machine too: packages, virtual environment, linters, types, tests
# make demo   runs demo/ with the best engine that is there
# make help   the other targets

# The engines that the contract suite runs on.
ENGINES ?= podman podman-rootless docker bwrap local
# Arguments for pytest, for example PYTEST_ARGS="-x -k stop".
PYTEST_ARGS ?=

# The newest Python that runs: a version manager may put commands on the PATH that only print an error.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3.10 python3; do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' </dev/null >/dev/null 2>&1 \
	&& { echo $$python; break; }; done)

VENV := .venv
BIN := $(VENV)/bin
# A test may run tools of the virtual environment by name.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export ENGINES
PYTEST = $(BIN)/python -m pytest $(PYTEST_ARGS) </dev/null

.PHONY: help test rest lint types unit engines integration packaging faults matrix soak bench demo images venv packages clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

# Two lanes, since the engines' tests mostly wait for containers; each is reported when it has ended.
test: packages $(VENV)/.dev ## everything
	@start=$$(date +%s); \
	$(MAKE) --no-print-directory lint types && \
	$(MAKE) --no-print-directory --jobs=2 --keep-going --output-sync=target engines rest; \
	status=$$?; echo "make test: $$(( $$(date +%s) - start )) seconds"; exit $$status

rest: packages $(VENV)/.dev
	$(PYTEST) tests/faults tests/unit tests/integration tests/packaging

lint: $(VENV)/.dev ## ruff check, ruff format --check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev ## mypy
	$(BIN)/mypy
	$(BIN)/mypy --exclude "^tests/support/(playbooks|other_engine|parity)/" tests
	$(BIN)/mypy --exclude "^bench/(plugins|soak|fuzz)" bench

unit: $(VENV)/.dev ## the tests that need neither engines nor root
	$(PYTEST) tests/unit

engines: packages $(VENV)/.dev ## the contract suite, on each of ENGINES
	$(PYTEST) tests/engines

faults: packages $(VENV)/.dev ## each fault on each of ENGINES, and the table in docs/faults.md made of them; takes half an hour
	$(PYTEST) tests/faults --write-fault-table

integration: packages $(VENV)/.dev ## whole runs: command line, API, streaming, real ssh
	$(PYTEST) tests/integration

packaging: packages $(VENV)/.dev ## wheel, sdist and the reference image
	$(PYTEST) tests/packaging

# The interpreters of `make matrix`: commands or paths; those that don't run are passed over.
PYTHONS ?= python3.10 python3.11 python3.12 python3.13 python3.14
matrix: packages ## unit and integration tests on each of PYTHONS, with the newest ansible-core that it runs
	@set -e; for python in $(PYTHONS); do \
	  $$python -c 'import venv, ensurepip' </dev/null >/dev/null 2>&1 || { echo "matrix: $$python does not run"; continue; }; \
	  venv=$(VENV)-matrix/$$(basename $$(dirname $$(dirname $$(command -v $$python))))-$$(basename $$python); \
	  $$python -m venv $$venv && $$venv/bin/pip install --quiet --upgrade pip </dev/null; \
	  $$venv/bin/pip install --quiet --editable '.[ansible]' --group dev </dev/null; \
	  echo "matrix: $$($$venv/bin/python --version), $$($$venv/bin/pip show ansible-core | sed -n 2p)"; \
	  PATH=$(CURDIR)/$$venv/bin:$$PATH $$venv/bin/python -m pytest tests/unit tests/integration $(PYTEST_ARGS) </dev/null; \
	done

# How many jobs `make soak` cancels or kills the supervisor of, and of how many remote jobs, on each engine, an end.
ROUNDS ?= 420
REMOTE_ROUNDS ?= 50
soak: packages $(VENV)/.dev ## jobs canceled and killed at random moments, remote ones too, on each of ENGINES; takes two hours
	@status=0; $(BIN)/python bench/soak.py jobs --rounds $(ROUNDS) --engines $(ENGINES) || status=1; \
	for engine in $(filter-out podman-rootless,$(ENGINES)); do \
	  $(BIN)/python bench/soak.py remote --rounds $(REMOTE_ROUNDS) --engine $$engine || status=1; \
	done; exit $$status

# Some of the workloads of `make bench` (docs/performance.md), and further arguments for it.
WORKLOADS ?=
BENCH_ARGS ?=
bench: packages $(VENV)/.dev ## the runner beside bare Ansible and ansible-runner, into docs/performance.*; takes half an hour
	$(BIN)/python -m bench --write $(BENCH_ARGS) $(WORKLOADS)

demo: $(VENV)/.run ## the demo, with the best engine that is there
	@demo/run

images: $(VENV)/.run ## localhost/ee-runner:latest in podman and docker, as far as they are there and running
	@set -e; built=; for engine in podman docker; do \
	  if $$engine info >/dev/null 2>&1; then PYTHON=$(BIN)/python images/build reference --engine $$engine; built=1; fi; \
	done; [ -n "$$built" ] || { echo "make images: neither podman nor docker runs here" >&2; exit 1; }

packages:
	@tests/support/packages.sh

venv: $(VENV)/.dev ## the virtual environment, with what development needs

clean: ## removes what make made here; the image cache is elsewhere (see images/README.md)
	rm -rf $(VENV) $(VENV)-matrix dist build demo/artifacts .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What running needs. A virtual environment whose Python has gone is made anew.
BROKEN := $(shell $(BIN)/python -c '' </dev/null 2>/dev/null || echo FORCE)
FORCE:
$(VENV)/.run: pyproject.toml $(BROKEN)
	@[ -n "$(PYTHON)" ] || { echo "Python 3.10 or newer with venv was not found; install it (Debian: apt-get install python3-venv), or set PYTHON" >&2; exit 1; }
	@$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip </dev/null
	$(BIN)/python -m pip install --quiet --editable '.[ansible]' </dev/null
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(BIN)/python -m pip install --quiet --group dev </dev/null
	@touch $@
