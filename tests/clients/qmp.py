# SPDX-License-Identifier: GPL-2.0-or-later
"""QMP as its clients use it: sessions, errors, run state with events, answers against the schema."""
import json
import os
import socket
import time

from guest import Guest, GuestError
from suite import case

BARE = ["-nodefaults", "-display", "none", "-m", "32"]


class Qmp:
    """One connection, that shows everything as it comes."""

    def __init__(self, path, negotiate=True):
        until = time.monotonic() + 10
        self.buf = b""
        self.events = []
        self.sock = socket.socket(socket.AF_UNIX)
        while True:
            try:
                self.sock.connect(path)
                break
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.02)
        self.sock.settimeout(10)
        self.greeting = self.line()
        if negotiate:
            self.ask({"execute": "qmp_capabilities"})

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.sock.close()

    def line(self):
        while b"\n" not in self.buf:
            data = self.sock.recv(65536)
            if not data:
                raise GuestError("the monitor closed its connection")
            self.buf += data
        line, self.buf = self.buf.split(b"\n", 1)
        return json.loads(line)

    def ask(self, command):
        """The answer to it; command is bytes, or an object."""
        self.sock.sendall(command if isinstance(command, bytes) else json.dumps(command).encode())
        while True:
            got = self.line()
            if "event" not in got:
                return got
            self.events.append(got)

    def call(self, name, /, **arguments):
        got = self.ask({"execute": name, "arguments": arguments})
        if "return" not in got:
            raise GuestError("%s: %r" % (name, got))
        return got["return"]

    def event(self, name):
        """The next event of that name; others before it are dropped."""
        while True:
            got = self.events.pop(0) if self.events else self.line()
            if got.get("event") == name:
                return got


def sockets(n):
    """Options for n QMP monitors with short names below the test's folder, and their paths."""
    import tempfile

    where = tempfile.mkdtemp(prefix="posada-qmp.")
    paths = [os.path.join(where, str(i)) for i in range(n)]
    return [o for p in paths for o in ("-qmp", "unix:%s,server=on,wait=off" % p)], paths


def error(t, got, klass, desc):
    t.ok(got.get("error") == {"class": klass, "desc": desc}, "not %r: %r" % (desc, got))


@case("qmp: sessions, ids and errors")
def sessions(t):
    options, (path,) = sockets(1)
    with Guest(t.accel + BARE + ["-S"] + options), Qmp(path, negotiate=False) as q:
        t.ok("version" in q.greeting["QMP"] and "capabilities" in q.greeting["QMP"], "greeting")
        error(t, q.ask({"execute": "query-status"}), "CommandNotFound",
              "Expecting capabilities negotiation with 'qmp_capabilities'")  # fmt: skip
        t.ok(q.ask({"execute": "qmp_capabilities"}) == {"return": {}}, "negotiation")
        error(t, q.ask({"execute": "qmp_capabilities"}), "CommandNotFound",
              "Capabilities negotiation is already complete, command ignored")  # fmt: skip
        error(t, q.ask({"execute": "fly"}), "CommandNotFound",
              "The command fly has not been found")  # fmt: skip
        for bad, desc in [
            ({"execute": 1}, "QMP input member 'execute' must be a string"),
            ({}, "QMP input lacks member 'execute'"),
            ({"execute": "stop", "arguments": 1}, "QMP input member 'arguments' must be an object"),
            ({"execute": "stop", "more": 1}, "QMP input member 'more' is unexpected"),
            ({"execute": "stop", "arguments": {"a": 1}}, "Parameter 'a' is unexpected"),
            ({"execute": "human-monitor-command"}, "Parameter 'command-line' is missing"),
            ({"execute": "human-monitor-command", "arguments": {"command-line": 1}},
             "Invalid parameter type for 'command-line', expected: string"),  # fmt: skip
            ([1], "QMP input must be a JSON object"),
        ]:
            error(t, q.ask(bad), "GenericError", desc)
        for number, mark in enumerate([1, "x", {"a": [None, True, 1.5]}, [1]]):
            got = q.ask({"execute": "query-name", "id": mark})
            t.ok(got.get("id") == mark and "return" in got, "id %d: %r" % (number, got))
        got = q.ask({"execute": "fly", "id": 7})
        t.ok(got.get("id") == 7 and "error" in got, "id of an error: %r" % got)
        got = q.ask(b"{'execute': 'query-status'}")
        t.ok(got["return"]["status"] == "prelaunch", "single quotes: %r" % got)


@case("qmp: bad bytes end no session")
def bad_bytes(t):
    if not t.ours:
        t.skip("the peer resynchronises otherwise")
    options, (path,) = sockets(1)
    with Guest(t.accel + BARE + ["-S"] + options) as g, Qmp(path) as q:
        for bad in (b"hello\n", b"}\n", b'{"execute": \n', b'"\xff\xfe"\n', b'{"a": "\\ud800\\u0041"}\n',
                    b"[" * 5000 + b"\n", b'{"execute": "' + b"x" * 300000 + b'"}\n'):  # fmt: skip
            q.sock.sendall(bad)
        q.sock.sendall(b'\n{"execute": "query-status", "id": "alive"}\n')
        while True:
            got = q.line()
            if got.get("id") == "alive":
                break
        t.ok("return" in got, repr(got))
        t.ok(g.proc.poll() is None, "the VMM died")


@case("qmp: run state and its events, on two monitors")
def run_state(t):
    options, paths = sockets(2)
    with Guest(t.accel + BARE + ["-S"] + options) as g, Qmp(paths[0]) as q, Qmp(paths[1]) as other:

        def status():
            return q.call("query-status")["status"]

        t.ok(status() == "prelaunch", "it runs in spite of -S")
        q.call("cont")
        t.ok(status() == "running", "cont")
        for m in q, other:
            stamp = m.event("RESUME")["timestamp"]
            t.ok(abs(stamp["seconds"] - time.time()) < 60, "timestamp %r" % stamp)
        for _ in range(10):
            q.call("stop")
            t.ok(status() == "paused", "stop")
            other.event("STOP")
            other.call("cont")
            t.ok(status() == "running", "cont")
            q.event("RESUME")
        q.call("system_reset")
        for m in q, other:
            data = m.event("RESET")["data"]
            t.ok(data == {"guest": False, "reason": "host-qmp-system-reset"}, repr(data))
        t.ok(status() == "running", "reset")
        q.call("system_powerdown")
        other.event("POWERDOWN")
        other.call("quit")
        for m in q, other:
            data = m.event("SHUTDOWN")["data"]
            t.ok(data == {"guest": False, "reason": "host-qmp-quit"}, repr(data))
        t.ok(g.wait(10) == 0, "exit status %s" % g.status)


@case("qmp: SIGTERM is told")
def sigterm(t):
    options, (path,) = sockets(1)
    with Guest(t.accel + BARE + options) as g, Qmp(path) as q:
        g.proc.terminate()
        data = q.event("SHUTDOWN")["data"]
        t.ok(data == {"guest": False, "reason": "host-signal"}, repr(data))
        t.ok(g.wait(10) == 0, "exit status %s" % g.status)


def fits(types, name, value, where):
    """Complaints about a value that is not of the schema's type."""
    kind = types[name]
    meta = kind["meta-type"]
    if meta == "builtin":
        want = {"string": str, "int": int, "number": (int, float), "boolean": bool,
                "value": object, "null": type(None)}[kind["json-type"]]  # fmt: skip
        if not isinstance(value, want) or (isinstance(value, bool) and want is int):
            yield "%s: %r is no %s" % (where, value, name)
    elif meta == "enum":
        if value not in kind["values"]:
            yield "%s: %r is not in the enum" % (where, value)
    elif meta == "array":
        if not isinstance(value, list):
            yield "%s: no array" % where
            return
        for i, item in enumerate(value):
            yield from fits(types, kind["element-type"], item, "%s[%d]" % (where, i))
    elif meta == "object":
        members = {m["name"]: m for m in kind["members"]}
        for key in value:
            if key not in members:
                yield "%s: %s is unexpected" % (where, key)
        for key, m in members.items():
            if key in value:
                yield from fits(types, m["type"], value[key], where + "." + key)
            elif "default" not in m:
                yield "%s: %s is missing" % (where, key)


@case("qmp: answers are what the schema says")
def schema(t):
    if not t.ours:
        t.skip("the peer's unions are not understood here")
    options, (path,) = sockets(1)
    with Guest(t.accel + BARE + ["-smp", "2", "-name", "inn", "-S"] + options), Qmp(path) as q:
        types = {i["name"]: i for i in q.call("query-qmp-schema")}
        names = [c["name"] for c in q.call("query-commands")]
        t.ok(sorted(names) == sorted(n for n, i in types.items() if i["meta-type"] == "command"),
             "query-commands and the schema differ")  # fmt: skip
        asked = 0
        for name in names:
            if not name.startswith("query-"):
                continue
            complaints = list(fits(types, types[name]["ret-type"], q.call(name), name))
            t.ok(not complaints, "; ".join(complaints))
            asked += 1
        t.ok(len(q.call("query-cpus-fast")) == 2, "two processors")
        t.ok(q.call("query-name") == {"name": "inn"}, "name")
        t.ok(q.call("query-memory-size-summary")["base-memory"] == 32 << 20, "memory")
        text = q.call("human-monitor-command", **{"command-line": "info status"})
        t.ok(text == "VM status: paused (prelaunch)\r\n" or "prelaunch" in text, repr(text))
        t.note("%d queries" % asked)
