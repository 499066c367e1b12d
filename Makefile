# `make demo` shows it, `make test` proves it, `make bench` measures it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test bench fuzz fmt check setup unit e2e audit

CARGO ?= cargo
# A test runner that is there if it is there: the tests are the same, only their output is nicer.
RUNNER := $(shell command -v cargo-nextest >/dev/null && echo "nextest run --no-fail-fast" || echo "test --no-fail-fast")
say = @printf '\n\033[1m== %s\033[0m (%s)\n' "$(1)" "$$(date +%T)"

help: ## Show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

demo: ## Build, start three simulated engines and the gateway, and watch prefixes being found
	$(call say,building warmline; the first time takes two to four minutes)
	$(CARGO) build --release --bin warmline
	./target/release/warmline demo $(DEMO)

test: setup check unit e2e ## Install what the tests need, then prove everything
	$(call say,all is well)

setup: ## Install what the tests need and the machine lacks
	$(call say,setting up)
	./scripts/fetch-tokenizers.sh
	./tests/setup.sh

check: ## Formatting, clippy with warnings denied
	$(call say,format and clippy)
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

unit: ## Unit, contract, property, simulation and integration tests, and the examples in the docs
	$(call say,tests)
	$(CARGO) $(RUNNER) --workspace --locked
	$(CARGO) test --doc --workspace --locked --quiet

e2e: ## The built binary, driven by real clients
	$(call say,end to end)
	# As the other tests have built it: a build of the binary alone would build everything again with other features.
	$(CARGO) test --workspace --locked --no-run --quiet
	target/venv/bin/python -m pytest tests -q

bench: ## All benchmarks with their floors; about half an hour
	$(call say,hashing blocks)
	$(CARGO) bench -p warmline-blocks --bench hashing
	$(call say,decoding events)
	$(CARGO) bench -p warmline-events --bench stream
	$(call say,the index)
	$(CARGO) bench -p warmline-index --bench index
	$(call say,tokenising)
	./scripts/fetch-tokenizers.sh
	$(CARGO) bench -p warmline-server --bench tokens
	$(call say,the gateway)
	$(CARGO) build --release --bin warmline
	./target/release/warmline bench gateway
	$(call say,listeners that join late)
	./target/release/warmline bench events
	$(call say,queues)
	$(CARGO) bench -p warmline-queue --bench scheduler
	$(CARGO) bench -p warmline-queue --bench log
	$(CARGO) bench -p warmline-queue --bench room
	./target/release/warmline bench queue
	./target/release/warmline bench fair
	$(call say,what agreeing costs)
	$(CARGO) bench -p warmline-coord --bench coord
	$(call say,the store: what it decides, what it holds bytes in, its protocol)
	$(CARGO) bench -p warmline-store --bench master
	$(CARGO) bench -p warmline-store --bench arena
	$(CARGO) bench -p warmline-store --bench disk
	$(CARGO) bench -p warmline-store --bench promotion
	$(CARGO) bench -p warmline-store --bench link
	./target/release/warmline bench store
	$(call say,the indexer service)
	./target/release/warmline bench indexer
	$(call say,the index and its peers)
	cd bench/peers/index && $(CARGO) run --release && $(CARGO) run --release -- --holders 4

# What is found goes to ROOM/fuzz/artifacts, what reaches something new to target/fuzz; neither is checked in by itself.
fuzz: ## Look for inputs that break a protocol, guided by coverage, FUZZ seconds a target (nightly, cargo-fuzz)
	command -v cargo-fuzz >/dev/null || $(CARGO) install --locked cargo-fuzz
	for target in events/codec events/frames events/snapshot store/commands store/talk store/replies; do \
		room=$${target%/*} name=$${target#*/}; \
		mkdir -p target/fuzz/$$target; \
		$(CARGO) +nightly fuzz run --fuzz-dir $$room/fuzz $$name target/fuzz/$$target $$room/fuzz/corpus/$$name \
			-- -max_len=4096 -max_total_time=$${FUZZ:-60}; \
	done

fmt: ## Format everything
	$(CARGO) fmt --all

audit: ## Licences, sources, duplicates and advisories by cargo-deny (needs its database)
	command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny check
