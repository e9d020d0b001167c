# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's kernels, loaded directly, to the init of a small initramfs and off again."""
import os
import re
import subprocess

import initrd
from guest import Guest, trouble
from suite import case

# Enough for CI: every kernel once, every number of processors once.
IN_CI = {("cloud-amd64", 1), ("cloud-amd64", 4), ("amd64", 2), ("686-pae", 1)}


def boot(t, kernel, smp, words="", more=()):
    """Boots to the end; gives the guest, ended, with its console."""
    arch = "i386" if kernel.startswith("686") else "amd64"
    if not t.ours:
        words += " anyclock"
    args = t.accel + t.cpu + ["-m", "512", "-smp", str(smp), "-nographic", "-no-reboot"]
    args += ["-kernel", initrd.kernel(kernel), "-initrd", initrd.make(t.work, arch)]
    args += ["-append", ("console=ttyS0 panic=-1 " + words).strip()] + list(more)
    guest = Guest(args)
    try:
        status = guest.wait(240)
        t.ok(status is not None, "no end within 240 s; console:\n" + guest.tail())
        t.ok(status == 0, "the VMM ended with %s; console:\n%s" % (status, guest.tail()))
    finally:
        guest.close()
    return guest


def tail(text, lines=15):
    return "\n".join(text.rstrip().split("\n")[-lines:])


def check(t, text, smp, tolerated=None):
    """Judges the console of a kernel that came to the end of its init; lines with what is
    tolerated do not count."""
    found = re.search(r"INIT OK uptime (\S+) nproc (\d+) clocksource (\S+)", text, re.M)
    t.ok(found, "did not reach init; console:\n" + tail(text))
    t.note("init at %s s" % found.group(1))
    t.ok(int(found.group(2)) == smp, "%s processors in place of %d" % (found.group(2), smp))
    bad = [line for line in trouble(text) if not tolerated or tolerated not in line]
    if not t.ours:
        bad = [line for line in bad if "TSC" not in line]
    t.ok(not bad, "the kernel says:\n" + "\n".join(bad[:10]))
    t.ok("SELFCHECK OK" in text, "self-check failed; console:\n" + tail(text, 25))
    t.ok("reboot: Power down" in text, "no orderly power-off; console:\n" + tail(text))


def add(kernel, smp):
    @case("kernel %s, %d processors" % (kernel, smp), ci=(kernel, smp) in IN_CI)
    def one(t):
        guest = boot(t, kernel, smp)
        check(t, guest.console, smp)
        t.note("%.1f s CPU in all" % guest.cpu_seconds())


for k in initrd.KERNELS:
    for n in (1, 2, 4):
        add(k, n)


@case("kernel, code cache too small for it")
def small_cache(t):
    if t.ours:
        check(t, boot(t, "cloud-amd64", 2, more=["-accel", "soft,tb-size=4"]).console, 2)


@case("kernel, all user code directly")
def direct(t):
    if t.ours:
        check(t, boot(t, "cloud-amd64", 2, more=["-accel", "soft,direct=always"]).console, 2)


@case("kernel reboots")
def reboots(t):
    args = t.accel + t.cpu + ["-m", "256", "-nographic", "-kernel", initrd.kernel("cloud-amd64")]
    args += ["-initrd", initrd.make(t.work), "-append", "console=ttyS0 quiet nocheck reboot"]
    with Guest(args) as guest:
        guest.expect("INIT OK", 120)
        guest.expect("INIT OK", 120)
    again = boot(t, "cloud-amd64", 1, "quiet nocheck reboot")  # has -no-reboot
    t.ok(again.console.count("INIT OK") == 1, "-no-reboot did not end it")


def torture(t, smp, direct):
    """The program torture.c as init's only work."""
    program = os.path.join(t.work, "torture")
    subprocess.run(["gcc", "-D_GNU_SOURCE", "-O2", "-mavx2", "-pthread", "-static", "-o", program,
                    os.path.join(os.path.dirname(__file__), "torture.c")], check=True)  # fmt: skip
    script = os.path.join(t.work, "torture.sh")
    with open(script, "w", encoding="ascii") as f:
        f.write("#!/bin/sh\nmount -t proc proc /proc; mount -t devtmpfs dev /dev; mount -t sysfs sys /sys\n"
                "echo always >/sys/kernel/mm/transparent_hugepage/enabled\n/torture\npoweroff -f\n")
    files = initrd.busybox(script, "amd64")
    with open(program, "rb") as f:
        files.add("torture", 0o100755, f.read())
    image = os.path.join(t.work, "torture.gz")
    files.write(image)
    args = t.accel + t.cpu + ["-m", "512", "-smp", str(smp), "-nographic", "-no-reboot"]
    args += ["-kernel", initrd.kernel("cloud-amd64"), "-initrd", image]
    args += ["-append", "console=ttyS0 panic=-1 quiet"]
    if t.ours:
        args += ["-accel", "soft,direct=" + direct]
    with Guest(args) as guest:
        t.ok(guest.wait(400) == 0, "no orderly end; console:\n" + guest.tail())
        bad = re.findall(r"^not ok.*", guest.console, re.M)
        t.ok(not bad, "; ".join(bad))
        t.ok("torture: all well" in guest.console, "it did not end; console:\n" + guest.tail())
        t.ok(not trouble(guest.console), "the kernel says:\n" + "\n".join(trouble(guest.console)[:10]))


@case("torture: a program's view of the processor")
def torture_default(t):
    torture(t, 2, "on")


@case("torture: the same, all code translated", ci=False)
def torture_translated(t):
    torture(t, 2, "off")


@case("torture: the same, all code directly", ci=False)
def torture_direct(t):
    torture(t, 2, "always")
