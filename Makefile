# Every target sets up what it needs; all of it stays inside the checkout, but for Debian packages that lack.
.DEFAULT_GOAL := help
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
# Some images set this for all; then each of a thousand short processes would compile all modules anew.
export PYTHONDONTWRITEBYTECODE :=

help: ## what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-11s %s\n", $$1, $$2}' Makefile

setup: ## Python packages in .venv, and the services that demo and tests start
	@scripts/setup.sh services

demo: setup ## the main job, on real parts; KEEP=1 leaves everything up
	@$(BIN)/python -m scripts.demo

pages: ## Flower's pages in chromium, checked, and drawn for docs/flower.md
	@scripts/setup.sh browser
	@$(BIN)/python -m scripts.pages

test: ## unit, contract and integration tests
	@scripts/setup.sh tests
	@$(PYTEST) tests/unit tests/contract tests/integration -n 2 --dist worksteal --timeout 300

faults: setup ## what kills, pauses and cuts, for longer
	@HYPOTHESIS_PROFILE=faults $(PYTEST) tests/faults tests/contract/test_ledger_histories.py \
		tests/contract/test_ledger_request_histories.py tests/contract/test_forgetful_redis.py \
		-n 2 --dist worksteal --timeout 1800

floors: setup ## the oldest and the newest dependencies that pyproject.toml admits; PYTHON=3.13 for another Python
	@scripts/floors.sh lowest-direct $(PYTHON)
	@scripts/floors.sh highest $(PYTHON)

image: ## build deploy/Dockerfile and start it as CI systems and people do
	@scripts/setup.sh image
	@$(PYTEST) tests/image --timeout 1800

bench: setup ## figures, beside crane and skopeo where they are installed
	@$(BIN)/python -m scripts.bench

bench-check: setup ## counts that no clock touches (requests, Redis commands, modules) against the committed ones
	@$(BIN)/python -m scripts.bench.check

check: ## style, types, and the direction of imports
	@scripts/setup.sh
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo >/dev/null || $(BIN)/lint-imports

docs: ## the documentation's site, in .tools/site; warnings are errors
	@scripts/setup.sh docs
	@$(BIN)/python -m scripts.docs_site
	@NO_MKDOCS_2_WARNING=1 .tools/docs-venv/bin/mkdocs build --quiet

lock: ## write requirements.lock and scripts/docs.lock anew
	@scripts/setup.sh lock

clean: ## remove what set-up made
	@rm -rf .tools .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.PHONY: help setup demo pages test faults floors image bench bench-check check docs lock clean
