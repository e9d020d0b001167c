# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest under a VMM, seen from outside: its console, its monitor (QMP), what it costs.

The VMM is posada-vmm, or whatever POSADA_VMM says: any program with the same options does, e.g.
POSADA_VMM="qemu-system-x86_64 -accel tcg".
"""
import fcntl
import json
import os
import pty
import re
import select
import shlex
import signal
import socket
import subprocess
import tempfile
import termios
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ESCAPES = re.compile(rb"\x1b(\[[0-9;?]*[@-~]|[()][A-Z0-9]|[=>c78])|[\x00\x07]")
PARTIAL = re.compile(rb"\x1b(\[[0-9;?]{0,16}|[()])?\Z|[\xc0-\xff][\x80-\xbf]{0,2}\Z")


def default_vmm():
    """The command that starts a VMM, as a list."""
    words = os.environ.get("POSADA_VMM")
    if words:
        return shlex.split(words)
    build = os.environ.get("POSADA_BUILD", os.path.join(ROOT, "build"))
    return [os.path.join(build, "posada-vmm")]


class GuestError(Exception):
    pass


class Guest:
    """One VMM process.  Everything that waits has a time limit; close() always ends it."""

    def __init__(self, args, vmm=None, tty=False, qmp=False, env=None):
        self.dir = tempfile.TemporaryDirectory(prefix="posada-test.")
        self.console = ""  # all of it as a person reads it: no escapes, no carriage returns
        self.at = 0  # expect() has eaten so far
        self.held = b""  # the start of an escape sequence whose end has not come yet
        self.status = None
        self.usage = None
        self.qmp_sock = None
        self.events = []
        self.argv = (vmm or default_vmm()) + args
        if qmp:
            self.qmp_path = os.path.join(self.dir.name, "qmp")
            self.argv += ["-qmp", "unix:" + self.qmp_path + ",server=on,wait=off"]
        self.began = time.monotonic()
        if tty:
            self.fd, end = pty.openpty()
            attr = termios.tcgetattr(end)
            attr[3] &= ~termios.ECHO  # until the VMM makes it raw
            termios.tcsetattr(end, termios.TCSANOW, attr)
            self.proc = subprocess.Popen(
                self.argv,
                stdin=end,
                stdout=end,
                stderr=end,
                start_new_session=True,
                # its controlling terminal too, as a person's would be
                preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
                env=env,
            )
            os.close(end)
            self.out = self.fd
        else:
            self.proc = subprocess.Popen(
                self.argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=env,
            )
            self.fd = self.proc.stdin.fileno()
            self.out = self.proc.stdout.fileno()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    # ---- console ----

    def _read(self, limit):
        """Takes what the console has within limit seconds; False at its end."""
        ready, _, _ = select.select([self.out], [], [], max(0, limit))
        if not ready:
            return True
        try:
            data = os.read(self.out, 65536)
        except OSError:  # a pty whose other end is gone
            data = b""
        self.held += data
        cut = PARTIAL.search(self.held)
        now = self.held[: cut.start()] if cut and data else self.held
        self.held = self.held[len(now) :]
        self.console += ESCAPES.sub(b"", now).replace(b"\r", b"").decode("utf-8", "replace")
        return bool(data)

    def tail(self, lines=15):
        return "\n".join(self.console.rstrip().split("\n")[-lines:])

    def expect(self, pattern, timeout):
        """Waits until the console shows the pattern; gives the match, and goes on after it.

        A $ also matches where the console has come to so far: end with \\n what must be whole."""
        until = time.monotonic() + timeout
        look = re.compile(pattern, re.M)
        start = self.at
        while True:
            match = look.search(self.console, start)
            start = max(self.at, len(self.console) - 4096)  # no pattern spans more than that
            if match:
                self.at = match.end()
                return match
            left = until - time.monotonic()
            if left <= 0:
                raise GuestError(
                    "no %r on the console within %d s; it ends with:\n%s"
                    % (pattern, timeout, self.tail())
                )
            if not self._read(left):
                raise GuestError(
                    "the VMM ended (%s) before %r; the console ends with:\n%s"
                    % (self.wait(5), pattern, self.tail())
                )

    def send(self, text):
        os.write(self.fd, text.encode())

    def login(self, timeout):
        """From power-on to a shell of root's with a prompt that no output resembles."""
        self.expect(r"login: ", timeout)
        self.send("root\n")
        self.expect(r"root@\w+:~# ", 90)
        self.send("stty -echo cols 200; PS1=; PS2=; bind 'set enable-bracketed-paste off'\n")
        self.shell("true", 30)

    def shell(self, command, timeout):
        """Runs a command in the guest's shell; gives (exit status, output)."""
        self.serial = getattr(self, "serial", 0) + 1
        mark = "posada-%d-" % self.serial
        self.send("%s\nrc=$?; echo; echo posada-%d''-$rc\n" % (command, self.serial))
        start = self.at
        match = self.expect(r"^%s(\d+)\n" % mark, timeout)
        return int(match.group(1)), self.console[start : match.start()].strip("\n")

    # ---- monitor ----

    def _qmp_line(self, until):
        while b"\n" not in self.qmp_buf:
            self.qmp_sock.settimeout(max(0.01, until - time.monotonic()))
            data = self.qmp_sock.recv(65536)
            if not data:
                raise GuestError("the monitor closed its connection")
            self.qmp_buf += data
        line, self.qmp_buf = self.qmp_buf.split(b"\n", 1)
        return json.loads(line)

    def qmp(self, command, timeout=10, **arguments):
        """One QMP command; its return value.  Events on the way are kept in self.events."""
        until = time.monotonic() + timeout
        try:
            if not self.qmp_sock:
                sock = socket.socket(socket.AF_UNIX)
                while True:
                    try:
                        sock.connect(self.qmp_path)
                        break
                    except OSError:
                        if time.monotonic() > until or self.proc.poll() is not None:
                            raise
                        time.sleep(0.05)
                self.qmp_sock, self.qmp_buf = sock, b""
                self._qmp_line(until)
                self.qmp("qmp_capabilities", timeout)
            ask = {"execute": command}
            if arguments:
                ask["arguments"] = arguments
            self.qmp_sock.sendall(json.dumps(ask).encode() + b"\n")
            while True:
                answer = self._qmp_line(until)
                if "return" in answer:
                    return answer["return"]
                if "error" in answer:
                    raise GuestError("QMP %s: %s" % (command, answer["error"].get("desc")))
                self.events.append(answer)
        except OSError as e:
            raise GuestError("QMP %s: %s" % (command, e)) from e

    # ---- process ----

    def wait(self, timeout):
        """Waits for the end of the VMM; its exit status, None when the time ran out."""
        until = time.monotonic() + timeout
        reading = True
        while self.status is None:
            if reading:
                reading = self._read(min(0.2, max(0, until - time.monotonic())))
            else:
                time.sleep(0.02)
            pid, status, usage = os.wait4(self.proc.pid, os.WNOHANG)
            if pid:
                self.status = self.proc.returncode = os.waitstatus_to_exitcode(status)
                self.usage = usage
                while reading and select.select([self.out], [], [], 0)[0]:
                    reading = self._read(0)
            elif time.monotonic() > until:
                return None
        return self.status

    def cpu_seconds(self):
        """Processor time of the VMM so far (all of it once it has ended)."""
        if self.usage:
            return self.usage.ru_utime + self.usage.ru_stime
        with open("/proc/%d/stat" % self.proc.pid) as f:
            field = f.read().rsplit(")", 1)[1].split()
        return (int(field[11]) + int(field[12])) / os.sysconf("SC_CLK_TCK")

    def cpu_now(self):
        """The same while it runs, finer: from the clocks that the kernel keeps for processes; with
        those that it has started itself (programs of the guest run in some)."""
        total, todo = 0.0, [self.proc.pid]
        for pid in todo:
            try:
                total += time.clock_gettime((~pid << 3) | 2)
                for task in os.listdir("/proc/%d/task" % pid):
                    with open("/proc/%d/task/%s/children" % (pid, task)) as f:
                        todo += map(int, f.read().split())
            except OSError:
                pass  # it has just ended
        return total

    def memory_kib(self):
        """Resident memory of the VMM: (private, of files, shared: guest RAM and the code cache)."""
        with open("/proc/%d/status" % self.proc.pid) as f:
            size = dict(re.findall(r"^(Rss\w+):\s+(\d+) kB", f.read(), re.M))
        return int(size["RssAnon"]), int(size["RssFile"]), int(size["RssShmem"])

    def close(self):
        if self.status is None:
            if self.wait(0) is None:
                # The whole session: the VMM may have helpers of its own.
                try:
                    os.killpg(self.proc.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                self.wait(10)
        if self.qmp_sock:
            self.qmp_sock.close()
        if self.proc.stdin:
            self.proc.stdin.close()
            self.proc.stdout.close()
        else:
            try:
                os.close(self.fd)
            except OSError:
                pass
        self.dir.cleanup()


# What a kernel log must not have: any WARNING but the one about what is true of some hosts'
# processors, whose number the guest sees and whose mitigation it does not have.
TROUBLE = re.compile(
    r"WARNING(?!: Spectre v2 mitigation leaves CPU vulnerable to RETBleed)|\bBUG\b|Firmware Bug"
    r"|Oops|Call Trace|Kernel panic|soft lockup|hard LOCKUP|rcu.*(stall|self-detected)"
    r"|blocked for more than|Marking TSC unstable|[Cc]locksource.*(unstable|skew)|TSC.*unstable"
    r"|segfault|general protection|double fault|invalid opcode|I/O error|EXT4-fs error"
)


def trouble(text):
    """Lines of a console or a kernel log that speak of something broken."""
    return [line for line in text.split("\n") if TROUBLE.search(line)]
