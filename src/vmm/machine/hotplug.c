// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * hotplug.c - devices that come and go while the guest runs.
 *
 * A PCI device comes at once, and the guest is told through ACPI; it goes when the guest has
 * ejected its slot, or with a reset.  A disk on a SCSI bus comes and goes at once, and its
 * adapter tells.  What is under way in a device that goes is finished; no vCPU runs meanwhile.
 */
#include <string.h>

#include "base/error.h"
#include "vmm/dev/drive.h"
#include "vmm/dev/pc/pcihp.h"
#include "vmm/dev/pci/pci.h"
#include "vmm/dev/scsi/scsi.h"
#include "vmm/machine/board.h"

static struct dev *find(struct vm *vm, const char *id)
{
    for (u32 i = 0; i < vm->devs->len; i++) {
        struct dev *d = vm->devs->pdata[i];

        if (strcmp(d->id, id) == 0)
            return d;
    }
    return NULL;
}

/* What hangs on it first: the disks of a SCSI adapter. */
static void children_remove(struct machine *m, const struct dev *host)
{
    for (u32 i = m->vm->devs->len; i--;) {
        struct scsi_unit *u = scsi_unit_of(m->vm->devs->pdata[i]);

        if (u && u->bus && u->bus->host == host)
            machine_remove(m, &u->dev);
    }
}

void machine_remove(struct machine *m, struct dev *d)
{
    g_autofree char *id = g_strdup(d->id);
    struct vm *vm = m->vm;

    children_remove(m, d);
    vm_freeze(vm);
    dev_free(d);
    vm_thaw(vm);
    if (vm->device_deleted)
        vm->device_deleted(vm, id);
}

/* ---- what the guest lets go of
 * ----------------------------------------------------------------
 */

struct ejected {
    struct machine *m;
    u32 slots;
};

static void slots_remove(struct machine *m, u32 slots)
{
    for (u32 fn = 0; fn < PCI_FNS; fn++) {
        struct pci_dev *p = slots >> (fn / 8) & 1 ? pci_bus_dev(m->pci, (u8)fn) : NULL;

        if (p && !p->pt->fixed)
            machine_remove(m, &p->dev);
    }
}

static void ejected(void *opaque)
{
    struct ejected *e = opaque;

    e->m->leaving &= ~e->slots;
    slots_remove(e->m, e->slots);
    g_free(e);
}

void machine_ejects(void *opaque, u32 slots)
{
    struct ejected *e = g_new(struct ejected, 1);

    *e = (struct ejected){ opaque, slots };
    vm_on_main(e->m->vm, ejected, e);
}

void machine_hotplug_reset(struct machine *m)
{
    if (m->leaving) /* not from inside the reset, which devices listen to */
        machine_ejects(m, m->leaving);
}

/* ---- what the host wants
 * ----------------------------------------------------------------------
 */

static bool can_come(const struct machine *m, const struct dev_type *t, GError **error)
{
    const char *name = t->name;

    if (t->kind == DEV_SCSI)
        return true;
    if (t->kind == DEV_PCI && m->hotplug && !((const struct pci_type *)t->more)->fixed)
        return true;
    return fail(error, ERR_UNSUPPORTED, "Device '%s' does not support hotplugging", name);
}

/* A drive or a netdev has one device only. */
static bool links_free(struct machine *m, const struct dev_type *t, const GPtrArray *props,
                       GError **error)
{
    for (guint i = 0; i < props->len; i++) {
        const struct opt *o = props->pdata[i];
        const struct prop *p = dev_prop_find(t, o->key);
        const struct drive *drive;

        if (!p || p->kind != PROP_PTR || !p->link)
            continue;
        if (strcmp(p->link, "drive") == 0 || strcmp(p->link, "medium") == 0) {
            drive = drive_find(m->vm, o->val, NULL);
            if (drive && drive->dev)
                return fail(error, ERR_BUSY, "drive=%s has a device already", o->val);
        }
        if (strcmp(p->link, "netdev") != 0)
            continue;
        const void *net = g_hash_table_lookup(m->nets, o->val);
        for (u32 k = 0; net && k < m->vm->devs->len; k++) {
            const struct dev *d = m->vm->devs->pdata[k];
            const struct prop *q = dev_prop_find(d->type, "netdev");

            if (q && *(void *const *)((const u8 *)d + q->offset) == net)
                return fail(error, ERR_BUSY, "netdev=%s has a device already", o->val);
        }
    }
    return true;
}

bool machine_device_add(struct vm *vm, const char *driver, const char *id, GPtrArray *props,
                        GError **error)
{
    struct machine *m = vm->machine;
    struct device_desc desc = {
        .type = (char *)driver, .id = (char *)id, .origin = (char *)"device_add", .props = props
    };
    const char *name = machine_type_name(m->desc, driver);
    const struct dev_type *t = dev_type_find(name);

    if (!t || t->kind == DEV_SYSBUS)
        return fail(error, ERR_NOT_FOUND, "'%s' is not a valid device model name", driver);
    if (id && find(vm, id))
        return fail(error, ERR_ARGUMENT, "Duplicate device ID '%s'", id);
    if (!can_come(m, t, error) || !links_free(m, t, props, error))
        return false;
    vm_freeze(vm);
    bool ok = machine_user_device(m, &desc, error);
    vm_thaw(vm);
    if (!ok)
        return false;
    const struct pci_dev *p = pci_dev_of(vm->devs->pdata[vm->devs->len - 1]);
    if (p)
        pcihp_changed(m->hotplug, p->fn >> 3, true);
    return true;
}

bool machine_device_del(struct vm *vm, const char *id, GError **error)
{
    struct machine *m = vm->machine;
    struct dev *d = find(vm, id);
    const struct pci_dev *p = d ? pci_dev_of(d) : NULL;

    if (!d || !d->user)
        return fail(error, ERR_NOT_FOUND, "Device '%s' not found", id);
    if (!can_come(m, d->type, error))
        return false;
    if (!p) {
        machine_remove(m, d);
        return true;
    }
    if (vm->run == RUN_PRELAUNCH) { /* nobody to ask */
        machine_remove(m, d);
        return true;
    }
    m->leaving |= 1u << (p->fn >> 3);
    pcihp_changed(m->hotplug, p->fn >> 3, false);
    return true;
}
