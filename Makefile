# Every task of this project has a target here; `make` alone lists them. What a target needs and the machine lacks is
# brought into .tools/ (see tools/setup), at the versions of tools/versions.env.

.DEFAULT_GOAL := help
# The suites start Envoys and count requests: one after the other, whatever -j says.
.NOTPARALLEL:
.SUFFIXES:

include tools/versions.env

BIN := $(CURDIR)/.tools/bin
export PATH := $(BIN):$(PATH)

# An Envoy of your own is respected; the older one serves the host contract only.
export ENVOY_PATH ?= $(BIN)/envoy-$(ENVOY_VERSION)
OLDER_ENVOY := $(BIN)/envoy-$(ENVOY_OLDER_VERSION)

# What tests load: the module that ships, and a directory with the modules below.
export RESILIENCE_WASM := $(CURDIR)/dist/resilience.wasm
export RESILIENCE_MODULES := $(CURDIR)/target/test-modules

# Crates that are wasm modules for tests only: each becomes $(RESILIENCE_MODULES)/<name with underscores>.wasm. Beside
# them lie builds of our own module: resilience_trap.wasm with a trap that tests can pull, and resilience_other_version.wasm,
# which stands in for the version before or after it.
TEST_MODULES := empty-filter host-contract-probe

# A lock file that does not fit is an error where nobody looks, and a convenience where somebody works.
CARGO_FLAGS ?= $(if $(CI),--locked)
WASM := --release --target wasm32-wasip1
WASM_OUT := target/wasm32-wasip1/release

# How many schedules `make simulate` plays, and the first seed.
SEEDS ?= 1000000
SEED ?= 0

# How long `make fuzz` runs each fuzzer.
FUZZ_SECONDS ?= 300
# Where the fuzzers are built: by themselves, because every crate in them is instrumented.
FUZZ_TARGET = $(shell rustc --print host-tuple)
fuzz fuzz-keep test-fuzz: export RESILIENCE_FUZZERS = $(CURDIR)/target/fuzz/$(FUZZ_TARGET)/fuzz
# LLVM's own instrumentation for libFuzzer; nothing in it needs a nightly compiler.
FUZZ_FLAGS := -Cpasses=sancov-module $(addprefix -Cllvm-args=-sanitizer-coverage-,level=4 inline-8bit-counters pc-table trace-compares)

# Tests with a real Envoy wait more than they work.
contract test-integration: export RUST_TEST_THREADS ?= 4

SETUP := @tools/setup

# Leaves an unchanged file alone, so that nothing that watches it stirs.
define install_if_changed
@cmp -s $(1) $(2) || { mkdir -p $(dir $(2)) && cp $(1) $(2).part && mv $(2).part $(2); }
endef

.PHONY: help
help: ## List the targets (this list)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup: ## Bring every tool that is missing into .tools/
	$(SETUP) linker linker-c++ rust envoy envoy-older func-e node wasm-bindgen yaml prometheus

.PHONY: build
build: ## Build dist/resilience.wasm
	$(SETUP) linker rust
	cargo build $(CARGO_FLAGS) $(WASM) -p resilience
	$(call install_if_changed,$(WASM_OUT)/resilience.wasm,dist/resilience.wasm)

.PHONY: validate
validate: build ## Write dist/envoy.yaml, let Envoy and the module check it, and warn of what works against policies
	$(SETUP) envoy yaml
	@tools/render envoy/envoy.yaml dist/envoy.yaml
	@tools/validate dist/envoy.yaml

.PHONY: run
run: validate ## Start the bundled stack in the foreground
	$(SETUP) func-e
	@exec tools/run

.PHONY: demo
demo: ## Drive the running stack: a breaker, a bulkhead, retries, a page with parts that are down, and mails
	@exec envoy/demo.py

.PHONY: watch
watch: ## Show the state of the running stack's policies, every second (ONLY='name*', RESILIENCE_STATE_PORT)
	@set -f; exec tools/watch $(ONLY)

.PHONY: test
test: test-core test-core-wasm test-fuzz test-simulator test-module contract test-integration test-prometheus ## Run every test

.PHONY: lint
lint: ## Check the format, and clippy with every warning an error
	$(SETUP) linker rust
	cargo fmt --all --check
	cargo clippy $(CARGO_FLAGS) --workspace --all-targets $(patsubst %,--exclude %,resilience-host resilience $(TEST_MODULES)) -- -D warnings
	cargo clippy $(CARGO_FLAGS) --target wasm32-wasip1 $(patsubst %,-p %,resilience-host resilience $(TEST_MODULES)) -- -D warnings
	cargo clippy $(CARGO_FLAGS) --target wasm32-wasip1 -p resilience --features test-trap,test-other-version -- -D warnings
	cargo clippy $(CARGO_FLAGS) --target wasm32-wasip1 -p resilience --features bench-without-metrics -- -D warnings

.PHONY: bench
bench: build test-modules bench-modules ## Measure CPU per request without a filter, with an empty one, and with ours
	$(SETUP) envoy
	cargo run $(CARGO_FLAGS) --release -p resilience-bench

.PHONY: bench-metrics
bench-metrics: build test-modules bench-modules ## Measure what metrics and annotations cost a request: CPU with them and without
	$(SETUP) envoy
	cargo run $(CARGO_FLAGS) --release -p resilience-bench -- metrics

.PHONY: bench-large
bench-large: build test-modules ## Measure start, memory and CPU per request with 1 policy and with 10 000
	$(SETUP) envoy
	cargo run $(CARGO_FLAGS) --release -p resilience-bench -- large

# BASELINE is the path of the other build.
.PHONY: bench-against
bench-against: build test-modules ## Measure CPU per request of this module and of another build of it (BASELINE=path)
	@test -f "$(BASELINE)" || { echo "BASELINE=$(BASELINE): expected the path of another resilience.wasm" >&2; exit 2; }
	$(SETUP) envoy
	RESILIENCE_BASELINE=$(abspath $(BASELINE)) cargo run $(CARGO_FLAGS) --release -p resilience-bench -- against

.PHONY: contract
contract: test-modules ## Check what we rely on in Envoy, on both versions we hold to
	$(SETUP) envoy envoy-older
	@echo "== host contract: Envoy $(notdir $(ENVOY_PATH))"
	cargo test $(CARGO_FLAGS) --no-fail-fast -p resilience-host-contract
	@echo "== host contract: Envoy $(notdir $(OLDER_ENVOY))"
	ENVOY_PATH=$(OLDER_ENVOY) cargo test $(CARGO_FLAGS) --no-fail-fast -p resilience-host-contract

.PHONY: simulate
simulate: ## Play a million schedules in the simulator (SEEDS=n, first SEED=n)
	$(SETUP) linker rust
	cargo run $(CARGO_FLAGS) --release -p resilience-simulator -- --seeds $(SEEDS) --first $(SEED)

.PHONY: fuzz
fuzz: fuzzers ## Fuzz configuration and shared state for a while (FUZZ_SECONDS=n each)
	cargo run $(CARGO_FLAGS) -p resilience-fuzz -- --seconds $(FUZZ_SECONDS)

.PHONY: fuzz-keep
fuzz-keep: fuzzers ## Keep the inputs that `make fuzz` has learned
	cargo run $(CARGO_FLAGS) -p resilience-fuzz -- --keep

.PHONY: dist
dist: validate ## Pack what an operator needs into dist/
	@tools/pack

.PHONY: clean
clean: ## Remove what was built (the tools in .tools/ stay)
	rm -rf target dist

# ------------------------------------------------------------------------------------------------------ the suites

.PHONY: test-core
test-core:
	$(SETUP) linker rust
	@echo "== core, native"
	cargo test $(CARGO_FLAGS) --no-fail-fast -p resilience-core -p resilience-schema-tests

.PHONY: test-core-wasm
test-core-wasm:
	$(SETUP) linker rust node wasm-bindgen
	@echo "== core, wasm under Node"
	CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER=$(BIN)/wasm-bindgen-test-runner \
		cargo test $(CARGO_FLAGS) --no-fail-fast -p resilience-core --target wasm32-unknown-unknown --tests

.PHONY: test-fuzz
test-fuzz: fuzzers
	@echo "== fuzzing"
	cargo test $(CARGO_FLAGS) --no-fail-fast -p resilience-fuzz -- --show-output

# For the host by its name: only then are build scripts and macros spared the flags.
.PHONY: fuzzers
fuzzers:
	$(SETUP) linker linker-c++ rust
	RUSTFLAGS="$(FUZZ_FLAGS) -Clinker=c++" cargo build $(CARGO_FLAGS) --profile fuzz --target $(FUZZ_TARGET) \
		--target-dir target/fuzz -p resilience-fuzz-targets --features engine

.PHONY: test-simulator
test-simulator:
	$(SETUP) linker rust
	@echo "== simulator"
	cargo test $(CARGO_FLAGS) --release --no-fail-fast -p resilience-simulator

.PHONY: test-module
test-module: build test-modules
	@echo "== module"
	cargo test $(CARGO_FLAGS) --no-fail-fast -p resilience-module-tests

.PHONY: test-integration
test-integration: validate test-modules
	$(SETUP) node
	@echo "== integration: Envoy $(notdir $(ENVOY_PATH))"
	cargo test $(CARGO_FLAGS) --no-fail-fast -p resilience-test-harness -p resilience-integration-tests

# Only where a Prometheus is, or can be brought: elsewhere it says so, and .ci/run repeats it.
.PHONY: test-prometheus
test-prometheus: validate test-modules
	$(SETUP) prometheus
	@if command -v prometheus >/dev/null && command -v promtool >/dev/null; then \
		echo "== prometheus: $$(promtool --version 2>&1 | awk '{ print $$3; exit }')"; \
		cargo test $(CARGO_FLAGS) --no-fail-fast -p resilience-prometheus-tests; \
	else \
		echo "not run: prometheus (rules, alerts and dashboard: there is no prometheus and promtool here)"; \
	fi

# Builds with a feature have target directories of their own: in one directory they would overwrite, and so rebuild, each
# other every time.
.PHONY: test-modules
test-modules:
	$(SETUP) linker rust
	cargo build $(CARGO_FLAGS) $(WASM) $(patsubst %,-p %,$(TEST_MODULES))
	cargo build $(CARGO_FLAGS) $(WASM) -p resilience --features test-trap --target-dir target/trap
	$(call install_if_changed,target/trap/wasm32-wasip1/release/resilience.wasm,$(RESILIENCE_MODULES)/resilience_trap.wasm)
	cargo build $(CARGO_FLAGS) $(WASM) -p resilience --features test-other-version --target-dir target/other-version
	$(call install_if_changed,target/other-version/wasm32-wasip1/release/resilience.wasm,$(RESILIENCE_MODULES)/resilience_other_version.wasm)
	$(foreach module,$(subst -,_,$(TEST_MODULES)),$(call install_if_changed,$(WASM_OUT)/$(module).wasm,$(RESILIENCE_MODULES)/$(module).wasm)$(newline))

# The module as the benchmark compares it with: resilience_without_metrics.wasm writes none.
.PHONY: bench-modules
bench-modules:
	$(SETUP) linker rust
	cargo build $(CARGO_FLAGS) $(WASM) -p resilience --features bench-without-metrics --target-dir target/without-metrics
	$(call install_if_changed,target/without-metrics/wasm32-wasip1/release/resilience.wasm,$(RESILIENCE_MODULES)/resilience_without_metrics.wasm)

# A line break between the recipes of a foreach.
define newline


endef
