#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# programs.sh TIMES ROOT GROUPS - all programs of these groups, natively (ROOT is where the
# guest's files are unpacked) and in a guest (ROOT is empty) alike.
times=$1 root=$2 groups=$3
busybox=$root/bin/busybox
python="$root/lib64/ld-linux-x86-64.so.2 --library-path $root/lib/x86_64-linux-gnu:$root/usr/lib/x86_64-linux-gnu $root/usr/bin/python3.11"
export PYTHONHOME=$root/usr PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0 LC_ALL=C

has()
{
    case " $groups " in *" $1 "*) return 0 ;; esac
    return 1
}
cmd()
{
    "$root/bench/bench" -r "$times" -c "$@"
}

"$root/bench/bench" -r "$times" $groups
if has hashing; then
    for h in md5 sha1 sha256 sha512; do
        cmd hashing $h $busybox sh -c "cd $root/bench; $busybox ${h}sum text text text text text text text text"
    done
fi
if has compression; then
    cmd compression gzip $busybox sh -c "$busybox gzip -c <$root/bench/text"
    cmd compression gunzip $busybox sh -c "$busybox gunzip -c <$root/bench/text.gz"
    cmd compression bzip2 $busybox sh -c "$busybox head -c 600000 $root/bench/text | $busybox bzip2 -c"
    cmd compression unxz $busybox sh -c "$busybox unxz -c <$root/bench/text.xz"
fi
if has shell; then
    cmd shell loop $busybox sh -c 'i=0; while [ $i -lt 60000 ]; do i=$((i + 1)); done; echo $i'
    cmd shell forks $busybox sh -c "i=0; while [ \$i -lt 150 ]; do $busybox true; i=\$((i + 1)); done; echo \$i"
    cmd shell sort $busybox sh -c "$busybox sort <$root/bench/text | $busybox md5sum"
    cmd shell awk $busybox awk '{ n[length($0) % 97] += NF } END { for (i = 0; i < 97; i++) s = s " " n[i]; print s }' $root/bench/text
fi
if has python; then
    cmd python start $python -S -c pass
    cmd python mixed $python -S $root/bench/mixed.py
fi
