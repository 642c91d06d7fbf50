# Everything a developer does. `make` is `make check`.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := check

PYTHON ?= python3
VENV ?= .venv
PYTHONS ?= python3.12 python3.13 python3.14
BIN := $(VENV)/bin
PROTO := startflow/v1/start_flow_service.proto
BASELINE := protos/baseline.binpb
# The tests start hundreds of processes. Python compiles each of them anew where the environment forbids bytecode.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup dev run generate fmt lint test check check-all fuzz chaos chaos-postgres planted planted-postgres storm storm-postgres hostile pythons interop bench bench-quick bench-watch bench-following baseline clean

help: ## Lists the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 …")'
	@echo "Making $(VENV); this takes about half a minute …"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --upgrade "pip>=26.3"
	@touch $@

$(VENV)/.installed: $(VENV)/.made pyproject.toml
	@$(BIN)/pip install --quiet --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	@echo "Installing the development tools …"
	@$(BIN)/pip install --quiet --group dev
	@touch $@

setup: $(VENV)/.installed ## Makes .venv with .venv/bin/startflow

dev: $(VENV)/.dev ## Makes .venv with the development tools as well

run: setup ## Serves the gateway with both sandbox backends
	@exec $(BIN)/startflow serve --sandbox

generate: dev ## Makes generated/ and docs/api.md from protos/, docs/errors.md from gateway/errors.py
	@rm -rf generated/startflow
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I protos --python_out=generated \
		--grpc_python_out=generated --mypy_out=quiet:generated --mypy_grpc_out=quiet:generated $(PROTO)
	@touch generated/startflow/v1/py.typed
	@$(BIN)/python docs/api.py
	@$(BIN)/python docs/errors.py

fmt: dev ## Formats everything
	$(BIN)/buf format -w
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

lint: dev generate ## Checks everything that need not run: generated code, API, style, types, imports
	@test -z "$$(git status --porcelain generated docs/api.md docs/errors.md)" || \
		{ git --no-pager diff --stat generated docs/api.md docs/errors.md; \
		echo "generated/, docs/api.md or docs/errors.md is stale: run make generate and commit it"; exit 1; }
	$(BIN)/buf lint
	$(BIN)/buf format -d --exit-code
	$(BIN)/buf breaking --against $(BASELINE)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

test: dev ## Runs the tests in under 5 minutes, four at a time: many wait for processes; tests/lengths.py says what is left out
	QUICK=1 $(BIN)/pytest -n 4 --dist worksteal -m "not longer"

pythons: ## Runs the tests on each other Python that is there, each in an environment of its own; PYTHONS="python3.13 …"
	@for each in $(PYTHONS); do \
		"$$each" -c pass 2>/dev/null || { echo "$$each: not there"; continue; }; \
		echo "$$each: $$("$$each" --version)"; \
		$(MAKE) --no-print-directory test PYTHON="$$each" VENV=".venv-$$(basename "$$each")" || exit 1; \
	done

check: lint test ## Checks and tests everything that takes under 5 minutes

check-all: lint ## In under 15 minutes: what CI runs (check with every test in full, callers in Go and Node), short forms of fuzz and chaos
	$(BIN)/pytest -n 4 --dist worksteal
	@$(BIN)/python -m tests.fuzz --requests 15000 --json 20
	@$(BIN)/python -m tests.chaos --run 3a
	@$(BIN)/python -m tests.chaos_postgres --short --gateways 1
	@$(BIN)/python -m tests.interop grpcurl "buf curl" Go Node

fuzz: dev ## Throws 100,000 bad requests at a gateway in five minutes, and times isolation; ARGS="--seed 5" and others
	@$(BIN)/python -m tests.fuzz $(ARGS)
	@$(BIN)/python -m tests.bench.isolation

chaos: dev ## Proves in ten minutes that no start is lost or sent twice; ARGS="--seed 5" and others
	@$(BIN)/python -m tests.chaos $(ARGS)

chaos-postgres: dev ## Proves the same in 15 minutes with gateways on one PostgreSQL, which is killed and cut off as well
	@$(BIN)/python -m tests.chaos_postgres $(ARGS)

planted: dev ## Shows that the judge of chaos finds mistakes planted in a gateway, in four minutes; ARGS="'blocks left'"
	@$(BIN)/python -m tests.chaos.planted $(ARGS)

planted-postgres: dev ## Does the same for the judge of chaos-postgres, in five minutes; ARGS="'no fence'"
	@$(BIN)/python -m tests.chaos_postgres.planted $(ARGS)

storm: dev ## Proves in six minutes that watchers miss nothing: 5,000 in storms of kills, one that stops reading
	@$(BIN)/python -m tests.chaos.storm $(ARGS)
	@$(BIN)/python -m tests.chaos.slow_reader

storm-postgres: dev ## Proves that watchers of gateways on one PostgreSQL miss nothing, in ten minutes
	@$(BIN)/python -m tests.chaos_postgres.storm $(ARGS)

interop: dev ## Tries real tools, and callers in other languages, against a gateway, built first; ARGS="Go ghz"
	@$(BIN)/python -m tests.interop $(ARGS)

hostile: dev ## Measures what a quiet tenant notices of 40 attacks, in six minutes; ARGS="--only streams", "--list"
	@$(BIN)/python -m tests.hostile $(ARGS)

$(VENV)/.bench: $(VENV)/.dev
	@$(BIN)/pip install --quiet --group bench
	@touch $@

bench: $(VENV)/.bench ## Measures everything in a quarter of an hour, and writes docs/benchmarks.md; needs Go
	@$(BIN)/python -m tests.bench --write $(ARGS)

bench-quick: dev ## Measures less of everything, in three minutes, and writes nothing
	@$(BIN)/python -m tests.bench --quick $(ARGS)

bench-watch: dev ## Measures watchers against a bare stream server, in four minutes; ARGS="--quick" and others
	@$(BIN)/python -m tests.bench.watch $(ARGS)

bench-following: dev ## Measures following 100,000 running starts per backend, in five minutes; ARGS="--starts 5000"
	@$(BIN)/python -m tests.bench.following $(ARGS)

baseline: dev ## Takes today's API as what later ones must not break
	$(BIN)/buf build -o $(BASELINE)

clean: ## Removes what was made, the recorded starts excepted
	rm -rf .venv .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis .interop
