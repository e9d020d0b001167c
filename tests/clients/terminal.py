# SPDX-License-Identifier: GPL-2.0-or-later
"""The terminal and other character devices, as people and programs use them."""
import os
import pty
import re
import select
import signal
import socket
import subprocess
import tempfile
import termios
import time

from guest import Guest, default_vmm
from suite import case

SMALL = ["-m", "32"]


class Terminal:
    """A VMM on a terminal of its own, whose settings can be looked at."""

    def __init__(self, args):
        self.fd, self.end = pty.openpty()
        self.before = termios.tcgetattr(self.end)
        self.text = ""
        self.proc = subprocess.Popen(
            default_vmm() + args, stdin=self.end, stdout=self.end, stderr=self.end,
            start_new_session=True, preexec_fn=self.control,
        )  # fmt: skip

    def control(self):
        import fcntl

        fcntl.ioctl(self.end, termios.TIOCSCTTY, 0)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.proc.kill()
        self.proc.wait()
        os.close(self.fd)
        os.close(self.end)

    def read(self, limit):
        if select.select([self.fd], [], [], limit)[0]:
            self.text += os.read(self.fd, 65536).decode("utf-8", "replace")

    def expect(self, pattern, timeout=10):
        until = time.monotonic() + timeout
        while not re.search(pattern, self.text):
            if time.monotonic() > until:
                return False
            self.read(0.1)
        self.text = self.text[re.search(pattern, self.text).end() :]
        return True

    def send(self, data):
        os.write(self.fd, data)

    def wait(self, timeout=10):
        until = time.monotonic() + timeout
        while self.proc.poll() is None and time.monotonic() < until:
            self.read(0.05)
        return self.proc.poll()

    def raw(self):
        return not termios.tcgetattr(self.end)[3] & termios.ICANON

    def restored(self):
        return termios.tcgetattr(self.end) == self.before


@case("terminal: escape keys, monitor, and its settings afterwards")
def escape_keys(t):
    if not t.ours:
        t.skip("texts are ours")
    with Terminal(t.accel + SMALL + ["-nographic"]) as v:
        t.ok(v.expect("Ctrl-A x quits, Ctrl-A h helps"), "no hint: %r" % v.text)
        t.ok(v.raw(), "the terminal is not raw")
        v.send(b"\x01h")
        t.ok(v.expect("Ctrl-A c"), "no help: %r" % v.text)
        v.send(b"\x01c")
        t.ok(v.expect(r"\(posada\) "), "no prompt: %r" % v.text)
        v.send(b"info sta\t\r")
        t.ok(v.expect("VM status: running"), "no answer: %r" % v.text)
        v.send(b"\x03")  # a key like others: it must not end the guest
        v.send(b"stop\rinfo status\r")
        t.ok(v.expect("VM status: paused"), "no answer: %r" % v.text)
        v.send(b"\x01c\x01x")
        t.ok(v.wait() == 0, "status %s" % v.proc.returncode)
        t.ok(v.restored(), "the terminal stayed changed")


@case("terminal: restored after every kind of end")
def restored(t):
    for sig in signal.SIGTERM, signal.SIGINT, signal.SIGHUP:
        with Terminal(t.accel + SMALL + ["-nographic"]) as v:
            until = time.monotonic() + 10
            while not v.raw() and time.monotonic() < until:
                v.read(0.05)
            v.read(0.2)
            v.proc.send_signal(sig)
            t.ok(v.wait() is not None, "%s does not end it" % sig.name)
            t.ok(v.restored(), "the terminal stayed changed after %s" % sig.name)
    with Terminal(t.accel + SMALL + ["-serial", "stdio", "-display", "none"]) as v:
        until = time.monotonic() + 10
        while not v.raw() and time.monotonic() < until:
            v.read(0.05)
        v.send(b"\x03")  # without a shared terminal Ctrl-C interrupts
        t.ok(v.wait() is not None, "Ctrl-C does not end it")
        t.ok(v.restored(), "the terminal stayed changed after Ctrl-C")


@case("chardev: pty, sockets and a file that a client uses")
def chardevs(t):
    if not t.ours:
        t.skip("texts are ours")
    with tempfile.TemporaryDirectory(prefix="posada-chardev.") as where:
        path = os.path.join(where, "monitor")
        options = ["-serial", "pty", "-serial", "file:" + os.path.join(where, "log"), "-display",
                   "none", "-monitor", "unix:%s,server=on,wait=off" % path]  # fmt: skip
        with Guest(t.accel + SMALL + options + ["-S"]) as g:
            name = g.expect(r"char device redirected to (/dev/pts/\d+) \(label serial0\)", 10)
            fd = os.open(name.group(1), os.O_RDWR | os.O_NOCTTY)
            os.close(fd)
            until = time.monotonic() + 10
            while not os.path.exists(path) and time.monotonic() < until:
                time.sleep(0.02)
            for _ in range(3):
                with socket.socket(socket.AF_UNIX) as s:
                    s.connect(path)
                    s.settimeout(10)
                    s.sendall(b"info chardev\n")
                    got = b""
                    while got.count(b"(posada) ") < 2:
                        got += s.recv(4096)
                    for word in b"serial0: filename=pty:", b"serial1: filename=file":
                        t.ok(word in got, "%r is not in %r" % (word, got))
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(path)
                s.sendall(b"quit\n")
                t.ok(g.wait(10) == 0, "status %s" % g.status)


def alive(pid):
    """Does it run? One that nobody has waited for does not."""
    try:
        with open("/proc/%s/stat" % pid) as f:
            return f.read().rsplit(") ", 1)[1][0] != "Z"
    except OSError:
        return False


@case("net: the user-mode network's process is confined and goes with the VMM")
def net_helper(t):
    if not t.ours:
        t.skip("the process is ours")
    with Guest(t.accel + SMALL + ["-display", "none", "-nic", "user", "-S"], qmp=True) as g:
        g.qmp("query-status")
        with open("/proc/%d/task/%d/children" % (g.proc.pid, g.proc.pid)) as f:
            (pid,) = f.read().split()
        with open("/proc/%s/status" % pid) as f:
            status = dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)
        t.ok(status["Name"] == "posada-net", status["Name"])
        t.ok(status["NoNewPrivs"] == "1", "NoNewPrivs")
        t.ok(status["Seccomp"] == "2", "Seccomp %s" % status["Seccomp"])
        t.ok(int(status["CapEff"], 16) == 0 and int(status["CapPrm"], 16) == 0, "capabilities")
        os.kill(g.proc.pid, signal.SIGKILL)
        g.wait(10)
        until = time.monotonic() + 5
        while alive(pid) and time.monotonic() < until:
            time.sleep(0.05)
        t.ok(not alive(pid), "the process stays behind")
