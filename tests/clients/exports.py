# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks served to NBD clients by QMP, and copied onto NBD servers; Debian's qemu-img and qemu-nbd
are the other side."""
import json
import os
import shutil
import subprocess
import time

from guest import Guest
from jobs import Manager, img, new
from qmp import BARE, error, sockets
from suite import case

SIZE = 16 << 20


def image(t, name):
    path = new(t, name)
    with open(path, "wb") as f:
        f.truncate(SIZE)
        for at in range(0, SIZE, 5 << 20):
            f.seek(at)
            f.write(os.urandom(300000))
    return path


def url(socket, name):
    return "nbd+unix:///%s?socket=%s" % (name, socket)


def io(*words):
    return subprocess.Popen(["stdbuf", "-oL", "qemu-io", "-f", "raw", *words], stdout=subprocess.PIPE, text=True)


@case("exports: nbd-server-*, block-export-*, a bitmap; qemu-img reads")
def exports(t):
    disk, other, copy = image(t, "exp-disk"), image(t, "exp-other"), new(t, "exp-copy")
    options, (path,) = sockets(1)
    s = new(t, "exp.sock")
    start = ["-drive", "if=none,id=d0,node-name=n0,format=raw,file=" + disk, "-device", "virtio-blk-pci,drive=d0",
             "-blockdev", "file,node-name=n1,filename=" + other]  # fmt: skip
    with Guest(t.accel + BARE + ["-S"] + start + options) as g, Manager(path) as q:
        refuse = lambda text, what, /, **a: error(t, q.ask({"execute": what, "arguments": a}), "GenericError", text)  # noqa: E731
        refuse("NBD server not running", "nbd-server-add", device="d0")
        q.call("nbd-server-start", addr={"type": "unix", "data": {"path": s}})
        refuse("NBD server already running", "nbd-server-start", addr={"type": "unix", "data": {"path": s}})
        q.call("nbd-server-add", device="d0", description="what the guest has")
        refuse("Block export id 'd0' is already in use", "nbd-server-add", device="d0")
        refuse("Node 'n0' is busy: a device uses it", "nbd-server-add", device="d0", name="w", writable=True)
        img(t, "convert", "-f", "raw", "-O", "raw", url(s, "d0"), copy)
        img(t, "compare", "-f", "raw", "-F", "raw", disk, copy)
        q.call("block-export-add", type="nbd", id="e1", name="W", writable=True, **{"node-name": "n1"})
        refuse("Node 'n1' is busy: a device uses it", "blockdev-del", **{"node-name": "n1"})
        t.ok(q.call("query-block-exports") == [
            {"id": "d0", "type": "nbd", "node-name": "n0", "shutting-down": False},
            {"id": "e1", "type": "nbd", "node-name": "n1", "shutting-down": False}], "query-block-exports")  # fmt: skip
        p = io(url(s, "W"), "-c", "write -P 7 1M 64k", "-c", "read -P 7 1M 64k", "-c", "sleep 20000")
        t.ok("wrote 65536" in p.stdout.readline() and p.stdout.readline() and "read 65536" in p.stdout.readline(),
             "qemu-io does not get on")  # fmt: skip
        refuse("export 'e1' still in use", "block-export-del", id="e1")
        q.call("block-export-del", id="e1", mode="hard")
        t.ok(q.event("BLOCK_EXPORT_DELETED")["data"] == {"id": "e1"}, "the event")
        p.kill()
        p.wait()
        q.call("blockdev-del", **{"node-name": "n1"})
        q.call("block-dirty-bitmap-add", node="n0", name="b")
        refuse("Enabled bitmap 'b' incompatible with readonly export", "nbd-server-add", device="n0", bitmap="b")
        q.call("block-dirty-bitmap-disable", node="n0", name="b")
        q.call("nbd-server-add", device="n0", bitmap="b")
        refuse("Bitmap 'b' is currently in use by another operation and cannot be used",
               "block-dirty-bitmap-remove", node="n0", name="b")  # fmt: skip
        where = "driver=nbd,server.type=unix,server.path=%s,export=n0,x-dirty-bitmap=qemu:dirty-bitmap:b" % s
        clean = subprocess.run(["qemu-img", "map", "--output=json", "--image-opts", where],
                               capture_output=True, text=True).stdout  # fmt: skip
        t.ok([x["length"] for x in json.loads(clean)] == [SIZE], "the bitmap: " + clean)
        q.call("nbd-server-remove", name="n0")
        q.event("BLOCK_EXPORT_DELETED")
        q.call("block-dirty-bitmap-remove", node="n0", name="b")
        q.call("nbd-server-stop")
        t.ok(q.call("query-block-exports") == [] and not os.path.exists(s), "something is left")
        q.call("quit")
        t.ok(g.wait(10) == 0, "status %s" % g.status)
    with open(other, "rb") as f:
        f.seek(1 << 20)
        t.ok(f.read(65536) == b"\7" * 65536, "what the client wrote is not there")


@case("exports: drive-mirror and blockdev-mirror onto NBD servers, qemu-nbd's and posada-img's")
def mirror(t):
    if not shutil.which("qemu-nbd"):
        t.skip("no qemu-nbd")
    for command in ["qemu-nbd"], [os.path.join(t.build, "posada-img"), "nbd"]:
        disk, target, s = image(t, "mir-disk"), new(t, "mir-target"), new(t, "mir.sock")
        with open(target, "wb") as f:
            f.truncate(SIZE)
        server = subprocess.Popen(command + ["-k", s, "-x", "t", "-t", "-e", "4", "-f", "raw", target])
        for _ in range(100):
            if os.path.exists(s):
                break
            time.sleep(0.05)
        options, (path,) = sockets(1)
        start = ["-drive", "if=none,id=d0,node-name=n0,format=raw,file=" + disk, "-device", "virtio-blk-pci,drive=d0"]
        with Guest(t.accel + BARE + ["-S"] + start + options) as g, Manager(path) as q:
            q.call("drive-mirror", device="d0", target=url(s, "t"), sync="full", mode="existing", format="raw",
                   **{"job-id": "m"})  # fmt: skip
            q.event("BLOCK_JOB_READY")
            q.call("block-job-cancel", device="m")
            q.status("m", "null")
            img(t, "compare", "-f", "raw", "-F", "raw", "-U", disk, url(s, "t"))
            q.call("blockdev-add", driver="nbd", export="t", server={"type": "unix", "path": s}, **{"node-name": "far"})
            q.call("blockdev-mirror", device="d0", target="far", sync="full", **{"job-id": "m"})
            q.event("BLOCK_JOB_READY")
            q.call("job-complete", id="m")
            q.status("m", "null")
            t.ok("far" in q.nodes() and "n0" not in q.nodes(), "the guest is not on the far disk")
            q.call("quit")
            t.ok(g.wait(10) == 0, "status %s" % g.status)
        server.terminate()
        t.ok(server.wait(20) == 0, "the server's status")
        img(t, "compare", "-f", "raw", "-F", "raw", disk, target)
