# SPDX-License-Identifier: GPL-2.0-or-later
"""Block jobs, snapshots and the graph of disks by QMP, as a manager drives them; Debian's qemu-img
judges what they leave."""
import glob
import hashlib
import os
import shutil
import signal
import subprocess
import time

import initrd
from guest import Guest, GuestError
from qmp import BARE, Qmp, error, sockets
from suite import case

HERE = os.path.dirname(os.path.abspath(__file__))
SIZE = 16 << 20
MODULES = ("virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci "
           "virtio_blk").split()  # fmt: skip


def img(t, *args, ok=(0,)):
    if not shutil.which("qemu-img"):
        t.skip("no qemu-img")
    p = subprocess.run(["qemu-img", *args], capture_output=True, text=True)
    t.ok(p.returncode in ok, "qemu-img %s: %d %s" % (args, p.returncode, p.stdout + p.stderr))


def same(t, path, raw, fmt="qcow2"):
    img(t, "compare", "-f", fmt, "-F", "raw", path, raw)
    if fmt == "qcow2":
        img(t, "check", "-q", path)


class Manager(Qmp):
    """A client that follows jobs by their events."""

    def status(self, job, *last):
        """Until the job is there; what it went through."""
        seen = []
        while not seen or seen[-1] not in last:
            data = self.event("JOB_STATUS_CHANGE")["data"]
            if data["id"] == job:
                seen.append(data["status"])
        return seen

    def run(self, command, job, **arguments):
        """A job from beginning to end."""
        self.call(command, **arguments, **{"job-id": job})
        return self.status(job, "null")

    def nodes(self):
        return {n["node-name"]: n for n in self.call("query-named-block-nodes", flat=True)}

    def names(self):
        return sorted(n for n in self.nodes() if n[0] != "#")


def disk(t, name, size=SIZE):
    """A qcow2 chain of two with data in both, and the same as raw."""
    base, top, raw = (os.path.join(t.work, name + s) for s in ("-base", "-top", "-raw"))
    data = bytearray(size)
    for at in range(0, size, 3 << 20):
        data[at : at + (1 << 20)] = os.urandom(1 << 20)
    with open(raw, "wb") as f:
        f.write(data)
    img(t, "convert", "-f", "raw", "-O", "qcow2", raw, base)
    img(t, "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top)
    return top, raw, base


def new(t, name):
    path = os.path.join(t.work, name)
    if os.path.exists(path):
        os.unlink(path)
    return path


@case("jobs: mirror, snapshot, commit, stream, backup; qemu-img compares")
def all_kinds(t):
    top, raw, base = disk(t, "kinds")
    options, (path,) = sockets(1)
    drive = ["-drive", "if=none,id=d0,node-name=top,file=" + top, "-device", "virtio-blk-pci,drive=d0"]
    whole = ["created", "running", "waiting", "pending", "concluded", "null"]
    copy, s1, s2, s3 = (new(t, "kinds-" + n) for n in ("copy", "s1", "s2", "s3"))
    full, packed, part = (new(t, "kinds-" + n) for n in ("full", "packed", "part"))
    with Guest(t.accel + BARE + ["-S"] + drive + options) as g, Manager(path) as q:
        q.call("drive-mirror", device="d0", target=copy, sync="full", **{"job-id": "m"})
        ready = q.event("BLOCK_JOB_READY")["data"]
        t.ok(ready["device"] == "m" and ready["type"] == "mirror", "READY: %r" % ready)
        (job,) = q.call("query-block-jobs")
        t.ok(job["ready"] and job["offset"] == job["len"] and job["status"] == "ready",
             "query-block-jobs: %r" % job)  # fmt: skip
        error(t, q.ask({"execute": "blockdev-del", "arguments": {"node-name": "top"}}),
              "GenericError", "Node 'top' is busy: block device is in use by block job: mirror")  # fmt: skip
        q.call("block-job-complete", device="m")
        t.ok(q.status("m", "null") == ["waiting", "pending", "concluded", "null"], "m's end")
        t.ok("top" not in q.nodes(), "the source is still there")
        for file, node in ((s1, "s1"), (s2, "s2")):
            q.call("blockdev-snapshot-sync", device="d0",
                   **{"snapshot-file": file, "snapshot-node-name": node})  # fmt: skip
        t.ok(q.nodes()["s1"]["ro"] and not q.nodes()["s2"]["ro"], "who is read-only")
        t.ok(q.nodes()["s2"]["backing_file_depth"] == 2, "depth")
        t.ok(q.run("block-commit", "c", device="d0", **{"top-node": "s1"}) == whole, "commit")
        t.ok(q.names() == ["s2"], "after commit: %r" % q.names())
        q.call("block-commit", device="d0", **{"job-id": "c"})
        t.ok(q.event("BLOCK_JOB_READY")["data"]["type"] == "commit", "active commit")
        q.call("job-complete", id="c")
        q.status("c", "null")
        t.ok(q.names() == [], "after the active commit: %r" % q.names())
        q.call("blockdev-snapshot-sync", device="d0",
               **{"snapshot-file": s3, "snapshot-node-name": "s3"})  # fmt: skip
        t.ok(q.run("block-stream", "s", device="d0") == whole, "stream")
        t.ok(q.nodes()["s3"]["backing_file_depth"] == 0, "after stream")
        t.ok(q.run("drive-backup", "b", device="d0", target=full, sync="full") == whole, "backup")
        q.run("drive-backup", "b", device="d0", target=packed, sync="full", compress=True)
        q.call("block-dirty-bitmap-add", node="s3", name="m")
        got = q.nodes()["s3"]["dirty-bitmaps"]
        t.ok(got == [{"name": "m", "recording": True, "persistent": False, "busy": False,
                      "granularity": 65536, "count": 0}], "bitmap: %r" % got)  # fmt: skip
        q.run("drive-backup", "b", device="d0", target=part, sync="incremental", bitmap="m",
              format="qcow2")  # fmt: skip
        # another name for what it stands on: only the header's
        q.call("blockdev-snapshot-sync", device="d0",
               **{"snapshot-file": s1, "snapshot-node-name": "s4"})  # fmt: skip
        os.symlink(s3, new(t, "kinds-link"))
        q.call("change-backing-file", device="d0",
               **{"image-node-name": "s4", "backing-file": os.path.join(t.work, "kinds-link")})  # fmt: skip
        error(t, q.ask({"execute": "change-backing-file", "arguments": {
                  "device": "d0", "image-node-name": "s3", "backing-file": "x"}}), "GenericError",
              "not allowing backing file change on an image without a backing file")  # fmt: skip
        q.call("quit")
        t.ok(g.wait(10) == 0, "status %s" % g.status)
    said = subprocess.run(["qemu-img", "info", s1], capture_output=True, text=True).stdout
    t.ok("backing file: " + os.path.join(t.work, "kinds-link") in said, said)
    same(t, s1, raw)
    for file in (copy, s3, full, packed):
        same(t, file, raw)
    t.ok(os.path.getsize(packed) <= os.path.getsize(full), "compressed: larger")
    t.ok(os.path.getsize(part) < 1 << 20, "an increment of nothing has %d bytes" % os.path.getsize(part))


@case("blockdev-add, -create, -mirror, -snapshot, -del: a manager's way")
def by_nodes(t):
    top, raw, base = disk(t, "nodes")
    options, (path,) = sockets(1)
    new_file, over = new(t, "nodes-new"), new(t, "nodes-over")
    start = ["-blockdev", "file,node-name=f0,filename=" + top,
             "-blockdev", "qcow2,node-name=n0,file=f0", "-device", "virtio-blk-pci,drive=n0"]  # fmt: skip

    def create(name, path, **more):
        q.call("blockdev-create", **{"job-id": "c"}, options={"driver": "file", "filename": path, "size": 0})
        q.status("c", "concluded")
        t.ok("error" not in q.call("query-jobs")[0], "create: %r" % q.call("query-jobs"))
        q.call("job-dismiss", id="c")
        q.call("blockdev-add", **{"driver": "file", "node-name": name + "-f", "filename": path,
                                  "auto-read-only": True, "discard": "unmap"})  # fmt: skip
        t.ok(q.nodes()[name + "-f"]["ro"], "written to by nobody, and writable")
        q.call("blockdev-create", **{"job-id": "c"},
               options={"driver": "qcow2", "file": name + "-f", "size": SIZE, **more})  # fmt: skip
        q.status("c", "concluded")
        t.ok("error" not in q.call("query-jobs")[0], "create: %r" % q.call("query-jobs"))
        q.call("job-dismiss", id="c")
        q.call("blockdev-add", **{"driver": "qcow2", "node-name": name, "file": name + "-f", "backing": None})
        t.ok(not q.nodes()[name + "-f"]["ro"], "%s cannot be written to" % name)

    with Guest(t.accel + BARE + ["-S"] + start + options) as g, Manager(path) as q:
        create("new", new_file)
        t.ok(q.names() == ["f0", "n0", "new", "new-f"], "%r" % q.names())
        q.call("blockdev-mirror", device="n0", target="new", sync="full",
               **{"job-id": "m", "auto-finalize": False, "auto-dismiss": False,
                  "copy-mode": "write-blocking"})  # fmt: skip
        q.event("BLOCK_JOB_READY")
        error(t, q.ask({"execute": "blockdev-del", "arguments": {"node-name": "new"}}), "GenericError",
              "Node 'new' is busy: block device is in use by block job: mirror")  # fmt: skip
        q.call("job-complete", id="m")
        t.ok(q.event("BLOCK_JOB_PENDING")["data"] == {"type": "mirror", "id": "m"}, "PENDING")
        q.call("job-finalize", id="m")
        done = q.event("BLOCK_JOB_COMPLETED")["data"]
        t.ok("error" not in done and done["len"] == done["offset"], "COMPLETED: %r" % done)
        q.call("job-dismiss", id="m")
        q.call("blockdev-del", **{"node-name": "n0"})
        error(t, q.ask({"execute": "blockdev-del", "arguments": {"node-name": "new-f"}}), "GenericError",
              "Node 'new-f' is busy: node is used as file of 'new'")  # fmt: skip
        create("over", over, **{"backing-file": new_file, "backing-fmt": "qcow2"})
        q.call("blockdev-snapshot", node="new", overlay="over")
        t.ok(q.nodes()["new"]["ro"] and q.nodes()["over"]["backing_file"] == new_file, "the overlay")
        q.call("block-stream", device="over", **{"job-id": "s"})
        q.status("s", "null")
        for name in ("new", "new-f"):
            q.call("blockdev-del", **{"node-name": name})
        t.ok("new" not in q.names(), "%r" % q.names())
        for bad, text in (
            ({"driver": "qcow2", "node-name": "x", "file": "nobody"}, None),
            ({"driver": "zip", "node-name": "x"}, "Unknown driver 'zip'"),
            ({"driver": "qcow2", "file": "f0"}, "Parameter 'node-name' is missing"),
            ({"driver": "file", "node-name": "over", "filename": raw}, "Duplicate nodes with node-name='over'"),
            ({"driver": "file", "node-name": "o", "filename": raw, "fly": 1}, None),
        ):
            got = q.ask({"execute": "blockdev-add", "arguments": bad})
            t.ok("error" in got and text in (None, got["error"]["desc"]), "%r: %r" % (bad, got))
        q.call("quit")
        t.ok(g.wait(10) == 0, "status %s" % g.status)
    same(t, new_file, raw)
    same(t, over, raw)


@case("transaction: all or nothing; internal snapshots")
def transactions(t):
    (a, raw, _), (b, _, _) = disk(t, "trans-a"), disk(t, "trans-b")
    options, (path,) = sockets(1)
    drives = ["-drive", "if=none,id=a,node-name=na,file=" + a, "-device", "virtio-blk-pci,drive=a",
              "-drive", "if=none,id=b,node-name=nb,file=" + b, "-device", "virtio-blk-pci,drive=b"]  # fmt: skip
    sa, sb, ba, bb = (new(t, "trans-" + n) for n in ("sa", "sb", "ba", "bb"))

    def act(*actions):
        return q.ask({"execute": "transaction", "arguments": {
            "actions": [{"type": k, "data": d} for k, d in actions]}})  # fmt: skip

    def snap(device, file, node):
        return ("blockdev-snapshot-sync",
                {"device": device, "snapshot-file": file, "snapshot-node-name": node})  # fmt: skip

    with Guest(t.accel + BARE + ["-S"] + drives + options) as g, Manager(path) as q:
        before = q.nodes()
        error(t, act(snap("a", sa, "x"), ("block-dirty-bitmap-add", {"node": "nb", "name": "m"}),
                     ("drive-backup", {"device": "b", "target": bb, "sync": "full", "job-id": "j"}),
                     ("blockdev-snapshot-internal-sync", {"device": "x", "name": "i"}),
                     ("abort", {})), "GenericError", "Transaction aborted using Abort action")  # fmt: skip
        t.ok(q.nodes() == before and q.call("query-jobs") == [], "something of it is there")
        error(t, act(("fly", {})), "GenericError", "Parameter 'type' does not accept value 'fly'")
        error(t, act(snap("a", sa, "y"), snap("nobody", sb, "z")), "GenericError",
              "Cannot find device='nobody' nor node-name='nobody'")  # fmt: skip
        t.ok(q.nodes() == before, "half of it is there")
        got = act(("drive-backup", {"device": "a", "target": ba, "sync": "full", "job-id": "ja"}),
                  ("drive-backup", {"device": "b", "target": bb, "sync": "full", "job-id": "jb"}),
                  ("block-dirty-bitmap-add", {"node": "na", "name": "m"}),
                  ("block-dirty-bitmap-add", {"node": "nb", "name": "m"}))  # fmt: skip
        t.ok(got == {"return": {}}, "%r" % got)
        left = {"ja", "jb"}
        while left:
            data = q.event("JOB_STATUS_CHANGE")["data"]
            if data["status"] == "null":
                left.discard(data["id"])
        got = act(snap("a", sa, "sa"), snap("b", sb, "sb"))
        t.ok(got == {"return": {}} and q.nodes()["sa"]["backing_file"] == a, "%r" % got)
        q.call("blockdev-snapshot-internal-sync", device="a", name="i")
        error(t, q.ask({"execute": "blockdev-snapshot-internal-sync",
                        "arguments": {"device": "a", "name": "i"}}), "GenericError",
              "Snapshot with name 'i' already exists on device 'a'")  # fmt: skip
        (there,) = q.nodes()["sa"]["image"]["snapshots"]
        gone = q.call("blockdev-snapshot-delete-internal-sync", device="a", name="i")
        t.ok(gone["id"] == there["id"] == "1" and gone["name"] == "i", "%r %r" % (gone, there))
        q.call("block_resize", device="a", size=2 * SIZE)
        t.ok(q.nodes()["sa"]["image"]["virtual-size"] == 2 * SIZE, "resize")
        q.call("quit")
        g.wait(10)
    for file in (ba, sb):
        img(t, "check", "-q", file)
    same(t, ba, raw)


@case("nodes: disks of them come and go")
def hotplug(t):
    top, raw, base = disk(t, "plug")
    options, (path,) = sockets(1)
    over = new(t, "plug-over")
    img(t, "create", "-q", "-f", "qcow2", "-b", top, "-F", "qcow2", over)

    def add(name, file):
        q.call("blockdev-add", **{"driver": "qcow2", "node-name": name, "backing": None,
                                  "file": {"driver": "file", "filename": file}})  # fmt: skip

    def plug(node):
        return q.ask({"execute": "device_add", "arguments": {
            "driver": "scsi-hd", "id": "h", "drive": node, "bus": "s.0"}})  # fmt: skip

    def unplug():
        q.call("device_del", id="h")
        q.event("DEVICE_DELETED")

    with Guest(t.accel + BARE + ["-S", "-device", "virtio-scsi-pci,id=s"] + options) as g, Manager(path) as q:
        add("n", base)
        add("over", over)
        t.ok(plug("nobody")["error"], "a disk of nothing")
        t.ok(plug("n") == {"return": {}}, "a disk of n")
        q.call("blockdev-snapshot", node="n", overlay="over")
        t.ok([b["inserted"]["node-name"] for b in q.call("query-block")] == ["over"], "on the overlay")
        unplug()
        t.ok(plug("n") == {"return": {}}, "a disk of what lies below")
        (b,) = q.call("query-block")
        t.ok(b["inserted"]["node-name"] == "n" and b["inserted"]["ro"], "%r" % b)
        unplug()
        t.ok(plug("over") == {"return": {}}, "a disk of the overlay")
        unplug()
        q.call("blockdev-del", **{"node-name": "over"})
        q.call("blockdev-del", **{"node-name": "n"})
        t.ok(q.call("query-named-block-nodes") == [], "nodes are left")
        q.call("quit")
        t.ok(g.wait(10) == 0, "status %s" % g.status)


def archive(t):
    path = os.path.join(t.work, "initrd-disk.gz")
    cpio = initrd.busybox(os.path.join(HERE, "disk-init.sh"), "amd64")
    top = initrd.fetch(initrd.KERNELS["cloud-amd64"])[0]
    cpio.add("modules", 0o40755)
    for name in MODULES:
        for file in glob.glob("%s/**/kernel/**/%s.ko" % (top, name), recursive=True):
            with open(file, "rb") as f:
                cpio.add("modules/%s.ko" % name, 0o100644, f.read())
    cpio.write(path)
    return path


@case("jobs: all of them under a Linux that writes and compares")
def under_linux(t):
    top, raw, base = disk(t, "linux")
    files = {n: new(t, "linux-" + n) for n in ("copy", "s1", "s2", "s3", "back", "raw2")}
    args = t.accel + t.cpu + [
        "-m", "256", "-display", "none", "-nodefaults", "-serial", "stdio", "-no-reboot",
        "-kernel", initrd.kernel("cloud-amd64"), "-initrd", archive(t),
        "-append", "console=ttyS0 panic=-1 quiet",
        "-drive", "if=none,id=d0,node-name=top,discard=unmap,file=" + top,
        "-device", "virtio-blk-pci,drive=d0",
    ]  # fmt: skip

    def gone(job):
        until = time.monotonic() + 60
        while job in [j["id"] for j in g.qmp("query-jobs")]:
            if time.monotonic() > until:
                raise GuestError("job %s does not end" % job)
            time.sleep(0.05)
        for e in g.events:
            if e["event"] == "BLOCK_JOB_COMPLETED":
                t.ok("error" not in e["data"], "%r" % e)
        g.events.clear()

    def ready(job):
        until = time.monotonic() + 60
        while not [j for j in g.qmp("query-jobs") if j["id"] == job and j["status"] == "ready"]:
            if time.monotonic() > until:
                raise GuestError("job %s is never ready" % job)
            time.sleep(0.05)

    with Guest(args, qmp=True) as g:
        g.expect(r"DISK ready %d\n" % (SIZE // 512), 120)
        g.expect(r"DISK round \d", 60)
        for mode, target, fmt in (("background", "copy", "qcow2"), ("write-blocking", "raw2", "raw")):
            g.qmp("drive-mirror", device="d0", target=files[target], sync="full", format=fmt,
                  **{"job-id": "m", "copy-mode": mode})  # fmt: skip
            ready("m")
            g.expect(r"DISK round \d", 60)
            g.qmp("block-job-complete", device="m")
            gone("m")
        for n in ("s1", "s2"):
            g.qmp("blockdev-snapshot-sync", device="d0",
                  **{"snapshot-file": files[n], "snapshot-node-name": n})  # fmt: skip
            g.expect(r"DISK round \d", 60)
        g.qmp("drive-backup", device="d0", target=files["back"], sync="full", speed=8 << 20,
              format="qcow2", **{"job-id": "b"})  # fmt: skip
        g.expect(r"DISK round \d", 60)
        gone("b")
        g.qmp("block-commit", device="d0", **{"job-id": "c", "top-node": "s1"})
        gone("c")
        g.qmp("block-commit", device="d0", **{"job-id": "c"})
        ready("c")
        g.expect(r"DISK round \d", 60)
        g.qmp("job-complete", id="c")
        gone("c")
        g.qmp("blockdev-snapshot-sync", device="d0",
              **{"snapshot-file": files["s3"], "snapshot-node-name": "s3"})  # fmt: skip
        g.expect(r"DISK round \d", 60)
        g.qmp("block-stream", device="d0", **{"job-id": "s"})
        gone("s")
        g.qmp("block_resize", device="d0", size=SIZE + (4 << 20))
        g.expect(r"DISK round \d+ size %d\n" % ((SIZE + (4 << 20)) // 512), 60)
        g.send("stop\n")
        got = g.expect(r"DISK sum (\w+) size (\d+)\n", 60)
        t.ok(g.wait(30) == 0, "status %s" % g.status)
        t.ok("DISK bad" not in g.console, "the guest read other bytes than it wrote:\n" + g.tail())
    img(t, "check", "-q", files["s3"])
    img(t, "check", "-q", files["back"])
    out = new(t, "linux-out")
    img(t, "convert", "-f", "qcow2", "-O", "raw", files["s3"], out)
    with open(out, "rb") as f:
        t.ok(hashlib.md5(f.read(SIZE)).hexdigest() == got.group(1), "the image holds other bytes")


def write(t, path, at, size, byte):
    """QEMU's hand in the file, which sees to its bitmaps too."""
    p = subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P %d %d %d" % (byte, at, size), path],
                       capture_output=True, text=True)  # fmt: skip
    t.ok(p.returncode == 0, "qemu-io: " + p.stdout + p.stderr)


@case("bitmaps that the image keeps: QEMU's and ours, over restarts, after kill -9")
def persistent(t):
    if not shutil.which("qemu-io"):
        t.skip("no qemu-io")
    top, _, _ = disk(t, "kept")
    full, part = new(t, "kept-full"), new(t, "kept-part")
    options, (path,) = sockets(1)
    drive = ["-drive", "if=none,id=d0,node-name=top,file=" + top, "-device", "virtio-blk-pci,drive=d0"]
    known = {"name": "b", "recording": True, "persistent": True, "busy": False,
             "granularity": 65536, "count": 0}  # fmt: skip

    def vmm():
        return Guest(t.accel + BARE + ["-S"] + drive + options)

    def bitmaps(q):
        return q.nodes()["top"].get("dirty-bitmaps", [])

    with vmm() as g, Manager(path) as q:
        q.call("block-dirty-bitmap-add", node="top", name="b", persistent=True)
        q.call("transaction", actions=[
            {"type": "block-dirty-bitmap-add",
             "data": {"node": "top", "name": "off", "persistent": True, "disabled": True,
                      "granularity": 4096}},
            {"type": "block-dirty-bitmap-add",
             "data": {"node": "top", "name": "gone", "persistent": True}}])  # fmt: skip
        q.call("block-dirty-bitmap-add", node="top", name="fleeting")
        q.call("block-dirty-bitmap-remove", node="top", name="gone")
        t.ok(bitmaps(q)[0] == known, "query: %r" % bitmaps(q))
        q.run("drive-backup", "b", device="d0", target=full, sync="full")
        q.call("quit")
        t.ok(g.wait(10) == 0, "status %s" % g.status)
    img(t, "check", "-q", top)
    for at in 0, 5 << 20, (5 << 20) + 65536, SIZE - 4096:
        write(t, top, at, 4096, 77)
    with vmm() as g, Manager(path) as q:
        got = {b["name"]: b for b in bitmaps(q)}
        t.ok(sorted(got) == ["b", "off"], "after the restart: %r" % got)
        t.ok(got["b"] == dict(known, count=4 * 65536), "what QEMU wrote: %r" % got)
        t.ok(got["off"]["count"] == 0 and not got["off"]["recording"], "the other: %r" % got)
        img(t, "create", "-q", "-f", "qcow2", "-b", full, "-F", "qcow2", part)
        q.run("drive-backup", "b", device="d0", target=part, sync="incremental", bitmap="b",
              format="qcow2", mode="existing")  # fmt: skip
        t.ok(bitmaps(q)[0] == known, "after the backup: %r" % bitmaps(q))
        # a snapshot takes them to where nobody writes: they are in the file, and good
        q.call("blockdev-snapshot-sync", **{"node-name": "top", "snapshot-node-name": "over",
               "snapshot-file": new(t, "kept-over")})  # fmt: skip
        error(t, q.ask({"execute": "block-dirty-bitmap-clear", "arguments": {"node": "top", "name": "b"}}),
              "GenericError", "Bitmap 'b' is readonly and cannot be modified")  # fmt: skip
        p = subprocess.run(["qemu-img", "info", "-U", "--output=json", top], capture_output=True, text=True)
        t.ok('"in-use"' not in p.stdout, "in use although read-only: " + p.stdout)
        q.call("quit")
        t.ok(g.wait(10) == 0, "status %s" % g.status)
    img(t, "compare", "-f", "qcow2", "-F", "qcow2", top, part)
    img(t, "check", "-q", top)
    with vmm() as g, Manager(path) as q:
        t.ok(bitmaps(q)[0] == known, "after the snapshot: %r" % bitmaps(q))
        q.call("block-dirty-bitmap-add", node="top", name="late", persistent=True)
        os.kill(g.proc.pid, signal.SIGKILL)
        g.wait(20)
    with vmm() as g, Manager(path) as q:
        got = bitmaps(q)
        t.ok([b["name"] for b in got] == ["b", "off"] and all(b.get("inconsistent") for b in got) and
             not any(b["recording"] for b in got), "after kill -9: %r" % got)  # fmt: skip
        for command in "clear", "enable", "disable":
            error(t, q.ask({"execute": "block-dirty-bitmap-" + command,
                            "arguments": {"node": "top", "name": "b"}}),
                  "GenericError", "Bitmap 'b' is inconsistent and cannot be used")  # fmt: skip
        q.call("block-dirty-bitmap-remove", node="top", name="b")
        q.call("quit")
        t.ok(g.wait(10) == 0, "status %s" % g.status)
    info = subprocess.run(["qemu-img", "info", "--output=json", top], capture_output=True, text=True).stdout
    t.ok('"name": "off"' in info and '"in-use"' in info and '"name": "b"' not in info, info)
    img(t, "bitmap", "--remove", top, "off")
    img(t, "check", "-q", top)


@case("objects: throttle groups come, change, go")
def groups(t):
    top, raw, _ = disk(t, "groups")
    options, (path,) = sockets(1)
    with Guest(t.accel + BARE + ["-S", "-object", "throttle-group,id=g0,x-iops-total=7"] + options) as g, \
         Manager(path) as q:  # fmt: skip
        q.call("object-add", **{"qom-type": "throttle-group", "id": "g1",
                                "limits": {"bps-total": 1 << 20, "bps-total-max": 2 << 20}})  # fmt: skip
        listed = {x["name"]: x["type"] for x in q.call("qom-list", path="/objects")}
        t.ok(listed.get("g0") == listed.get("g1") == "child<throttle-group>", "qom-list: %r" % listed)
        t.ok(q.call("qom-get", path="/objects/g0", property="limits")["iops-total"] == 7, "g0")
        q.call("qom-set", path="/objects/g1", property="limits", value={"iops-read": 50})
        got = q.call("qom-get", path="/objects/g1", property="limits")
        t.ok(len(got) == 19 and got["bps-total"] == 1 << 20 and got["bps-total-max"] == 2 << 20 and
             got["iops-read"] == 50 and got["iops-size"] == 0, "g1: %r" % got)  # fmt: skip
        for command, arguments, said in (
            ("object-add", {"qom-type": "throttle-group", "id": "g1"}, "attempt to add duplicate property 'g1'"),
            ("object-add", {"qom-type": "throttle-group", "id": "1"}, "expects an identifier"),
            ("object-add", {"qom-type": "throttle-group", "id": "g2", "limits": {"bps": 1}}, "'bps' is unexpected"),
            ("qom-set", {"path": "/objects/g1", "property": "limits", "value": {"bps-read": 5}}, "goes without one for reads"),
            ("qom-set", {"path": "/objects/g1", "property": "limits", "value": 7}, "expected: object"),
            ("qom-get", {"path": "/objects/g1", "property": "size"}, "not found"),
            ("qom-get", {"path": "/objects/no", "property": "limits"}, "not found"),
            ("object-del", {"id": "no"}, "not found"),
        ):  # fmt: skip
            r = q.ask({"execute": command, "arguments": arguments})
            t.ok("error" in r and said in r["error"]["desc"], "%s %r: %r" % (command, arguments, r))
        q.call("blockdev-add", driver="throttle", **{"node-name": "f", "throttle-group": "g1",
               "file": {"driver": "qcow2", "file": {"driver": "file", "filename": top}}})  # fmt: skip
        # a job sees through the filter: the copy is no throttle
        copy = new(t, "groups-copy")
        q.run("drive-backup", "b", device="f", target=copy, sync="full")
        r = q.ask({"execute": "object-del", "arguments": {"id": "g1"}})
        t.ok("in use" in r["error"]["desc"], "while it is used: %r" % r)
        q.call("blockdev-del", **{"node-name": "f"})
        q.call("object-del", id="g1")
        t.ok("g1" not in [x["name"] for x in q.call("qom-list", path="/objects")], "it is still there")
        q.call("quit")
        t.ok(g.wait(10) == 0, "status %s" % g.status)
    same(t, copy, raw)
