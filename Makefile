# What CI and people call. Everything is set up from nothing: packages of npm, programs of Debian
# (installed when root, named with the command that installs them when not), the guest's kernel.

TSX := node --import tsx
BUILD_INPUTS := $(shell find src scripts/manual -name '*.ts' -not -name '*.d.ts') src/lzo-wasm/asconfig.json \
	src/control/status-page.html tsconfig.json tsconfig.build.json package.json

# Where "make install" puts things, and a folder to put in front of that: for packages.
PREFIX ?= /usr/local
DESTDIR ?=

.PHONY: help demo guest test check bench bench-guest fuzz stress kills build install uninstall deb clean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

demo: build ## the main job: a guest with too little memory finishes on our disk
	@$(TSX) scripts/setup.ts demo
	@$(TSX) scripts/demo.ts

guest: build ## a guest on our disk: ARCH=arm64, MEMORY=256, a shell or CMD='fillverify 320 1'
	@$(TSX) guest/run.ts $(ARCH) $(if $(MEMORY),--memory $(MEMORY)) $${CMD:+--cmd "$$CMD"}

test: check ## all tests, guests under QEMU included
	@$(TSX) scripts/setup.ts test
	npx vitest run --project guests

check: build ## types, lint, format and the tests that need no guest
	npx tsc -p tsconfig.json
	npx biome check --error-on-warnings .
	@$(TSX) scripts/setup.ts check
	@$(TSX) scripts/promtool.ts
	npx vitest run --project unit

bench-guest: build ## in guests: swap on our disk beside its rivals, stale slots
	@$(TSX) scripts/setup.ts bench-guest
	$(TSX) scripts/bench-guest/main.ts

bench: build ## the data path beside peers, the codec beside liblzo2, the parts alone, the backing beside fio
	@$(TSX) scripts/setup.ts bench
	$(TSX) scripts/bench-path/main.ts
	$(TSX) scripts/bench-codec.ts
	$(TSX) scripts/bench-parts/main.ts
	$(TSX) scripts/bench-backing.ts
	$(TSX) scripts/bench-devices.ts --seconds 4

fuzz: build ## seeded fuzzers, FUZZ_SECONDS long (120)
	@$(TSX) scripts/setup.ts check
	$(TSX) scripts/fuzz.ts --seconds $(or $(FUZZ_SECONDS),120)

stress: build ## a million random operations while connections end and daemons are killed
	@$(TSX) scripts/setup.ts check
	$(TSX) scripts/stress.ts reconnects

kills: build ## guests swap while their daemon is killed 50 times (KILLS=50)
	@$(TSX) scripts/setup.ts test
	RAMZSWAP_KILLS=$(or $(KILLS),50) npx vitest run --project guests -t 'a daemon killed'

build: dist/.stamp ## dist/bin/ramzswapd.js and dist/bin/rzscontrol.js

dist/.stamp: node_modules/.package-lock.json $(BUILD_INPUTS)
	npm run --silent build
	@touch $@

node_modules/.package-lock.json: package.json package-lock.json
	npm ci --no-audit --no-fund
	@touch $@

install: build ## programs, pages, units under PREFIX (/usr/local), below DESTDIR if it is given
	@$(TSX) scripts/install/main.ts "$(DESTDIR)" "$(PREFIX)"

uninstall: ## remove what "make install" put there
	@sh scripts/install/uninstall.sh "$(DESTDIR)" "$(PREFIX)"

deb: build ## a Debian package for this architecture, here
	@$(TSX) scripts/install/deb.ts

clean: ## remove what was built and fetched
	rm -rf dist node_modules .cache src/lzo-wasm/lzo1x.wasm ramzswap-*.tgz ramzswap_*.deb
