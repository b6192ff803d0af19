# Every verb that people and CI use. `make` alone lists them.
# Needs Python 3.11 or newer (PYTHON=...); `e2e` also needs Go or KUBEBUILDER_ASSETS.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PY     := $(BIN)/python
READY  := $(VENV)/.installed
IMG    ?= localhost/hostport-operator:dev
BENCH  ?=
CRASH  ?=

.DEFAULT_GOAL := help
.PHONY: help run test check format proto docs site e2e crash bench images deploy lock clean

help:  ## list the verbs
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(READY)  ## start allocator and shim here and admit the Pods of examples/distributed-db.yaml
	@$(PY) examples/run.py

test: $(READY)  ## unit, property and socket tests (no Go, no cluster)
	$(BIN)/pytest -q

check: $(READY)  ## lint, types, layers, the proto, and that generated files are fresh
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PY) proto/generate.py --check
	$(PY) proto/lint.py
	@$(PY) -m hostport.contract | diff -u docs/contract.md - || { echo "docs/contract.md is stale: run make docs"; exit 1; }

format: $(READY)  ## format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: $(READY)  ## generate hostport/v1 from proto/
	$(PY) proto/generate.py

docs: $(READY)  ## generate docs/contract.md
	$(PY) -m hostport.contract > docs/contract.md

site: $(VENV)/site/.installed  ## the pages of docs/ as a site in build/site; a dead link is an error
	NO_MKDOCS_2_WARNING=1 $(VENV)/site/bin/mkdocs build --strict --quiet

e2e: $(READY)  ## a real control plane (KUBEBUILDER_ASSETS, or built once with Go), real webhook calls
	$(BIN)/pytest -q tests/e2e

crash: $(READY)  ## kill -9 the allocator 200 times under 16 clients (CRASH="--count 50 --seed 7")
	$(PY) -m tests.crash $(CRASH)

bench: $(READY)  ## ratios against bare baselines, as a table (BENCH=name for one part)
	$(PY) -m bench $(BENCH)

images:  ## build both images with docker, podman or buildah (IMG=registry/name:tag makes name-allocator:tag, name-shim:tag)
	@tool=$$(command -v docker || command -v podman || command -v buildah) || { echo "no docker, podman or buildah here"; exit 1; }; \
	 name=$(IMG); base=$${name%:*}; tag=$${name##*:}; \
	 for part in allocator shim; do $$tool build -f Dockerfile.$$part -t $$base-$$part:$$tag . || exit 1; done

deploy:  ## install into the cluster of kubectl
	@echo "make deploy: there are no manifests of allocator and shim yet, only the webhook configuration in deploy/base."; \
	 echo "Use make run, or make e2e to see it behind a real API server."; exit 1

lock:  ## renew the hash-locked dependency lists (needs uv)
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --extra allocator --extra cli --extra dev pyproject.toml -o requirements/dev.txt
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --extra allocator pyproject.toml -o requirements/allocator.txt
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header pyproject.toml -o requirements/shim.txt
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --extra cli pyproject.toml -o requirements/cli.txt
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --extra docs pyproject.toml -o requirements/docs.txt

clean:  ## remove what the other verbs made, but for the control plane in .cache
	rm -rf $(VENV) .local build dist bench/out *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

$(READY): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 ..."; exit 1; }
	@echo "installing into $(VENV) (once) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/site/.installed: requirements/docs.txt | $(READY)
	@$(PYTHON) -m venv $(VENV)/site
	@$(VENV)/site/bin/pip install -q --disable-pip-version-check --require-hashes -r requirements/docs.txt
	@touch $@
