# SPDX-License-Identifier: GPL-2.0-or-later
"""A suite of whole-system tests: cases with names, run one after the other, counted truly.

    @case("disk boots", ci=True)
    def disk_boots(t):
        ...                      # raise anything to fail; t.skip("why") to pass over

What is printed is TAP; the last line is `N passed, N failed`.
"""
import argparse
import os
import re
import sys
import time
import traceback

from guest import ROOT, GuestError, default_vmm

CASES = []


class Skip(Exception):
    pass


class Failed(Exception):
    pass


class Test:
    """What a case is given: where to build, what was asked for on the command line."""

    def __init__(self, options):
        self.build = os.environ.get("POSADA_BUILD", os.path.join(ROOT, "build"))
        self.work = os.path.join(self.build, "tests")
        os.makedirs(self.work, exist_ok=True)
        self.long = options.all
        self.ours = os.path.basename(default_vmm()[0]) == "posada-vmm"
        self.accel = ["-accel", options.accel] if self.ours else []
        self.cpu = ["-cpu", "max"]
        self.notes = []

    def note(self, text):
        self.notes.append(text)

    def skip(self, why):
        raise Skip(why)

    def ok(self, condition, what):
        if not condition:
            raise Failed(what)


def case(name, ci=True):
    """Registers a test; one that is not for CI runs with --all only."""

    def add(function):
        CASES.append((name, ci, function))
        return function

    return add


def main():
    parse = argparse.ArgumentParser(description="whole-system tests of posada-vmm")
    parse.add_argument("only", nargs="*", help="regular expressions: cases whose names match")
    parse.add_argument("--all", action="store_true", help="also what is too long for CI")
    parse.add_argument("--times", type=int, default=1, help="the whole that many times")
    parse.add_argument("--accel", default="soft", help="CPU backend (soft)")
    parse.add_argument("--list", action="store_true", help="names of the cases")
    options = parse.parse_args()
    chosen = [
        c
        for c in CASES
        if (any(re.search(o, c[0]) for o in options.only) if options.only else c[1] or options.all)
    ]
    if options.list:
        print("\n".join(c[0] for c in chosen))
        return 0
    passed = failed = number = 0
    print("1..%d" % (len(chosen) * options.times), flush=True)
    for _ in range(options.times):
        for name, _ci, function in chosen:
            number += 1
            test, began = Test(options), time.monotonic()
            try:
                function(test)
                verdict, why = "ok", ""
                passed += 1
            except Skip as e:
                verdict, why = "ok", " # SKIP %s" % e
            except (GuestError, Failed, OSError) as e:
                verdict, why = "not ok", "\n# " + str(e).replace("\n", "\n# ")
                failed += 1
            except Exception:  # pylint: disable=broad-except
                verdict, why = "not ok", "\n# " + traceback.format_exc().replace("\n", "\n# ")
                failed += 1
            notes = "".join(", " + n for n in test.notes)
            took = time.monotonic() - began
            print("%s %d - %s (%.1f s%s)%s" % (verdict, number, name, took, notes, why), flush=True)
    print("%d passed, %d failed" % (passed, failed), flush=True)
    return 1 if failed or not number else 0


def run():
    sys.exit(main())
