# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests without an operating system: how fast the VMM is up, how little it takes; memtest86+."""
import os
import re
import subprocess
import time

import initrd
from guest import Guest
from suite import case

HERE = os.path.dirname(os.path.abspath(__file__))


def hello(t):
    path = os.path.join(t.work, "hello.elf")
    subprocess.run(
        ["gcc", "-m32", "-nostdlib", "-static", "-no-pie", "-s", "-Wl,-Ttext=0x100000",
         "-Wl,--build-id=none", "-Wl,-n", "-o", path, HERE + "/hello.S"],
        check=True,
    )  # fmt: skip
    t.ok(os.path.getsize(path) < 1024, "hello.elf is not as small as it should be")
    return path


@case("first byte on the serial port, and resident memory")
def first_byte(t):
    args = t.accel + ["-m", "128", "-nodefaults", "-display", "none", "-serial", "stdio"]
    args += ["-kernel", hello(t)]
    took, memory = [], []
    for _ in range(7):
        with Guest(args) as guest:
            guest.expect("Hello", 20)
            took.append(1000 * (time.monotonic() - guest.began))
            time.sleep(0.1)
            memory.append(guest.memory_kib())
            t.ok(guest.wait(0) is None, "the VMM ended by itself")
    took.sort()
    private, files, shared = max(memory, key=sum)
    resident = private + files + shared
    t.note("first byte after %.1f ms (best %.1f)" % (took[3], took[0]))
    t.note("%d KiB resident: %d private, %d of files, %d shared" % (resident, private, files, shared))
    if t.ours:
        # The best of seven, as the machine that tests run on has other things to do.
        t.ok(took[0] < 20, "first byte after %.1f ms, wanted under 20" % took[0])
        t.ok(resident < LIMIT_KIB, "%d KiB resident, wanted under %d" % (resident, LIMIT_KIB))


# Resident memory beyond what the guest touched.  Counted is all that the kernel says is resident
# in the VMM (VmRSS): private memory, the pages of the program and its libraries, shared with
# others that use them or not, and shared memory, which is the code cache and guest RAM.  This
# guest touches two pages, and the VMM a few for it: they are not taken off.
LIMIT_KIB = 8192


@case("memtest86+")
def memtest(t):
    seconds = 120 if t.long else 30
    tool = initrd.fetch("memtest86+:amd64")[0] + "/boot/memtest86+x64.bin"
    args = t.accel + ["-m", "256", "-smp", "2", "-nographic", "-kernel", tool]
    args += ["-append", "console=ttyS0,115200"]
    with Guest(args) as guest:
        guest.expect("Memtest86", 60)
        status = guest.wait(seconds)
        t.ok(status is None, "it ended with %s; console:\n%s" % (status, guest.tail()))
        text = guest.console
    t.ok(re.search(r"\[\d+[KM]B of \d+MB\]", text), "no test runs; console:\n" + text[-500:])
    counts = [int(n) for n in re.findall(r"Errors: *(\d+)", text)]
    t.ok(counts and max(counts) == 0, "errors: %s" % counts)
    t.ok(not re.search(r"Unexpected interrupt|Exception|FAIL", text), text[-500:])
    t.note("tests " + ",".join(sorted(set(re.findall(r"#(\d+) +\[", text)))))
