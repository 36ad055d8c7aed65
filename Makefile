# Everything happens in .venv; nothing is installed outside the project.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
AGENT  ?=
ARGS   ?=
# Carries the model file of an optional provider, and serializers that the tests hold against ours. It pins
# older versions of packages that the server uses, so it comes without its dependencies.
PIPECAT := pipecat-ai==1.14.0
PLIVO_STREAM := plivo-stream-sdk==0.1.1
# Of chosen tests, all may belong to one half of `make test`: then pytest says 5 for the other.
NONE_OK := $(if $(ARGS),|| [ $$? -eq 5 ])

.DEFAULT_GOAL := help
.PHONY: help run test quick check format lint types imports docs lock bench clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: .stamps/run ## install what the server needs and run the default agent (AGENT=file.yaml for another)
	@$(BIN)/flowcat-server run $(AGENT) $(ARGS) || [ $$? -eq 130 ]

test: .stamps/dev .stamps/chromium .stamps/redis ## install what the tests need and run all of them, and every check
	$(MAKE) --no-print-directory lint types imports
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not alone" $(ARGS) $(NONE_OK)
	$(BIN)/python -m pytest -m alone $(ARGS) $(NONE_OK)

quick: .stamps/dev ## the tests without models, servers and browsers
	$(BIN)/python -m pytest -m "not models and not e2e and not browser" $(ARGS)

check: lint types imports quick ## format, lint, types, imports and the quick tests

lint: .stamps/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .stamps/dev
	$(BIN)/mypy

imports: .stamps/dev
	$(BIN)/lint-imports

format: .stamps/dev ## put the code into shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: .stamps/dev ## write the generated parts of docs
	$(BIN)/python -m tests.docs.generate
	$(BIN)/python -m bench.faults --write docs/explanation/when-a-provider-fails.md >/dev/null

lock: .stamps/uv ## pin every dependency anew
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --upgrade --no-annotate --no-header \
	  --extra local pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --upgrade --no-annotate --no-header \
	  --extra local --extra postgres --extra redis --group dev -c requirements.lock pyproject.toml -o requirements-dev.lock

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .stamps .mypy_cache .ruff_cache .pytest_cache .hypothesis

.stamps/uv:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; set PYTHON=...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@mkdir -p .stamps && touch $@

.stamps/run: .stamps/uv requirements.lock pyproject.toml
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock -e .
	@touch $@

.stamps/dev: .stamps/run requirements-dev.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements-dev.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps $(PIPECAT) $(PLIVO_STREAM)
	@touch $@

# The browser tests need Chromium, those of several machines Redis; where one can neither be found nor installed they
# are skipped.
.stamps/chromium:
	@mkdir -p .stamps
	@command -v chromium chromium-browser google-chrome >/dev/null 2>&1 || $(call install,chromium) \
	  || echo "no Chromium here: browser tests will be skipped"
	@touch $@

.stamps/redis:
	@mkdir -p .stamps
	@command -v redis-server valkey-server >/dev/null 2>&1 || $(call install,redis-server) \
	  || echo "no Redis here: tests of several machines will be skipped"
	@touch $@

install = { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && apt-get update -qq && apt-get install -y -qq $(1) >/dev/null; }
