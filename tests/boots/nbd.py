# SPDX-License-Identifier: GPL-2.0-or-later
"""A real Debian whose disk lies on an NBD server: ours, then Debian's qemu-nbd."""
import os
import shutil
import subprocess
import time

import disk
from guest import Guest
from suite import case


class Server:
    """Serves a raw image on a UNIX socket until the end of the block."""

    def __init__(self, t, command, image):
        self.socket = os.path.join(t.work, "nbd-%d.sock" % os.getpid())
        self.url = "nbd+unix:///disk?socket=" + self.socket
        self.process = subprocess.Popen(
            command + ["-k", self.socket, "-x", "disk", "-t", "-e", "4", "-f", "raw", "--discard=unmap", image],
            stdin=subprocess.DEVNULL)  # fmt: skip
        for _ in range(100):
            if os.path.exists(self.socket):
                return
            time.sleep(0.1)
        raise RuntimeError("%s does not listen" % command)

    def __enter__(self):
        return self

    def __exit__(self, *what):
        self.process.terminate()
        self.process.wait(30)
        if os.path.exists(self.socket):
            os.unlink(self.socket)


def boots(t, command):
    image = disk.make(t, "debian")
    with Server(t, command, image) as server:
        with Guest(disk.options(t, server.url, 2), tty=True, qmp=True) as guest:
            guest.login(300)
            t.note("login at %.0f s" % (time.monotonic() - guest.began))
            status, said = guest.shell(
                "dd if=/dev/urandom of=/root/nbd bs=1M count=64 conv=fsync && md5sum /root/nbd "
                "&& echo 3 >/proc/sys/vm/drop_caches && md5sum /root/nbd && fstrim -v /", 300)  # fmt: skip
            t.ok(status == 0, said)
            sums = [line.split()[0] for line in said.splitlines() if line.endswith("/root/nbd")]
            t.ok(len(sums) == 2 and sums[0] == sums[1], "what was written is not what is read: " + said)
            disk.no_trouble(t, guest)
            disk.power_off(t, guest, "poweroff")
    disk.fsck(t, image)


@case("disk on NBD: served by posada-img nbd")
def ours(t):
    boots(t, [os.path.join(t.build, "posada-img"), "nbd"])


@case("disk on NBD: served by qemu-nbd")
def theirs(t):
    if not shutil.which("qemu-nbd"):
        t.skip("no qemu-nbd")
    boots(t, ["qemu-nbd"])
