# SPDX-License-Identifier: GPL-2.0-or-later
"""The cloud kernel on the kvm backend, in the test bed of tests/lib/nested.py: to the init of the
small initramfs, through its self-check, and off again."""
import os
import re

import initrd
import kernels
import nested
from guest import default_vmm
from suite import case


def add(smp):
    @case("nested kvm, %d processor%s" % (smp, "s" * (smp > 1)), ci=False)
    def one(t):
        kernel, image = initrd.kernel("cloud-amd64"), initrd.make(t.work)
        jobs = []
        for model in "max", "host":
            for irqchip in "on", "off":
                argv = default_vmm() + ["-accel", "kvm", "-cpu", model, "-smp", str(smp)]
                argv += ["-machine", "kernel_irqchip=" + irqchip, "-m", "256", "-nographic"]
                argv += ["-no-reboot", "-kernel", kernel, "-initrd", image]
                argv += ["-append", "console=ttyS0 panic=-1 anyclock"]
                jobs.append(nested.Job("-cpu %s, irqchip %s" % (model, irqchip), argv, 150))
        results = nested.run(jobs, [kernel, image], smp, say=t.note)
        for job in jobs:
            status, text, seconds = results[job.name]
            t.note("%s: %.1f s" % (job.name, seconds))
            t.ok(status == 0, "%s: the VMM ended with %d; console:\n%s" % (
                job.name, status, kernels.tail(text)))
            # The bed's processor has no invariant TSC: Linux is right not to trust several.
            t.ok("clocksource kvm-clock" in text, job.name + ": not kvm-clock")
            kernels.check(t, text, smp, "Marking TSC unstable due to TSCs unsynchronized")


for n in 1, 2:
    add(n)


@case("nested kvm, unit tests", ci=False)
def unit(t):
    job = nested.Job("kvm", [os.path.join(t.build, "kvm")], 120)
    status, text, seconds = nested.run([job], say=t.note)["kvm"]
    t.ok(status == 0 and re.search("^ok ", text, re.M), text)
    found = re.search("^# (taken|not taken): .*", text, re.M)
    t.note("%.1f s; the self-test says: %s" % (seconds, found.group(0)[2:] if found else "nothing"))
