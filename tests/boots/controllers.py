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
