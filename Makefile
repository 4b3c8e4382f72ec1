# Every target sets up what it needs inside this checkout; a fresh machine needs Python 3.11+, Node 20+ and make.
# Environments: .venv (all tools, the tree itself), .venv-test and .venv-runtime (the built wheel), .venv-build (builds it),
# .venv-slither (analyses the contracts; it needs other versions of what the adapter uses).

PYTHON ?= python3
ARGS ?=
WORKERS ?= auto

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PRECIOUS: .venv-%/.locked .venv-%/.wheel
MAKEFLAGS += --no-print-directory
unexport PYTHONHOME PYTHONPATH VIRTUAL_ENV
export PIP_DISABLE_PIP_VERSION_CHECK := 1

SOURCE_ROOTS := ledger chain_adapters services protos/stockledger
SOURCES := $(shell find $(SOURCE_ROOTS) -name __pycache__ -prune -o -type f -print 2>/dev/null | LC_ALL=C sort)
# Contracts, compiler and local chains are fetched once there is a chain that needs them.
NODE_WHEN_NEEDED := $(if $(wildcard chain_adapters/evm chain_adapters/spl),node_modules/.installed)

# Twice quiet: pip's errors, and none of its warnings, which tell of folders in the machine's own pip settings that are not there.
PIP_INSTALL = -m pip install --quiet --quiet --no-warn-script-location
TOOL = PATH="$(CURDIR)/.venv/bin:$$PATH" PYTHONSAFEPATH=1 .venv/bin/python
TEST = PYTHONSAFEPATH=1 .venv-test/bin/python -m pytest
EXTRAS := --extra fast --extra server --extra tracing --extra client --extra postgres --extra cli --extra evm --extra spl
COMPILE = .venv/bin/uv pip compile --quiet --system-certs --universal --python-version 3.11 --generate-hashes --no-header --no-annotate $(UPGRADE)

.PHONY: help
help: ## show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

.PHONY: demo
demo: .venv-runtime/.wheel $(NODE_WHEN_NEEDED) ## the whole story, running
	@.venv-runtime/bin/python examples/demo.py $(ARGS)

.PHONY: test
test: .venv-test/.wheel outside-tools $(NODE_WHEN_NEEDED) ## test the built wheel (ARGS="-k words", WORKERS=0 for one process)
	$(TEST) -n $(WORKERS) $(ARGS) tests

.PHONY: test-tree
test-tree: .venv/.installed ## test the tree itself: quick, for development only
	STOCKLEDGER_TEST_TREE=1 PYTHONSAFEPATH=1 .venv/bin/python -m pytest $(ARGS) $(if $(ARGS),,tests)

.PHONY: soak
soak: .venv-test/.wheel outside-tools $(NODE_WHEN_NEEDED) ## the tests that take long
	$(TEST) -m soak $(ARGS) tests

.PHONY: bench
bench: .venv-test/.wheel $(NODE_WHEN_NEEDED) ## measure
	@.venv-test/bin/python benchmarks/run.py $(ARGS)

.PHONY: lint
lint: .venv/.installed node_modules/.contracts-checked node_modules/.contracts-analysed ## style, types, import directions, the language and the contracts with their generated code
	$(TOOL) -m ruff check .
	$(TOOL) -m ruff format --check .
	$(TOOL) -m mypy
	$(TOOL) .venv/bin/lint-imports
	.venv/bin/buf lint
	.venv/bin/buf format -d --exit-code
	PATH="$(CURDIR)/.venv/bin:$$PATH" tools/check_breaking
	$(TOOL) tools/generate_protos.py --check

.PHONY: format
format: .venv/.installed ## put Python and protos into the agreed form
	$(TOOL) -m ruff check --fix-only --quiet .
	$(TOOL) -m ruff format .
	.venv/bin/buf format -w

.PHONY: protos
protos: .venv/.installed ## regenerate the Python code of protos/
	$(TOOL) tools/generate_protos.py

.PHONY: protos-check
protos-check: .venv/.installed
	$(TOOL) tools/generate_protos.py --check

.PHONY: contracts
contracts: node_modules/.installed ## compile the contracts anew
	node tools/compile_contracts.cjs

.PHONY: gas
gas: .venv/.installed node_modules/.installed ## write the gas snapshot anew
	STOCKLEDGER_TEST_TREE=1 STOCKLEDGER_WRITE_GAS=1 PYTHONSAFEPATH=1 .venv/bin/python -m pytest -q tests/evm/test_gas.py

.PHONY: slither
slither: node_modules/.installed .venv-slither/.locked ## analyse the contracts
	.venv-slither/bin/python tools/analyse_contracts.py

.PHONY: lock
lock: .venv/.installed ## write the lock files anew (UPGRADE=--upgrade for newer versions)
	$(COMPILE) $(EXTRAS) --group dev pyproject.toml -o requirements/dev.txt
	$(COMPILE) $(EXTRAS) --group test pyproject.toml -c requirements/dev.txt -o requirements/test.txt
	$(COMPILE) $(EXTRAS) pyproject.toml -c requirements/dev.txt -o requirements/runtime.txt
	$(COMPILE) --group pyproject.toml:build -c requirements/dev.txt -o requirements/build.txt
	$(COMPILE) --group pyproject.toml:slither -o requirements/slither.txt
	npm install --package-lock-only
	.venv/bin/python tools/strip_package_lock.py

.PHONY: clean
clean: ## remove everything that make made
	rm -rf .venv .venv-test .venv-runtime .venv-build .venv-slither node_modules dist build
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: outside-tools
outside-tools:
	@tools/install_outside_tools

# An environment is built from nothing whenever its lock changes, and is only stamped when it is complete.
.venv-%/.locked: requirements/%.txt
	@echo "Setting up .venv-$* ..."
	@$(call create_venv,.venv-$*)
	@.venv-$*/bin/python $(PIP_INSTALL) --require-hashes -r requirements/$*.txt
	@touch $@

.venv-%/.wheel: .venv-%/.locked dist/.built
	@.venv-$*/bin/python $(PIP_INSTALL) --no-index --no-deps --force-reinstall dist/stockledger-*.whl
	@touch $@

.venv/.locked: requirements/dev.txt
	@echo "Setting up .venv ..."
	@$(call create_venv,.venv)
	@.venv/bin/python $(PIP_INSTALL) --require-hashes -r requirements/dev.txt
	@touch $@

.venv/.installed: .venv/.locked pyproject.toml
	@.venv/bin/python $(PIP_INSTALL) --no-index --no-deps --no-build-isolation -e .
	@touch $@

dist/.built: .venv-build/.locked dist/.sources $(SOURCES) pyproject.toml LICENSE
	@echo "Building the wheel ..."
	@rm -f dist/*.whl
	@PYTHONSAFEPATH=1 .venv-build/bin/python -m build --wheel --no-isolation --outdir dist . >dist/build.txt 2>&1 || { cat dist/build.txt; exit 1; }
	@touch $@

# The list of sources, so that a removed file is noticed too.
dist/.sources: FORCE
	@mkdir -p dist
	@echo "$(SOURCES)" | cmp -s - $@ || echo "$(SOURCES)" >$@

.PHONY: FORCE
FORCE:

node_modules/.installed: package.json package-lock.json .npmrc
	@echo "Setting up node_modules ..."
	@npm ci --no-audit --no-fund
	@touch $@

# Compiling and analysing take half a minute, so both are done again only when something they read has changed.
CONTRACTS := $(shell find chain_adapters/evm/contracts chain_adapters/evm/artifacts 2>/dev/null | LC_ALL=C sort)

node_modules/.contracts-checked: node_modules/.installed tools/compile_contracts.cjs $(CONTRACTS)
	node tools/compile_contracts.cjs --check
	@touch $@

node_modules/.contracts-analysed: node_modules/.installed .venv-slither/.locked $(wildcard tools/*slither* tools/analyse_contracts.py) $(CONTRACTS)
	.venv-slither/bin/python tools/analyse_contracts.py
	@touch $@

define create_venv
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed; name it with PYTHON=..."; exit 1; }; \
$(PYTHON) -m venv --clear $(1) || { echo "Python lacks its venv module (Debian: apt-get install python3-venv)"; exit 1; }
endef
