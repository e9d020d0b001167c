// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * mem.c - guest memory as the kernel's slots, and its dirty log.
 *
 * A slot is a map entry of ram.h.  On a change only the slots that differ go and come, so that
 * what other vCPUs are running from stays in place; an access that falls into the gap arrives
 * as an MMIO exit and is served from RAM there (run.c).
 */
#include "vmm/cpu/kvm/kvm.h"

#include "base/log.h"

static bool slot_tell(struct kvm_vm *kv, u32 n, bool present)
{
    const struct kvm_mem *m = &kv->slots[n];
    struct kvm_userspace_memory_region r = {
        .slot = n,
        .flags = present ? m->flags : 0,
        .guest_phys_addr = m->at,
        .memory_size = present ? m->len : 0,
        .userspace_addr = (uintptr_t)m->host,
    };
    int rc = kvm_ioctl(kv->fd, KVM_SET_USER_MEMORY_REGION, &r);

    if (rc < 0)
        log_error("kvm: memory at %#llx, %#llx bytes: %s", (unsigned long long)m->at,
                  (unsigned long long)m->len, g_strerror(-rc));
    return rc >= 0;
}

static struct kvm_mem wanted(struct kvm_vm *kv, const struct ram_slot *s)
{
    struct kvm_mem m = { .at = s->at, .len = s->len, .host = s->block->host + s->off };

    if (s->rom)
        m.flags = kv->has.readonly ? KVM_MEM_READONLY : 0;
    else if (ram_logging(kv->vm->ram))
        m.flags = KVM_MEM_LOG_DIRTY_PAGES;
    return m;
}

static bool same_place(const struct kvm_mem *a, const struct kvm_mem *b)
{
    return a->at == b->at && a->len == b->len && a->host == b->host &&
           (a->flags & KVM_MEM_READONLY) == (b->flags & KVM_MEM_READONLY);
}

static s32 slot_find(struct kvm_vm *kv, const struct kvm_mem *m)
{
    for (u32 i = 0; i < KVM_SLOTS_MAX; i++)
        if (kv->slots[i].len && same_place(&kv->slots[i], m))
            return (s32)i;
    return -1;
}

static void slot_add(struct kvm_vm *kv, const struct kvm_mem *m)
{
    for (u32 i = 0; i < KVM_SLOTS_MAX; i++)
        if (!kv->slots[i].len) {
            kv->slots[i] = *m;
            if (!slot_tell(kv, i, true))
                kv->slots[i].len = 0;
            return;
        }
    log_error("kvm: more than %d memory slots", KVM_SLOTS_MAX);
}

/* Fetches one slot's log into the pages' flags. */
static void slot_dirty(struct kvm_vm *kv, u32 n)
{
    const struct kvm_mem *m = &kv->slots[n];
    u64 pages = m->len >> RAM_PAGE_SHIFT;
    u64 words = (pages + 63) / 64;
    g_autofree u64 *map = g_try_new0(u64, words);
    struct kvm_dirty_log log = { .slot = n, .dirty_bitmap = map };

    if (!map || kvm_ioctl(kv->fd, KVM_GET_DIRTY_LOG, &log) < 0) {
        ram_written(kv->vm->ram, m->host, m->len); /* not known: all of it */
        return;
    }
    for (u64 w = 0; w < words; w++)
        for (u64 bits = map[w]; bits; bits &= bits - 1) {
            u64 page = w * 64 + (u64)__builtin_ctzll(bits);

            if (page < pages)
                ram_written(kv->vm->ram, m->host + (page << RAM_PAGE_SHIFT), RAM_PAGE_SIZE);
        }
}

void kvm_mem_dirty(struct vm *vm)
{
    struct kvm_vm *kv = vm->cpu_vm;

    for (u32 i = 0; i < KVM_SLOTS_MAX; i++)
        if (kv->slots[i].len && kv->slots[i].flags & KVM_MEM_LOG_DIRTY_PAGES)
            slot_dirty(kv, i);
}

void kvm_mem_changed(void *opaque)
{
    struct vm *vm = opaque;
    struct kvm_vm *kv = vm->cpu_vm;
    const struct ram_map *map = ram_current(vm->ram);
    bool keep[KVM_SLOTS_MAX] = { false };
    g_autofree struct kvm_mem *want = g_new0(struct kvm_mem, map->n + 1);

    if (!kv) /* closed already: devices on their way out still change the map */
        return;
    for (u32 i = 0; i < map->n; i++) {
        want[i] = wanted(kv, &map->slot[i]);
        s32 n = slot_find(kv, &want[i]);

        if (n < 0)
            continue;
        keep[n] = true;
        if (kv->slots[n].flags != want[i].flags) {
            if (kv->slots[n].flags & KVM_MEM_LOG_DIRTY_PAGES)
                slot_dirty(kv, (u32)n); /* what the log knows would be gone */
            kv->slots[n].flags = want[i].flags;
            slot_tell(kv, (u32)n, true);
        }
    }
    for (u32 n = 0; n < KVM_SLOTS_MAX; n++)
        if (kv->slots[n].len && !keep[n]) {
            if (kv->slots[n].flags & KVM_MEM_LOG_DIRTY_PAGES)
                slot_dirty(kv, n);
            slot_tell(kv, n, false);
            kv->slots[n].len = 0;
        }
    for (u32 i = 0; i < map->n; i++)
        if (slot_find(kv, &want[i]) < 0)
            slot_add(kv, &want[i]);
    atomic_fetch_add(&kv->slots_gen, 1);
}
