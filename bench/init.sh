#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# /init of the benchmark's guest: says that user space is there, runs what the words on the
# kernel command line ask for (`groups=a,b`, none: boot only, `rounds=n`), and powers off.
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null
mount -t tmpfs tmp /tmp
read -r up _ </proc/uptime
echo "INIT OK uptime $up"
groups= rounds=1
for w in $(cat /proc/cmdline); do
    case $w in
    groups=*) groups=$(echo "${w#groups=}" | tr , ' ') ;;
    rounds=*) rounds=${w#rounds=} ;;
    esac
done
if [ -n "$groups" ]; then
    for m in virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk; do
        insmod /modules/$m.ko 2>/dev/null
    done
    sleep 1
    export BENCH_DISK=/dev/vda PATH=/bin:/sbin
    sh /bench/programs.sh "$rounds" "" "$groups"
fi
echo "BENCH DONE"
poweroff -f
