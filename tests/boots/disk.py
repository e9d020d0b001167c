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


# Compiled and run in the guest and on the host: what it prints must be the same.
PROGRAM = r"""
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

int main(void)
{
    static uint32_t v[300000];
    static char sieve[2000000], text[64];
    uint64_t x = 88172645463325252u, sum = 0;
    double s = 0;
    unsigned primes = 0;

    for (int i = 1; i < 3000000; i++)
        s += 1 / sqrt(i);
    for (unsigned i = 2; i < sizeof sieve; i++) {
        if (sieve[i])
            continue;
        primes++;
        for (unsigned k = i + i; k < sizeof sieve; k += i)
            sieve[k] = 1;
    }
    for (unsigned i = 0; i < 300000; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        v[i] = (uint32_t)(x >> 16);
    }
    qsort(v, 300000, sizeof *v, by_value);
    for (unsigned i = 0; i < 300000; i++)
        sum = sum * 31 + v[i] % (i + 1) + (uint64_t)(v[i] * (long double)i / 7);
    for (int i = 0; i < 100000; i++) {
        snprintf(text, sizeof text, "%d/%.6g/%s", i, exp(-i / 1e4) * sin(i), i & 1 ? "odd" : "even");
        for (const char *p = text; *p; p++)
            sum = sum * 131 + (unsigned char)*p;
    }
    printf("%.9f %u %u %llx\n", s, primes, v[150000], (unsigned long long)sum);
    return 0;
}
"""
COMPILE = "gcc -O0 p.c -o p0 -lm && gcc -O2 p.c -o p -lm && ./p0 && ./p"


def on_host(folder, command):
    return subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True,
                          check=True).stdout.strip()  # fmt: skip


def host_load():
    """How busy the host is: what it runs at this moment, us not counted or not."""
    with open("/proc/loadavg", encoding="ascii") as f:
        return "host load %s of %d CPUs" % (f.read().split()[0], os.cpu_count())


@case("work: compiler, python, openssl, mixed load, clock", ci=False)
def work(t):
    disk = make(t, "work", "--size", "6G", "--with", WORK)
    minutes = float(os.environ.get("LOAD_MINUTES", "5"))
    smp = int(os.environ.get("LOAD_SMP", "2"))
    folder = os.path.join(t.work, "host")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "p.c"), "w", encoding="ascii") as f:
        f.write(PROGRAM)
    with Guest(options(t, disk, smp, 2048), tty=True, qmp=True) as guest:
        guest.login(600)
        # What the kernel says is looked at in the end, and must not get between answers.
        guest.shell("cd /root; dmesg -n 1; systemctl is-system-running --wait", 300)
        clock = guest.shell("cat /sys/devices/system/clocksource/clocksource0/current_*", 30)[1]
        t.ok(clock.strip() in ("tsc", "kvm-clock") or not t.ours, "clocksource " + clock)

        guest.shell("cat >p.c <<'END'\n" + PROGRAM + "END", 60)
        began = time.monotonic()
        status, said = guest.shell(COMPILE, 300)
        took, want = time.monotonic() - began, on_host(folder, COMPILE)
        t.ok(status == 0 and said == want, "compiled program says %r, wanted %r" % (said, want))
        t.note("compiled and ran C in %.1f s" % took)

        began = time.monotonic()
        status, said = guest.shell(
            "python3 -m test -q test_int test_float test_struct test_json test_hashlib test_zlib"
            " test_math test_set test_re test_bytes >py.log 2>&1; rc=$?; tail -n 40 py.log; (exit $rc)",
            1800,
        )
        t.ok(status == 0 and "SUCCESS" in said, "python's tests (%d): %s" % (status, said))
        t.note("python's tests in %.0f s" % (time.monotonic() - began))

        for what in "-evp sha256", "-evp aes-256-gcm", "rsa2048", "ecdsap256":
            status, said = guest.shell("openssl speed -seconds 1 %s 2>&1" % what, 300)
            t.ok(status == 0, "openssl speed: " + said)
        digests = (
            "seq 400000 >n; for d in md5 sha1 sha256 sha512 sha3-256 blake2b512; do openssl dgst -$d"
            " -r n; done; for c in aes-256-cbc aes-256-ctr camellia-256-cbc chacha20; do openssl enc"
            " -$c -K %s -iv %s -in n | openssl dgst -sha256 -r; done"
            "; gzip -9n <n | gunzip | md5sum; xz -2 <n | xz -d | md5sum"
        ) % ("0123456789abcdef" * 4, "fedcba9876543210" * 2)
        said, want = guest.shell(digests, 300)[1], on_host(folder, digests)
        t.ok(said == want, "digests, ciphers, archives:\n%s\nwanted:\n%s" % (said, want))
        said = guest.shell(
            "openssl genrsa 2048 2>/dev/null >k.pem; openssl dgst -sha256 -sign k.pem -out sig p.c &&"
            " openssl rsa -in k.pem -pubout -out pub.pem 2>/dev/null;"
            " openssl dgst -sha256 -verify pub.pem -signature sig p.c",
            300,
        )[1]
        t.ok("Verified OK" in said, "openssl: " + said)

        start, began = drift(guest), time.monotonic()
        t.note(host_load())
        status, said = guest.shell(
            "stress-ng --cpu 2 --vm 1 --vm-bytes 128M --hdd 1 --hdd-bytes 64M --switch 1 --pipe 1"
            " --fork 1 --matrix 1 --sem 1 --futex 1 --mmap 1 --mmap-bytes 64M --timer 1 --verify"
            " --metrics-brief --timeout %ds 2>&1" % (minutes * 60),
            minutes * 60 + 300,
        )
        t.ok(status == 0, "stress-ng: " + said)
        t.ok("successful run completed" in said, "stress-ng: " + said)
        moved = 1000 * (drift(guest) - start)
        t.note("clock moved %.1f ms in %.0f s" % (moved, time.monotonic() - began))
        t.note(host_load())
        t.ok(abs(moved) < 50, "the clock moved %.1f ms against the host" % moved)
        clock = guest.shell("cat /sys/devices/system/clocksource/clocksource0/current_*", 30)[1]
        t.ok(clock.strip() in ("tsc", "kvm-clock") or not t.ours, "clocksource " + clock)
        t.note("clocksource " + clock.strip())
        no_trouble(t, guest)
        power_off(t, guest, "poweroff")
    fsck(t, disk)
