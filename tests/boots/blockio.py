# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks beyond reading and writing: requests that fail, limits, counters."""
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import time

import controllers
import disk
import initrd
from controllers import refused
from guest import Guest, default_vmm
from suite import case


def failing(node, path, rule):
    text = "driver=blkdebug,node-name=%s,image.driver=raw,image.file.driver=file" % node
    text += ",image.file.filename=" + path
    for i, r in enumerate(rule):
        text += "".join(",inject-error.%d.%s" % (i, w) for w in r.split(","))
    return ["-blockdev", text]


@case("disks: requests fail, the guest stops, and goes on")
def errors(t):
    a, b, c, d = controllers.images(t, "err-a", "err-b", "err-c", "err-d")
    nospace = "iotype=write,errno=28,sector=2048,once=on"
    options = (
        failing("v", a, [nospace, "iotype=read,errno=5,sector=4096,once=on"])
        + ["-device", "virtio-blk-pci,drive=v,id=dv,rerror=stop,werror=enospc"]
        + failing("i", b, [nospace])
        + ["-device", "ide-hd,drive=i,bus=ide.0,id=di,werror=stop"]
        + failing("s", c, [nospace])
        + ["-device", "ahci,id=x", "-device", "ide-hd,drive=s,bus=x.0,id=ds,werror=stop"]
        + failing("n", d, [nospace])
        + ["-device", "nvme,drive=n,id=dn,serial=1"]
    )
    names = ["virtio_pci", "virtio_blk", "ata_piix", "ahci", "sd_mod", "nvme"]
    disks = ["vda", "sda", "sdb", "nvme0n1"]
    archive = controllers.archive(t, "errors", names, disks, "")
    args = t.accel + t.cpu + ["-m", "512", "-nographic", "-no-reboot"]
    args += ["-kernel", initrd.kernel("amd64"), "-initrd", archive]
    args += ["-append", "console=ttyS0 panic=-1"] + options
    stops = 0
    with Guest(args, qmp=True) as guest:
        until = time.monotonic() + 240
        while "CHECKS DONE" not in guest.console and time.monotonic() < until:
            t.ok(guest._read(0.2), "it ended:\n" + guest.tail(40))
            if "CHECKS DONE" in guest.console:
                break
            if guest.qmp("query-status")["status"] == "io-error":
                held = [b["qdev"] for b in guest.qmp("query-block") if b["io-status"] != "ok"]
                t.ok(held, "stopped, and all drives are well")
                stops += 1
                guest.qmp("cont")
                t.ok(all(b["io-status"] == "ok" for b in guest.qmp("query-block")
                         if b["qdev"] not in held), "io-status after cont")  # fmt: skip
        text = guest.console
        stats = {s["qdev"]: s["stats"] for s in guest.qmp("query-blockstats")}
        events = [e["data"] for e in guest.events if e["event"] == "BLOCK_IO_ERROR"]
        status = guest.wait(60)
    t.ok(status == 0, "it ended with %s; console:\n%s" % (status, guest.tail(40)))
    for name in disks:
        t.ok("DISK %s ok" % name in text, "disk %s:\n%s" % (name, text[-4000:]))
    t.ok("I/O error" not in text, "the guest has seen an error:\n" + text[-4000:])
    got = sorted((e["node-name"], e["operation"], e["action"], e["nospace"]) for e in events)
    want = [("i", "write", "stop", True), ("n", "write", "stop", True), ("s", "write", "stop", True),
            ("v", "read", "stop", False), ("v", "write", "stop", True)]  # fmt: skip
    t.ok(got == want, "events: %s" % events)
    t.ok(not any(e["device"] for e in events), "events: %s" % events)
    paths = ["/machine/peripheral/d" + e["node-name"] for e in events]
    t.ok([e["qom-path"] for e in events] == paths, "events: %s" % events)
    t.ok(stops >= 4, "%d stops" % stops)
    for name in "visn":
        s = stats["d" + name]
        t.ok(s["wr_bytes"] >= 24 << 20 and s["wr_operations"] > 1200, "%s: %s" % (name, s))
        t.ok(s["rd_bytes"] >= 24 << 20 and s["rd_total_time_ns"] > 0, "%s: %s" % (name, s))
        t.ok(s["failed_wr_operations"] == 0, "%s: %s" % (name, s))
        t.ok(s["wr_highest_offset"] == (4 * 4096 + 300) * 4096, "%s: %s" % (name, s))


FIO = (
    "fio --name=t --filename=/dev/vdb --direct=1 --ioengine=libaio --time_based --group_reporting"
    " --minimal %s --runtime=%d"
)


def fio(t, guest, words, seconds):
    """What fio measures: read KiB/s, read IOPS, write KiB/s, write IOPS."""
    status, said = guest.shell(FIO % (words, seconds), seconds + 120)
    t.ok(status == 0, "fio: " + said)
    line = re.search(r"^3;fio-.*", said, re.M)
    t.ok(line, "fio says " + said)
    f = line.group(0).split(";")
    return float(f[6]), float(f[7]), float(f[47]), float(f[48])


def near(t, what, got, want, percent=5):
    t.note("%s %.1f, wanted %.1f (%+.1f %%)" % (what, got, want, 100 * (got - want) / want))
    t.ok(abs(got - want) <= want * percent / 100, "%s: %.1f, wanted %.1f" % (what, got, want))


NONE = dict(bps=0, bps_rd=0, bps_wr=0, iops=0, iops_rd=0, iops_wr=0)


@case("disks: limits and counters by QMP")
def limits(t):
    a, b = controllers.images(t, "limits-a", "limits-b")
    options = ["-m", "64", "-S", "-nographic",
               "-drive", "if=none,id=a,format=raw,file=%s,throttling.bps-total=1000,"
               "throttling.bps-total-max=5000,throttling.bps-total-max-length=3,"
               "throttling.group=g,rerror=stop" % a,
               "-device", "virtio-blk-pci,drive=a,id=da",
               "-drive", "if=ide,id=b,format=raw,file=%s,iops_rd=7,iops_size=4096" % b,
               "-drive", "if=none,id=e,media=cdrom", "-device", "ide-cd,drive=e,id=de,bus=ide.1"]  # fmt: skip
    with Guest(t.accel + options, qmp=True) as guest:
        ins = controllers.block(guest, "a")["inserted"]
        want = {"bps": 1000, "bps_max": 5000, "bps_max_length": 3, "iops": 0, "group": "g"}
        t.ok({k: ins.get(k) for k in want} == want and "iops_max" not in ins, "a: %s" % ins)
        ins = controllers.block(guest, "b")["inserted"]
        want = {"iops_rd": 7, "iops": 0, "iops_size": 4096, "group": "b", "bps": 0}
        t.ok({k: ins.get(k) for k in want} == want, "b: %s" % ins)
        # into the other's group: its limits become those of both
        guest.qmp("block_set_io_throttle", device="b", group="g", **{**NONE, "iops": 10, "iops_max": 20})
        for name in "ab":
            ins = controllers.block(guest, name)["inserted"]
            want = {"bps": 0, "iops": 10, "iops_max": 20, "iops_max_length": 1, "group": "g"}
            t.ok({k: ins.get(k) for k in want} == want and "bps_max" not in ins, "%s: %s" % (name, ins))
        guest.qmp("block_set_io_throttle", id="da", **NONE)
        t.ok("group" not in controllers.block(guest, "a")["inserted"], "a is in a group")
        t.ok(controllers.block(guest, "b")["inserted"]["iops"] == 10, "b has left with it")
        refused(t, guest, "block_set_io_throttle", "not found", device="nobody", **NONE)
        refused(t, guest, "block_set_io_throttle", "no medium", device="e", **{**NONE, "bps": 1})
        refused(t, guest, "block_set_io_throttle", "exactly one", **NONE)
        refused(t, guest, "block_set_io_throttle", "negative", device="a", **{**NONE, "bps": -1})
        refused(t, guest, "block_set_io_throttle", "-max", device="a", bps_max=5, **NONE)
        stats = {s["device"]: s for s in guest.qmp("query-blockstats")}
        t.ok(set(stats) == {"a", "b", "e"}, "query-blockstats: %s" % stats)
        t.ok(stats["a"]["qdev"] == "da" and "parent" in stats["a"], "query-blockstats: %s" % stats["a"])
        t.ok(len(guest.qmp("query-blockstats", **{"query-nodes": True})) == 4, "query-nodes")
        t.ok(all(b["io-status"] == "ok" for b in guest.qmp("query-block")), "io-status")


@case("throttling: what fio measures in the guest, changed live", ci=False)
def throttling(t):
    path = disk.make(t, "fio", "--with", "fio")
    data, other = controllers.images(t, "throttle", "throttle-2")
    options = t.accel + t.cpu + [
        "-m", "1024", "-nographic", "-nic", "none",
        "-drive", "if=none,id=sys,format=raw,file=" + path,
        "-device", "virtio-blk-pci,drive=sys,bootindex=0",
        "-drive", "if=none,id=d,format=raw,file=%s,iops=100" % data,
        "-device", "virtio-blk-pci,drive=d,id=vd",
        "-drive", "if=none,id=e,format=raw,file=" + other,
        "-device", "virtio-blk-pci,drive=e,id=ve",
    ]  # fmt: skip

    def limit(name="d", **what):
        guest.qmp("block_set_io_throttle", **{"device": name, **NONE, **what})

    with Guest(options, tty=True, qmp=True) as guest:
        guest.login(600)
        guest.shell("dmesg -n 1; systemctl is-system-running --wait", 300)
        t.note(disk.host_load())
        r = fio(t, guest, "--rw=randread --bs=4k --iodepth=64", 20)
        near(t, "100 IOPS, random reads", r[1], 100)
        ins = controllers.block(guest, "d")["inserted"]
        t.ok(ins["iops"] == 100 and ins["group"] == "d", "query-block: %s" % ins)

        limit(bps=10 << 20)
        r = fio(t, guest, "--rw=write --bs=128k --iodepth=32", 20)
        near(t, "10 MiB/s, writes of 128 KiB", r[2] * 1024, 10 << 20)
        r = fio(t, guest, "--rw=randrw --bs=4k --iodepth=64", 20)
        near(t, "10 MiB/s, reads and writes of 4 KiB", (r[0] + r[2]) * 1024, 10 << 20)

        limit(iops_rd=100, iops_wr=50)
        r = fio(t, guest, "--rw=randrw --rwmixread=50 --bs=4k --iodepth=64", 20)
        near(t, "writes at 50 IOPS beside reads", r[3], 50)
        r = fio(t, guest, "--rw=randread --bs=4k --iodepth=64", 20)
        near(t, "reads alone at 100 IOPS", r[1], 100)

        # 1000 requests at once, then 100 a second: 2000 in 10 s
        limit(iops=100, iops_max=1000)
        r = fio(t, guest, "--rw=randread --bs=4k --iodepth=64", 10)
        near(t, "burst of 1000, then 100 IOPS", r[1] * 10, 2000)
        # 300 a second for 10 seconds, then 100
        limit(iops=100, iops_max=300, iops_max_length=10)
        r = fio(t, guest, "--rw=randread --bs=4k --iodepth=64", 8)
        near(t, "300 IOPS while the burst lasts", r[1], 300)
        guest.shell("sleep 35", 60)
        r = fio(t, guest, "--rw=randread --bs=4k --iodepth=64", 35)
        # the bucket of 3000 fills at 200 a second more than it leaks: in 15 s
        near(t, "300 IOPS for 15 s, then 100", r[1] * 35, 300 * 15 + 100 * 20)

        # each request of 64 KiB counts as 16 of 4 KiB
        limit(iops=160, iops_size=4096)
        r = fio(t, guest, "--rw=randread --bs=64k --iodepth=4", 20)
        near(t, "requests counted by size", r[1], 10)

        # Changed while fio runs: 10 s at 100, 10 s at 300.  Many wait at a time, so that a guest
        # that a busy host has let stand for a moment does not miss its turns.
        limit(iops=100)
        guest.send("(" + FIO % ("--rw=randread --bs=4k --iodepth=64", 20) + ") >/tmp/live\n")
        time.sleep(0.5)
        before = [s for s in guest.qmp("query-blockstats") if s["device"] == "d"][0]["stats"]
        began = time.monotonic()
        time.sleep(9)
        middle = [s for s in guest.qmp("query-blockstats") if s["device"] == "d"][0]["stats"]
        took = time.monotonic() - began
        near(t, "before the change", (middle["rd_operations"] - before["rd_operations"]) / took, 100)
        limit(iops=300)
        began = time.monotonic()
        time.sleep(8)
        end = [s for s in guest.qmp("query-blockstats") if s["device"] == "d"][0]["stats"]
        took = time.monotonic() - began
        near(t, "after it", (end["rd_operations"] - middle["rd_operations"]) / took, 300)
        guest.shell("wait; sleep 4", 60)

        # two disks in one group
        limit("d", iops=200, group="g")
        limit("e", iops=200, group="g")
        r = fio(t, guest, "--rw=randread --bs=4k --iodepth=32 --name=u --filename=/dev/vdc", 20)
        near(t, "two disks of a group together", r[1], 200)

        guest.qmp("block_set_io_throttle", id="vd", **NONE)
        t.ok("group" not in controllers.block(guest, "d")["inserted"], "still in a group")
        r = fio(t, guest, "--rw=randread --bs=4k --iodepth=8", 5)
        t.note("without limits %.0f IOPS" % r[1])
        t.ok(r[1] > 1000, "without limits %.0f IOPS" % r[1])
        refused(t, guest, "block_set_io_throttle", "total", device="d", **{**NONE, "bps": 1, "bps_rd": 1})
        t.note(disk.host_load())
        disk.no_trouble(t, guest)
        disk.power_off(t, guest, "poweroff")


# ---- the VMM is killed ----

# Writes records of 4 KiB, each to a place of its own, all over the disk; says so when a record is
# durable.
WRITER = r"""
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    static uint64_t block[512];
    int fd = open("/dev/vda", O_RDWR), say = open("/dev/console", O_WRONLY);
    uint64_t seq = strtoull(argv[1], NULL, 0);
    char text[32];

    if (argc < 2 || fd < 0 || say < 0)
        return 1;
    for (;; seq++) {
        for (unsigned i = 0; i < 512; i++)
            block[i] = seq * 0x9e3779b97f4a7c15u + i;
        off_t at = (off_t)(seq * 40503 % 65536) * 4096;
        if (pwrite(fd, block, sizeof block, at) != sizeof block || fsync(fd) < 0)
            return 1;
        if (write(say, text, snprintf(text, sizeof text, "A%llu\n", (unsigned long long)seq)) < 0)
            return 1;
    }
}
"""


def record(seq):
    base = seq * 0x9E3779B97F4A7C15
    return struct.pack("<512Q", *((base + i) % (1 << 64) for i in range(512)))


def img(t, *words):
    return subprocess.run(
        [os.path.join(t.build, "posada-img"), *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip


def killed(t, form, times):
    source = os.path.join(t.work, "writer.c")
    with open(source, "w", encoding="ascii") as f:
        f.write(WRITER)
    program = os.path.join(t.work, "writer")
    subprocess.run(["gcc", "-O1", "-static", "-o", program, source], check=True)
    with open(program, "rb") as f:
        files = [("writer", f.read())]
    more = "while ! [ -b /dev/vda ]; do usleep 10000; done; /writer $(sed 's/.*start=\\([0-9]*\\).*/\\1/' /proc/cmdline)"
    archive = controllers.archive(t, "kill", ["virtio_pci", "virtio_blk"], [], more, files)
    path, plain = (os.path.join(t.work, "kill." + e) for e in (form, "plain"))
    for old in path, plain:
        if os.path.exists(old):
            os.unlink(old)
    t.ok(img(t, "create", "-f", form, path, "256M").returncode == 0, "posada-img create")
    done = 0  # records that have been acknowledged so far, without a gap
    rand = random.Random(form)
    for i in range(times):
        args = t.accel + t.cpu + ["-m", "256", "-nographic", "-no-reboot"]
        args += ["-kernel", initrd.kernel("amd64"), "-initrd", archive]
        args += ["-append", "console=ttyS0 quiet panic=-1 start=%d" % done]
        args += ["-drive", "if=virtio,format=%s,file=%s" % (form, path)]
        with Guest(args) as guest:
            guest.expect(r"^A%d\n" % (done + 20), 120)
            until = time.monotonic() + rand.random()
            while time.monotonic() < until:
                t.ok(guest._read(0.01), "it ended:\n" + guest.tail())
            os.kill(guest.proc.pid, signal.SIGKILL)
            t.ok(guest.wait(20) == -signal.SIGKILL, "not killed")
            said = [int(n) for n in re.findall(r"^A(\d+)\n", guest.console, re.M)]
        t.ok(said == list(range(done, done + len(said))), "it says %s" % said)
        done += len(said)
        t.ok(done < 65536, "the disk is too small")
        if form != "raw":
            check = img(t, "check", path) if i < times - 1 else img(t, "check", "-r", "leaks", path)
            t.ok(check.returncode in (0, 3), "after kill %d: %s" % (i, check.stdout))
        read = img(t, "convert", "-f", form, "-O", "raw", path, plain)
        t.ok(read.returncode == 0, read.stdout)
        with open(plain, "rb") as f:
            for seq in range(done):
                f.seek(seq * 40503 % 65536 * 4096)
                t.ok(f.read(4096) == record(seq), "after kill %d record %d of %d is lost" % (i, seq, done))
    if form != "raw" and shutil.which("qemu-img"):
        check = subprocess.run(["qemu-img", "check", path], capture_output=True, text=True, check=False)
        t.ok(check.returncode == 0, check.stdout + check.stderr)
    t.note("%d kills, %d records, all there" % (times, done))
    for old in path, plain:
        os.unlink(old)


KILLS = int(os.environ.get("KILLS", "0"))  # of each; 25 are 50 in all


@case("disks: kill -9 while the guest writes, raw")
def killed_raw(t):
    killed(t, "raw", KILLS or (25 if t.long else 2))


@case("disks: kill -9 while the guest writes, qcow2")
def killed_qcow2(t):
    killed(t, "qcow2", KILLS or (25 if t.long else 2))


# ---- one writer at a time ----


@case("disks: a second writer is refused, QEMU or us")
def one_writer(t):
    programs = [default_vmm() + t.accel]
    qemu = shutil.which("qemu-system-x86_64")
    if qemu:
        programs.append([qemu, "-accel", "tcg"])
    for form in "raw", "qcow2":
        path = os.path.join(t.work, "writer." + form)
        t.ok(img(t, "create", "-f", form, path, "64M").returncode == 0, "posada-img create")
        words = ["-m", "64", "-S", "-nographic"]
        words += ["-drive", "if=virtio,format=%s,file=%s" % (form, path)]
        for first in programs:
            with Guest(words, vmm=first, qmp=True) as guest:
                guest.qmp("query-status")
                name = "%s (process %d)" % (os.path.basename(first[0])[:15], guest.proc.pid)
                for second in programs:
                    done = subprocess.run(
                        second + words, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                        timeout=30, check=False,
                    )  # fmt: skip
                    what = "%s beside %s: %s" % (second[0], first[0], done.stderr)
                    t.ok(done.returncode == 1, what + " ended with %d" % done.returncode)
                    t.ok("lock" in done.stderr, what)
                    t.ok(name in done.stderr or second[0] == qemu, what + " names not " + name)
                changed = img(t, "resize", path, "+1M")
                t.ok(changed.returncode == 1 and name in changed.stdout, changed.stdout)
                # readers are let in by those who say so
                t.ok(img(t, "info", "-U", path).returncode == 0, "info -U")
        os.unlink(path)


def tool(t, *words):
    done = img(t, *words)
    t.ok(done.returncode == 0, "posada-img %s: %s" % (words[0], done.stdout))


@case("disks: Debian from an encrypted qcow2 image, and a LUKS disk plugged in")
def encrypted(t):
    made = disk.make(t, "crypt")
    image, luks = os.path.join(t.work, "crypt.qcow2"), os.path.join(t.work, "crypt.luks")
    back = os.path.join(t.work, "crypt-back.img")
    secret = os.path.join(t.work, "crypt-secret")
    with open(secret, "w", encoding="ascii") as f:
        f.write("open sesame")
    key = ["--object", "secret,id=k,file=" + secret]
    size = os.path.getsize(made)
    tool(t, "convert", *key, "-f", "raw", "-O", "qcow2", "-o",
        "encrypt.format=luks,encrypt.key-secret=k,encrypt.iter-time=100", made, image)  # fmt: skip
    tool(t, "create", *key, "-q", "-f", "luks", "-o", "key-secret=k,iter-time=100", luks, "64M")
    drive = "file=%s,if=virtio,format=qcow2" % image
    args = t.accel + t.cpu + ["-m", "1024", "-nographic", "-nic", "none"]
    wrong = ["-object", "secret,id=w,data=xyzzy", "-drive", drive + ",encrypt.key-secret=w"]
    for more, why in (["-drive", drive], "'encrypt.key-secret' is required"), (wrong, "Invalid password"):
        done = subprocess.run([*default_vmm(), *args, *more], capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, check=False, timeout=60)  # fmt: skip
        t.ok(done.returncode == 1 and why in done.stderr, "%s: %s" % (why, done.stderr))
        t.ok("xyzzy" not in done.stderr, "the password in a message: " + done.stderr)
    args += ["-object", "secret,id=k,file=" + secret, "-drive", drive + ",encrypt.key-secret=k"]
    with Guest(args, tty=True, qmp=True) as guest:
        guest.login(300)
        guest.qmp("object-add", **{"qom-type": "secret", "id": "k2", "data": "open sesame"})
        names = [o["name"] for o in guest.qmp("qom-list", path="/objects")]
        t.ok("k" in names and "k2" in names, "qom-list: %s" % names)
        guest.qmp("blockdev-add", **{"driver": "luks", "node-name": "l", "key-secret": "k2",
                                     "file": {"driver": "file", "filename": luks}})  # fmt: skip
        guest.qmp("object-del", id="k2")
        guest.qmp("device_add", driver="virtio-blk-pci", drive="l", id="dl")
        status, said = guest.shell(
            "for i in $(seq 30); do [ -b /dev/vdb ] && break; sleep 1; done;"
            " dd if=/dev/urandom of=big bs=1M count=24 status=none &&"
            " dd if=big of=/dev/vdb bs=1M oflag=direct status=none && sync &&"
            " echo 3 >/proc/sys/vm/drop_caches && md5sum <big &&"
            " dd if=/dev/vdb bs=1M count=24 status=none | md5sum", 300)  # fmt: skip
        sums = re.findall("[0-9a-f]{32}", said)
        t.ok(status == 0 and len(sums) == 2 and sums[0] == sums[1], "the disks: " + said)
        disk.power_off(t, guest, "poweroff")
    opts = "driver=qcow2,encrypt.key-secret=k,file.filename=" + image
    tool(t, "check", *key, "--image-opts", opts)
    tool(t, "convert", *key, "-O", "raw", "--image-opts", opts, back)
    t.ok(os.path.getsize(back) == size, "the size has changed")
    disk.fsck(t, back)
    with open(image, "rb") as f:
        t.ok(b"debian" not in f.read(64 << 20), "plain text in the encrypted image")
