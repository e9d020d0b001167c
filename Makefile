# SPDX-License-Identifier: GPL-2.0-or-later
# Thin: meson builds, tools/ and tests/ do the work.
#
#   make demo     a Debian 12 at a login on this terminal (SMP=2 MEM=2048 for more of it)
#   make check    all tests; the last line says how many passed and failed
#   make bench    side by side with QEMU's TCG
#   make fmt      clang-format over the sources

BUILD ?= build
DISK  ?= $(BUILD)/demo.img
CHECK ?=
BENCH ?=

export POSADA_BUILD := $(abspath $(BUILD))

.PHONY: build demo check bench fmt clean packages

build: packages
	@test -f $(BUILD)/build.ninja || meson setup $(BUILD)
	@ninja -C $(BUILD) --quiet all posada-vmm

packages:
	@tools/install-packages

demo: build
	@tools/make-demo-disk $(DISK)
	@tools/demo $(DISK)

check: packages
	@tools/check $(CHECK)

bench: build
	@tools/install-packages bench
	@bench/run $(BENCH)

fmt:
	@tools/install-packages dev
	@git ls-files '*.c' '*.h' | xargs clang-format -i

clean:
	rm -rf build build-*
