# SPDX-License-Identifier: GPL-2.0-or-later
"""A small Linux guest in which /dev/kvm works, for hosts that have none: the test bed of the KVM
backend.  QEMU's TCG emulates a processor with AMD's SVM, and the kvm-amd module of Debian's cloud
kernel drives it: the KVM is the kernel's own, only the processor below it is emulated.

    results = nested.run([nested.Job("name", ["posada-vmm", ...], 60)], files=[...])

The jobs run one after the other; each has its program and the files that it names inside, at the
same paths.  QEMU (tools/install-packages nested) and what tools/fetch-debs fetches is all that is
needed: no root, no network inside.
"""
import collections
import glob
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time

import initrd
from guest import ROOT

# name, command, seconds until it is killed
Job = collections.namedtuple("Job", "name argv limit")
# exit status as a shell tells it (137: killed as too long; 125: the outer guest never lasted to
# its end), all that it printed, how long it took
Result = collections.namedtuple("Result", "status text seconds")

# In the order in which they need each other.
MODULES = ["virt/lib/irqbypass", "arch/x86/kvm/kvm", "arch/x86/kvm/kvm-amd"]
START = 90  # seconds that the outer guest may take to come up
TRIES = 3  # for a job: QEMU's TCG has rare faults of its own in this role

# TCG does not intercept XSETBV: with XSAVE, what a guest sets would be lost to its KVM.
CPU = "max,+svm,+npt,-xsave"

INIT = """#!/bin/busybox sh
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm
mount -t tmpfs shm /dev/shm
mount -t tmpfs tmp /tmp
ifconfig lo 127.0.0.1
%(modules)s
[ -c /dev/kvm ] || echo "no /dev/kvm"
stty -F /dev/ttyS1 raw -echo
exec </dev/null >/dev/ttyS1 2>&1
%(jobs)s
poweroff -f
"""


class NoBed(Exception):
    """The outer guest does not come up."""


def read(path):
    with open(path, "rb") as f:
        return f.read()


def libraries(program):
    """The shared libraries of a program, with the loader."""
    out = subprocess.check_output(["ldd", program], text=True)
    return sorted(set(re.findall(r"(/\S+) \(0x", out)))


def archive(path, jobs, files, parameters, mark):
    """The outer guest's initramfs: the jobs and all that they need."""
    top = initrd.fetch(initrd.KERNELS["cloud-amd64"])[0]
    cpio = initrd.busybox(None, "amd64")
    lines = []
    for name in MODULES:
        found = glob.glob("%s/lib/modules/*/kernel/%s.ko" % (top, name))
        if not found:
            raise NoBed("%s has no module %s" % (top, name))
        base = os.path.basename(name)
        cpio.add(base + ".ko", 0o100644, read(found[0]))
        own = [p.partition(".")[2] for p in parameters if p.startswith(base.replace("-", "_") + ".")]
        lines.append(" ".join(["insmod /%s.ko" % base] + list(map(shlex.quote, own))))
    programs = sorted({job.argv[0] for job in jobs})
    needed = set(programs).union(files, *map(libraries, programs))
    for name in sorted(needed):
        cpio.add_file(name)
    words = []
    for number, job in enumerate(jobs):
        words.append("read -r began _ </proc/uptime; echo %s begin %d" % (mark, number))
        words.append("timeout -s KILL %d %s" % (job.limit, " ".join(map(shlex.quote, job.argv))))
        words.append("rc=$?; read -r ended _ </proc/uptime")
        words.append("echo; echo %s end %d $rc $began $ended" % (mark, number))
    init = INIT % {"modules": "\n".join(lines), "jobs": "\n".join(words)}
    cpio.add("init", 0o100755, init.encode())
    cpio.write(path)
    return sum(map(os.path.getsize, needed))


def watch(qemu, path, console, jobs, mark):
    """Waits until the outer guest ends; ends it when it stands still, or one of its processors
    does: TCG's sometimes lose an interrupt, and nothing that follows would tell anything."""
    since, seen = time.monotonic(), b""
    while qemu.poll() is None:
        time.sleep(0.2)
        marks = re.findall(mark.encode() + rb" (begin|end) (\d+)", read(path))
        if marks != seen:
            since, seen = time.monotonic(), marks
        limit = START
        if marks and marks[-1][0] == b"begin":
            limit += jobs[int(marks[-1][1])].limit
        stalled = os.path.exists(console) and b"rcu_preempt detected stalls" in read(console)
        if stalled or time.monotonic() - since > limit:
            qemu.kill()
            qemu.wait()


def start(work, jobs, files, cpus, parameters):
    """One outer guest: the results of the jobs that came to their end, whether any job began, and
    its own console."""
    mark = "posada-%s" % os.urandom(6).hex()
    image = os.path.join(work, "initrd")
    out, console = os.path.join(work, "out"), os.path.join(work, "console")
    size = archive(image, jobs, files, parameters, mark)
    open(out, "wb").close()
    words = "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable no_timer_check"
    argv = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", CPU]
    argv += ["-machine", "q35", "-nodefaults", "-display", "none", "-no-reboot"]
    argv += ["-smp", str(cpus), "-m", str(1024 + 3 * (size >> 20))]
    argv += ["-kernel", initrd.kernel("cloud-amd64"), "-initrd", image, "-append", words]
    argv += ["-serial", "file:" + console, "-serial", "file:" + out]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT) as qemu:
        try:
            watch(qemu, out, console, jobs, mark)
        finally:
            qemu.kill()
        own = qemu.stdout.read().decode("utf-8", "replace")
    text = read(out).decode("utf-8", "replace").replace("\r", "")
    if os.path.exists(console):
        own += read(console).decode("utf-8", "replace").replace("\r", "")
    pattern = r"^%s begin (\d+)\n(.*?)\n%s end \1 (\d+) (\S+) (\S+)$" % (mark, mark)
    done = {
        jobs[int(n)].name: Result(int(status), body, float(ended) - float(began))
        for n, body, status, began, ended in re.findall(pattern, text, re.M | re.S)
    }
    return done, mark + " begin 0" in text, own


def run(jobs, files=(), cpus=1, parameters=(), say=print):
    """{name of job: Result}.  cpus are the outer guest's; parameters are the KVM modules'
    ("kvm_amd.npt=0").  Where an outer guest ends early, another one does the rest."""
    if not shutil.which("qemu-system-x86_64"):
        subprocess.check_call([os.path.join(ROOT, "tools", "install-packages"), "nested"])
    results, tries = {}, collections.Counter()
    while True:
        left = [job for job in jobs if job.name not in results]
        with tempfile.TemporaryDirectory(prefix="posada-nested.") as work:
            done, begun, console = start(work, left, files, cpus, parameters)
        results.update(done)
        if len(done) == len(left):
            return results
        name = left[len(done)].name if begun else "the first job"
        tries[name] += 1
        tail = "\n# ".join(console.rstrip().split("\n")[-8:])
        say("# the outer guest ended before %s did; its console ends with:\n# %s" % (name, tail))
        if tries[name] == TRIES and not begun:
            raise NoBed("the outer guest does not come up; its console ends with:\n# " + tail)
        if tries[name] == TRIES:
            results[name] = Result(125, "the outer guest ended early %d times" % TRIES, 0)
            if len(results) == len(jobs):
                return results
