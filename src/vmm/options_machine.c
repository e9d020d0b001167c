// SPDX-License-Identifier: GPL-2.0-or-later
/* options_machine.c - the options that say what machine it is and what it boots. */
#include "vmm/options_parse.h"

#include <inttypes.h>
#include <string.h>

#include "base/error.h"

/* ---- machine, processors, memory -----------------------------------------------------------
 */

static bool opt_set_accel(struct parse *p, const char *list, GError **error)
{
    g_auto(GStrv) names = g_strsplit(list, ":", -1);

    for (char **n = names; *n; n++)
        if (!g_strv_contains((const char *const[]){ "kvm", "soft", "tcg", NULL }, *n))
            return fail(error, ERR_ARGUMENT,
                        "there is no accelerator '%s'; there is kvm, soft (or tcg)", *n);
    value_set(&p->m->accel, list);
    return true;
}

static bool opt_set_irqchip(struct parse *p, const char *v, GError **error)
{
    bool on;

    if (strcmp(v, "split") == 0)
        return fail(error, ERR_UNSUPPORTED, "kernel_irqchip=split is not there; use on or off");
    if (!value_bool("kernel_irqchip", v, &on, error))
        return false;
    p->m->no_kernel_irqchip = !on;
    p->m->force_kernel_irqchip = on;
    return true;
}

bool opt_machine(struct parse *p, const char *arg, GError **error)
{
    g_autoptr(GPtrArray) kv = opts_parse(arg, "type", "machine", error);

    if (!kv)
        return false;
    g_autofree char *type = opts_take(kv, "type");
    g_autofree char *accel = opts_take(kv, "accel");
    g_autofree char *irqchip = opts_take(kv, "kernel_irqchip");
    g_autofree char *irqchip2 = opts_take(kv, "kernel-irqchip");
    g_autofree char *hpet = opts_take(kv, "hpet");
    g_autofree char *merge = opts_take(kv, "mem-merge");

    if (type && (strcmp(type, "help") == 0 || strcmp(type, "?") == 0)) {
        GString *s = g_string_new("Machine types:\n");

        machine_print_boards(s);
        p->o->print = g_string_free(s, FALSE);
        return true;
    }
    if (type && g_str_has_prefix(type, "q35"))
        return fail(error, ERR_UNSUPPORTED, "machine type 'q35' is not there yet; use pc");
    if (type && !machine_board_find(type, &p->m->board, error))
        return false;
    if (accel && !opt_set_accel(p, accel, error))
        return false;
    if (irqchip && !opt_set_irqchip(p, irqchip, error))
        return false;
    if (irqchip2 && !opt_set_irqchip(p, irqchip2, error))
        return false;
    if (hpet && !value_bool("hpet", hpet, &p->m->hpet, error))
        return false;
    if (merge && strcmp(merge, "off") != 0)
        return fail(error, ERR_UNSUPPORTED, "mem-merge=%s is not there; only off", merge);
    if (!value_take_bool(kv, "graphics", &p->m->graphics, error) ||
        !value_take_bool(kv, "acpi", &p->m->acpi, error) || !value_take_off(kv, "usb", error) ||
        !value_take_off(kv, "vmport", error) || !value_take_off(kv, "smm", error) ||
        !value_take_off(kv, "nvdimm", error) || !value_take_off(kv, "hmat", error) ||
        !value_take_off(kv, "isapc", error))
        return false;
    return value_none_left(kv, error);
}

bool opt_accel(struct parse *p, const char *arg, GError **error)
{
    g_autoptr(GPtrArray) kv = opts_parse(arg, "accel", "accel", error);

    if (!kv)
        return false;
    g_autofree char *accel = opts_take(kv, "accel");
    g_autofree char *irqchip = opts_take(kv, "kernel-irqchip");
    g_autofree char *thread = opts_take(kv, "thread");

    if (!accel)
        return fail(error, ERR_ARGUMENT, "'%s' does not name an accelerator", arg);
    if (strcmp(accel, "help") == 0) {
        p->o->print = g_strdup("Accelerators:\nkvm\nsoft (tcg is another name for it)\n");
        return true;
    }
    if (irqchip && !opt_set_irqchip(p, irqchip, error))
        return false;
    if (thread &&
        !value_one_of("thread", thread, (const char *const[]){ "multi", NULL }, error))
        return false;
    u64 cache = p->m->code_cache_mib;

    if (!value_take_uint(kv, "tb-size", CPU_CODE_CACHE_MAX_MIB, &cache, error))
        return false;
    if (cache && cache < CPU_CODE_CACHE_MIN_MIB)
        return fail(error, ERR_ARGUMENT, "tb-size=%" G_GUINT64_FORMAT ": at least %u (MiB)",
                    cache, CPU_CODE_CACHE_MIN_MIB);
    p->m->code_cache_mib = (u32)cache;
    if (!value_take_bool(kv, "perfmap", &p->m->perfmap, error))
        return false;
    g_autofree char *direct = opts_take(kv, "direct");
    static const char *const how[] = { "on", "off", "always", NULL }; /* enum cpu_direct */
    if (direct) {
        if (!value_one_of("direct", direct, how, error))
            return false;
        for (u32 k = 0; how[k]; k++)
            if (strcmp(direct, how[k]) == 0)
                p->m->direct = (enum cpu_direct)k;
    }
    if (!value_none_left(kv, error))
        return false;
    /* Several -accel are tried in turn. */
    g_autofree char *both = p->m->accel ? g_strconcat(p->m->accel, ":", accel, NULL) : NULL;
    return opt_set_accel(p, both ? both : accel, error);
}

bool opt_no_kvm(struct parse *p, const char *arg UNUSED, GError **error)
{
    return opt_set_accel(p, "soft", error);
}

bool opt_enable_kvm(struct parse *p, const char *arg UNUSED, GError **error)
{
    return opt_set_accel(p, "kvm", error);
}

bool opt_no_irqchip(struct parse *p, const char *arg UNUSED, GError **error)
{
    return opt_set_irqchip(p, "off", error);
}

bool opt_cpu(struct parse *p, const char *arg, GError **error UNUSED)
{
    if (strcmp(arg, "help") == 0 || strcmp(arg, "?") == 0) {
        GString *s = g_string_new("CPU models:\n");

        cpu_print_models(s);
        p->o->print = g_string_free(s, FALSE);
    }
    value_set(&p->m->cpu_model, arg);
    return true;
}

bool opt_smp(struct parse *p, const char *arg, GError **error)
{
    g_autoptr(GPtrArray) kv = opts_parse(arg, "cpus", "smp", error);
    u64 cpus = 0, sockets = 0, dies = 1, clusters = 1, cores = 0, threads = 0, max = 0, total;
    enum { MANY = 1024 };

    bool cpus_given = kv && opts_get(kv, "cpus");

    if (!kv || !value_take_uint(kv, "cpus", MANY, &cpus, error) ||
        !value_take_uint(kv, "sockets", MANY, &sockets, error) ||
        !value_take_uint(kv, "dies", MANY, &dies, error) ||
        !value_take_uint(kv, "clusters", MANY, &clusters, error) ||
        !value_take_uint(kv, "cores", MANY, &cores, error) ||
        !value_take_uint(kv, "threads", MANY, &threads, error) ||
        !value_take_uint(kv, "maxcpus", MANY, &max, error) || !value_none_left(kv, error))
        return false;
    if (dies != 1 || clusters != 1)
        return fail(error, ERR_UNSUPPORTED, "dies and clusters can only be 1");
    if (cpus_given && !cpus)
        return fail(error, ERR_ARGUMENT, "a machine has at least one processor");

    /* What is not given follows from what is; cores take what is left over. */
    total = max ? max : cpus;
    threads = threads ? threads : 1;
    if (!total)
        total = MAX(sockets, 1) * MAX(cores, 1) * threads;
    if (!cores)
        cores = MAX(total / (MAX(sockets, 1) * threads), 1);
    if (!sockets)
        sockets = MAX(total / (cores * threads), 1);
    cpus = cpus ? cpus : total;
    max = max ? max : cpus;
    if (sockets * cores * threads != max)
        return fail(error, ERR_ARGUMENT,
                    "%" PRIu64 " sockets * %" PRIu64 " cores * %" PRIu64
                    " threads are not %" PRIu64 " processors",
                    sockets, cores, threads, max);
    if (max > VM_VCPUS_MAX)
        return fail(error, ERR_LIMIT, "%" PRIu64 " processors, at most %d", max, VM_VCPUS_MAX);
    if (max != cpus)
        return fail(error, ERR_UNSUPPORTED,
                    "maxcpus=%" PRIu64 " with %" PRIu64
                    " cpus: adding processors is not there yet",
                    max, cpus);
    p->m->smp = (u32)cpus;
    p->m->max_cpus = (u32)max;
    p->m->sockets = (u32)sockets;
    p->m->cores = (u32)cores;
    p->m->threads = (u32)threads;
    return true;
}

bool opt_m(struct parse *p, const char *arg, GError **error)
{
    g_autoptr(GPtrArray) kv = opts_parse(arg, "size", "memory", error);

    if (!kv)
        return false;
    g_autofree char *size = opts_take(kv, "size");
    if (opts_get(kv, "slots") || opts_get(kv, "maxmem"))
        return fail(error, ERR_UNSUPPORTED, "slots and maxmem: adding memory is not there yet");
    if (!size)
        return fail(error, ERR_ARGUMENT, "'%s' names no size", arg);
    if (!value_none_left(kv, error) || !value_size(size, MiB, &p->m->ram, error))
        return false;
    if (p->m->ram < MiB)
        return fail(error, ERR_ARGUMENT, "'%s' is less than 1 MiB", size);
    if (p->m->ram > BIT(42))
        return fail(error, ERR_ARGUMENT, "'%s' is more than 4 TiB", size);
    p->m->ram = ROUND_UP(p->m->ram, 4096);
    return true;
}

/* ---- boot ----------------------------------------------------------------------------------
 */

bool opt_kernel(struct parse *p, const char *arg, GError **error UNUSED)
{
    value_set(&p->m->kernel, arg);
    return true;
}

bool opt_initrd(struct parse *p, const char *arg, GError **error UNUSED)
{
    value_set(&p->m->initrd, arg);
    return true;
}

bool opt_append(struct parse *p, const char *arg, GError **error UNUSED)
{
    value_set(&p->m->append, arg);
    return true;
}

bool opt_bios(struct parse *p, const char *arg, GError **error UNUSED)
{
    value_set(&p->m->bios, arg);
    return true;
}

static bool boot_letters(const char *s, GError **error)
{
    u32 seen = 0;

    for (const char *c = s; *c; c++) {
        if (*c < 'a' || *c > 'p')
            return fail(error, ERR_ARGUMENT, "'%c' is no boot device (a to p)", *c);
        if (seen & BIT(*c - 'a'))
            return fail(error, ERR_ARGUMENT, "boot device '%c' is given twice", *c);
        seen |= (u32)BIT(*c - 'a');
    }
    return true;
}

bool opt_boot(struct parse *p, const char *arg, GError **error)
{
    g_autoptr(GPtrArray) kv = opts_parse(arg, "order", "boot", error);
    u64 wait = UINT64_MAX, again = UINT64_MAX;

    if (!kv)
        return false;
    g_autofree char *order = opts_take(kv, "order");
    g_autofree char *once = opts_take(kv, "once");
    g_autofree char *again_text = opts_take(kv, "reboot-timeout");
    if ((order && !boot_letters(order, error)) || (once && !boot_letters(once, error)))
        return false;
    if (once)
        value_set(&p->m->boot_once, once);
    if (order)
        value_set(&p->m->boot_order, order);
    if (again_text && strcmp(again_text, "-1") != 0 &&
        !value_uint(again_text, 65535, &again, error))
        return false;
    if (!value_take_bool(kv, "menu", &p->m->boot_menu, error) ||
        !value_take_bool(kv, "strict", &p->m->boot_strict, error) ||
        !value_take_uint(kv, "splash-time", 65535, &wait, error) || !value_none_left(kv, error))
        return false;
    if (wait != UINT64_MAX)
        p->m->boot_menu_wait = (int)wait;
    if (again != UINT64_MAX)
        p->m->boot_fail_wait = (int)again;
    return true;
}

bool opt_fw_cfg(struct parse *p, const char *arg, GError **error)
{
    g_autoptr(GPtrArray) kv = opts_parse(arg, "name", "fw_cfg", error);

    if (!kv)
        return false;
    g_autofree char *name = opts_take(kv, "name");
    g_autofree char *file = opts_take(kv, "file");
    g_autofree char *string = opts_take(kv, "string");

    if (!value_none_left(kv, error))
        return false;
    if (!name || !*name || strlen(name) > 55)
        return fail(error, ERR_ARGUMENT, "'%s': a name of 1 to 55 characters is needed", arg);
    if (!file == !string)
        return fail(error, ERR_ARGUMENT, "'%s': either file= or string= is needed", arg);
    struct fw_cfg_desc *f = g_new0(struct fw_cfg_desc, 1);
    f->name = g_steal_pointer(&name);
    f->file = g_steal_pointer(&file);
    if (string)
        f->bytes = g_bytes_new(string, strlen(string)); /* without the NUL, as QEMU */
    g_ptr_array_add(p->m->fw_cfg, f);
    return true;
}

static bool uuid_parse(const char *s, u8 ret[16], GError **error)
{
    u8 u[16];
    int n = 0;

    for (const char *c = s; n < 16; c += 2, n++) {
        if (n == 4 || n == 6 || n == 8 || n == 10) {
            if (*c != '-')
                goto out;
            c++;
        }
        if (!g_ascii_isxdigit(c[0]) || !g_ascii_isxdigit(c[1]))
            goto out;
        u[n] = (u8)(g_ascii_xdigit_value(c[0]) << 4 | g_ascii_xdigit_value(c[1]));
    }
    if (strlen(s) == 36) {
        memcpy(ret, u, 16);
        return true;
    }
out:
    return fail(error, ERR_ARGUMENT, "'%s' is no UUID", s);
}

bool opt_uuid(struct parse *p, const char *arg, GError **error)
{
    p->m->has_uuid = true;
    return uuid_parse(arg, p->m->uuid, error);
}

bool opt_smbios(struct parse *p, const char *arg, GError **error)
{
    /* Fields by type, in the order of machine/smbios.c. */
    static const char *const fields[][12] = {
        [0] = { "vendor", "version", "date", "release", "uefi" },
        [1] = { "manufacturer", "product", "version", "serial", "uuid", "sku", "family" },
        [2] = { "manufacturer", "product", "version", "serial", "asset", "location" },
        [3] = { "manufacturer", "version", "serial", "asset", "sku" },
        [4] = { "sock_pfx", "manufacturer", "version", "serial", "asset", "part", "max-speed",
                "current-speed" },
        [11] = { "value" },
        [17] = { "loc_pfx", "bank", "manufacturer", "serial", "asset", "part", "speed" },
    };
    g_autoptr(GPtrArray) kv = opts_parse(arg, NULL, "smbios", error);
    u64 type;

    if (!kv)
        return false;
    g_autofree char *text = opts_take(kv, "type");
    if (!text)
        return fail(error, ERR_ARGUMENT, "'%s': type=N is needed", arg);
    if (!value_uint(text, 127, &type, error))
        return false;
    if (type >= ARRAY_LEN(fields) || !fields[type][0])
        return fail(error, ERR_UNSUPPORTED,
                    "type %" PRIu64 " is not there; there is 0, 1, 2, 3, 4, 11, 17", type);
    for (guint i = 0; i < kv->len; i++) {
        const struct opt *k = kv->pdata[i];

        if (!g_strv_contains(fields[type], k->key))
            return fail(error, ERR_ARGUMENT, "type %" PRIu64 " has no field '%s'", type,
                        k->key);
        if (strlen(k->val) > 1024)
            return fail(error, ERR_LIMIT, "%s is longer than 1024 bytes", k->key);
    }
    const char *uuid = type == 1 ? opts_get(kv, "uuid") : NULL;
    if (uuid) {
        p->m->has_uuid = true;
        if (!uuid_parse(uuid, p->m->uuid, error))
            return false;
    }
    struct smbios_desc *s = g_new0(struct smbios_desc, 1);
    s->type = (unsigned)type;
    s->fields = g_steal_pointer(&kv);
    g_ptr_array_add(p->m->smbios, s);
    return true;
}

bool opt_rtc(struct parse *p, const char *arg, GError **error)
{
    g_autoptr(GPtrArray) kv = opts_parse(arg, NULL, "rtc", error);

    if (!kv)
        return false;
    g_autofree char *base = opts_take(kv, "base");
    g_autofree char *clock = opts_take(kv, "clock");
    g_autofree char *drift = opts_take(kv, "driftfix");

    if (clock &&
        !value_one_of("clock", clock, (const char *const[]){ "vm", "host", NULL }, error))
        return false;
    if (drift && !value_one_of("driftfix", drift, (const char *const[]){ "none", NULL }, error))
        return false;
    if (base && strcmp(base, "utc") != 0 && strcmp(base, "localtime") != 0) {
        g_autofree char *iso = g_strconcat(base, strchr(base, 'T') ? "Z" : "T00:00:00Z", NULL);
        g_autoptr(GDateTime) t = g_date_time_new_from_iso8601(iso, NULL);

        if (!t)
            return fail(error, ERR_ARGUMENT,
                        "base=%s is not utc, localtime or a date "
                        "(2024-01-31T12:00:00)",
                        base);
    }
    if (base)
        value_set(&p->m->rtc_base, base);
    return value_none_left(kv, error);
}
