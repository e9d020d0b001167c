#!/bin/sh
# /init of the test initramfs: says that user space came up, checks a few results that are known
# beforehand, and powers off.  Words on the kernel command line steer it:
#   shell     a shell on the console instead of power-off
#   nocheck   no self-check: boot to init only
#   anyclock  does not insist on the clock source tsc (where there is none that is stable)
#   reboot    ends by reboot instead of power-off
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null
mount -t tmpfs tmp /tmp

bad=0
check() # what, got, wanted
{
    if [ "$2" = "$3" ]; then
        echo "check $1: ok"
    else
        echo "check $1: FAILED: got '$2', wanted '$3'"
        bad=$((bad + 1))
    fi
}

cs=$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)
read -r up _ </proc/uptime
echo "INIT OK uptime $up nproc $(nproc) clocksource $cs"
echo "INIT kernel $(uname -r) $(uname -m) memory $(awk '/MemTotal/ { print $2 }' /proc/meminfo) kB"

self_check()
{
    check arith "$((123456789 * 987 % 65521))" 22766
    check awk "$(awk 'BEGIN { s = 0; for (i = 1; i <= 20000; i++) s += i / (i * i + 1)
                      printf "%.6f", s }')" 9.808862
    check md5 "$(seq 1 20000 | md5sum | cut -c1-32)" e071f707df7bbeee2a6a1eb48011ddd0
    check sha512 "$(seq 1 20000 | sha512sum | cut -c1-32)" 7686a0fb0b50564b3e6f2e2ab9bdcbd5
    check gzip "$(seq 1 50000 | gzip -c | gunzip -c | md5sum | cut -c1-32)" c1d4ba52c72ac7bcc71ff2d6c083e684
    check sort "$(seq 1 3000 | sort -r | sort -n | md5sum | cut -c1-32)" ee9762749fc5338b6c9b0948d14219c7
    i=0
    while [ $i -lt 40 ]; do
        /bin/true || bad=$((bad + 1))
        i=$((i + 1))
    done
    dd if=/dev/zero of=/tmp/f bs=64k count=64 2>/dev/null
    check file "$(md5sum </tmp/f | cut -c1-32)" b5cfa9d6c8febd618f91ac2843d50a1c
    # all processors at once, each with its own answer to get right
    for c in $(seq 1 "$(nproc)"); do
        (seq 1 $((c * 5000)) | sort -r | sort -n | tail -1 >/tmp/p$c) &
    done
    wait
    for c in $(seq 1 "$(nproc)"); do
        check "cpu$c" "$(cat /tmp/p$c)" "$((c * 5000))"
    done
    t0=$(cut -d' ' -f1 /proc/uptime)
    sleep 1
    t1=$(cut -d' ' -f1 /proc/uptime)
    check sleep "$(awk "BEGIN { d = $t1 - $t0; print (d > 0.95 && d < 3) ? \"yes\" : d }")" yes
    # tests/lib/guest.py looks again, at what the console had
    trouble='WARNING|BUG:|Oops|Call Trace|soft lockup|rcu.*stall'
    grep -qw anyclock /proc/cmdline || trouble="$trouble|unstable"
    dmesg | grep -v 'vulnerable to RETBleed' | grep -E "$trouble" && bad=$((bad + 1))
    case $cs in
    tsc | kvm-clock) ;;
    *) grep -qw anyclock /proc/cmdline || check clocksource "$cs" tsc ;;
    esac
}

grep -qw nocheck /proc/cmdline || self_check
echo "SELFCHECK $([ $bad = 0 ] && echo OK || echo FAILED $bad)"
if grep -qw shell /proc/cmdline; then
    exec setsid -c sh
fi
if grep -qw reboot /proc/cmdline; then
    reboot -f
fi
poweroff -f
