# Everything a contributor or CI runs. Each target installs what it needs into .venv, from hashed locks, on first use.
# Needs Python 3.11 or newer, make and git. Another interpreter: `make test PYTHON=python3.12`.
# More arguments for the tool behind a target: `make test ARGS='tests/unit -x'`, `make lock ARGS=--upgrade`.

PYTHON ?= python3
ARGS ?=
MINUTES ?= 1
SEED ?= 1
SEEDS ?= 200
FIRST ?= 0
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input
SOURCES := $(wildcard orchestrator actors tests examples bench docs requirements)
TEMPLATES := $(wildcard deploy/ecs/*.yaml)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check model bench simulate chaos docs lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## Run the trade matching example against a local AWS emulator
	@$(BIN)/python -m examples.trade_matching.demo $(ARGS)

test: $(VENV)/.installed ## Run the tests
	@$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

check: $(VENV)/.installed ## Check style, types, floors (who may import whom), container, templates, known flaws
	@echo "ruff check" && $(BIN)/ruff check $(SOURCES)
	@echo "ruff format --check" && $(BIN)/ruff format --check $(SOURCES)
	@echo "mypy --strict" && $(BIN)/mypy --strict $(SOURCES)
	@echo "lint-imports" && $(BIN)/lint-imports --no-logo
	@echo "hadolint" && $(BIN)/hadolint Dockerfile
	@$(if $(TEMPLATES),echo "cfn-lint" && $(BIN)/cfn-lint $(TEMPLATES))
	@echo "pip-audit" && $(BIN)/python -m requirements.audit

model: $(VENV)/.installed ## Check the models of ownership in all their states
	@$(BIN)/python -m docs.model.check $(ARGS)

bench: $(VENV)/.installed ## Measure throughput, latency and the cost of a session
	@$(BIN)/python -m bench $(ARGS)

simulate: $(VENV)/.installed ## Simulate whole clusters on virtual time (SEEDS=10000 FIRST=0)
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS) --first $(FIRST) $(ARGS)

chaos: $(VENV)/.installed ## Kill, freeze, cut off and redeploy real nodes under load (MINUTES=30 SEED=1)
	@$(BIN)/python -m tests.chaos --minutes $(MINUTES) --seed $(SEED) $(ARGS)

docs: $(VENV)/.installed ## Write the state diagrams and the list of licences again
	@$(BIN)/python -m docs.diagrams
	@$(BIN)/python -m requirements.inventory

# The runtime and build locks follow the full one, so that the container runs the very versions that the tests ran.
# Asked of pip at the end: that the container can be built from wheels alone, for both processors.
lock: export CUSTOM_COMPILE_COMMAND = make lock
lock: $(VENV)/.installed ## Lock the dependencies again (ARGS=--upgrade to raise them)
	@echo "locking requirements/dev.txt"
	@$(BIN)/pip-compile $(ARGS) --all-extras --build-deps-for=editable --output-file=requirements/dev.txt pyproject.toml
	@echo "locking requirements/runtime.txt"
	@$(BIN)/pip-compile $(ARGS) --constraint=requirements/dev.txt --output-file=requirements/runtime.txt pyproject.toml
	@echo "locking requirements/build.txt"
	@$(BIN)/pip-compile $(ARGS) --only-build-deps --build-deps-for=wheel --constraint=requirements/dev.txt \
		--output-file=requirements/build.txt pyproject.toml
	@for machine in x86_64 aarch64; do \
		echo "looking for wheels for $$machine"; \
		$(PIP) install --dry-run --ignore-installed --no-deps --target=build/none --only-binary=:all: --require-hashes \
			--implementation=cp --python-version=3.11 --platform=manylinux_2_28_$$machine \
			--platform=manylinux_2_17_$$machine --platform=manylinux2014_$$machine \
			--requirement=requirements/runtime.txt || exit 1; \
	done

clean: ## Remove the virtual environment, build products and caches
	@echo "removing $(VENV), build products and caches"
	@rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find $(SOURCES) -type d -name __pycache__ -prune -exec rm -rf {} +

# A changed lock makes a new environment, so that nothing stays behind that the lock no longer names.
$(VENV)/.locked: requirements/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make PYTHON=python3.11" >&2; exit 1; }
	@echo "installing the locked dependencies into $(VENV) (about a minute, only when the lock changes)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

# The build backend is in the lock as well: without isolation nothing is fetched that no hash vouches for.
$(VENV)/.installed: $(VENV)/.locked pyproject.toml
	@echo "installing the project into $(VENV)"
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@
