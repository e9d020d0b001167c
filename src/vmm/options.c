// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * options.c - the command line in QEMU's syntax (its manual, "Invocation").
 *
 * One table maps an option to a function; what QEMU has and this program does not have yet is
 * in a second table, so that the message can say so.  Order matters in one way only: what
 * depends on several options (-nographic with -serial, -machine with -drive) is settled after
 * the last one has been read.
 */
#include "vmm/options_parse.h"

#include <string.h>

#include "base/error.h"

static bool opt_name(struct parse *p, const char *arg, GError **error)
{
    g_autoptr(GPtrArray) kv = opts_parse(arg, "guest", "name", error);

    if (!kv)
        return false;
    g_autofree char *guest = opts_take(kv, "guest");
    bool threads = true;
    /* vCPU threads always carry names. */
    if (!value_take_bool(kv, "debug-threads", &threads, error) || !value_none_left(kv, error))
        return false;
    if (guest && strlen(guest) > VALUE_NAME_MAX)
        return fail(error, ERR_LIMIT, "the name is longer than %d bytes", VALUE_NAME_MAX);
    if (guest)
        value_set(&p->m->name, guest);
    return true;
}

static bool opt_pidfile(struct parse *p, const char *arg, GError **error UNUSED)
{
    /* absolute: -daemonize changes the directory before it is removed */
    g_free(p->o->pidfile);
    p->o->pidfile = g_canonicalize_filename(arg, NULL);
    return true;
}

static bool opt_log_file(struct parse *p, const char *arg, GError **error UNUSED)
{
    value_set(&p->o->log_file, arg);
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

    if (reboot && !value_one_of("reboot", reboot,
                                (const char *const[]){ "reset", "shutdown", NULL }, error))
        return false;
    if (shutdown && !value_one_of("shutdown", shutdown,
                                  (const char *const[]){ "poweroff", "pause", NULL }, error))
        return false;
    if (reboot)
        p->m->no_reboot = strcmp(reboot, "shutdown") == 0;
    if (shutdown)
        p->m->no_shutdown = strcmp(shutdown, "pause") == 0;
    return value_none_left(kv, error);
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
    { "accel", opt_accel, "kvm|soft[,tb-size=MIB][,direct=on|off|always][,perfmap=on]", "what runs the processors (tcg: the same as soft)" },
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
    { "boot", opt_boot, "[order=]LETTERS[,once=,menu=on|off,strict=,splash-time=,...]",
      "what the firmware boots: a floppy, c disk, d CD-ROM, n network" },
    { "drive", opt_drive, "file=F[,if=ide|scsi|floppy|virtio|none,index=,format=,id=,media=,...]",
      "a disk" },
    { "blockdev", opt_blockdev, "driver=FORMAT,node-name=N,file.filename=F,...", "a disk image by node" },
    { "hda", opt_hda, "FILE", "first IDE disk (also FILE alone); -hdb, -hdc, -hdd: the others" },
    { "hdb", opt_hdb, "FILE", NULL },
    { "hdc", opt_hdc, "FILE", NULL },
    { "hdd", opt_hdd, "FILE", NULL },
    { "fda", opt_fda, "FILE", "floppy disk A; -fdb: B" },
    { "fdb", opt_fdb, "FILE", NULL },
    { "cdrom", opt_cdrom, "FILE", "IDE CD-ROM in the place of -hdc" },
    { "snapshot", opt_snapshot, NULL, "write to temporary files, not to the images" },
    { "device", opt_device, "TYPE[,PROP=VALUE,...]", "add a device; help and TYPE,help list" },
    { "global", opt_global, "TYPE.PROP=VALUE", "default of a property" },
    { "object", opt_object, "rng-random|rng-builtin|secret|throttle-group|tls-creds-KIND,id=ID,...",
      "a source for -device, limits for disks" },
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

/* -nographic puts serial port and monitor on one terminal, unless one of them went elsewhere.
 */
static bool settle_consoles(struct parse *p, GError **error)
{
    bool serial = !p->serials && !p->nodefaults && p->m->board != BOARD_NONE;
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

        if (name[0] != '-' || !name[1]) { /* a disk image */
            opt_hda(p, name, NULL);
            continue;
        }
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
    bool ok = parse_all(&p, argc, argv, error);
    if (ok)
        return o;
    options_free(o);
    return NULL;
}
