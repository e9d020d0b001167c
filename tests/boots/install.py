# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's installer, from a CD onto an empty disk, and what it has installed."""
import os
import re
import subprocess
import time

import initrd
import mirror
from guest import ROOT, Guest
from suite import case

# The way to debian-installer's answers: the priority hides what has a default.
PRESEED = """
d-i debian-installer/locale string en_US.UTF-8
d-i keyboard-configuration/xkb-keymap select us
d-i netcfg/choose_interface select auto
d-i netcfg/get_hostname string posada
d-i netcfg/get_domain string local
d-i mirror/country string manual
d-i mirror/protocol string http
d-i mirror/http/hostname string 10.0.2.2:%(port)d
d-i mirror/http/directory string /debian
d-i mirror/http/proxy string
d-i mirror/suite string bookworm
d-i passwd/make-user boolean false
d-i passwd/root-password password posada
d-i passwd/root-password-again password posada
d-i clock-setup/utc boolean true
d-i clock-setup/ntp boolean false
d-i time/zone string UTC
d-i partman-auto/disk string /dev/sda
d-i partman-auto/method string regular
d-i partman-auto/choose_recipe select atomic
d-i partman-basicfilesystems/no_swap boolean false
d-i partman-partitioning/confirm_write_new_label boolean true
d-i partman/choose_partition select finish
d-i partman/confirm boolean true
d-i partman/confirm_nooverwrite boolean true
d-i base-installer/install-recommends boolean false
d-i base-installer/kernel/image string linux-image-amd64
d-i apt-setup/services-select multiselect
d-i apt-setup/enable-source-repositories boolean false
tasksel tasksel/first multiselect
d-i pkgsel/upgrade select none
popularity-contest popularity-contest/participate boolean false
d-i grub-installer/only_debian boolean true
d-i grub-installer/bootdev string /dev/sda
d-i debian-installer/add-kernel-opts string console=ttyS0,115200
d-i finish-install/reboot_in_progress note
d-i debian-installer/exit/poweroff boolean true
"""
ISOLINUX = """serial 0 115200
default install
prompt 0
label install
  kernel linux
  append initrd=initrd.gz,preseed.gz auto=true priority=critical file=/preseed.cfg console=ttyS0,115200 TERM=dumb DEBIAN_FRONTEND=text
"""


def make_iso(t, port):
    """The installer on a CD that boots; built like Debian's own, by isolinux and xorriso."""
    packages = "debian-installer-12-netboot-amd64:all", "isolinux:all", "syslinux-common:all"
    top, isolinux, syslinux = initrd.fetch(*packages)
    text = os.path.join(
        top, "usr/lib/debian-installer/images/12/amd64/text/debian-installer/amd64"
    )
    tree = os.path.join(t.work, "install-cd")
    os.makedirs(tree, exist_ok=True)
    for path in (
        os.path.join(text, "linux"),
        os.path.join(text, "initrd.gz"),
        os.path.join(isolinux, "usr/lib/ISOLINUX/isolinux.bin"),
        os.path.join(syslinux, "usr/lib/syslinux/modules/bios/ldlinux.c32"),
    ):
        subprocess.run(["cp", path, tree], check=True)
    cpio = initrd.Cpio()
    cpio.add("preseed.cfg", 0o100644, (PRESEED % {"port": port}).encode())
    cpio.write(os.path.join(tree, "preseed.gz"))
    with open(os.path.join(tree, "isolinux.cfg"), "w", encoding="ascii") as f:
        f.write(ISOLINUX)
    iso = os.path.join(t.work, "install.iso")
    subprocess.run(
        ["xorriso", "-as", "mkisofs", "-quiet", "-o", iso, "-b", "isolinux.bin", "-c", "boot.cat",
         "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", "-V", "INSTALL", tree],
        check=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return iso


@case("install: Debian from its installer's CD onto a qcow image, which boots", ci=False)
def install(t):
    image = os.path.join(t.work, "debian-etch.img")
    if os.path.exists(image):
        os.unlink(image)
    tool = os.path.join(t.build, "posada-img") if t.ours else "qemu-img"
    subprocess.run([tool, "create", "-f", "qcow", image, "10G"], check=True, cwd=ROOT)
    served = mirror.Mirror()
    try:
        iso = make_iso(t, served.port)
        args = t.accel + t.cpu + ["-m", "1024", "-smp", "2", "-nographic"]
        args += ["-nic", "user,model=virtio-net-pci"]
        with Guest(args + ["-boot", "d", "-cdrom", iso, "-hda", image], tty=True) as guest:
            guest.expect("Linux version", 120)
            # its network, and a mirror of the right kind
            guest.expect("Configuring the network with DHCP", 600)
            guest.expect("Loading additional components", 300)
            t.note("started from the CD, mirror found at %.0f s" % (time.monotonic() - guest.began))
            found = guest.expect("failed to download a file|Partitions formatting|[Pp]artition", 1800)
            if "failed" in found.group(0):
                t.skip("the installer runs, but this host's mirror has none of its components")
            for stage in (
                "Partitions formatting|Creating ext4|Formatting partition",
                "Installing the base system",
                "Installing GRUB|GRUB boot loader",
                "Finishing the installation",
            ):
                match = guest.expect(stage, 5400)
                t.note("%s at %.0f s" % (match.group(0), time.monotonic() - guest.began))
            status = guest.wait(900)
            t.ok(status == 0, "the installer ended with %s:\n%s" % (status, guest.tail(30)))
            t.note("installed in %.0f s" % time.monotonic() - guest.began)
    finally:
        served.close()
    with Guest(t.accel + t.cpu + ["-m", "1024", "-nographic", image], tty=True) as guest:
        guest.expect("login: ", 600)
        guest.send("root\n")
        guest.expect("Password: ", 60)
        guest.send("posada\n")
        guest.expect(r"root@posada:~# ", 120)
        guest.send("stty -echo cols 200; PS1=; PS2=; bind 'set enable-bracketed-paste off'\n")
        status, said = guest.shell("grep -q ' / ext4' /proc/mounts && cat /etc/debian_version", 60)
        t.ok(status == 0 and re.match(r"12\.", said.strip()), "the system says " + said)
        guest.send("poweroff\n")
        t.ok(guest.wait(180) == 0, "no orderly end:\n" + guest.tail())

