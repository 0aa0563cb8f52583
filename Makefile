# SPDX-License-Identifier: Apache-2.0
# ARGS are passed on to the command: make test ARGS="-k lstm", make demo ARGS="--help"
PYTHON ?= python3
ARGS ?=
JOBS ?= $(shell getconf _NPROCESSORS_ONLN)

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# The files that need a new installation when they change. Python sources do not: they are installed editable.
PACKAGING := setup.cfg pyproject.toml setup.py requirements/texts.txt $(shell find custom_ops -type f ! -name '*.md')

.PHONY: help demo demos serve test test-slow sanitize test-arm bench docs wheels test-wheels check format clean
.NOTPARALLEL: # two targets must not install into the environment at once

help: ## print this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST)

# make demo EXAMPLE=language_model
EXAMPLE ?= g2p
demo: $(VENV)/.installed-demo ## train a model of examples/; EXAMPLE chooses which, by default g2p
	$(BIN)/python examples/$(EXAMPLE)/train.py $(ARGS)

demos: $(VENV)/.installed-demo ## run all examples, and write their results into the table of examples/README.md; ARGS chooses some
	$(BIN)/python scripts/demos.py $(ARGS)

# make serve MODEL=FOLDER
MODEL ?= runs/g2p/saved_model
serve: $(VENV)/.installed-demo ## serve an exported model over HTTP; MODEL chooses it, by default that of the demo
	$(BIN)/python examples/serving/server.py $(MODEL) $(ARGS)

test: $(VENV)/.installed-test ## run the quick tests, which cover each feature once: 5 minutes
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

# Without ARGS, a run for each folder: TensorFlow keeps what it compiles until its process ends, in all more than 20 GB.
SLOW_RUNS := $(sort $(dir $(wildcard tests/*/test_*.py))) 'tests/test_*.py'
test-slow: $(VENV)/.installed-test-slow ## run the slow tests: compiled by XLA, in other processes, over wider ranges
	@status=0; for tests in $(if $(ARGS),"",$(SLOW_RUNS)); do \
	  (set -x; $(BIN)/python -m pytest -m slow $$tests $(ARGS)) || status=$$?; \
	done; exit $$status

# So that the small calls of the tests have several blocks, chunks and parts of a depth, and more phases.
SMALL_BLOCKS := depth_block=8;row_block=2;chunk_rows=3;outer_block=2
sanitize: $(VENV)/.installed-check ## run the C++ tests of the kernels under sanitizers
	$(call ctest,sanitize-address,-DKERAS_SEQ_SANITIZE="address;undefined")
	$(call ctest,sanitize-thread,-DKERAS_SEQ_SANITIZE=thread -DKERAS_SEQ_TEST_ISAS=best "-DKERAS_SEQ_TUNE=$(SMALL_BLOCKS)")

# Fewer and smaller calls than `sanitize`, because the emulator is slow.
test-arm: $(VENV)/.installed-check ## run the C++ tests of the kernels for 64-bit ARM, cross-compiled, in an emulator
	@for tool in aarch64-linux-gnu-g++ qemu-aarch64; do command -v $$tool >/dev/null || { \
	  echo "There is no $$tool. Install it, on Debian by: apt-get install g++-aarch64-linux-gnu qemu-user" >&2; exit 1; }; done
	$(call ctest,arm,--toolchain aarch64.cmake -DKERAS_SEQ_TEST_CALLS=30 -DKERAS_SEQ_TEST_UNITS=50)

# make bench                                      writes docs/benchmarks.md and what other pages quote of it, in about 20
#                                                 minutes on a quiet machine
# make bench ARGS=--quick                         takes two minutes; writes to runs/bench only, as all that have ARGS
# make bench BENCH=seq2seq ARGS=--memory          another benchmark than `layers`
# make bench BENCH=layers ARGS="--times --publish"
# make bench BENCH=layers ARGS="--times --isa avx2 --contenders native torch --publish"   as without AVX-512: five minutes
BENCH ?= $(if $(filter-out --quick,$(ARGS)),layers,layers seq2seq decoding)
bench: $(VENV)/.installed-bench ## time layers, seq2seq training and decoding against others; ARGS=--quick in two minutes, BENCH chooses one
	set -e; for name in $(BENCH); do $(BIN)/python benchmarks/$$name.py $(or $(ARGS),--publish); done
	$(if $(ARGS),,$(BIN)/python benchmarks/quotes.py)

docs: $(VENV)/.installed-docs ## build the documentation's site into build/docs/; warnings are errors
	$(BIN)/python -m sphinx -W --keep-going -q -d build/doctrees docs build/docs $(ARGS)

wheels: $(VENV)/.installed-wheels ## build the sdist and a wheel that needs no compiler into dist/
	PYTHON=$(BIN)/python scripts/build_wheels.sh

test-wheels: ## run the wheel of dist/ in bare environments; PYTHONS and REQUIREMENTS choose which
	scripts/test_wheel.sh

check: $(VENV)/.installed-check ## check the format, and lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(VENV)/.installed-check ## format, and apply the fixes of ruff
	$(BIN)/ruff check --fix --exit-zero .
	$(BIN)/ruff format .

clean: ## remove the environment, builds and caches; keep runs/
	rm -rf $(VENV) build dist *.egg-info keras_seq/_native .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Builds and tests the kernels without TensorFlow: $(call ctest,name of the build folder,options of CMake)
define ctest
$(BIN)/cmake -S custom_ops -B build/$(1) -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja \
	-DKERAS_SEQ_BUILD_LIBRARIES=OFF -DKERAS_SEQ_BUILD_TESTS=ON -DKERAS_SEQ_TEST_CALLS=40 $(2)
$(BIN)/cmake --build build/$(1) --parallel $(JOBS)
$(BIN)/ctest --test-dir build/$(1) --output-on-failure --no-tests=error --parallel $(JOBS) $(ARGS)
endef

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# A stamp file is newer than PACKAGING when its extras are installed.
$(VENV)/.installed-demo: EXTRAS := tensorflow,examples,plots,tune
$(VENV)/.installed-test: EXTRAS := test
$(VENV)/.installed-test-slow: EXTRAS := test,torch
$(VENV)/.installed-bench: EXTRAS := bench
$(VENV)/.installed-docs: EXTRAS := docs
$(VENV)/.installed-demo $(VENV)/.installed-test $(VENV)/.installed-test-slow $(VENV)/.installed-bench $(VENV)/.installed-docs: $(PACKAGING) | $(BIN)/python
	@echo "Installing keras_seq[$(EXTRAS)] with TensorFlow into $(VENV): this may take minutes."
	@$(PIP) install -q -e '.[$(EXTRAS)]'
	@$(PIP) install -q --no-deps -r requirements/texts.txt
	@touch $@

$(VENV)/.installed-check: requirements/dev.txt | $(BIN)/python
	@echo "Installing ruff, cmake and ninja into $(VENV): seconds."
	@$(PIP) install -q -r requirements/dev.txt
	@touch $@

$(VENV)/.installed-wheels: requirements/wheels.txt | $(BIN)/python
	@$(PIP) install -q -r requirements/wheels.txt
	@touch $@
