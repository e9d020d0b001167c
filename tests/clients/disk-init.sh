#!/bin/sh
# /init of the jobs' test: writes random pieces to the disk and to a copy of it in memory, and
# compares the two again and again, until a line comes.  Then it says the disk's sum and size.
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mount -t tmpfs none /tmp
for m in virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk; do
    [ ! -f /modules/$m.ko ] || insmod /modules/$m.ko
done
(read x </dev/console; touch /tmp/stop) &
cat /dev/vda >/tmp/copy
pieces=$(($(cat /sys/block/vda/size) / 128))
size() { cat /sys/block/vda/size; }
n=0
echo "DISK ready $(size)"
while [ ! -f /tmp/stop ]; do
    i=0
    while [ $i -lt 20 ]; do
        at=$(((RANDOM * 32768 + RANDOM) % pieces))
        dd if=/dev/urandom of=/tmp/piece bs=64k count=1 2>/dev/null
        dd if=/tmp/piece of=/tmp/copy bs=64k seek=$at conv=notrunc 2>/dev/null
        dd if=/tmp/piece of=/dev/vda bs=64k seek=$at conv=notrunc 2>/dev/null
        i=$((i + 1))
    done
    sync
    echo 3 >/proc/sys/vm/drop_caches
    head -c $((pieces * 65536)) /dev/vda | cmp -s - /tmp/copy || echo "DISK bad $n"
    n=$((n + 1))
    echo "DISK round $n size $(size)"
done
sync
echo "DISK sum $(head -c $((pieces * 65536)) /dev/vda | md5sum | cut -c1-32) size $(size)"
poweroff -f
