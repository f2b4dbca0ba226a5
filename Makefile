# The commands of this repository. `make` lists them.

CARGO ?= cargo
# Tests mostly wait for timers, so more of them run at once than there are cores.
TEST_THREADS ?= 6

.PHONY: help
help:
	@sed -n 's/^## //p' Makefile

## make test     installs what the tests need, then format, clippy, rustdoc and all tests
.PHONY: test
test: servers
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- --deny warnings
	RUSTDOCFLAGS="--deny warnings" $(CARGO) doc --locked --no-deps --document-private-items
	$(CARGO) test --locked -- --test-threads=$(TEST_THREADS)

## make bench    prints how late single timers fire and how fast a burst drains
.PHONY: bench
bench: servers
	$(CARGO) bench --locked --bench punctuality

## make servers  installs the servers that tests and benchmarks start privately
.PHONY: servers
servers:
	tests/install-servers
