# SPDX-License-Identifier: GPL-2.0-or-later
"""What the VMM does with bad options and files, and with its console keys and its monitor."""
import os
import re
import subprocess
import time

import initrd
from bare import hello
from guest import Guest, default_vmm
from suite import case


def refused(t, args, *words):
    """Must end with 1 at once and one line that has all of the words."""
    done = subprocess.run(
        default_vmm() + args, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20,
        check=False,
    )  # fmt: skip
    said = done.stderr.strip()
    what = " ".join(args)
    t.ok(done.returncode == 1, "%s: status %d, says %r" % (what, done.returncode, said))
    t.ok(len(said.split("\n")) == 1 and said, "%s: not one line: %r" % (what, said))
    for word in words:
        t.ok(re.search(word, said, re.I), "%s: %r does not say %r" % (what, said, word))


@case("options: what cannot be is refused in one line")
def bad_options(t):
    if not t.ours:
        t.skip("wording is ours")
    junk = os.path.join(t.work, "junk")
    with open(junk, "wb") as f:
        f.write(b"this is no kernel\n" * 100)
    none = os.path.join(t.work, "none")
    quiet = t.accel + ["-display", "none", "-nodefaults"]
    for args, words in [
        (["-nosuchoption"], ["nosuchoption"]),
        (["-m", "banana"], ["banana"]),
        (["-m", "0"], ["-m|memory"]),
        (["-m", "99999999G"], ["memory|99999999"]),
        (["-smp", "0"], ["smp|processors|cpus"]),
        (["-smp", "100000"], ["smp|processors|cpus|100000"]),
        (["-accel", "nosuch"], ["nosuch"]),
        (["-cpu", "nosuchmodel"], ["nosuchmodel"]),
        (["-cpu", "max,+nosuchfeature"], ["nosuchfeature"]),
        (["-machine", "nosuchboard"], ["nosuchboard"]),
        (["-device", "nosuchdevice"], ["nosuchdevice"]),
        (["-device", "virtio-rng-pci,nosuch=1"], ["nosuch"]),
        (["-drive", "file=" + none + ",if=virtio,format=raw"], ["none", "no such file"]),
        (["-kernel", none], ["none", "no such file"]),
        (["-kernel", junk], ["junk"]),
        (["-kernel", initrd.kernel("cloud-amd64"), "-initrd", none], ["none", "no such file"]),
        (["-kernel", initrd.kernel("cloud-amd64"), "-m", "4"], ["memory|too|MiB|fit"]),
        (["-bios", none], ["none"]),
        (["-netdev", "nosuch,id=n"], ["nosuch"]),
        (["-device", "virtio-net-pci,netdev=nobody"], ["nobody"]),
        (["-qmp", "unix:/nonexistent/dir/sock,server=on,wait=off"], ["/nonexistent"]),
    ]:
        refused(t, quiet + args, *words)


@case("console: keys to leave and for help")
def keys(t):
    args = t.accel + ["-m", "128", "-nographic", "-kernel", hello(t)]
    with Guest(args, tty=True) as guest:
        guest.expect("Hello", 30)
        guest.send("\x01h")
        guest.expect(r"(?i)(exit|quit|leave)", 10)
        guest.send("\x01x")
        t.ok(guest.wait(10) == 0, "Ctrl-A x did not end it with 0")


@case("monitor: status, stop, cont, reset, quit")
def monitor(t):
    args = t.accel + ["-m", "128", "-nodefaults", "-display", "none", "-serial", "stdio"]
    args += ["-kernel", hello(t)]
    with Guest(args + ["-S"], qmp=True) as guest:
        t.ok(guest.qmp("query-status")["running"] is False, "-S did not keep it stopped")
        time.sleep(0.3)
        t.ok("Hello" not in guest.console, "it ran in spite of -S")
        guest.qmp("cont")
        guest.expect("Hello", 20)
        t.ok(guest.qmp("query-status")["status"] == "running", "not running after cont")
        guest.qmp("stop")
        t.ok(guest.qmp("query-status")["status"] == "paused", "not paused after stop")
        guest.qmp("cont")
        guest.qmp("system_reset")
        guest.expect("Hello", 20)
        guest.qmp("quit")
        t.ok(guest.wait(10) == 0, "quit did not end it with 0")
        names = [e["event"] for e in guest.events]
        for name in "RESUME", "STOP":
            t.ok(name in names, "no event %s, only %s" % (name, names))
