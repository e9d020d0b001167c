# SPDX-License-Identifier: GPL-2.0-or-later
"""A Linux guest on the user-mode network: DHCP, out to the host, in by a forwarded port."""
import glob
import hashlib
import os
import random
import socket
import threading

import initrd
from guest import Guest
from suite import case

HERE = os.path.dirname(os.path.abspath(__file__))
MODULES = ("virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci failover "
           "net_failover virtio_net").split()  # fmt: skip


def archive(t):
    path = os.path.join(t.work, "initrd-net.gz")
    cpio = initrd.busybox(os.path.join(HERE, "net-init.sh"), "amd64")
    top = initrd.fetch(initrd.KERNELS["cloud-amd64"])[0]
    cpio.add("modules", 0o40755)
    if not glob.glob(top + "/**/kernel/**/virtio_net.ko", recursive=True):
        t.skip("%s was unpacked without virtio_net.ko; delete it" % top)
    for name in MODULES:
        for file in glob.glob("%s/**/kernel/**/%s.ko" % (top, name), recursive=True):
            with open(file, "rb") as f:
                cpio.add("modules/%s.ko" % name, 0o100644, f.read())
    cpio.write(path)
    return path


def serve(data):
    """Gives the bytes to whoever connects first; the port."""
    at = socket.socket()
    at.bind(("127.0.0.1", 0))
    at.listen(1)

    def run():
        peer, _ = at.accept()
        with peer:
            peer.sendall(data)

    threading.Thread(target=run, daemon=True).start()
    return at.getsockname()[1]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def echo(port, data):
    """Sends and receives at the same time; what came back."""
    back = bytearray()
    with socket.create_connection(("127.0.0.1", port), timeout=60) as s:
        def send():
            s.sendall(data)

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        while len(back) < len(data):
            more = s.recv(65536)
            if not more:
                break
            back += more
        sender.join(10)
    return bytes(back)


@case("net: a guest's DHCP, ping, 8 MiB from the host, 2 MiB through a forwarded port and back")
def guest_network(t):
    rand = random.Random(1)
    data = rand.randbytes(8 << 20)
    port, forward = serve(data), free_port()
    args = t.accel + t.cpu + [
        "-m", "256", "-display", "none", "-nodefaults", "-serial", "stdio", "-no-reboot",
        "-kernel", initrd.kernel("cloud-amd64"), "-initrd", archive(t),
        "-append", "console=ttyS0 panic=-1 quiet fetch=%d echo" % port,
        "-netdev", "user,id=n,hostname=inn,hostfwd=tcp:127.0.0.1:%d-:7" % forward,
        "-device", "virtio-net-pci,netdev=n",
    ]  # fmt: skip
    with Guest(args) as g:
        g.expect(r"NET address 10\.0\.2\.15/24 router 10\.0\.2\.2 dns 10\.0\.2\.3 name inn\n", 120)
        g.expect(r"NET ping ok\n", 20)
        got = g.expect(r"NET sum (\w+)\n", 120).group(1)
        t.ok(got == hashlib.md5(data).hexdigest(), "8 MiB arrived changed: %s" % got)
        g.expect(r"NET listening\n", 10)
        back = echo(forward, data[: 2 << 20])
        t.ok(back == data[: 2 << 20], "%d bytes came back, or changed" % len(back))
        g.expect(r"NET echoed\n", 30)
        t.ok(g.wait(30) == 0, "status %s" % g.status)
