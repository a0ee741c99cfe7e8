# Everything that is missing is installed into .pgft/ (or PG_FINETUNE_CACHE) first; nothing else on the machine changes.
# PG_CONFIG=/path/to/pg_config selects a server of your own, else a Postgres from PyPI is used.
# ARGS=... are arguments for the demo, the trainer or the benchmarks.
export PG_CONFIG

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

demo: ## real texts, a real model, from capture to A/B test, on a server of its own that stays up
	@scripts/demo.sh run $(ARGS)

demo-stop: ## stop that server and remove its data
	@scripts/demo.sh stop

trainer: ## the self-hosted trainer on this machine's loopback address, with a small model to start from
	@scripts/trainer.sh serve $(ARGS)

psql: ## psql in the demo's database
	@scripts/demo.sh psql

test: ## formatting, lints, all tests; ends with "N passed, N failed"
	@scripts/test.sh

bench: ## benchmarks: both sides in one run, with their ratio (ARGS: names)
	@bench/run.sh $(ARGS)

install: ## build and install into the server of PG_CONFIG (default: the pg_config in PATH)
	@scripts/install.sh

setup: ## only fetch and build what is missing
	@scripts/setup.sh

clean: ## remove what was built and fetched
	@scripts/clean.sh

.PHONY: help demo demo-stop trainer psql test bench install setup clean
