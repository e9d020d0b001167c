# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels and initramfs images to boot: Debian's own, fetched once and kept in the cache."""
import glob
import gzip
import os
import re
import subprocess

from guest import ROOT

KERNELS = {
    "cloud-amd64": "linux-image-cloud-amd64:amd64",
    "amd64": "linux-image-amd64:amd64",
    "686-pae": "linux-image-686-pae:i386",
}


def fetch(*packages):
    """Directories of unpacked Debian packages (name:arch)."""
    tool = os.path.join(ROOT, "tools", "fetch-debs")
    return subprocess.check_output([tool, *packages], text=True).split()


def kernel(name):
    return glob.glob(os.path.join(fetch(KERNELS[name])[0], "boot", "vmlinuz-*"))[0]


class Cpio:
    """An archive in the form that Linux unpacks ("newc"), made without being root."""

    def __init__(self):
        self.data = bytearray()
        self.count = 0
        self.folders = set()

    def add(self, name, mode, data=b"", rdev=(0, 0)):
        self.count += 1
        path = name.encode() + b"\0"
        field = (self.count, mode, 0, 0, 1, 0, len(data), 0, 0, *rdev, len(path), 0)
        self.data += b"070701" + b"".join(b"%08x" % n for n in field) + path
        self.data += b"\0" * (-len(self.data) % 4)
        self.data += data
        self.data += b"\0" * (-len(self.data) % 4)

    def add_file(self, path):
        """A file of the host, at the same path, with the folders on the way."""
        inside = path.lstrip("/")
        for at in re.finditer("/", inside):
            folder = inside[: at.start()]
            if folder not in self.folders:
                self.folders.add(folder)
                self.add(folder, 0o40755)
        with open(path, "rb") as f:
            self.add(inside, 0o100000 | os.stat(path).st_mode & 0o777, f.read())

    def add_tree(self, top, keep=lambda path: True):
        for where, dirs, files in os.walk(top):
            dirs.sort()
            for name in sorted(dirs + files):
                path = os.path.join(where, name)
                inside = os.path.relpath(path, top)
                if not keep(inside):
                    continue
                mode = os.lstat(path).st_mode
                if os.path.islink(path):
                    self.add(inside, 0o120777, os.readlink(path).encode())
                elif os.path.isdir(path):
                    self.add(inside, 0o40755)
                else:
                    with open(path, "rb") as f:
                        self.add(inside, 0o100000 | mode & 0o777, f.read())

    def write(self, path):
        self.add("TRAILER!!!", 0)
        part = path + ".part"
        data = bytes(self.data)
        with open(part, "wb") as f:
            f.write(gzip.compress(data, 6, mtime=0) if path.endswith(".gz") else data)
        os.replace(part, path)


def busybox(init, arch):
    """An archive with a static busybox and the given file as /init, if any."""
    top = fetch("busybox-static:" + arch)[0]
    tool = glob.glob(top + "/bin/busybox") or glob.glob(top + "/usr/bin/busybox")
    # Asked of the amd64 one for both, as hosts need not run i386; their configuration is the same.
    lister = fetch("busybox-static:amd64")[0] + "/" + os.path.relpath(tool[0], top)
    applets = subprocess.check_output([lister, "--list"], text=True).split()
    cpio = Cpio()
    for name in "bin sbin proc sys dev tmp etc root mnt usr usr/bin usr/sbin".split():
        cpio.add(name, 0o40755)
    cpio.add("dev/console", 0o20600, rdev=(5, 1))
    cpio.add("dev/null", 0o20666, rdev=(1, 3))
    with open(tool[0], "rb") as f:
        cpio.add("bin/busybox", 0o100755, f.read())
    for name in applets:
        if name != "busybox":
            cpio.add("bin/" + name, 0o120777, b"busybox")
    if init:
        with open(init, "rb") as f:
            cpio.add("init", 0o100755, f.read())
    return cpio


def make(build, arch="amd64"):
    """The tests' initramfs; its path."""
    path = os.path.join(build, "initrd-%s.gz" % arch)
    init = os.path.join(ROOT, "tests", "boots", "init.sh")
    sources = [init, __file__]
    if not os.path.exists(path) or any(
        os.path.getmtime(s) > os.path.getmtime(path) for s in sources
    ):
        busybox(init, arch).write(path)
    return path
