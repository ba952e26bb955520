# make demo and make test are all a newcomer needs; make help lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo demo-rpc test check bench bench-grid kill-test fuzz soak build clean go-version

# A Go that was unpacked into /usr/local and is not in PATH is found as well. An
# older one than go.mod asks for fetches that version itself, unless GOTOOLCHAIN
# forbids it.
GO := $(shell command -v go || { test -x /usr/local/go/bin/go && echo /usr/local/go/bin/go; })
GO_NEEDED := 1.26
ifneq ($(GO),)
export PATH := $(patsubst %/,%,$(dir $(GO))):$(PATH)
endif

# Services and containers start programs without HOME; Go keeps its cache there.
ifeq ($(strip $(HOME)),)
export HOME := $(shell getent passwd $$(id -u) | cut -d: -f6)
endif

# Versions are stamped from git where git trusts this clone.
VCS := $(shell git rev-parse HEAD >/dev/null 2>&1 && echo true || echo false)
BINARIES := rendezvous grid ri2n-bench netsim
FUZZTIME ?= 60s
SOAK ?= 1h
KILL_FOR ?= 5m
TESTFLAGS ?=
SCENARIO ?= all
BENCHFLAGS ?=
BENCHOUT ?= bin/bench

help:
	@echo 'make demo    build all, then send a file between two homes behind NATs'
	@echo 'make test    vet and test everything (as root: also the kernel tests)'
	@echo 'make check   formatting, static analysis, import table, other platforms, go.mod'
	@echo 'make build   the four binaries, in bin/'
	@echo 'make bench   ri2n beside its peers, report in $(BENCHOUT)/ (as root; else over loopback)'
	@echo 'make demo-rpc   200 calls and shared data, 8 computers in 4 homes, two of them lost (as root)'
	@echo 'make bench-grid calls of functions and the store, measured, in $(BENCHOUT)-grid/ (as root)'
	@echo 'make kill-test  masters and workers killed at random for KILL_FOR (now $(KILL_FOR)), no result lost'
	@echo 'make fuzz    every fuzz target for FUZZTIME each (now $(FUZZTIME))'
	@echo 'make soak    data over flapping links for SOAK, every byte compared (now $(SOAK))'
	@echo 'make clean   remove bin/'

go-version:
	@if [ -z '$(GO)' ]; then \
		echo 'Go $(GO_NEEDED) or newer is needed, and there is no go in PATH or /usr/local/go/bin.' >&2; \
		echo 'Get it: https://go.dev/dl/ (unpack the archive into /usr/local), then run make again.' >&2; \
		exit 1; \
	fi; \
	need=$(GO_NEEDED); have=$$(cd / && go env GOVERSION); \
	if [ "$$(cd / && go env GOTOOLCHAIN)" = local ]; then \
		need=$$(awk '$$1 == "go" { print $$2 }' go.mod); \
	fi; \
	if [ "$$(printf '%s\n' "$$need" "$${have#go}" | sort -V | head -n 1)" != "$$need" ]; then \
		echo "Go $$need or newer is needed; $(GO) is $$have." >&2; \
		echo 'Get it: https://go.dev/dl/ (unpack the archive into /usr/local), then run make again.' >&2; \
		exit 1; \
	fi

build: go-version
	@mkdir -p bin
	CGO_ENABLED=0 go build -trimpath -buildvcs=$(VCS) -o bin/ $(addprefix ./cmd/,$(BINARIES))

demo: build
	bin/netsim demo

demo-rpc: build
	bin/netsim demo-rpc

bench-grid: build
	bin/netsim bench-grid --out '$(BENCHOUT)-grid' $(BENCHFLAGS)

test: go-version
	@scripts/test $(TESTFLAGS)

check: go-version
	@scripts/check

bench: build
	@if [ "$$(id -u)" = 0 ]; then \
		bin/ri2n-bench compare --scenario '$(SCENARIO)' --out '$(BENCHOUT)' $(BENCHFLAGS); code=$$?; \
		test ! -e '$(BENCHOUT)/report.html' || echo 'report: $(BENCHOUT)/report.html, report.json and report.txt'; \
		exit $$code; \
	else \
		echo 'not root: no namespaces, so over loopback only (sudo make bench for all scenarios)'; \
		bin/ri2n-bench local; \
	fi

kill-test: go-version
	GRID_KILL_FOR='$(KILL_FOR)' go test ./cmd/grid -run TestKilledAtRandom -count=1 -v -timeout 1h

fuzz: go-version
	@FUZZTIME='$(FUZZTIME)' scripts/fuzz

soak: go-version
	@scripts/soak '$(SOAK)'

clean:
	rm -rf bin
