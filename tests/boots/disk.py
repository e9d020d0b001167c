# SPDX-License-Identifier: GPL-2.0-or-later
"""A real Debian on a disk, by SeaBIOS and its own boot loader; and long work in it."""
import os
import re
import subprocess
import time
import urllib.request

from guest import ROOT, Guest, trouble
from suite import case

WORK = "gcc,libc6-dev,python3,libpython3.11-testsuite,openssl,stress-ng,gzip,xz-utils"


def make(t, name, *words):
    path = os.path.join(t.work, name + ".img")
    subprocess.run(
        [os.path.join(ROOT, "tools", "make-demo-disk"), *words, path],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return path


def options(t, disk, smp=1, mem=1024, net="user,model=virtio-net-pci"):
    return t.accel + t.cpu + [
        "-m", str(mem), "-smp", str(smp), "-nographic",
        "-drive", "file=%s,if=virtio,format=raw" % disk, "-nic", net,
    ]  # fmt: skip


def fsck(t, disk):
    """The file system, looked at from outside, must be clean and whole."""
    done = subprocess.run(
        ["fsck.ext4", "-fn", disk + "?offset=1048576"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin"),
        check=False,
    )
    t.ok(done.returncode == 0, "fsck: " + done.stdout)
    t.ok("recovering journal" not in done.stdout, "the file system was not unmounted cleanly")


def power_off(t, guest, how):
    if how == "acpi":
        guest.qmp("system_powerdown")
    else:
        guest.send("poweroff\n")
    status = guest.wait(120)
    t.ok(status is not None, "still running 120 s after power-off; console:\n" + guest.tail())
    t.ok(status == 0, "the VMM ended with %d; console:\n%s" % (status, guest.tail()))
    t.ok("reboot: Power down" in guest.console, "no orderly power-off:\n" + guest.tail())


def no_trouble(t, guest):
    bad = trouble(guest.shell("dmesg", 120)[1])
    if not t.ours:
        bad = [line for line in bad if "TSC" not in line]
    t.ok(not bad, "the kernel says:\n" + "\n".join(bad))


@case("disk: firmware, boot loader, login; twice, and clean after")
def twice(t):
    disk = make(t, "debian")
    for how in "acpi", "poweroff":
        with Guest(options(t, disk, 2), tty=True, qmp=True) as guest:
            guest.login(300)
            t.note("login at %.0f s" % (time.monotonic() - guest.began))
            status, said = guest.shell("systemctl is-system-running --wait", 300)
            t.ok(said.strip() == "running", "the system is " + said)
            no_trouble(t, guest)
            t.ok(guest.shell("echo was here >>/root/seen", 30)[0] == 0, "cannot write the disk")
            power_off(t, guest, how)
            t.note("%.0f s CPU" % guest.cpu_seconds())
        fsck(t, disk)


@case("disk: file contents survive, big and sparse")
def contents(t):
    disk = make(t, "debian")
    with Guest(options(t, disk), tty=True) as guest:
        guest.login(300)
        status, said = guest.shell(
            "rm -f big; dd if=/dev/urandom of=big bs=1M count=48 status=none; sync;"
            " a=$(md5sum <big); echo 3 >/proc/sys/vm/drop_caches; b=$(md5sum <big);"
            ' [ "$a" = "$b" ] && echo $a',
            300,
        )
        t.ok(status == 0, "what was read is not what was written")
        power_off(t, guest, "poweroff")
    fsck(t, disk)
    done = subprocess.run(
        ["debugfs", "-R", "cat /root/big", disk + "?offset=1048576"],
        capture_output=True,
        env=dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin"),
        check=True,
    )
    again = subprocess.run(["md5sum"], input=done.stdout, capture_output=True, check=True).stdout
    want = re.findall("[0-9a-f]{32}", said)[-1]  # the kernel has its word about drop_caches
    t.ok(again.split()[0].decode() == want, "the host reads other data than the guest")


@case("network: forwarded port, transfer both ways")
def network(t):
    disk = make(t, "debian")
    port = 20000 + os.getpid() % 20000
    net = "user,model=virtio-net-pci,hostfwd=tcp:127.0.0.1:%d-:8000" % port
    with Guest(options(t, disk, net=net), tty=True) as guest:
        guest.login(300)
        status, _ = guest.shell(
            "for i in $(seq 60); do ip -4 -br a | grep -qv ^lo && break; sleep 1; done;"
            " ip -4 -br a | grep -v ^lo && ping -c 2 -W 5 10.0.2.2",
            120,
        )
        t.ok(status == 0, "no address, or the gateway does not answer:\n" + guest.tail())
        guest.shell("cd /tmp && dd if=/dev/urandom of=blob bs=1M count=4 status=none", 60)
        want = guest.shell("md5sum <blob", 60)[1].split()[0]
        guest.shell(
            "cat >srv.py <<'END'\n"
            "import socket\n"
            "s = socket.create_server(('', 8000))\n"
            "while True:\n"
            "    c, _ = s.accept()\n"
            "    c.recv(4096)\n"
            "    d = open('blob', 'rb').read()\n"
            "    c.sendall(b'HTTP/1.0 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n' % len(d) + d)\n"
            "    c.close()\n"
            "END",
            60,
        )
        guest.shell("python3 srv.py >/dev/null 2>&1 & sleep 2", 60)
        data, until = b"", time.monotonic() + 60
        while not data:
            try:
                with urllib.request.urlopen("http://127.0.0.1:%d/" % port, timeout=60) as page:
                    data = page.read()
            except OSError:
                t.ok(time.monotonic() < until, "the forwarded port does not answer")
                time.sleep(1)
        got = subprocess.run(["md5sum"], input=data, capture_output=True, check=True).stdout
        t.ok(got.split()[0].decode() == want, "what came over the network is not what was sent")
        power_off(t, guest, "poweroff")


def drift(guest):
    """Guest's clock minus host's: the answer with the shortest way is the one to believe."""
    best = None
    for _ in range(9):
        began = time.time()
        now = float(guest.shell("date +%s.%N", 60)[1])
        took = time.time() - began
        if best is None or took < best[0]:
            best = (took, now - (began + took / 2))
    return best[1]


@case("work: compiler, python, openssl, mixed load, clock", ci=False)
def work(t):
    disk = make(t, "work", "--size", "6G", "--with", WORK)
    minutes = float(os.environ.get("LOAD_MINUTES", "5"))
    with Guest(options(t, disk, 2, 2048), tty=True, qmp=True) as guest:
        guest.login(600)
        guest.shell("cd /root; systemctl is-system-running --wait", 300)
        clock = guest.shell("cat /sys/devices/system/clocksource/clocksource0/current_*", 30)[1]
        t.ok(clock.strip() in ("tsc", "kvm-clock") or not t.ours, "clocksource " + clock)
        guest.shell(
            "cat >p.c <<'END'\n#include <stdio.h>\n#include <math.h>\n"
            "int main(void) { double s = 0; for (int i = 1; i < 3000000; i++) s += 1 / sqrt(i);"
            ' printf("%.9f\\n", s); }\nEND',
            60,
        )
        status, said = guest.shell("gcc -O2 p.c -o p -lm && ./p", 300)
        t.ok(status == 0 and said == "3462.641326776", "compiled program says %r" % said)
        status, said = guest.shell(
            "python3 -m test -q test_int test_float test_struct test_json test_hashlib test_zlib"
            " test_math test_set test_re test_bytes 2>&1 | tail -n 5",
            1800,
        )
        t.ok("SUCCESS" in said or "All 10 tests OK" in said, "python's tests: " + said)
        for what in "sha256", "aes-256-gcm":
            status, said = guest.shell("openssl speed -seconds 1 -evp %s 2>&1" % what, 300)
            t.ok(status == 0, "openssl speed: " + said)
        status, said = guest.shell(
            "seq 400000 | openssl enc -aes-256-cbc -pbkdf2 -k x | openssl enc -d -aes-256-cbc"
            " -pbkdf2 -k x | sha256sum; openssl genrsa 2048 2>/dev/null >k.pem;"
            " openssl dgst -sha256 -sign k.pem -out sig p.c && openssl rsa -in k.pem -pubout"
            " -out pub.pem 2>/dev/null; openssl dgst -sha256 -verify pub.pem -signature sig p.c",
            300,
        )
        want = subprocess.run("seq 400000 | sha256sum", shell=True, capture_output=True, text=True,
                              check=True).stdout.split()[0]  # fmt: skip
        t.ok(want in said and "Verified OK" in said, "openssl: " + said)
        start, began = drift(guest), time.monotonic()
        status, said = guest.shell(
            "stress-ng --cpu 2 --vm 1 --vm-bytes 128M --hdd 1 --hdd-bytes 64M --switch 1 --pipe 1"
            " --fork 1 --matrix 1 --verify --timeout %ds 2>&1" % (minutes * 60),
            minutes * 60 + 300,
        )
        t.ok(status == 0, "stress-ng: " + said)
        moved = 1000 * (drift(guest) - start)
        t.note("clock moved %.1f ms in %.0f s" % (moved, time.monotonic() - began))
        t.ok(abs(moved) < 50, "the clock moved %.1f ms against the host" % moved)
        no_trouble(t, guest)
        power_off(t, guest, "poweroff")
    fsck(t, disk)
