# The commands of this repository. `make` lists them.

CARGO ?= cargo
# The Python clients that drive the HTTP API in the tests.
CLIENTS := target/test-clients
# Tests mostly wait for timers, so more of them run at once than there are cores.
TEST_THREADS ?= 6

.PHONY: help
help:
	@sed -n 's/^## //p' Makefile

## make test     installs what the tests need, then format, clippy, rustdoc and all tests
.PHONY: test
test: servers python-clients
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- --deny warnings
	RUSTDOCFLAGS="--deny warnings" $(CARGO) doc --locked --no-deps --document-private-items
	$(CARGO) test --locked -- --test-threads=$(TEST_THREADS)

## make bench    prints how late timers fire, how soon clients are told, and what a poll costs
.PHONY: bench
bench: servers
	$(CARGO) bench --locked --bench punctuality --bench polling

## make servers  installs the servers that tests and benchmarks start privately
.PHONY: servers
servers:
	tests/install-servers

## make python-clients  installs the Python clients that drive the HTTP API in the tests
.PHONY: python-clients
python-clients: $(CLIENTS)/nc-py-api/installed $(CLIENTS)/schemathesis/installed

# Each has an environment of its own, because one brings a urllib3 that the other cannot use. It is
# made anew only when the versions change.
$(CLIENTS)/%/installed: tests/clients/%.txt | servers
	rm -rf $(@D)
	python3 -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	touch $@
