// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * options.c - the command line in QEMU's syntax (its manual, "Invocation").
 *
 * One table maps an option to a function; what QEMU has and this program does not have yet is
 * in a second table, so that the message can say so.  Order matters in one way only: what
 * depends on several options (-nographic with -serial, -machine with -drive) is settled after
 * the last one has been read.
 */
#include "vmm/options.h"

#include <inttypes.h>
#include <string.h>

#include "base/error.h"

enum { NAME_MAX_LEN = 256 };

struct nic_desc {
    GPtrArray *device; /* props */
    char *model, *netdev;
};

/* What is known only after the whole line has been read. */
struct parse {
    struct options *o;
    struct machine_desc *m;
    bool nographic, nodefaults, snapshot;
    bool no_serial, no_monitor; /* "none" was given */
    u32 serials, drives[2], nics, monitors;
    bool smp_given;
    GPtrArray *ifaces; /* char *: if= of each drive, "" for the default */
};

typedef bool option_fn(struct parse *, const char *arg, GError **error);

/* ---- small values --------------------------------------------------------------------------
 */

static bool parse_uint(const char *text, u64 max, u64 *ret, GError **error)
{
    GError *e = NULL;
    guint64 v;

    if (!g_ascii_string_to_unsigned(text, 10, 0, max, &v, &e)) {
        g_clear_error(&e);
        return fail(error, ERR_ARGUMENT, "'%s' is not a number from 0 to %" PRIu64, text, max);
    }
    *ret = v;
    return true;
}

static bool parse_bool(const char *key, const char *text, bool *ret, GError **error)
{
    if (strcmp(text, "on") == 0 || strcmp(text, "yes") == 0 || strcmp(text, "true") == 0 ||
        strcmp(text, "y") == 0)
        *ret = true;
    else if (strcmp(text, "off") == 0 || strcmp(text, "no") == 0 ||
             strcmp(text, "false") == 0 || strcmp(text, "n") == 0)
        *ret = false;
    else
        return fail(error, ERR_ARGUMENT, "%s is 'on' or 'off', not '%s'", key, text);
    return true;
}

/* "512", "1.5G", "64k"; a bare number counts in `unit`. */
static bool parse_size(const char *text, u64 unit, u64 *ret, GError **error)
{
    static const char suffixes[] = "BKMGTPE";
    char *end;
    double v;
    u64 whole = 0;

    if (!g_ascii_isdigit(text[0]))
        return fail(error, ERR_ARGUMENT, "'%s' is not a size", text);
    whole = g_ascii_strtoull(text, &end, 10);
    if (*end == 'x' || *end == 'X')
        whole = g_ascii_strtoull(text, &end, 16);
    v = *end == '.' ? g_ascii_strtod(text, &end) : 0;
    bool fraction = v != 0;
    if (*end) {
        const char *s = strchr(suffixes, g_ascii_toupper(*end));

        if (!s || end[1])
            return fail(error, ERR_ARGUMENT, "'%s' is not a size (suffixes are K, M, G, T)",
                        text);
        unit = 1ull << (10 * (s - suffixes));
    }
    if (fraction ? v * (double)unit >= 9e18 : __builtin_mul_overflow(whole, unit, &whole))
        return fail(error, ERR_ARGUMENT, "'%s' is too large", text);
    *ret = fraction ? (u64)(v * (double)unit) : whole;
    return true;
}

static bool one_of(const char *key, const char *val, const char *const *list, GError **error)
{
    g_autofree char *all = NULL;

    for (const char *const *p = list; *p; p++)
        if (strcmp(*p, val) == 0)
            return true;
    all = g_strjoinv(", ", (char **)list);
    return fail(error, ERR_ARGUMENT, "%s=%s is not there; there is %s", key, val, all);
}

/* Every key that is left over is one that the option does not have. */
static bool nothing_left(const GPtrArray *kv, GError **error)
{
    if (!kv->len)
        return true;
    return fail(error, ERR_ARGUMENT, "there is no property '%s'",
                ((const struct opt *)kv->pdata[0])->key);
}

static bool take_bool(GPtrArray *kv, const char *key, bool *io, GError **error)
{
    g_autofree char *v = opts_take(kv, key);

    return !v || parse_bool(key, v, io, error);
}

static bool take_uint(GPtrArray *kv, const char *key, u64 max, u64 *io, GError **error)
{
    g_autofree char *v = opts_take(kv, key);

    if (!v || parse_uint(v, max, io, error))
        return true;
    g_prefix_error(error, "%s: ", key);
    return false;
}

/* A feature that QEMU has as a switch, of which only "off" can be had here. */
static bool take_off(GPtrArray *kv, const char *key, GError **error)
{
    g_autofree char *v = opts_take(kv, key);
    bool on = false;

    if (!v || strcmp(v, "auto") == 0)
        return true;
    if (!parse_bool(key, v, &on, error))
        return false;
    return !on || fail(error, ERR_UNSUPPORTED, "%s=on is not there yet", key);
}

static bool id_ok(const char *id, GError **error)
{
    bool ok = g_ascii_isalpha(id[0]) && strlen(id) <= NAME_MAX_LEN;

    for (const char *p = id; ok && *p; p++)
        ok = g_ascii_isalnum(*p) || strchr("-._", *p);
    return ok || fail(error, ERR_ARGUMENT,
                      "'%s' is no id: a letter, then letters, digits, '-', '.', '_'", id);
}

static void set_str(char **at, const char *text)
{
    g_free(*at);
    *at = g_strdup(text);
}

/* ---- machine, processors, memory -----------------------------------------------------------
 */

static bool set_accel(struct parse *p, const char *list, GError **error)
{
    g_auto(GStrv) names = g_strsplit(list, ":", -1);

    for (char **n = names; *n; n++)
        if (!g_strv_contains((const char *const[]){ "kvm", "soft", "tcg", NULL }, *n))
            return fail(error, ERR_ARGUMENT,
                        "there is no accelerator '%s'; there is kvm, soft (or tcg)", *n);
    set_str(&p->m->accel, list);
    return true;
}

static bool set_irqchip(struct parse *p, const char *v, GError **error)
{
    bool on;

    if (strcmp(v, "split") == 0)
        return fail(error, ERR_UNSUPPORTED, "kernel_irqchip=split is not there; use on or off");
    if (!parse_bool("kernel_irqchip", v, &on, error))
        return false;
    p->m->no_kernel_irqchip = !on;
    p->m->force_kernel_irqchip = on;
    return true;
}

static bool opt_machine(struct parse *p, const char *arg, GError **error)
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
    if (accel && !set_accel(p, accel, error))
        return false;
    if (irqchip && !set_irqchip(p, irqchip, error))
        return false;
    if (irqchip2 && !set_irqchip(p, irqchip2, error))
        return false;
    if (hpet && !parse_bool("hpet", hpet, &p->m->hpet, error))
        return false;
    if (merge && strcmp(merge, "off") != 0)
        return fail(error, ERR_UNSUPPORTED, "mem-merge=%s is not there; only off", merge);
    if (!take_bool(kv, "graphics", &p->m->graphics, error) ||
        !take_bool(kv, "acpi", &p->m->acpi, error) || !take_off(kv, "usb", error) ||
        !take_off(kv, "vmport", error) || !take_off(kv, "smm", error) ||
        !take_off(kv, "nvdimm", error) || !take_off(kv, "hmat", error) ||
        !take_off(kv, "isapc", error))
        return false;
    return nothing_left(kv, error);
}

static bool opt_accel(struct parse *p, const char *arg, GError **error)
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
    if (irqchip && !set_irqchip(p, irqchip, error))
        return false;
    if (thread && !one_of("thread", thread, (const char *const[]){ "multi", NULL }, error))
        return false;
    if (!nothing_left(kv, error))
        return false;
    /* Several -accel are tried in turn. */
    g_autofree char *both = p->m->accel ? g_strconcat(p->m->accel, ":", accel, NULL) : NULL;
    return set_accel(p, both ? both : accel, error);
}

static bool opt_no_kvm(struct parse *p, const char *arg UNUSED, GError **error)
{
    return set_accel(p, "soft", error);
}

static bool opt_enable_kvm(struct parse *p, const char *arg UNUSED, GError **error)
{
    return set_accel(p, "kvm", error);
}

static bool opt_no_irqchip(struct parse *p, const char *arg UNUSED, GError **error)
{
    return set_irqchip(p, "off", error);
}

static bool opt_cpu(struct parse *p, const char *arg, GError **error UNUSED)
{
    if (strcmp(arg, "help") == 0 || strcmp(arg, "?") == 0) {
        GString *s = g_string_new("CPU models:\n");

        cpu_print_models(s);
        p->o->print = g_string_free(s, FALSE);
    }
    set_str(&p->m->cpu_model, arg);
    return true;
}

static bool opt_smp(struct parse *p, const char *arg, GError **error)
{
    g_autoptr(GPtrArray) kv = opts_parse(arg, "cpus", "smp", error);
    u64 cpus = 0, sockets = 0, dies = 1, clusters = 1, cores = 0, threads = 0, max = 0, total;
    enum { MANY = 1024 };

    bool cpus_given = kv && opts_get(kv, "cpus");

    if (!kv || !take_uint(kv, "cpus", MANY, &cpus, error) ||
        !take_uint(kv, "sockets", MANY, &sockets, error) ||
        !take_uint(kv, "dies", MANY, &dies, error) ||
        !take_uint(kv, "clusters", MANY, &clusters, error) ||
        !take_uint(kv, "cores", MANY, &cores, error) ||
        !take_uint(kv, "threads", MANY, &threads, error) ||
        !take_uint(kv, "maxcpus", MANY, &max, error) || !nothing_left(kv, error))
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

static bool opt_m(struct parse *p, const char *arg, GError **error)
{
    g_autoptr(GPtrArray) kv = opts_parse(arg, "size", "memory", error);

    if (!kv)
        return false;
    g_autofree char *size = opts_take(kv, "size");
    if (opts_get(kv, "slots") || opts_get(kv, "maxmem"))
        return fail(error, ERR_UNSUPPORTED, "slots and maxmem: adding memory is not there yet");
    if (!size)
        return fail(error, ERR_ARGUMENT, "'%s' names no size", arg);
    if (!nothing_left(kv, error) || !parse_size(size, MiB, &p->m->ram, error))
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

static bool opt_kernel(struct parse *p, const char *arg, GError **error UNUSED)
{
    set_str(&p->m->kernel, arg);
    return true;
}

static bool opt_initrd(struct parse *p, const char *arg, GError **error UNUSED)
{
    set_str(&p->m->initrd, arg);
    return true;
}

static bool opt_append(struct parse *p, const char *arg, GError **error UNUSED)
{
    set_str(&p->m->append, arg);
    return true;
}

static bool opt_bios(struct parse *p, const char *arg, GError **error UNUSED)
{
    set_str(&p->m->bios, arg);
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

static bool opt_boot(struct parse *p, const char *arg, GError **error)
{
    g_autoptr(GPtrArray) kv = opts_parse(arg, "order", "boot", error);
    u64 wait = UINT64_MAX, again = UINT64_MAX;

    if (!kv)
        return false;
    g_autofree char *order = opts_take(kv, "order");
    g_autofree char *again_text = opts_take(kv, "reboot-timeout");
    if (order && !boot_letters(order, error))
        return false;
    if (order)
        set_str(&p->m->boot_order, order);
    if (again_text && strcmp(again_text, "-1") != 0 &&
        !parse_uint(again_text, 65535, &again, error))
        return false;
    if (!take_bool(kv, "menu", &p->m->boot_menu, error) ||
        !take_bool(kv, "strict", &p->m->boot_strict, error) ||
        !take_uint(kv, "splash-time", 65535, &wait, error) || !nothing_left(kv, error))
        return false;
    if (wait != UINT64_MAX)
        p->m->boot_menu_wait = (int)wait;
    if (again != UINT64_MAX)
        p->m->boot_fail_wait = (int)again;
    return true;
}

static bool opt_fw_cfg(struct parse *p, const char *arg, GError **error)
{
    g_autoptr(GPtrArray) kv = opts_parse(arg, "name", "fw_cfg", error);

    if (!kv)
        return false;
    g_autofree char *name = opts_take(kv, "name");
    g_autofree char *file = opts_take(kv, "file");
    g_autofree char *string = opts_take(kv, "string");

    if (!nothing_left(kv, error))
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

static bool opt_uuid(struct parse *p, const char *arg, GError **error)
{
    p->m->has_uuid = true;
    return uuid_parse(arg, p->m->uuid, error);
}

static bool opt_smbios(struct parse *p, const char *arg, GError **error)
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
    if (!parse_uint(text, 127, &type, error))
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

static bool opt_rtc(struct parse *p, const char *arg, GError **error)
{
    g_autoptr(GPtrArray) kv = opts_parse(arg, NULL, "rtc", error);

    if (!kv)
        return false;
    g_autofree char *base = opts_take(kv, "base");
    g_autofree char *clock = opts_take(kv, "clock");
    g_autofree char *drift = opts_take(kv, "driftfix");

    if (clock && !one_of("clock", clock, (const char *const[]){ "vm", "host", NULL }, error))
        return false;
    if (drift && !one_of("driftfix", drift, (const char *const[]){ "none", NULL }, error))
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
        set_str(&p->m->rtc_base, base);
    return nothing_left(kv, error);
}

/* ---- disks ---------------------------------------------------------------------------------
 */

static bool set_cache(struct image_options *o, const char *cache, GError **error)
{
    static const char *const names[] = {
        [IMAGE_WRITEBACK] = "writeback",
        [IMAGE_NONE] = "none",
        [IMAGE_WRITETHROUGH] = "writethrough",
        [IMAGE_DIRECTSYNC] = "directsync",
        [IMAGE_UNSAFE] = "unsafe",
        NULL,
    };

    if (!one_of("cache", cache, names, error))
        return false;
    for (int i = 0; names[i]; i++)
        if (strcmp(cache, names[i]) == 0)
            o->cache = (enum image_cache)i;
    return true;
}

static bool set_discard(struct image_options *o, const char *v, GError **error)
{
    if (strcmp(v, "unmap") == 0 || strcmp(v, "on") == 0)
        o->discard = true;
    else if (strcmp(v, "ignore") == 0 || strcmp(v, "off") == 0)
        o->discard = false;
    else
        return fail(error, ERR_ARGUMENT, "discard is 'unmap' or 'ignore', not '%s'", v);
    return true;
}

/* The format is checked here by name so that the message can say what comes later. */
static bool set_format(struct drive_desc *d, const char *v, GError **error)
{
    if (!one_of("format", v, (const char *const[]){ "raw", NULL }, error))
        return false;
    g_free((char *)d->options.format);
    d->options.format = g_strdup(v);
    return true;
}

static bool opt_drive(struct parse *p, const char *arg, GError **error)
{
    g_autoptr(GPtrArray) kv = opts_parse(arg, NULL, "drive", error);
    u64 index = UINT64_MAX;

    if (!kv)
        return false;
    g_autofree char *iface = opts_take(kv, "if");
    g_autofree char *file = opts_take(kv, "file");
    g_autofree char *format = opts_take(kv, "format");
    g_autofree char *driver = opts_take(kv, "driver");
    g_autofree char *media = opts_take(kv, "media");
    g_autofree char *cache = opts_take(kv, "cache");
    g_autofree char *discard = opts_take(kv, "discard");
    g_autofree char *aio = opts_take(kv, "aio");
    g_autofree char *ro = opts_take(kv, "read-only");
    g_autofree char *id = opts_take(kv, "id");
    g_autofree char *serial = opts_take(kv, "serial");

    if (iface && !g_strv_contains((const char *const[]){ "virtio", "none", NULL }, iface)) {
        if (g_strv_contains((const char *const[]){ "ide", "scsi", "sd", "mtd", "floppy",
                                                   "pflash", "xen", NULL },
                            iface))
            return fail(error, ERR_UNSUPPORTED, "if=%s is not there yet; use if=virtio", iface);
        return fail(error, ERR_ARGUMENT, "there is no if=%s; there is virtio, none", iface);
    }
    if (id && !id_ok(id, error))
        return false;
    if (media && !one_of("media", media, (const char *const[]){ "disk", "cdrom", NULL }, error))
        return false;
    if (aio && !one_of("aio", aio, (const char *const[]){ "threads", NULL }, error))
        return false;

    struct drive_desc *d = machine_add_drive(p->m);
    d->cdrom = media && strcmp(media, "cdrom") == 0;
    d->options.read_only = d->cdrom;
    g_ptr_array_add(p->ifaces, g_strdup(iface ? iface : ""));
    if (format && !set_format(d, format, error))
        return false;
    if (driver && !set_format(d, driver, error))
        return false;
    if (cache && !set_cache(&d->options, cache, error))
        return false;
    if (discard && !set_discard(&d->options, discard, error))
        return false;
    if (ro && !parse_bool("read-only", ro, &d->options.read_only, error))
        return false;
    if (!take_bool(kv, "readonly", &d->options.read_only, error) ||
        !take_bool(kv, "snapshot", &d->options.snapshot, error) ||
        !take_uint(kv, "index", 255, &index, error) || !nothing_left(kv, error))
        return false;
    if (!file)
        return fail(error, ERR_ARGUMENT, "'%s': file= is needed", arg);
    bool none = iface && strcmp(iface, "none") == 0;
    if (none && index != UINT64_MAX)
        return fail(error, ERR_ARGUMENT, "index= says nothing for if=none");
    u32 n = p->drives[none]++;
    if (id)
        d->id = g_steal_pointer(&id);
    else
        d->id = g_strdup_printf("%s%u", none ? "none" : "virtio",
                                index != UINT64_MAX ? (u32)index : n);
    d->file = g_steal_pointer(&file);
    d->serial = g_steal_pointer(&serial);
    return true;
}

/* -blockdev driver=file,node-name=f,filename=X and driver=raw,node-name=r,file=f (or
 * file.driver=file,file.filename=X): the two together are one drive called r. */
static bool opt_blockdev(struct parse *p, const char *arg, GError **error)
{
    struct drive_desc *d = NULL;

    if (arg[0] == '{')
        return fail(error, ERR_UNSUPPORTED, "the JSON form is not there yet");
    g_autoptr(GPtrArray) kv = opts_parse(arg, "driver", "blockdev", error);
    if (!kv)
        return false;
    g_autofree char *driver = opts_take(kv, "driver");
    g_autofree char *node = opts_take(kv, "node-name");
    g_autofree char *filename = opts_take(kv, "filename");
    g_autofree char *file = opts_take(kv, "file");
    g_autofree char *file_driver = opts_take(kv, "file.driver");
    g_autofree char *file_name = opts_take(kv, "file.filename");
    g_autofree char *direct = opts_take(kv, "cache.direct");
    g_autofree char *no_flush = opts_take(kv, "cache.no-flush");
    g_autofree char *discard = opts_take(kv, "discard");
    bool read_only = false, is_direct = false, is_no_flush = false;

    if (!driver || !node)
        return fail(error, ERR_ARGUMENT, "'%s': driver= and node-name= are needed", arg);
    if (!id_ok(node, error) ||
        !one_of("driver", driver, (const char *const[]){ "raw", "file", "host_device", NULL },
                error))
        return false;
    bool raw = strcmp(driver, "raw") == 0;
    if (file_driver && !one_of("file.driver", file_driver,
                               (const char *const[]){ "file", "host_device", NULL }, error))
        return false;
    if (raw ? !!filename || !file == !file_name : !filename || file || file_name)
        return fail(error, ERR_ARGUMENT, "'%s': %s", arg,
                    raw ? "raw needs file=NODE or file.filename=" : "filename= is needed");
    bool ro_given = opts_get(kv, "read-only") != NULL;
    if (!take_bool(kv, "read-only", &read_only, error) ||
        !take_off(kv, "auto-read-only", error) || !nothing_left(kv, error))
        return false;
    if (direct && !parse_bool("cache.direct", direct, &is_direct, error))
        return false;
    if (no_flush && !parse_bool("cache.no-flush", no_flush, &is_no_flush, error))
        return false;
    if (is_direct && is_no_flush)
        return fail(error, ERR_UNSUPPORTED, "cache.direct with cache.no-flush is not there");
    for (guint i = 0; file && i < p->m->drives->len; i++) {
        struct drive_desc *o = p->m->drives->pdata[i];

        if (strcmp(o->id, file) == 0)
            d = o;
    }
    if (file && !d)
        return fail(error, ERR_NOT_FOUND, "there is no node '%s' before it", file);
    if (d) {
        set_str(&d->id, node);
    } else {
        d = machine_add_drive(p->m);
        g_ptr_array_add(p->ifaces, g_strdup("none"));
        d->id = g_strdup(node);
        d->file = g_strdup(raw ? file_name : filename);
        d->options.format = g_strdup("raw");
    }
    if (ro_given)
        d->options.read_only = read_only;
    if (direct || no_flush)
        d->options.cache = is_direct     ? IMAGE_NONE
                           : is_no_flush ? IMAGE_UNSAFE
                                         : IMAGE_WRITEBACK;
    return !discard || set_discard(&d->options, discard, error);
}

static bool opt_hd(struct parse *p UNUSED, const char *arg, GError **error)
{
    return fail(error, ERR_UNSUPPORTED,
                "IDE disks are not there yet; use -drive file=%s,format=raw,if=virtio", arg);
}

static bool opt_snapshot(struct parse *p, const char *arg UNUSED, GError **error UNUSED)
{
    p->snapshot = true;
    return true;
}

/* ---- devices and network -------------------------------------------------------------------
 */

static bool opt_device(struct parse *p, const char *arg, GError **error)
{
    if (arg[0] == '{')
        return fail(error, ERR_UNSUPPORTED, "the JSON form is not there yet");
    g_autoptr(GPtrArray) kv = opts_parse(arg, "driver", "device", error);

    if (!kv)
        return false;
    g_autofree char *type = opts_take(kv, "driver");
    if (!type)
        return fail(error, ERR_ARGUMENT, "'%s' does not name a device", arg);
    if (strcmp(type, "help") == 0 || strcmp(type, "?") == 0 || opts_get(kv, "help")) {
        GString *s = g_string_new(NULL);

        if (!opts_get(kv, "help")) {
            machine_print_devices(s);
        } else if (!machine_print_props(type, s)) {
            g_string_free(s, TRUE);
            return fail(error, ERR_NOT_FOUND, "there is no device '%s'", type);
        }
        p->o->print = g_string_free(s, FALSE);
        return true;
    }
    g_autofree char *id = opts_take(kv, "id");
    if (id && !id_ok(id, error))
        return false;
    if (p->m->devices->len >= MACHINE_DEVICES_MAX)
        return fail(error, ERR_LIMIT, "more than %d devices", MACHINE_DEVICES_MAX);
    machine_add_device(p->m, type, id, "-device", g_steal_pointer(&kv));
    return true;
}

static bool opt_global(struct parse *p, const char *arg, GError **error)
{
    const char *dot = strchr(arg, '.'), *eq = strchr(arg, '=');

    if (!dot || !eq || dot > eq || dot == arg || eq == dot + 1)
        return fail(error, ERR_ARGUMENT, "'%s' is not DEVICE.PROPERTY=VALUE", arg);
    struct global_desc *g = g_new0(struct global_desc, 1);
    g->type = g_strndup(arg, (gsize)(dot - arg));
    g->prop = g_strndup(dot + 1, (gsize)(eq - dot - 1));
    g->val = g_strdup(eq + 1);
    g_ptr_array_add(p->m->globals, g);
    return true;
}

/* Each kind's own properties are checked by the network library, before it opens anything. */
static bool net_kind_ok(const char *kind, GError **error)
{
    if (g_strv_contains((const char *const[]){ "user", "tap", "socket", NULL }, kind))
        return true;
    return fail(error, ERR_UNSUPPORTED, "there is no kind '%s'; there is user, tap, socket",
                kind);
}

static bool opt_netdev(struct parse *p, const char *arg, GError **error)
{
    g_autoptr(GPtrArray) kv = opts_parse(arg, "type", "netdev", error);

    if (!kv)
        return false;
    const char *kind = opts_get(kv, "type"), *id = opts_get(kv, "id");
    if (!kind || !id)
        return fail(error, ERR_ARGUMENT, "'%s': a kind and id= are needed", arg);
    if (!net_kind_ok(kind, error) || !id_ok(id, error))
        return false;
    g_ptr_array_add(p->m->netdevs, g_strdup(arg));
    return true;
}

static bool opt_nic(struct parse *p, const char *arg, GError **error)
{
    g_autoptr(GPtrArray) kv = opts_parse(arg, "type", "nic", error);

    if (!kv)
        return false;
    g_autofree char *kind = opts_take(kv, "type");
    if (!kind)
        return fail(error, ERR_ARGUMENT, "'%s': a kind is needed", arg);
    if (strcmp(kind, "none") == 0)
        return nothing_left(kv, error);
    g_autofree char *model = opts_take(kv, "model");
    g_autofree char *mac = opts_take(kv, "mac");
    g_autofree char *id = opts_take(kv, "id");
    g_autofree char *addr = opts_take(kv, "addr");

    if (!net_kind_ok(kind, error))
        return false;
    if (id && !id_ok(id, error))
        return false;
    if (model && strcmp(model, "virtio") != 0 && strcmp(model, "virtio-net-pci") != 0)
        return fail(error, ERR_UNSUPPORTED,
                    "model=%s is not there yet; there is virtio-net-pci", model);
    g_autofree char *net = id ? g_strdup(id) : g_strdup_printf("nic%u", p->nics);
    p->nics++;

    GPtrArray *props = opts_parse("", NULL, "nic", NULL);
    opts_add(props, "netdev", net);
    if (mac)
        opts_add(props, "mac", mac);
    if (addr)
        opts_add(props, "addr", addr);
    /* The board settles whether it is the PCI or the MMIO one. */
    machine_add_device(p->m, "virtio-net", NULL, "-nic", props);

    g_autofree char *rest = opts_text(kv);
    g_ptr_array_add(p->m->netdevs,
                    g_strdup_printf("%s,id=%s%s%s", kind, net, *rest ? "," : "", rest));
    return true;
}

static bool opt_net(struct parse *p UNUSED, const char *arg, GError **error)
{
    if (strcmp(arg, "none") == 0)
        return true;
    return fail(error, ERR_UNSUPPORTED, "only -net none; for '%s' use -nic or -netdev", arg);
}

static bool opt_object(struct parse *p, const char *arg, GError **error)
{
    if (arg[0] == '{')
        return fail(error, ERR_UNSUPPORTED, "the JSON form is not there yet");
    g_autoptr(GPtrArray) kv = opts_parse(arg, "qom-type", "object", error);

    if (!kv)
        return false;
    const char *type = opts_get(kv, "qom-type"), *id = opts_get(kv, "id");
    const char *file = opts_get(kv, "filename");
    if (!type || !id)
        return fail(error, ERR_ARGUMENT, "'%s': a type and id= are needed", arg);
    if (!id_ok(id, error))
        return false;
    bool random = strcmp(type, "rng-random") == 0;
    if (!random && strcmp(type, "rng-builtin") != 0)
        return fail(error, ERR_UNSUPPORTED,
                    "there is no '%s'; there is rng-random, rng-builtin", type);
    if (random && file && strcmp(file, "/dev/urandom") != 0 && strcmp(file, "/dev/random") != 0)
        return fail(error, ERR_UNSUPPORTED, "filename=%s: only /dev/urandom and /dev/random",
                    file);
    for (guint i = 0; i < kv->len; i++) {
        const char *k = ((const struct opt *)kv->pdata[i])->key;

        if (strcmp(k, "qom-type") != 0 && strcmp(k, "id") != 0 &&
            !(random && strcmp(k, "filename") == 0))
            return fail(error, ERR_ARGUMENT, "%s has no property '%s'", type, k);
    }
    g_ptr_array_add(p->m->objects, g_steal_pointer(&kv));
    return true;
}

/* ---- serial ports, monitors, display -------------------------------------------------------
 */

static bool opt_serial(struct parse *p, const char *arg, GError **error)
{
    if (p->serials >= SERIALS_MAX)
        return fail(error, ERR_LIMIT, "more than %d serial ports", SERIALS_MAX);
    if (strncmp(arg, "vc", 2) == 0 && (!arg[2] || arg[2] == ':'))
        return fail(error, ERR_UNSUPPORTED, "'%s': there is no screen yet", arg);
    if (strcmp(arg, "none") == 0) {
        p->no_serial = true;
        p->serials++;
        return true;
    }
    p->m->serial[p->serials++] = g_strdup(arg);
    return true;
}

static void monitor_add(struct parse *p, const char *spec, bool qmp, bool pretty)
{
    struct monitor_desc *d = g_new0(struct monitor_desc, 1);

    d->chardev = g_strdup(spec);
    d->qmp = qmp;
    d->pretty = pretty;
    g_ptr_array_add(p->o->monitors, d);
}

static bool opt_monitor(struct parse *p, const char *arg, GError **error)
{
    if (strncmp(arg, "vc", 2) == 0 && (!arg[2] || arg[2] == ':'))
        return fail(error, ERR_UNSUPPORTED, "'%s': there is no screen yet", arg);
    p->no_monitor = true; /* the default one */
    if (strcmp(arg, "none") != 0)
        monitor_add(p, arg, false, false);
    return true;
}

static bool opt_qmp(struct parse *p, const char *arg, GError **error UNUSED)
{
    monitor_add(p, arg, true, false);
    return true;
}

static bool opt_qmp_pretty(struct parse *p, const char *arg, GError **error UNUSED)
{
    monitor_add(p, arg, true, true);
    return true;
}

static bool opt_mon(struct parse *p, const char *arg, GError **error)
{
    g_autoptr(GPtrArray) kv = opts_parse(arg, "chardev", "mon", error);
    bool pretty = false;

    if (!kv)
        return false;
    g_autofree char *chardev = opts_take(kv, "chardev");
    g_autofree char *mode = opts_take(kv, "mode");
    if (!chardev)
        return fail(error, ERR_ARGUMENT, "'%s': chardev= is needed", arg);
    if (mode &&
        !one_of("mode", mode, (const char *const[]){ "readline", "control", NULL }, error))
        return false;
    if (!take_bool(kv, "pretty", &pretty, error) || !nothing_left(kv, error))
        return false;
    g_autofree char *spec = g_strdup_printf("chardev:%s", chardev);
    monitor_add(p, spec, mode && strcmp(mode, "control") == 0, pretty);
    return true;
}

static bool opt_chardev(struct parse *p, const char *arg, GError **error)
{
    g_autoptr(GPtrArray) kv = opts_parse(arg, "backend", "chardev", error);

    if (!kv)
        return false;
    if (!opts_get(kv, "backend") || !opts_get(kv, "id"))
        return fail(error, ERR_ARGUMENT, "'%s': a backend and id= are needed", arg);
    g_ptr_array_add(p->m->chardevs, g_strdup(arg));
    return id_ok(opts_get(kv, "id"), error);
}

static bool opt_debugcon(struct parse *p, const char *arg, GError **error UNUSED)
{
    set_str(&p->m->debugcon, arg);
    return true;
}

static bool only_none(const char *arg, const char *what, GError **error)
{
    return strcmp(arg, "none") == 0 ||
           fail(error, ERR_UNSUPPORTED, "'%s' is not there yet; only none: %s", arg, what);
}

static bool opt_display(struct parse *p UNUSED, const char *arg, GError **error)
{
    return only_none(arg, "there is no screen", error);
}

static bool opt_vga(struct parse *p UNUSED, const char *arg, GError **error)
{
    return only_none(arg, "there is no graphics card", error);
}

static bool opt_parallel(struct parse *p UNUSED, const char *arg, GError **error)
{
    return only_none(arg, "there is no parallel port", error);
}

static bool opt_nographic(struct parse *p, const char *arg UNUSED, GError **error UNUSED)
{
    p->nographic = true;
    p->m->graphics = false;
    return true;
}

/* ---- the program ---------------------------------------------------------------------------
 */

static bool opt_name(struct parse *p, const char *arg, GError **error)
{
    g_autoptr(GPtrArray) kv = opts_parse(arg, "guest", "name", error);

    if (!kv)
        return false;
    g_autofree char *guest = opts_take(kv, "guest");
    bool threads = true;
    /* vCPU threads always carry names. */
    if (!take_bool(kv, "debug-threads", &threads, error) || !nothing_left(kv, error))
        return false;
    if (guest && strlen(guest) > NAME_MAX_LEN)
        return fail(error, ERR_LIMIT, "the name is longer than %d bytes", NAME_MAX_LEN);
    if (guest)
        set_str(&p->m->name, guest);
    return true;
}

static bool opt_pidfile(struct parse *p, const char *arg, GError **error UNUSED)
{
    set_str(&p->o->pidfile, arg);
    return true;
}

static bool opt_log_file(struct parse *p, const char *arg, GError **error UNUSED)
{
    set_str(&p->o->log_file, arg);
    return true;
}

static bool opt_log(struct parse *p, const char *arg, GError **error)
{
    g_auto(GStrv) items = g_strsplit(arg, ",", -1);

    for (char **i = items; *i; i++) {
        if (strcmp(*i, "help") == 0 || strcmp(*i, "?") == 0)
            p->o->print = g_strdup("Log items (comma-separated):\n"
                                   "guest_errors  what the guest does wrong (always on)\n"
                                   "info          what the program decides and why\n");
        else if (strcmp(*i, "info") == 0)
            p->o->verbose = true;
        else if (strcmp(*i, "guest_errors") != 0)
            return fail(error, ERR_ARGUMENT, "there is no log item '%s'; use -d help", *i);
    }
    return true;
}

static bool opt_s_stopped(struct parse *p, const char *arg UNUSED, GError **error UNUSED)
{
    p->o->stopped = true;
    return true;
}

static bool opt_daemonize(struct parse *p, const char *arg UNUSED, GError **error UNUSED)
{
    p->o->daemonize = true;
    return true;
}

static bool opt_no_reboot(struct parse *p, const char *arg UNUSED, GError **error UNUSED)
{
    p->m->no_reboot = true;
    return true;
}

static bool opt_no_shutdown(struct parse *p, const char *arg UNUSED, GError **error UNUSED)
{
    p->m->no_shutdown = true;
    return true;
}

static bool opt_action(struct parse *p, const char *arg, GError **error)
{
    g_autoptr(GPtrArray) kv = opts_parse(arg, NULL, "action", error);

    if (!kv)
        return false;
    g_autofree char *reboot = opts_take(kv, "reboot");
    g_autofree char *shutdown = opts_take(kv, "shutdown");

    if (reboot &&
        !one_of("reboot", reboot, (const char *const[]){ "reset", "shutdown", NULL }, error))
        return false;
    if (shutdown && !one_of("shutdown", shutdown,
                            (const char *const[]){ "poweroff", "pause", NULL }, error))
        return false;
    if (reboot)
        p->m->no_reboot = strcmp(reboot, "shutdown") == 0;
    if (shutdown)
        p->m->no_shutdown = strcmp(shutdown, "pause") == 0;
    return nothing_left(kv, error);
}

static bool opt_no_acpi(struct parse *p, const char *arg UNUSED, GError **error UNUSED)
{
    p->m->acpi = false;
    return true;
}

static bool opt_no_hpet(struct parse *p, const char *arg UNUSED, GError **error UNUSED)
{
    p->m->hpet = false;
    return true;
}

static bool opt_nodefaults(struct parse *p, const char *arg UNUSED, GError **error UNUSED)
{
    p->nodefaults = true;
    return true;
}

/* There are no configuration files to read, so not reading them is done. */
static bool opt_nothing(struct parse *p UNUSED, const char *arg UNUSED, GError **error UNUSED)
{
    return true;
}

static bool opt_sandbox(struct parse *p UNUSED, const char *arg, GError **error)
{
    return strcmp(arg, "off") == 0 ||
           fail(error, ERR_UNSUPPORTED, "'%s' is not there yet; only off", arg);
}

static bool opt_version(struct parse *p, const char *arg UNUSED, GError **error UNUSED)
{
    p->o->print = g_strdup("posada-vmm version " POSADA_VERSION "\n");
    return true;
}

static option_fn opt_help;

static const struct option {
    const char *name;
    option_fn *fn;
    const char *arg, *help; /* arg NULL: takes none; help NULL: another name for one above */
} options[] = {
    /* clang-format off */
    { "help", opt_help, NULL, "print this and exit" },
    { "h", opt_help, NULL, NULL },
    { "version", opt_version, NULL, "print the version and exit" },
    { "machine", opt_machine, "[type=]NAME[,accel=,kernel_irqchip=on|off,...]",
      "the board: pc, microvm, none; help lists" },
    { "M", opt_machine, "", NULL },
    { "accel", opt_accel, "kvm|soft", "what runs the processors (tcg: the same as soft)" },
    { "enable-kvm", opt_enable_kvm, NULL, "-accel kvm" },
    { "no-kvm", opt_no_kvm, NULL, "-accel soft" },
    { "no-kvm-irqchip", opt_no_irqchip, NULL, "-machine kernel_irqchip=off" },
    { "cpu", opt_cpu, "MODEL[,+FEATURE,-FEATURE]", "the processor; help lists" },
    { "smp", opt_smp, "[cpus=]N[,sockets=,cores=,threads=,maxcpus=]", "number of processors" },
    { "m", opt_m, "[size=]MiB|N{K,M,G,T}", "size of memory, 128M by default" },
    { "kernel", opt_kernel, "FILE", "boot this (bzImage, PVH ELF, multiboot)" },
    { "initrd", opt_initrd, "FILE",
      "its initial RAM disk; multiboot: \"FILE ARGS,FILE ARGS\"" },
    { "append", opt_append, "TEXT", "its command line" },
    { "bios", opt_bios, "FILE", "firmware instead of SeaBIOS" },
    { "boot", opt_boot, "[order=]LETTERS[,menu=on|off,strict=,splash-time=,reboot-timeout=]",
      "what the firmware boots" },
    { "drive", opt_drive, "file=F,if=virtio|none[,format=raw,id=,media=,cache=,...]",
      "a disk" },
    { "blockdev", opt_blockdev, "driver=raw|file,node-name=N,...", "a disk image by node" },
    { "hda", opt_hd, "FILE", "(IDE: not there yet)" },
    { "hdb", opt_hd, "FILE", NULL },
    { "hdc", opt_hd, "FILE", NULL },
    { "hdd", opt_hd, "FILE", NULL },
    { "cdrom", opt_hd, "FILE", NULL },
    { "snapshot", opt_snapshot, NULL, "write to temporary files, not to the images" },
    { "device", opt_device, "TYPE[,PROP=VALUE,...]", "add a device; help and TYPE,help list" },
    { "global", opt_global, "TYPE.PROP=VALUE", "default of a property" },
    { "object", opt_object, "rng-random|rng-builtin,id=ID", "a source for -device" },
    { "netdev", opt_netdev, "user|tap|socket,id=ID,...", "host end of a network card" },
    { "nic", opt_nic, "user|tap|none[,mac=,model=,...]", "a network card with its host end" },
    { "net", opt_net, "none", "no network card (the default)" },
    { "chardev", opt_chardev, "KIND,id=ID,...", "host end of a character device" },
    { "serial", opt_serial, "DEV", "stdio, mon:stdio, pty, unix:..., file:..., null, none" },
    { "monitor", opt_monitor, "DEV", "the human monitor" },
    { "qmp", opt_qmp, "DEV", "a QMP monitor" },
    { "qmp-pretty", opt_qmp_pretty, "DEV", "the same, with indented answers" },
    { "mon", opt_mon, "[chardev=]ID[,mode=readline|control]", "a monitor on a -chardev" },
    { "debugcon", opt_debugcon, "DEV", "what the guest writes to port 0xe9" },
    { "parallel", opt_parallel, "none", "no parallel port (the default)" },
    { "display", opt_display, "none", "no screen (the default)" },
    { "vga", opt_vga, "none", "no graphics card (the default)" },
    { "nographic", opt_nographic, NULL, "serial port and monitor on the terminal" },
    { "nodefaults", opt_nodefaults, NULL, "no devices that were not asked for" },
    { "no-user-config", opt_nothing, NULL, "(there is none)" },
    { "name", opt_name, "NAME", "name of the guest" },
    { "uuid", opt_uuid, "UUID", "its UUID" },
    { "smbios", opt_smbios, "type=N,FIELD=VALUE,...", "what the SMBIOS tables say" },
    { "fw_cfg", opt_fw_cfg, "[name=]NAME,file=FILE|string=TEXT", "a file for the firmware" },
    { "rtc", opt_rtc, "[base=utc|localtime|DATE]", "the real-time clock" },
    { "S", opt_s_stopped, NULL, "do not start the processors" },
    { "no-reboot", opt_no_reboot, NULL, "exit when the guest resets" },
    { "no-shutdown", opt_no_shutdown, NULL, "stop, but stay, when it powers off" },
    { "action", opt_action, "reboot=reset|shutdown,shutdown=poweroff|pause", "the same" },
    { "no-acpi", opt_no_acpi, NULL, "no ACPI tables" },
    { "no-hpet", opt_no_hpet, NULL, "no HPET" },
    { "pidfile", opt_pidfile, "FILE", "write the process id there" },
    { "daemonize", opt_daemonize, NULL, "go to the background once all is open" },
    { "D", opt_log_file, "FILE", "also write messages there" },
    { "d", opt_log, "ITEM,...", "what to log; help lists" },
    { "sandbox", opt_sandbox, "off", "(not there yet)" },
    /* clang-format on */
};

/* What QEMU has, so that a user learns that it is not a typing mistake. */
static const char *const later[] = {
    "incoming",
    "vnc",
    "spice",
    "gdb",
    "s",
    "fda",
    "fdb",
    "usb",
    "usbdevice",
    "loadvm",
    "mem-path",
    "mem-prealloc",
    "numa",
    "audiodev",
    "audio",
    "soundhw",
    "full-screen",
    "k",
    "readconfig",
    "writeconfig",
    "trace",
    "watchdog",
    "watchdog-action",
    "runas",
    "run-with",
    "chroot",
    "icount",
    "overcommit",
    "msg",
    "tpmdev",
    "virtfs",
    "fsdev",
    "set",
    "add-fd",
    "acpitable",
    "option-rom",
    "dtb",
    "mtdblock",
    "sd",
    "echr",
    "virtioserial",
    "only-migratable",
    "seed",
    "plugin",
    "preconfig",
    "iscsi",
    "realtime",
    "balloon",
    "curses",
    "sdl",
    "g",
    "rotate",
    "singlestep",
    "dfilter",
    "enable-sync-profile",
    "compat",
    "jitdump",
    "perfmap",
    "semihosting",
    "semihosting-config",
    "win2k-hack",
    "no-fd-bootchk",
    "alt-grab",
    "ctrl-grab",
    "xen-domid",
    "dump-vmstate",
    "async-teardown",
};

static bool opt_help(struct parse *p, const char *arg UNUSED, GError **error UNUSED)
{
    GString *s = g_string_new("usage: posada-vmm [option]...\n");

    for (size_t i = 0; i < ARRAY_LEN(options); i++) {
        g_autofree char *left =
            g_strdup_printf("-%s %s", options[i].name, options[i].arg ? options[i].arg : "");

        if (options[i].help && strlen(left) < 28)
            g_string_append_printf(s, "%-28s %s\n", left, options[i].help);
        else if (options[i].help)
            g_string_append_printf(s, "%s\n%-28s %s\n", left, "", options[i].help);
    }
    p->o->print = g_string_free(s, FALSE);
    return true;
}

/* ---- after the last option -----------------------------------------------------------------
 */

static bool settle_drives(struct parse *p, GError **error)
{
    for (guint i = 0; i < p->m->drives->len; i++) {
        struct drive_desc *d = p->m->drives->pdata[i];
        const char *iface = p->ifaces->pdata[i];

        if (p->snapshot)
            d->options.snapshot = true;
        if (!*iface && p->m->board != BOARD_MICROVM)
            return fail(
                error, ERR_UNSUPPORTED,
                "-drive: without if= %s would be an IDE disk, and IDE is not there yet; "
                "use if=virtio",
                d->file);
        d->attach = strcmp(iface, "none") != 0;
        if (!d->attach)
            continue;
        GPtrArray *props = opts_parse("", NULL, "drive", NULL);
        opts_add(props, "drive", d->id);
        if (d->serial)
            opts_add(props, "serial", d->serial);
        machine_add_device(p->m, "virtio-blk", NULL, "-drive", props);
    }
    return true;
}

/* -nographic puts serial port and monitor on one terminal, unless one of them went elsewhere.
 */
static bool settle_consoles(struct parse *p, GError **error)
{
    bool serial = !p->serials && !p->nodefaults;
    bool monitor = !p->no_monitor && !p->nodefaults && !p->o->monitors->len;

    if (p->nographic && p->o->daemonize)
        return fail(error, ERR_ARGUMENT, "-daemonize: cannot be used with -nographic");
    if (p->nographic && serial && monitor)
        p->m->serial[0] = g_strdup("mon:stdio");
    else if (p->nographic && serial)
        p->m->serial[0] = g_strdup("stdio");
    else if (serial)
        p->m->serial[0] = g_strdup("null");
    return true;
}

static const struct option *option_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(options); i++)
        if (strcmp(options[i].name, name) == 0)
            return &options[i];
    return NULL;
}

static bool parse_all(struct parse *p, int argc, char **argv, GError **error)
{
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i];

        if (name[0] != '-' || !name[1])
            return opt_hd(p, name, error) || (g_prefix_error(error, "%s: ", name), false);
        name += name[1] == '-' && name[2] ? 2 : 1;
        const struct option *o = option_find(name);

        if (!o) {
            for (size_t j = 0; j < ARRAY_LEN(later); j++)
                if (strcmp(later[j], name) == 0)
                    return fail(error, ERR_UNSUPPORTED, "-%s: not there yet", name);
            return fail(error, ERR_ARGUMENT, "-%s: there is no such option", name);
        }
        if (o->arg && i + 1 >= argc)
            return fail(error, ERR_ARGUMENT, "-%s: needs an argument", name);
        if (!o->fn(p, o->arg ? argv[++i] : NULL, error)) {
            g_prefix_error(error, "-%s: ", name);
            return false;
        }
        if (p->o->print)
            return true;
    }
    if (p->m->append && !p->m->kernel)
        return fail(error, ERR_ARGUMENT, "-append: is for -kernel, which is missing");
    if (p->m->initrd && !p->m->kernel)
        return fail(error, ERR_ARGUMENT, "-initrd: is for -kernel, which is missing");
    return settle_drives(p, error) && settle_consoles(p, error);
}

void options_free(struct options *o)
{
    if (!o)
        return;
    machine_desc_free(o->machine);
    g_ptr_array_unref(o->monitors);
    g_free(o->pidfile);
    g_free(o->log_file);
    g_free(o->print);
    g_free(o);
}

static void monitor_desc_free(void *p)
{
    struct monitor_desc *d = p;

    g_free(d->chardev);
    g_free(d);
}

struct options *options_parse(int argc, char **argv, GError **error)
{
    struct options *o = g_new0(struct options, 1);

    o->machine = machine_desc_new();
    o->monitors = g_ptr_array_new_with_free_func(monitor_desc_free);
    struct parse p = { .o = o, .m = o->machine };
    p.ifaces = g_ptr_array_new_with_free_func(g_free);
    bool ok = parse_all(&p, argc, argv, error);
    g_ptr_array_unref(p.ifaces);
    if (ok)
        return o;
    options_free(o);
    return NULL;
}
