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
CLOCKS ?=
SOAK   ?= 180
FAULTS ?=
PYTHONS ?= 3.11 3.13 3.14

# IMG is cut into name and tag; a registry may have a port. One digest cannot name the three images made of it.
$(if $(findstring @,$(IMG)),$(error IMG=$(IMG) has a digest, but names three images: give registry/name:tag, or use the Helm chart, which takes a digest for each))
TAG     := $(or $(word 2,$(subst :, ,$(lastword $(subst /, ,$(IMG))))),latest)
NAME    := $(patsubst %:$(TAG),%,$(IMG))
OVERLAY ?= default
KUBECTL ?= kubectl
BUILDER ?= $(shell if docker info >/dev/null 2>&1; then echo docker; else command -v podman || command -v buildah; fi)
BUILD_FLAGS ?=
# Processes that share the tests: two for each core of the smallest machine that we test on, since many tests wait.
JOBS ?= 4

.DEFAULT_GOAL := help
.PHONY: help run test test-pythons check format proto docs site e2e e2e-images e2e-helm e2e-cert-manager browser screenshots e2e-cluster e2e-kind faults packages soak crash clocks flips bench images sbom release manifests deploy undeploy kind lock clean

help:  ## list the verbs
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(READY)  ## start allocator and shim here and admit the Pods of examples/distributed-db.yaml
	@$(PY) examples/run.py

# Files are begun in the order of tests/conftest.py. Bytecode is kept: each worker compiles all tests otherwise, and each
# of the programs that the tests start compiles itself, which takes longer than what most of these tests try. A test that
# hangs is named, with the line where each thread is.
HANGS = -o faulthandler_timeout=600 -o faulthandler_exit_on_timeout=true
test: $(READY)  ## unit, property and socket tests (no Go, no cluster)
	PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder $(HANGS)

test-pythons:  ## `make run` and `make test`, timed, on several Pythons (PYTHONS="3.11 3.13 3.14"); one that cannot be had here is skipped with a line
	@$(PYTHON) tests/pythons.py $(PYTHONS)

check: $(READY)  ## lint, types, layers, the proto, and that generated files are fresh
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PY) proto/generate.py --check
	$(PY) proto/lint.py
	@$(PY) -m hostport.contract.pages --check
	@$(PY) deploy/monitoring/metrics_page.py | diff -u docs/metrics.md - || { echo "docs/metrics.md is stale: run make docs"; exit 1; }
	@$(PY) deploy/monitoring/dashboard.py | diff -u deploy/monitoring/dashboard.json - || { echo "dashboard.json is stale: run make docs"; exit 1; }
	@$(PY) -m hostport_cli.manual | diff -u docs/cli.md - || { echo "docs/cli.md is stale: run make docs"; exit 1; }
	@$(PY) -m hostport_cli.checks.catalogue | diff -u docs/checks.md - || { echo "docs/checks.md is stale: run make docs"; exit 1; }
	@$(PY) deploy/crd_page.py | diff -u docs/portlease.md - || { echo "docs/portlease.md is stale: run make docs"; exit 1; }
	@$(PY) deploy/render.py --check

format: $(READY)  ## format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: $(READY)  ## generate hostport/v1 from proto/
	$(PY) proto/generate.py

docs: $(READY)  ## write the generated pages and tables of docs/ and of the chart's README, the dashboard, deploy/base and its overlays (CONTRIBUTING.md lists them)
	$(PY) -m hostport.contract.pages
	$(PY) deploy/monitoring/metrics_page.py > docs/metrics.md
	$(PY) deploy/monitoring/dashboard.py > deploy/monitoring/dashboard.json
	$(PY) -m hostport_cli.manual > docs/cli.md
	$(PY) -m hostport_cli.checks.catalogue > docs/checks.md
	$(PY) deploy/render.py
	$(PY) deploy/crd_page.py > docs/portlease.md
	@mkdir -p build
	$(PY) -m testing.follow --page > build/follow.md && mv build/follow.md docs/follow.md

site: $(VENV)/site/.installed  ## the pages of docs/ as a site in build/site; a dead link is an error
	NO_MKDOCS_2_WARNING=1 $(VENV)/site/bin/mkdocs build --strict

e2e: $(READY)  ## a real control plane (KUBEBUILDER_ASSETS, or built once with Go), real webhook calls
	$(BIN)/pytest -q tests/e2e

e2e-images: $(READY)  ## build the images on a base made here, and run them on a read-only root (root, buildah, debootstrap)
	$(BIN)/pytest -q tests/images

e2e-helm: $(READY)  ## the Helm chart: render, refuse, install, test, upgrade, uninstall on a real control plane (Go, or helm and KUBEBUILDER_ASSETS)
	$(BIN)/pytest -q tests/helm

e2e-cert-manager: $(READY)  ## the roll-over of cert-manager's authority, with its real controllers (Go, 11 minutes to build them once)
	$(BIN)/pytest -q -s tests/cert_manager

browser: $(READY)  ## the status page in Chromium (Debian: chromium chromium-driver); skipped where there is none
	$(BIN)/pytest -q tests/browser

screenshots: $(READY)  ## the pictures of docs/status-page.md: 4 and 1,000 nodes, claims made through the API
	$(PY) -m tests.browser.screenshots

e2e-cluster: $(READY)  ## three real nodes on this machine: install, run the example, break things (root, Linux; 30 minutes)
	$(BIN)/pytest -q tests/e2e_cluster

e2e-kind: $(READY)  ## the same on kind (needs Docker and kind)
	HOSTPORT_E2E_DRIVER=kind $(BIN)/pytest -q tests/e2e_cluster

faults: $(READY)  ## measure the table of faults anew and write docs/faults.md (FAULTS="-k shim" for some rows)
	HOSTPORT_FAULTS=docs/faults.json $(BIN)/pytest -q tests/e2e_cluster/test_faults.py $(FAULTS)
	PYTHONPATH=tests $(PY) -m e2e_cluster.report docs/faults.json > docs/faults.md

packages: $(READY)  ## build wheel and sdist, and try each extra in a fresh virtual environment (a package index)
	$(BIN)/pytest -q tests/packages

soak: $(READY)  ## kill -9 the allocator for 3 minutes behind a real API server, 16 clients (SOAK=seconds)
	SOAK_SECONDS=$(SOAK) $(BIN)/pytest -q -s tests/e2e/test_soak.py

crash: $(READY)  ## kill -9 the allocator 200 times under 16 clients (CRASH="--count 50 --seed 7")
	$(PY) -m tests.crash $(CRASH)

clocks: $(READY)  ## set the allocator's wall clock and stop it, and see when leases end (needs libfaketime; 15 minutes)
	$(PY) -m tests.crash.clocks $(CLOCKS)

flips: $(READY)  ## change one bit of 800 copies of a journal: the table of docs/journal.md
	$(PY) -m tests.journal

bench: $(READY)  ## ratios against bare baselines, as a table (BENCH=name for one part)
	PYTHONDONTWRITEBYTECODE= $(PY) -m bench $(BENCH)

images:  ## build the three images (IMG=registry/name:tag makes name-allocator:tag, name-shim:tag and name-agent:tag; BUILD_FLAGS are passed on)
	@tool="$(BUILDER)"; [ -n "$$tool" ] || { echo "no docker that answers, no podman, no buildah here: set BUILDER"; exit 1; }; \
	 for part in allocator shim agent; do \
	   $$tool build $(BUILD_FLAGS) -f Dockerfile.$$part -t $(NAME)-$$part:$(TAG) . || exit 1; \
	 done

sbom: $(VENV)/sbom/.installed  ## what is in each image, as CycloneDX in build/sbom, from the lock files
	@mkdir -p build/sbom
	@for part in allocator shim agent; do \
	   $(VENV)/sbom/bin/python -W ignore -m cyclonedx_py requirements --pyproject pyproject.toml --output-reproducible \
	     -o build/sbom/$$part.cdx.json requirements/$$part.txt || exit 1; \
	 done

release: $(READY) sbom  ## what a release consists of, in build/release (chart and install.yaml need helm)
	@$(PY) deploy/release.py build/release

manifests:  ## write what deploy applies into build/deploy (OVERLAY=default, standby, fail-open, ask-once, cert-manager, own-secrets, agent, agent-reserve or dev)
	@mkdir -p build/deploy
	@printf '%s\n' 'apiVersion: kustomize.config.k8s.io/v1beta1' 'kind: Kustomization' \
	  'resources: [../../deploy/overlays/$(OVERLAY)]' 'images:' \
	  '  - {name: localhost/hostport-operator-allocator, newName: $(NAME)-allocator, newTag: "$(TAG)"}' \
	  '  - {name: localhost/hostport-operator-shim, newName: $(NAME)-shim, newTag: "$(TAG)"}' \
	  '  - {name: localhost/hostport-operator-agent, newName: $(NAME)-agent, newTag: "$(TAG)"}' > build/deploy/kustomization.yaml
	@kubectl kustomize build/deploy > build/deploy/manifests.yaml

deploy: manifests  ## install into the cluster of kubectl (IMG=registry/name:tag, OVERLAY=default)
	$(KUBECTL) apply -f build/deploy/manifests.yaml
	$(KUBECTL) -n hostport-system rollout status deployment/hostport-allocator deployment/hostport-shim --timeout=180s

undeploy: manifests  ## remove it all, the webhook first, so that no Pod waits for what is going
	$(KUBECTL) delete --ignore-not-found mutatingwebhookconfiguration/hostport-operator
	$(KUBECTL) delete --ignore-not-found validatingadmissionpolicybinding/hostport-annotations-stay \
	  validatingadmissionpolicybinding/hostport-ports-given validatingadmissionpolicy/hostport-ports-given
	$(KUBECTL) delete --ignore-not-found -f build/deploy/manifests.yaml

kind:  ## a kind cluster with everything in it, and the example (needs Docker and kind)
	kind create cluster --name hostport --wait 120s
	$(MAKE) images IMG=$(IMG)
	kind load docker-image --name hostport $(NAME)-allocator:$(TAG) $(NAME)-shim:$(TAG) $(NAME)-agent:$(TAG)
	$(MAKE) deploy IMG=$(IMG) KUBECTL="kubectl --context kind-hostport"
	kubectl --context kind-hostport apply -f examples/distributed-db.yaml
	kubectl --context kind-hostport rollout status statefulset/distributed-db --timeout=180s

lock:  ## renew the hash-locked dependency lists (needs uv)
	uv pip compile -q --universal --python-version 3.11.1 --generate-hashes --no-header --extra agent --extra allocator --extra cli --extra shim --extra dev pyproject.toml -o requirements/dev.txt
	uv pip compile -q --universal --python-version 3.11.1 --generate-hashes --no-header --extra allocator pyproject.toml -o requirements/allocator.txt
	uv pip compile -q --universal --python-version 3.11.1 --generate-hashes --no-header --extra shim pyproject.toml -o requirements/shim.txt
	uv pip compile -q --universal --python-version 3.11.1 --generate-hashes --no-header --extra agent --no-emit-package grpcio --no-emit-package grpcio-status --no-emit-package typing-extensions pyproject.toml -o requirements/agent.txt
	uv pip compile -q --universal --python-version 3.11.1 --generate-hashes --no-header --extra cli pyproject.toml -o requirements/cli.txt
	uv pip compile -q --universal --python-version 3.11.1 --generate-hashes --no-header --extra docs pyproject.toml -o requirements/docs.txt
	uv pip compile -q --universal --python-version 3.11.1 --generate-hashes --no-header --extra sbom pyproject.toml -o requirements/sbom.txt

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

$(VENV)/sbom/.installed: requirements/sbom.txt | $(READY)
	@$(PYTHON) -m venv $(VENV)/sbom
	@$(VENV)/sbom/bin/pip install -q --disable-pip-version-check --require-hashes -r requirements/sbom.txt
	@touch $@
