# The commands of this repository. `make` lists them.

CARGO ?= cargo
# Programs that the tests run: clients of the HTTP API, and checkers for the files in deploy/.
TOOLS := target/test-tools
CARGO_DEB := $(TOOLS)/cargo-deb-3.8.0/bin/cargo-deb
CARGO_DENY := $(TOOLS)/cargo-deny-0.20.2/bin/cargo-deny
# Schedulers that `make bench-peers` measures beside lobbyd.
PEERS := target/peers
# The release of Debian on which `make test-servers` and `make test-systemd` run, and its files.
RELEASE ?= trixie
SYSTEM := target/debian-$(RELEASE)
# The tests that depend on what a server does.
ON_SERVERS := store_contract room_contract shared_rows migrations chain poison redelivery race crash \
              failpoints outage signaling
# Those that need nothing but MySQL.
ON_MYSQL := store_contract::mariadb room_contract::participants::mariadb room_contract::rooms::mariadb
# Most tests wait for timers, so more of them run in parallel than there are cores.
TEST_THREADS ?= 6

.PHONY: help
help:
	@sed -n 's/^## //p' Makefile

## make test     installs what the tests need, then format, dependencies, clippy, rustdoc and all tests
.PHONY: test
test: packages tools
	$(CARGO) fmt --check
	$(MAKE) deny
	$(CARGO) clippy --locked --all-targets -- --deny warnings
	$(CARGO) clippy --locked --all-targets --all-features -- --deny warnings
	RUSTDOCFLAGS="--deny warnings" $(CARGO) doc --locked --no-deps --document-private-items --all-features
	$(CARGO) test --locked --all-features -- --test-threads=$(TEST_THREADS)

## make deny     checks the dependencies: licences, where they come from, and that none is banned
.PHONY: deny
deny: $(CARGO_DENY)
	$(CARGO_DENY) --locked check --hide-inclusion-graph bans licenses sources

## make test-servers runs the tests of store, chain, poison and signaling, pgbouncer, and failovers
##               of clusters under load, on the servers of another release of Debian
##               (RELEASE=trixie); needs root
.PHONY: test-servers
test-servers: packages $(SYSTEM)
	LOBBYD_TEST_ROOT=$(abspath $(SYSTEM)) $(CARGO) test --locked --all-features --test it -- \
		--test-threads=$(TEST_THREADS) $(ON_SERVERS)
	LOBBYD_TEST_ROOT=$(abspath $(SYSTEM)) $(CARGO) test --locked --all-features --test systems -- \
		--test-threads=1 --nocapture killed::

## make test-mysql runs the tests of the store on MySQL, which is in no stable release of Debian; needs
##               root
.PHONY: test-mysql
test-mysql: packages target/debian-mysql
	LOBBYD_TEST_ROOT=$(abspath target/debian-mysql) $(CARGO) test --locked --all-features --test it -- \
		--test-threads=$(TEST_THREADS) $(ON_MYSQL)

## make test-systemd boots that Debian with systemd, and installs, freezes, upgrades, reboots and
##               purges the package; needs root
.PHONY: test-systemd
test-systemd: deb $(SYSTEM)
	LOBBYD_TEST_ROOT=$(abspath $(SYSTEM)) LOBBYD_TEST_PACKAGE="$$(ls -t $(CURDIR)/target/debian/*.deb | head -1)" \
		$(CARGO) test --locked --all-features --test systems -- --nocapture booted::

## make prove    runs the simulator for a minute, all failpoints, and a soak of five minutes, and
##               prints one table: SECONDS=300 (of the soak), SEED (random)
.PHONY: prove
prove: packages
	CARGO=$(CARGO) tests/prove $(or $(SECONDS),300) $(SEED)

## make endurance runs one process for ten minutes with clients that come and go and connections that
##               are lost, and measures memory, files, threads and tasks: SECONDS=600
.PHONY: endurance
endurance: packages
	LOBBYD_ENDURANCE_SECONDS=$(or $(SECONDS),600) \
		$(CARGO) test --locked --all-features --test endurance -- --nocapture

## make fuzz     tries events, requests and configurations that are changed at random: SECONDS=600
##               (of each kind), SEED (random); `make test` runs four seconds of each
.PHONY: fuzz
fuzz: packages
	LOBBYD_FUZZ_SECONDS=$(or $(SECONDS),600) $(if $(SEED),LOBBYD_SEED=$(SEED)) \
		$(CARGO) test --locked --all-features --test fuzz -- --nocapture

## make soak     breaks processes, servers, connections and clocks under load, and checks every
##               promise: SECONDS=300, SEED (random), DATABASE=postgres or mariadb; `make test` runs
##               30 seconds of it
.PHONY: soak
soak: packages
	LOBBYD_SOAK_SECONDS=$(or $(SECONDS),300) LOBBYD_SOAK_SEED=$(SEED) LOBBYD_SOAK_DATABASE=$(DATABASE) \
		$(CARGO) test --locked --all-features --test soak -- --nocapture the_promises_hold

## make bench    measures lobbyd beside what database and broker can do, into target/bench
.PHONY: bench
bench: packages
	$(CARGO) bench --locked --bench bench

## make bench-short does so with fewer runs
.PHONY: bench-short
bench-short: packages
	$(CARGO) bench --locked --bench bench -- --short

## make bench-peers installs graphile-worker and pg-boss from npm, into target/, and measures them
##               beside lobbyd; it needs Node.js 20 or newer, with npm
.PHONY: bench-peers
bench-peers: packages $(PEERS)/installed
	$(CARGO) bench --locked --bench bench -- peers

$(PEERS)/installed: $(wildcard benches/peers/*)
	@command -v node >/dev/null && command -v npm >/dev/null || { echo "Please install Node.js 20 or newer, with npm" >&2; exit 1; }
	rm -rf $(@D)
	mkdir -p $(@D)
	cp benches/peers/* $(@D)
	npm ci --silent --no-fund --no-audit --prefix $(@D)
	touch $@

## make deb      builds the Debian package, into target/debian
.PHONY: deb
deb: $(CARGO_DEB)
	$(CARGO) build --locked --release --features otlp
	! grep --quiet LOBBYD_FAILPOINT target/release/lobbyd
	target/release/lobbyd generate target/generated
	$(CARGO_DEB) --no-build --locked

## make packages installs Debian packages for tests and benchmarks: servers, of which they start
##               their own instances, and programs that check files
.PHONY: packages
packages:
	tests/install-packages

target/debian-mysql: tests/root-filesystem
	tests/install-packages systems
	tests/root-filesystem sid $@ mysql

$(SYSTEM): tests/root-filesystem
	tests/install-packages systems
	tests/root-filesystem $(RELEASE) $@

## make tools    installs the programs that the tests run from PyPI, npm and crates.io, into target/
.PHONY: tools
tools: $(TOOLS)/nc-py-api/installed $(TOOLS)/schemathesis/installed $(TOOLS)/deploy/installed \
       $(TOOLS)/asyncapi/installed $(TOOLS)/redocly/installed $(TOOLS)/amqplib/installed \
       $(TOOLS)/axe/installed $(CARGO_DEB) $(CARGO_DENY)

# Each has its own environment, because they need different versions of urllib3. It is created again
# when the versions change.
$(TOOLS)/%/installed: tests/tools/%.txt | packages
	rm -rf $(@D)
	python3 -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

$(TOOLS)/asyncapi/installed: $(wildcard tests/tools/asyncapi/*)
$(TOOLS)/redocly/installed: $(wildcard tests/tools/redocly/*)
$(TOOLS)/axe/installed: $(wildcard tests/tools/axe/*)
$(TOOLS)/asyncapi/installed $(TOOLS)/redocly/installed $(TOOLS)/axe/installed: | packages
	rm -rf $(@D)
	mkdir -p $(@D)
	cp tests/tools/$(notdir $(@D))/* $(@D)
	npm ci --silent --no-fund --no-audit --prefix $(@D)
	touch $@

$(TOOLS)/amqplib/installed: $(wildcard deploy/examples/node/*) | packages
	rm -rf $(@D)
	mkdir -p $(@D)
	cp deploy/examples/node/package*.json $(@D)
	npm ci --silent --no-fund --no-audit --prefix $(@D)
	touch $@

# Without optimisation they build in a minute each, and are still fast enough.
$(CARGO_DEB):
	$(CARGO) install --locked --quiet --debug --root $(TOOLS)/cargo-deb-3.8.0 cargo-deb@3.8.0
$(CARGO_DENY):
	$(CARGO) install --locked --quiet --debug --root $(TOOLS)/cargo-deny-0.20.2 cargo-deny@0.20.2
