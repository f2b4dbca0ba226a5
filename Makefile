# The commands of this repository. `make` lists them.

CARGO ?= cargo
# The programs of others that the tests run: clients of the HTTP API, checkers of what deploy/ holds.
TOOLS := target/test-tools
CARGO_DEB := $(TOOLS)/cargo-deb-3.8.0/bin/cargo-deb
# Tests mostly wait for timers, so more of them run at once than there are cores.
TEST_THREADS ?= 6

.PHONY: help
help:
	@sed -n 's/^## //p' Makefile

## make test     installs what the tests need, then format, clippy, rustdoc and all tests
.PHONY: test
test: packages tools
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- --deny warnings
	$(CARGO) clippy --locked --all-targets --all-features -- --deny warnings
	RUSTDOCFLAGS="--deny warnings" $(CARGO) doc --locked --no-deps --document-private-items --all-features
	$(CARGO) test --locked --all-features -- --test-threads=$(TEST_THREADS)

## make bench    prints how late timers fire, how soon clients are told, and what a poll costs
.PHONY: bench
bench: packages
	$(CARGO) bench --locked --bench punctuality --bench polling

## make deb      builds the Debian package, into target/debian
.PHONY: deb
deb: $(CARGO_DEB)
	$(CARGO) build --locked --release --features otlp
	target/release/lobbyd generate target/generated
	$(CARGO_DEB) --no-build --locked

## make packages installs Debian packages that tests and benchmarks need: servers, which they start
##               privately, and programs that check files
.PHONY: packages
packages:
	tests/install-packages

## make tools    installs the programs that the tests run from PyPI, npm and crates.io, into target/
.PHONY: tools
tools: $(TOOLS)/nc-py-api/installed $(TOOLS)/schemathesis/installed $(TOOLS)/deploy/installed \
       $(TOOLS)/asyncapi/installed $(CARGO_DEB)

# Each has an environment of its own, because one brings a urllib3 that another cannot use. It is
# made anew only when the versions change.
$(TOOLS)/%/installed: tests/tools/%.txt | packages
	rm -rf $(@D)
	python3 -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

$(TOOLS)/asyncapi/installed: $(wildcard tests/tools/asyncapi/*) | packages
	rm -rf $(@D)
	mkdir -p $(@D)
	cp tests/tools/asyncapi/* $(@D)
	npm ci --silent --no-fund --no-audit --prefix $(@D)
	touch $@

# Without optimisation it builds in a minute, and is fast enough for one package.
$(CARGO_DEB):
	$(CARGO) install --locked --quiet --debug --root $(TOOLS)/cargo-deb-3.8.0 cargo-deb@3.8.0
