# Thin entry points. Each installs what is missing first; `make help` lists them.

CARGO ?= $(or $(shell command -v cargo),$(wildcard $(HOME)/.cargo/bin/cargo))
LAB_MEMORY ?= 256

# What a fresh Debian 12 lacks: to build (DPDK, libclang for bindgen), to run (iproute2, nftables), to test and show.
PACKAGES := build-essential pkg-config libdpdk-dev libclang-dev git \
            iproute2 nftables procps util-linux \
            iputils-ping iperf3 curl tcpdump ethtool python3

.PHONY: help deps deps-cluster build test test-cluster test-deploy lint loom demo image test-image manifests bench fuzz clean

help:
	@echo 'make demo    build, bring up two nodes with pods, show that they talk, take all down (KEEP=1: leave it up)'
	@echo 'make test    formatting, lints, every test; the integration tests use network namespaces and need root'
	@echo 'make test-cluster   upstream tests on a real Kubernetes 1.36, built from source on the first run (SUITES=all: all of them)'
	@echo 'make build   release binaries in target/release/'
	@echo 'make image   the OCI image as an archive in target/, without a container engine'
	@echo 'make manifests    render deploy/manifests from the chart; make test-deploy holds the two together (needs Go)'
	@echo 'make bench   measurements, each with its peer in the same run (QUICK=1: briefly)'
	@echo 'make deps    install what is missing and nothing else'
	@echo 'make fuzz    run the fuzz targets for SECONDS=60 or RUNS=N each (needs a nightly toolchain and cargo-fuzz)'

# What the test cluster needs beside: to run containers, and tools that go into its images. Go is checked by its build.
CLUSTER_PACKAGES := runc iptables conntrack openssl busybox-static dash wget bind9-dnsutils bind9-host netcat-openbsd

# install PACKAGES
define install
@missing=; for p in $(1); do \
  dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; done; \
if [ -n "$$missing" ]; then \
  if [ "$$(id -u)" != 0 ]; then echo "Missing packages; as root: apt-get install$$missing" >&2; exit 1; fi; \
  echo "Installing:$$missing"; \
  apt-get update -q >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $$missing >/dev/null; fi
endef

deps:
	@if [ -z '$(CARGO)' ]; then \
	  echo 'There is no Rust toolchain: install rustup (https://rustup.rs, or Debian: apt-get install rustup) and run this again.' >&2; \
	  exit 1; fi
	$(call install,$(PACKAGES))

deps-cluster: deps
	$(call install,$(CLUSTER_PACKAGES))

build: deps
	$(CARGO) build --release --workspace --bins

lint: deps
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

# The lock-free parts under every interleaving that the model checker finds.
loom: deps
	RUSTFLAGS='--cfg loom' LOOM_MAX_PREEMPTIONS=3 $(CARGO) test --release --target-dir target/loom -p podplane-shm-ring --lib ring
	RUSTFLAGS='--cfg loom' LOOM_MAX_PREEMPTIONS=3 $(CARGO) test --release --target-dir target/loom -p podplane-sleeper --lib

test: lint loom
	$(CARGO) build --workspace --bins
	$(CARGO) test --workspace --no-fail-fast

# Upstream's tests on a real Kubernetes: SUITES=all for the whole list of docs/conformance.md, or one as SUITES=A,D.
# Kubernetes is built on the first run (some 9 minutes on two cores) and kept outside of the tree.
SUITES ?= ci
test-cluster: deps-cluster
	tests/cluster/build $(if $(filter ci,$(SUITES)),,all)
	$(CARGO) build --workspace --bins
	LAB_BIN=$${LAB_BIN:-$(CURDIR)/target/debug} tests/cluster/suites/run $(SUITES)

demo: build
	@KEEP='$(KEEP)' MEMORY='$(LAB_MEMORY)' tests/demo/demo.sh target/release

# The plugin is copied to hosts of any distribution: it brings its C library along.
STATIC_TARGET := x86_64-unknown-linux-gnu
IMAGE ?= target/podplane-image.tar
image: build
	RUSTFLAGS='-C target-feature=+crt-static' $(CARGO) build --release -p podplane-cni --target $(STATIC_TARGET)
	deploy/image/build --binaries target/release --plugin target/$(STATIC_TARGET)/release/podplane-cni --out $(IMAGE)

manifests:
	deploy/render

test-deploy:
	deploy/tests/chart

# That the image runs on the oldest CPUs; needs qemu-user-static.
test-image: image
	deploy/tests/baseline $(IMAGE)

# Whole paths against the kernel, then the packet path and the tables alone (criterion; no devices), then the flow table
# beside rte_hash and policies beside rte_acl. Some 35 minutes after the build on two cores; `podplane-perf list` names the single rows.
# service-change wants 1 GiB of hugepages, rte_hash with 8M entries the 800 MiB of its EAL and 1 GiB for the tables.
# QUICK=1 starts each row once and measures briefly: whether every row runs, in a third of the time; no figures to keep.
BENCH_MEMORY ?= 1200
FLOWS_MEMORY ?= 2400
bench: build
	@target/release/podplane-hugepages setup --memory $(BENCH_MEMORY) && \
	{ target/release/podplane-perf run $(if $(QUICK),--starts 1 --seconds 2 --pods 50 --changes 50); status=$$?; target/release/podplane-hugepages release; exit $$status; }
	$(CARGO) bench -p podplane-pipeline -p podplane-tables --bench pipeline --bench tables --bench policy $(if $(QUICK),-- --quick)
	$(CARGO) bench -p podplane-pipeline --bench hit_floor
	@target/release/podplane-hugepages setup --memory $(FLOWS_MEMORY) && \
	{ $(CARGO) bench -p dpdk-glue --bench flows --bench acl; status=$$?; target/release/podplane-hugepages release; exit $$status; }

# Inputs are as long as what they describe needs; longer ones are only slower. New inputs go to CORPUS, the kept seeds
# are only read. RUNS= ends each target after so many inputs instead of SECONDS.
FUZZ_TARGETS := $(notdir $(basename $(wildcard tests/fuzz/fuzz_targets/*.rs)))
FUZZ_LEN := parse:400 gso:512 gro:600 pipeline:96 ring:200 config:200 reassembly:300 cni:400
SECONDS ?= 60
RUNS ?= -1
CORPUS ?= $(CURDIR)/tests/fuzz/corpus
fuzz: deps
	@$(CARGO) +nightly fuzz --version >/dev/null 2>&1 || { \
	  echo 'Fuzzing needs: rustup toolchain install nightly && cargo install cargo-fuzz' >&2; exit 1; }
	@for t in $(FUZZ_TARGETS); do \
	  len=$$(echo '$(FUZZ_LEN)' | tr ' ' '\n' | sed -n "s/^$$t://p"); mkdir -p $(CORPUS)/$$t; \
	  (cd tests/fuzz && $(CARGO) +nightly fuzz run --fuzz-dir . -s none $$t $(CORPUS)/$$t seeds/$$t -- \
	    -max_len=$${len:-400} -runs=$(RUNS) $(if $(filter -1,$(RUNS)),-max_total_time=$(SECONDS))) || exit 1; done

clean:
	$(CARGO) clean
