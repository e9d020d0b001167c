# SPDX-License-Identifier: GPL-2.0-or-later
"""Disk controllers: SeaBIOS and what it boots from them, Linux on them, media that change."""
import os
import subprocess
import time

import disk
import initrd
from guest import Guest, GuestError
from suite import case


def rescue(name):
    """A file of GRUB's rescue images."""
    return os.path.join(initrd.fetch("grub-rescue-pc:amd64")[0], "usr/lib/grub-rescue", name)


def refused(t, guest, command, text, **arguments):
    try:
        guest.qmp(command, **arguments)
    except GuestError as e:
        t.ok(text in str(e), "%s: %s" % (command, e))
        return
    t.ok(False, "%s was not refused" % command)


def block(guest, name):
    return next(b for b in guest.qmp("query-block") if b["device"] == name)


@case("IDE: GRUB from a CD; the CD is changed under it")
def grub_cd(t):
    iso = rescue("grub-rescue-cdrom.iso")
    disk_path = os.path.join(t.work, "empty.img")
    with open(disk_path, "wb") as f:
        f.truncate(16 << 20)
    args = t.accel + ["-m", "256", "-nographic", "-boot", "d", "-cdrom", iso, "-hda", disk_path]
    with Guest(args, tty=True, qmp=True) as guest:
        guest.expect("GNU GRUB", 60)
        guest.expect(r"grub>|Use the", 30)
        cd = block(guest, "ide1-cd0")
        t.ok(cd["removable"] and not cd["locked"] and not cd["tray_open"], "query-block: %s" % cd)
        t.ok(cd["inserted"]["file"] == iso and cd["inserted"]["ro"], "query-block: %s" % cd)
        t.ok(not block(guest, "ide0-hd0")["removable"], "a disk is no removable medium")
        refused(t, guest, "eject", "not removable", device="ide0-hd0")
        refused(t, guest, "eject", "not found", device="nobody")
        guest.qmp("eject", device="ide1-cd0")
        cd = block(guest, "ide1-cd0")
        t.ok(cd["tray_open"] and "inserted" not in cd, "after eject: %s" % cd)
        guest.qmp("blockdev-change-medium", device="ide1-cd0", filename=iso, format="raw")
        cd = block(guest, "ide1-cd0")
        t.ok(not cd["tray_open"] and cd["inserted"]["file"] == iso, "after change: %s" % cd)
        guest.qmp("query-status")
        moves = [e["data"] for e in guest.events if e["event"] == "DEVICE_TRAY_MOVED"]
        t.ok([m["tray-open"] for m in moves] == [True, False], "events: %s" % moves)


def boots_from(t, options, disk_path=None, **words):
    """The demo's Debian, by SeaBIOS, with file contents checked and the file system after it."""
    path = disk_path or disk.make(t, "debian")
    args = t.accel + t.cpu + ["-m", "1024", "-nographic", "-nic", "none"]
    with Guest(args + [o.replace("DISK", path) for o in options], tty=True, qmp=True) as guest:
        if "boot" in words:
            words["boot"](guest)
        guest.login(300)
        t.note("login at %.0f s" % (time.monotonic() - guest.began))
        status, said = guest.shell(
            "rm -f big; dd if=/dev/urandom of=big bs=1M count=32 status=none; sync;"
            " a=$(md5sum <big); echo 3 >/proc/sys/vm/drop_caches; b=$(md5sum <big);"
            ' [ "$a" = "$b" ]',
            300,
        )
        t.ok(status == 0, "what was read is not what was written: " + said)
        for command in words.get("then", []):
            status, said = guest.shell(command, 120)
            t.ok(status == 0, "%s: %s" % (command, said))
        if "look" in words:
            words["look"](guest)
        disk.no_trouble(t, guest)
        disk.power_off(t, guest, "poweroff")
    disk.fsck(t, path)


@case("floppy: GRUB from drive A")
def grub_floppy(t):
    path = os.path.join(t.work, "floppy.img")
    with open(rescue("grub-rescue-floppy.img"), "rb") as f, open(path, "wb") as to:
        to.write(f.read())
        to.truncate(1440 << 10)
    args = t.accel + ["-m", "256", "-nographic", "-boot", "a", "-fda", path]
    with Guest(args, tty=True, qmp=True) as guest:
        guest.expect("GNU GRUB", 60)
        t.ok(block(guest, "floppy0")["removable"], "a floppy is removable")
        guest.qmp("eject", device="floppy0")
        t.ok("inserted" not in block(guest, "floppy0"), "the floppy is still there")


@case("IDE: Debian from -hda, with a CD-ROM", ci=False)
def debian_ide(t):
    iso = rescue("grub-rescue-cdrom.iso")
    with open(iso, "rb") as f:
        want = subprocess.run(["md5sum"], stdin=f, capture_output=True, check=True).stdout.decode()

    def look(guest):
        t.ok(guest.shell("modprobe sr_mod; udevadm settle; ls /dev/sr0", 60)[0] == 0, "no /dev/sr0")
        said = guest.shell("md5sum </dev/sr0", 120)[1]
        t.ok(want.split()[0] in said, "the CD reads as " + said)
        guest.shell("mount -o ro /dev/sr0 /mnt && ls /mnt/boot/grub", 60)
        refused(t, guest, "eject", "locked", device="ide1-cd0")
        guest.shell("umount /mnt; udevadm settle", 60)
        guest.qmp("eject", device="ide1-cd0", force=True)
        time.sleep(1)
        t.ok(guest.shell("dd if=/dev/sr0 of=/dev/null count=1", 60)[0], "an empty drive reads")
        guest.qmp("blockdev-change-medium", device="ide1-cd0", filename=iso)
        guest.shell("sleep 1; udevadm settle; dmesg -C", 60)
        said = guest.shell("md5sum </dev/sr0", 120)[1]
        t.ok(want.split()[0] in said, "after the change the CD reads as " + said)

    boots_from(t, ["-hda", "DISK", "-cdrom", iso], look=look)


@case("NVMe: Debian, and trimming", ci=False)
def debian_nvme(t):
    boots_from(
        t,
        ["-drive", "file=DISK,if=none,id=d,format=raw,discard=unmap",
         "-device", "nvme,drive=d,serial=N-1,bootindex=1"],
        then=["ls /dev/nvme0n1", "fstrim -v /", "grep -q N-1 /sys/block/nvme0n1/device/serial"],
    )  # fmt: skip


@case("virtio-scsi: Debian, and trimming", ci=False)
def debian_virtio_scsi(t):
    boots_from(
        t,
        ["-device", "virtio-scsi-pci,id=scsi0",
         "-drive", "file=DISK,if=none,id=d,format=raw,discard=unmap",
         "-device", "scsi-hd,drive=d,bus=scsi0.0,scsi-id=1,lun=2,serial=S-1,bootindex=1"],
        then=["ls /dev/sda1", "fstrim -v /", "grep -q sda1 /proc/mounts || readlink /dev/root",
              "[ -e /dev/disk/by-id/scsi-0POSADA_POSADA_HARDDISK_S-1 ]"],
    )  # fmt: skip


def other_kernel(guest):
    """By GRUB's command line: the demo's Debian starts its cloud kernel by itself."""
    guest.expect("Debian GNU/Linux 12", 60)
    guest.send("c")
    for line in (
        "linux /vmlinuz.old root=/dev/sda1 ro console=ttyS0,115200",
        "initrd /initrd.img.old",
        "boot",
    ):
        guest.expect("grub> ", 120)
        time.sleep(0.5)
        guest.send(line + "\n")


@case("AHCI: Debian, with its kernel that has the driver; trimming", ci=False)
def debian_ahci(t):
    boots_from(
        t,
        ["-device", "ahci,id=x", "-drive", "file=DISK,if=none,id=d,format=raw,discard=unmap",
         "-device", "ide-hd,drive=d,bus=x.2,bootindex=1"],
        disk.make(t, "debian-amd64", "--with", "linux-image-amd64"),
        boot=other_kernel,
        then=["ls /dev/sda1", "dmesg | grep -q 'AHCI 0001'", "fstrim -v /"],
    )  # fmt: skip


@case("LSI SCSI: Debian, with its kernel that has the driver", ci=False)
def debian_lsi(t):
    boots_from(
        t,
        ["-drive", "file=DISK,if=scsi,format=raw"],
        disk.make(t, "debian-amd64", "--with", "linux-image-amd64"),
        boot=other_kernel,
        then=["ls /dev/sda1", "dmesg | grep -q 'sym0: <895a>'",
              "dmesg | grep -q 'tagged command queuing enabled'"],
    )  # fmt: skip


# ---- Debian's kernel with the drivers that its cloud kernel has not ----

INIT = r"""#!/bin/busybox sh
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /tmp
for m in $(cat /modules.list); do insmod $m || echo "INSMOD $m FAILED"; done
for i in $(seq 50); do
    all=1
    for d in DISKS; do [ -b /dev/$d ] || all=; done
    [ "$all" ] && break
    usleep 100000
done
check() # device, MiB
{
    dd if=/dev/urandom of=/tmp/r bs=1M count=$2 2>/dev/null
    a=$(md5sum </tmp/r)
    dd if=/tmp/r of=/dev/$1 bs=1M 2>/dev/null && sync
    echo 3 >/proc/sys/vm/drop_caches
    b=$(dd if=/dev/$1 bs=1M count=$2 2>/dev/null | md5sum)
    # four at once, each in a place of its own, by small requests past the cache
    for k in 1 2 3 4; do
        dd if=/tmp/r of=/dev/$1 bs=4k seek=$((k * 4096)) count=300 oflag=direct 2>/dev/null &
    done
    wait
    c=$(dd if=/tmp/r bs=4k count=300 2>/dev/null | md5sum)
    for k in 1 2 3 4; do
        d=$(dd if=/dev/$1 bs=4k skip=$((k * 4096)) count=300 iflag=direct 2>/dev/null | md5sum)
        [ "$c" = "$d" ] || b="$b, place $k is wrong"
    done
    if [ "$a" = "$b" ]; then echo "DISK $1 ok $(cat /sys/block/$1/size)"; else echo "DISK $1 WRONG $a $b"; fi
}
for d in DISKS; do check $d 24; done
MORE
sync
echo "CHECKS DONE"
poweroff -f
"""


def modules(names):
    """Debian's modules with what they need before them: (name, bytes)."""
    top = initrd.fetch(initrd.KERNELS["amd64"])[0]
    there = {}
    for where, _, files in os.walk(os.path.join(top, "lib/modules")):
        for f in files:
            if f.endswith(".ko"):
                there[f[:-3].replace("-", "_")] = os.path.join(where, f)
    out = {}

    def add(name):
        if name in out or name not in there:
            return
        with open(there[name], "rb") as f:
            data = f.read()
        for part in data.split(b"\0"):
            if part.startswith(b"depends=") and part[8:]:
                for other in part[8:].decode().split(","):
                    add(other.replace("-", "_"))
        out[name] = data

    for n in ["crct10dif_generic", "crc64_rocksoft_generic"] + names:
        add(n)
    return out


def archive(t, name, wanted, disks, more, files=()):
    """An initramfs with those drivers that writes and reads those disks; its path.

    files: (name, bytes) of programs to be there, too."""
    cpio = initrd.busybox(None, "amd64")
    mods = modules(wanted)
    cpio.add("modules", 0o40755)
    for m, data in mods.items():
        cpio.add("modules/%s.ko" % m, 0o100644, data)
    cpio.add("modules.list", 0o100644, "\n".join("/modules/%s.ko" % m for m in mods).encode())
    for n, data in files:
        cpio.add(n, 0o100755, data)
    init = INIT.replace("DISKS", " ".join(disks)).replace("MORE", more)
    cpio.add("init", 0o100755, init.encode())
    path = os.path.join(t.work, name + ".cpio.gz")
    cpio.write(path)
    return path


def drivers(t, name, wanted, disks, options, more="", timeout=180):
    """Linux with those drivers writes and reads those disks; gives its console."""
    args = t.accel + t.cpu + ["-m", "512", "-smp", "2", "-nographic", "-no-reboot"]
    args += ["-kernel", initrd.kernel("amd64"), "-initrd", archive(t, name, wanted, disks, more)]
    args += ["-append", "console=ttyS0 panic=-1"] + options
    with Guest(args) as guest:
        status = guest.wait(timeout)
        text = guest.console
        t.ok(status == 0, "it ended with %s; console:\n%s" % (status, guest.tail(40)))
    t.ok("CHECKS DONE" in text, "not all was done:\n" + "\n".join(text.split("\n")[-40:]))
    for d in disks:
        t.ok("DISK %s ok" % d in text, "disk %s:\n%s" % (d, "\n".join(text.split("\n")[-60:])))
    bad = [line for line in disk.trouble(text) if t.ours or "TSC" not in line]
    t.ok(not bad, "the kernel says:\n" + "\n".join(bad))
    return text


def images(t, *names):
    out = []
    for n in names:
        path = os.path.join(t.work, n + ".img")
        with open(path, "wb") as f:
            f.truncate(96 << 20)
        out.append(path)
    return out


CD_CHECK = "for i in $(seq 50); do [ -b /dev/sr0 ] && break; usleep 100000; done; md5sum </dev/sr0"


def cd_check(t, text, iso):
    with open(iso, "rb") as f:
        want = subprocess.run(["md5sum"], stdin=f, capture_output=True, check=True).stdout.decode()
    t.ok(want.split()[0] in text, "the CD reads otherwise:\n" + "\n".join(text.split("\n")[-30:]))


@case("AHCI: Linux, two disks with queuing and a CD-ROM", ci=False)
def linux_ahci(t):
    a, b = images(t, "ahci-a", "ahci-b")
    iso = rescue("grub-rescue-cdrom.iso")
    text = drivers(
        t, "ahci", ["ahci", "sd_mod", "sr_mod"], ["sda", "sdb"],
        ["-device", "ahci,id=x",
         "-drive", "if=none,id=a,format=raw,file=" + a, "-device", "ide-hd,drive=a,bus=x.0",
         "-drive", "if=none,id=b,format=raw,file=" + b, "-device", "ide-hd,drive=b,bus=x.3",
         "-drive", "if=none,id=c,media=cdrom,file=" + iso, "-device", "ide-cd,drive=c,bus=x.1"],
        CD_CHECK + "",
    )  # fmt: skip
    t.ok("NCQ (depth 32)" in text, "no queuing")
    cd_check(t, text, iso)


@case("IDE: Linux, three disks and a CD-ROM", ci=False)
def linux_ide(t):
    a, b, d = images(t, "ide-a", "ide-b", "ide-d")
    iso = rescue("grub-rescue-cdrom.iso")
    text = drivers(
        t, "ide", ["ata_piix", "sd_mod", "sr_mod"], ["sda", "sdb", "sdc"],
        ["-hda", a, "-hdb", b, "-hdd", d, "-cdrom", iso], CD_CHECK,
    )  # fmt: skip
    cd_check(t, text, iso)


@case("NVMe: Linux, two controllers", ci=False)
def linux_nvme(t):
    a, b = images(t, "nvme-a", "nvme-b")
    drivers(
        t, "nvme", ["nvme"], ["nvme0n1", "nvme1n1"],
        ["-drive", "if=none,id=a,format=raw,file=" + a, "-device", "nvme,drive=a,serial=A",
         "-drive", "if=none,id=b,format=raw,file=" + b,
         "-device", "nvme,drive=b,serial=B,logical_block_size=4096,max_ioqpairs=1"],
    )  # fmt: skip


@case("virtio-scsi: Linux, three disks and a CD-ROM", ci=False)
def linux_virtio_scsi(t):
    a, b, d = images(t, "vscsi-a", "vscsi-b", "vscsi-d")
    iso = rescue("grub-rescue-cdrom.iso")
    text = drivers(
        t, "vscsi", ["virtio_pci", "virtio_scsi", "sd_mod", "sr_mod"], ["sda", "sdb", "sdc"],
        ["-device", "virtio-scsi-pci,id=scsi0,num_queues=2",
         "-drive", "if=none,id=a,format=raw,file=" + a,
         "-device", "scsi-hd,drive=a,bus=scsi0.0,scsi-id=0",
         "-drive", "if=none,id=b,format=raw,file=" + b,
         "-device", "scsi-hd,drive=b,bus=scsi0.0,scsi-id=0,lun=300,logical_block_size=4096,"
         "physical_block_size=4096",
         "-drive", "if=none,id=d,format=raw,file=" + d,
         "-device", "scsi-hd,drive=d,bus=scsi0.0,scsi-id=200,write-cache=off",
         "-drive", "if=none,id=c,media=cdrom,file=" + iso,
         "-device", "scsi-cd,drive=c,bus=scsi0.0,scsi-id=5"], CD_CHECK,
    )  # fmt: skip
    t.ok("Write cache: disabled" in text and "4096-byte logical" in text, "the disks are others")
    cd_check(t, text, iso)


@case("LSI SCSI: Linux, three disks with queuing and a CD-ROM", ci=False)
def linux_lsi(t):
    a, b, d = images(t, "lsi-a", "lsi-b", "lsi-d")
    iso = rescue("grub-rescue-cdrom.iso")
    text = drivers(
        t, "lsi", ["sym53c8xx", "sd_mod", "sr_mod"], ["sda", "sdb", "sdc"],
        ["-device", "lsi53c895a,id=scsi0",
         "-drive", "if=none,id=a,format=raw,file=" + a,
         "-device", "scsi-hd,drive=a,bus=scsi0.0,scsi-id=0",
         "-drive", "if=none,id=b,format=raw,file=" + b,
         "-device", "scsi-hd,drive=b,bus=scsi0.0,scsi-id=0,lun=3,logical_block_size=4096,"
         "physical_block_size=4096",
         "-drive", "if=none,id=d,format=raw,file=" + d,
         "-device", "scsi-hd,drive=d,bus=scsi0.0,scsi-id=5,write-cache=off",
         "-drive", "if=none,id=c,media=cdrom,file=" + iso,
         "-device", "scsi-cd,drive=c,bus=scsi0.0,scsi-id=6"], CD_CHECK,
    )  # fmt: skip
    t.ok("tagged command queuing enabled" in text, "no queuing:\n" + text)
    cd_check(t, text, iso)


@case("floppy: Linux", ci=False)
def linux_floppy(t):
    path = os.path.join(t.work, "fd.img")
    with open(path, "wb") as f:
        f.write(os.urandom(1440 << 10))
    with open(path, "rb") as f:
        want = subprocess.run(["md5sum"], stdin=f, capture_output=True, check=True).stdout.decode()
    text = drivers(
        t, "floppy", ["floppy"], [], ["-fda", path],
        "md5sum </dev/fd0; dd if=/dev/zero of=/dev/fd0 bs=1k seek=700 count=20; sync",
    )  # fmt: skip
    t.ok(want.split()[0] in text, "reads otherwise:\n" + "\n".join(text.split("\n")[-30:]))
    with open(path, "rb") as f:
        data = f.read()
    t.ok(data[700 << 10 : 720 << 10] == bytes(20 << 10), "what was written is not there")
    t.ok(len(data) == 1440 << 10 and data[720 << 10 :].strip(b"\0"), "more was written")


def gone(t, guest, name, timeout=30):
    """Waits for the event that says so."""
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        guest.qmp("query-status")
        for e in guest.events:
            if e["event"] == "DEVICE_DELETED" and e["data"]["device"] == name:
                guest.events.remove(e)
                return
        time.sleep(0.1)
    t.ok(False, "no DEVICE_DELETED of %s; console:\n%s" % (name, guest.tail()))


PATTERN = "dd if=/dev/urandom of=/tmp/r bs=1M count=16 status=none"
# The node is there before it can be opened.
ROUND = (
    "for i in $(seq 100); do dd if=/dev/%s of=/dev/null count=1 status=none 2>/dev/null && break;"
    " sleep 0.1; done;"
    " dd if=/tmp/r of=/dev/%s bs=1M oflag=direct status=none &&"
    " dd if=/dev/%s bs=1M count=16 iflag=direct status=none | cmp - /tmp/r"
)


@case("disks of another size: virtio-blk, NVMe, virtio-scsi; Linux sees it at once", ci=False)
def resized(t):
    path = disk.make(t, "debian")
    files = images(t, "size-a", "size-b", "size-c")
    args = t.accel + t.cpu + ["-m", "1024", "-nographic", "-nic", "none"]
    args += ["-drive", "file=%s,if=none,id=boot,format=raw" % path,
             "-device", "virtio-blk-pci,drive=boot,bootindex=0", "-device", "virtio-scsi-pci,id=s"]  # fmt: skip
    for i, (f, d) in enumerate(zip(files, ("virtio-blk-pci", "nvme,serial=N", "scsi-hd,bus=s.0"))):
        args += ["-drive", "if=none,id=d%d,format=raw,file=%s" % (i, f), "-device", d + ",drive=d%d" % i]
    with Guest(args, tty=True, qmp=True) as guest:
        guest.login(60)
        for size in 192 << 20, 64 << 20:
            for i, name in enumerate(("vdb", "nvme0n1", "sda")):
                guest.qmp("block_resize", device="d%d" % i, size=size)
                status, said = guest.shell(
                    "for i in $(seq 50); do [ $(cat /sys/block/%s/size) = %d ] && break; sleep 0.1; done;"
                    " cat /sys/block/%s/size; [ $(cat /sys/block/%s/size) = %d ] &&"
                    " dd if=/dev/%s of=/dev/null bs=1M skip=%d iflag=direct status=none"
                    % (name, size >> 9, name, name, size >> 9, name, (size >> 20) - 1), 60)  # fmt: skip
                t.ok(status == 0, "%s, %d sectors: %s" % (name, size >> 9, said))
        disk.power_off(t, guest, "poweroff")


@case("hotplug: virtio-blk, NVMe, a SCSI adapter with disks, a network card; while they work",
      ci=False)  # fmt: skip
def hotplug(t):
    path = disk.make(t, "debian")
    files = images(t, "plug-a", "plug-b", "plug-c", "plug-d")
    args = t.accel + t.cpu + ["-m", "1024", "-nographic", "-nic", "none"]
    args += ["-drive", "file=%s,if=virtio,format=raw" % path, "-netdev", "user,id=n1"]
    for i, f in enumerate(files):
        args += ["-drive", "if=none,id=d%d,format=raw,file=%s" % (i, f)]
    with Guest(args, tty=True, qmp=True) as guest:
        guest.login(300)
        guest.shell(PATTERN, 60)

        def works(name):
            status, said = guest.shell(ROUND % (name, name, name), 60)
            t.ok(status == 0, "%s does not work: %s" % (name, said))

        def left(name):
            guest.shell("for i in $(seq 50); do [ -b /dev/%s ] || break; sleep 0.1; done" % name, 30)
            t.ok(guest.shell("[ -b /dev/%s ]" % name, 30)[0], "%s is still there" % name)

        for _ in range(3):
            guest.qmp("device_add", driver="virtio-blk-pci", id="x", drive="d0", serial="P-1")
            works("vdb")
            refused(t, guest, "device_add", "already", driver="nvme", id="y", serial="2", drive="d0")
            refused(t, guest, "device_add", "Duplicate", driver="nvme", id="x", serial="2", drive="d1")
            guest.qmp("device_del", id="x")
            gone(t, guest, "x")
            left("vdb")
        guest.qmp("device_add", driver="nvme", id="n", drive="d1", serial="N-9")
        works("nvme0n1")
        guest.qmp("device_add", driver="virtio-scsi-pci", id="s")
        guest.qmp("device_add", driver="scsi-hd", id="s1", bus="s.0", drive="d2", **{"scsi-id": 4})
        works("sda")
        guest.qmp("device_add", driver="scsi-hd", id="s2", bus="s.0", drive="d3", **{"scsi-id": 9})
        works("sdb")
        guest.qmp("device_del", id="s1")
        gone(t, guest, "s1")
        left("sda")
        works("sdb")
        guest.qmp("device_add", driver="virtio-net-pci", id="c", netdev="n1")
        status, said = guest.shell("for i in $(seq 100); do ls /sys/class/net | grep -qv lo && break;"
                                   " sleep 0.1; done; ls /sys/class/net | grep -v lo", 60)  # fmt: skip
        t.ok(status == 0, "no network card: " + said)
        guest.qmp("device_del", id="c")
        gone(t, guest, "c")
        refused(t, guest, "device_del", "not found", id="c")
        # all of it goes while it works; a controller with its disk, too
        guest.qmp("device_add", driver="scsi-hd", id="s3", bus="s.0", drive="d2", **{"scsi-id": 5})
        works("sda")
        for name in "nvme0n1", "sda", "sdb":
            guest.shell("(while dd if=/tmp/r of=/dev/%s bs=64k conv=nocreat oflag=direct; do :; done)"
                        " >/dev/null 2>&1 &" % name, 30)  # fmt: skip
        time.sleep(2)
        guest.qmp("device_del", id="s2")
        gone(t, guest, "s2")
        # Until the driver is done with it: Linux's virtio_scsi makes a work item new that it is
        # just cancelling if the controller goes meanwhile, and its kernel warns (with QEMU, too).
        left("sdb")
        guest.qmp("device_del", id="s")
        guest.qmp("device_del", id="n")
        gone(t, guest, "s")
        gone(t, guest, "n")
        left("nvme0n1")
        left("sda")
        status, said = guest.shell("dmesg | grep -E -A40 'BUG|Oops|Call Trace|WARNING'", 60)
        t.ok(status != 0, "the kernel says: " + said)
        disk.power_off(t, guest, "poweroff")
    disk.fsck(t, path)
    with open(files[0], "rb") as f:
        t.ok(any(f.read(16 << 20)), "nothing was written")
