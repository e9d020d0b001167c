// SPDX-License-Identifier: GPL-2.0-or-later
/* options_test.c - command lines, good and bad. */
#include "vmm/options.h"

#include "base/test.h"
#include "vmm/core/vm.h"

static struct options *parse(const char *line, GError **error)
{
    g_auto(GStrv) argv = NULL;
    g_autofree char *full = g_strdup_printf("posada-vmm %s", line);
    int argc;

    if (!g_shell_parse_argv(full, &argc, &argv, error))
        return NULL;
    return options_parse(argc, argv, error);
}

static struct options *good(const char *line)
{
    GError *e = NULL;
    struct options *o = parse(line, &e);

    if (!o)
        printf("# %s: %s\n", line, e->message);
    EXPECT(o);
    g_clear_error(&e);
    return o ? o : parse("", NULL);
}

static void bad(const char *line, const char *message)
{
    GError *e = NULL;
    struct options *o = parse(line, &e);

    if (o)
        printf("# accepted: %s\n", line);
    EXPECT(!o);
    if (e)
        EXPECT_STR(e->message, message);
    options_free(o);
    g_clear_error(&e);
}

TEST(defaults)
{
    struct options *o = good("");

    EXPECT_EQ(o->machine->ram, 128 * MiB);
    EXPECT_EQ(o->machine->smp, 1);
    EXPECT_EQ(o->machine->board, BOARD_PC);
    EXPECT_STR(o->machine->serial[0], "null");
    EXPECT(!o->stopped);
    options_free(o);
}

TEST(the_line_of_the_manual)
{
    struct options *o = good("-accel soft -cpu max -m 512 -nographic -no-reboot -kernel K "
                             "-initrd I -append console=ttyS0");

    EXPECT_STR(o->machine->accel, "soft");
    EXPECT_STR(o->machine->cpu_model, "max");
    EXPECT_EQ(o->machine->ram, 512 * MiB);
    EXPECT_STR(o->machine->serial[0], "mon:stdio");
    EXPECT_STR(o->machine->append, "console=ttyS0");
    EXPECT(o->machine->no_reboot);
    options_free(o);
}

static u64 ram_of(const char *line)
{
    struct options *o = good(line);
    u64 v = o->machine->ram;

    options_free(o);
    return v;
}

TEST(sizes)
{
    EXPECT_EQ(ram_of("-m 64"), 64 * MiB);
    EXPECT_EQ(ram_of("-m 2G"), 2 * GiB);
    EXPECT_EQ(ram_of("-m 1.5G"), 1536 * MiB);
    EXPECT_EQ(ram_of("-m size=65536k"), 64 * MiB);
    EXPECT_EQ(ram_of("-m 16777217B"), 16 * MiB + 4096);
    EXPECT_EQ(ram_of("-m 0x40"), 64 * MiB);
    bad("-m", "-m: needs an argument");
    bad("-m x", "-m: 'x' is not a size");
    bad("-m -5", "-m: '-5' is not a size");
    bad("-m 5X", "-m: '5X' is not a size (suffixes are K, M, G, T)");
    bad("-m 5MM", "-m: '5MM' is not a size (suffixes are K, M, G, T)");
    bad("-m 0", "-m: '0' is less than 1 MiB");
    bad("-m 99999999999999999999", "-m: '99999999999999999999' is too large");
    bad("-m 1e9", "-m: '1e9' is not a size (suffixes are K, M, G, T)");
    bad("-m 9999999999G", "-m: '9999999999G' is more than 4 TiB");
    bad("-m 64,slots=2", "-m: slots and maxmem: adding memory is not there yet");
    bad("-m 64,foo=2", "-m: there is no property 'foo'");
}

static void smp(const char *arg, u32 n, u32 sockets, u32 cores, u32 threads)
{
    g_autofree char *line = g_strconcat("-smp ", arg, NULL);
    struct options *o = good(line);

    EXPECT_EQ(o->machine->smp, n);
    EXPECT_EQ(o->machine->sockets, sockets);
    EXPECT_EQ(o->machine->cores, cores);
    EXPECT_EQ(o->machine->threads, threads);
    options_free(o);
}

TEST(processors)
{
    smp("4", 4, 1, 4, 1);
    smp("cpus=4,sockets=2", 4, 2, 2, 1);
    smp("8,sockets=2,cores=2,threads=2", 8, 2, 2, 2);
    smp("sockets=2,cores=3", 6, 2, 3, 1);
    smp("4,maxcpus=4,threads=2", 4, 1, 2, 2);
    bad("-smp 0", "-smp: a machine has at least one processor");
    bad("-smp 3,threads=2", "-smp: 1 sockets * 1 cores * 2 threads are not 3 processors");
    bad("-smp 2,maxcpus=4", "-smp: maxcpus=4 with 2 cpus: adding processors is not there yet");
    bad("-smp 300", "-smp: 300 processors, at most 255");
    bad("-smp two", "-smp: cpus: 'two' is not a number from 0 to 1024");
    bad("-smp 1,dies=2", "-smp: dies and clusters can only be 1");
}

TEST(machine_and_accel)
{
    struct options *o = good("-machine pc,accel=kvm:tcg,kernel_irqchip=off -no-hpet");

    EXPECT_STR(o->machine->accel, "kvm:tcg");
    EXPECT(o->machine->no_kernel_irqchip);
    EXPECT(!o->machine->hpet);
    options_free(o);
    o = good("-M microvm -accel kvm -accel tcg,thread=multi");
    EXPECT_EQ(o->machine->board, BOARD_MICROVM);
    EXPECT_STR(o->machine->accel, "kvm:tcg");
    options_free(o);
    bad("-M q35", "-M: machine type 'q35' is not there yet; use pc");
    bad("-M foo", "-M: there is no machine type 'foo'; use -machine help for a list");
    bad("-M pc,foo=1", "-M: there is no property 'foo'");
    bad("-M pc,smm=on", "-M: smm=on is not there yet");
    bad("-accel xen", "-accel: there is no accelerator 'xen'; there is kvm, soft (or tcg)");
    o = good("-accel tcg,tb-size=128");
    EXPECT_EQ(o->machine->code_cache_mib, 128);
    options_free(o);
    o = good("-accel soft,direct=always,perfmap=on");
    EXPECT_EQ(o->machine->direct, CPU_DIRECT_ALWAYS);
    EXPECT(o->machine->perfmap);
    options_free(o);
    bad("-accel soft,direct=maybe", "-accel: direct=maybe is not there; there is on, off, always");
    bad("-accel tcg,tb-size=3", "-accel: tb-size=3: at least 4 (MiB)");
    bad("-accel tcg,tb-size=1025", "-accel: tb-size: '1025' is not a number from 0 to 1024");
    bad("-accel tcg,one-insn-per-tb=on", "-accel: there is no property 'one-insn-per-tb'");
    o = good("-machine help");
    EXPECT(o->print);
    options_free(o);
}

TEST(unknown)
{
    bad("-foo", "-foo: there is no such option");
    bad("--foo", "-foo: there is no such option");
    bad("-incoming tcp:0:1", "-incoming: not there yet");
    bad("-append x", "-append: is for -kernel, which is missing");
}

TEST(drives)
{
    struct options *o =
        good("-drive file=a,,b.img,if=virtio,format=raw,cache=none,snapshot=on "
             "-drive file=c,if=none,id=d1,readonly -device virtio-blk-pci,drive=d1");
    const struct drive_desc *d = o->machine->drives->pdata[0];

    EXPECT_EQ(o->machine->drives->len, 2);
    EXPECT_STR(d->file, "a,b.img");
    EXPECT_STR(d->id, "virtio0");
    EXPECT_STR(d->iface, "virtio");
    EXPECT(d->options.snapshot);
    EXPECT_EQ(d->options.cache, IMAGE_NONE);
    d = o->machine->drives->pdata[1];
    EXPECT_STR(d->id, "d1");
    EXPECT_STR(d->iface, "none");
    EXPECT(d->options.read_only);
    EXPECT_EQ(o->machine->devices->len, 2);
    options_free(o);

    o = good("-drive file=a,if=none,iops=100,iops_max=200,throttling.bps-read=5,"
             "throttling.group=g,werror=stop,rerror=ignore "
             "-object throttle-group,id=t,x-bps-total=7,limits.bps-total-max=9 "
             "-object '{\"qom-type\":\"throttle-group\",\"id\":\"j\",\"limits\":"
             "{\"iops-read\":3}}'");
    d = o->machine->drives->pdata[0];
    EXPECT_EQ(d->throttle.limit[IMAGE_IOPS].avg, 100);
    EXPECT_EQ(d->throttle.limit[IMAGE_IOPS].max, 200);
    EXPECT_EQ(d->throttle.limit[IMAGE_BPS_READ].avg, 5);
    EXPECT_STR(d->group, "g");
    EXPECT_EQ(d->werror, IMAGE_STOP);
    EXPECT_EQ(d->rerror, IMAGE_IGNORE);
    const struct throttle_desc *limits = o->machine->throttles->pdata[0];
    EXPECT_STR(limits->id, "t");
    EXPECT_EQ(limits->limits.limit[IMAGE_BPS].avg, 7);
    EXPECT_EQ(limits->limits.limit[IMAGE_BPS].max, 9);
    limits = o->machine->throttles->pdata[1];
    EXPECT_STR(limits->id, "j");
    EXPECT_EQ(limits->limits.limit[IMAGE_IOPS_READ].avg, 3);
    options_free(o);
    o = good("-drive file=a,if=none,cache.direct=on,cache.writeback=off,discard=unmap,"
             "detect-zeroes=unmap -drive file=b,if=none,cache=none,cache.direct=off");
    d = o->machine->drives->pdata[0];
    EXPECT_EQ(d->options.cache, IMAGE_DIRECTSYNC);
    EXPECT_EQ(d->options.detect_zeroes, IMAGE_DETECT_UNMAP);
    d = o->machine->drives->pdata[1];
    EXPECT_EQ(d->options.cache, IMAGE_WRITEBACK);
    options_free(o);
    bad("-drive file=a,if=none,detect-zeroes=unmap",
        "-drive: detect-zeroes=unmap needs discard=unmap");
    bad("-drive file=a,if=none,rerror=enospc",
        "-drive: rerror is report, ignore or stop, not 'enospc'");
    bad("-drive file=a,if=none,bps=1,bps_rd=1",
        "-drive: throttling: a limit for all (-total) goes without one for reads or writes");

    o = good("-blockdev file,node-name=f,filename=x.img -blockdev raw,node-name=r,file=f");
    EXPECT_EQ(o->machine->drives->len, 1);
    d = o->machine->drives->pdata[0];
    EXPECT_STR(d->id, "r");
    EXPECT_STR(d->file, "x.img");
    options_free(o);

    o = good("-blockdev \"{'driver':'raw','node-name':'j','file':{'driver':'file',"
             "'filename':'y'}}\"");
    d = o->machine->drives->pdata[0];
    EXPECT_STR(d->id, "j");
    EXPECT_STR(d->file, "y");
    EXPECT_STR(dict_peek(d->dict, "file.driver"), "file");
    options_free(o);

    bad("-drive file=x,if=sd", "-drive: if=sd is not there yet; use if=ide");
    bad("-drive file=x,if=foo",
        "-drive: there is no if=foo; there is ide, scsi, floppy, virtio, none");
    bad("-drive if=virtio", "-drive: 'if=virtio': file= is needed");
    GError *e = NULL;
    EXPECT(!parse("-drive file=x,if=virtio,format=zip", &e));
    EXPECT(g_str_has_prefix(e->message, "-drive: format=zip is not there; there is "));
    g_error_free(e);
    bad("-blockdev zip,node-name=r,filename=x", "-blockdev: there is no driver 'zip'");
    bad("-drive file=x,if=virtio,foo=1", "-drive: there is no property 'foo'");
    bad("-drive file=x,if=virtio,cache=fast",
        "-drive: cache=fast is not there; there is "
        "writeback, none, writethrough, directsync, unsafe");
    bad("-drive file=x,if=virtio,id=9", "-drive: '9' is no id: a letter, then letters, digits, "
                                        "'-', '.', '_'");
    bad("-blockdev raw,node-name=r,file=f", "-blockdev: there is no node 'f' before it");
}

static const char *device_of(const struct options *o, u32 i, const char *prop)
{
    const struct device_desc *d = o->machine->devices->pdata[i];

    return strcmp(prop, "type") == 0 ? d->type : opts_get(d->props, prop);
}

TEST(ide_drives)
{
    struct options *o = good("-cdrom c.iso -drive file=x -hda a -drive file=y,bus=1,unit=1 "
                             "-boot order=cd,once=d,menu=on");

    EXPECT_EQ(o->machine->devices->len, 4);
    EXPECT_STR(device_of(o, 0, "type"), "ide-cd");
    EXPECT_STR(device_of(o, 0, "drive"), "ide1-cd0");
    EXPECT_STR(device_of(o, 0, "bus"), "ide.1");
    EXPECT_STR(device_of(o, 0, "unit"), "0");
    EXPECT_STR(device_of(o, 1, "drive"), "ide0-hd1"); /* what others have left */
    EXPECT_STR(device_of(o, 1, "type"), "ide-hd");
    EXPECT_STR(device_of(o, 2, "drive"), "ide0-hd0");
    EXPECT_STR(device_of(o, 3, "drive"), "ide1-hd1");
    EXPECT_STR(o->machine->boot_order, "cd");
    EXPECT_STR(o->machine->boot_once, "d");
    EXPECT(((const struct drive_desc *)o->machine->drives->pdata[0])->options.read_only);
    options_free(o);

    o = good("disk.img -drive if=ide,media=cdrom,index=3 -drive file=n,if=none,media=cdrom");
    EXPECT_STR(device_of(o, 0, "drive"), "ide0-hd0");
    EXPECT_STR(device_of(o, 1, "drive"), "ide1-cd1"); /* empty */
    EXPECT_EQ(o->machine->devices->len, 2);
    options_free(o);

    o = good("-drive file=a,if=scsi -drive file=b,if=scsi,bus=1 -drive if=scsi,media=cdrom");
    EXPECT_STR(device_of(o, 0, "type"), "lsi53c895a");
    EXPECT_STR(device_of(o, 1, "drive"), "scsi0-hd0");
    EXPECT_STR(device_of(o, 1, "bus"), "lsi0.0");
    EXPECT_STR(device_of(o, 2, "type"), "lsi53c895a");
    EXPECT_STR(device_of(o, 3, "bus"), "lsi1.0");
    EXPECT_STR(device_of(o, 4, "type"), "scsi-cd");
    EXPECT_STR(device_of(o, 4, "scsi-id"), "1");
    options_free(o);

    o = good("-M microvm -kernel k -drive file=x");
    EXPECT_STR(device_of(o, 0, "type"), "virtio-blk");
    options_free(o);

    bad("-hda a -drive file=b,index=0", "-drive: if=ide: two drives for index=0");
    bad("-drive file=b,index=4", "-drive: if=ide: there is room for 4 drives");
    bad("-hda a -hdb b -hdc c -hdd d -drive file=e",
        "-drive: if=ide: there is room for 4 drives");
    bad("-drive file=b,index=1,bus=0", "-drive: index cannot be used with bus and unit");
    bad("-drive file=b,bus=0,unit=2", "-drive: if=ide: a bus has 2 units, there is no unit 2");
    bad("-drive if=ide", "-drive: 'if=ide': file= is needed");
}

TEST(network)
{
    struct options *o = good("-nic user,hostfwd=tcp::2222-:22,mac=52:54:00:01:02:03 "
                             "-netdev tap,id=t0,ifname=tap0 -device virtio-net-pci,netdev=t0");

    EXPECT_EQ(o->machine->netdevs->len, 2);
    EXPECT_STR(o->machine->netdevs->pdata[0], "user,id=nic0,hostfwd=tcp::2222-:22");
    const struct device_desc *d = o->machine->devices->pdata[0];
    EXPECT_STR(d->type, "virtio-net");
    EXPECT_STR(opts_get(d->props, "mac"), "52:54:00:01:02:03");
    options_free(o);
    o = good("-nic none -net none");
    EXPECT_EQ(o->machine->netdevs->len, 0);
    options_free(o);
    bad("-nic vde", "-nic: there is no kind 'vde'; there is user, tap, socket");
    bad("-nic user,model=e1000", "-nic: model=e1000 is not there yet; there is virtio-net-pci");
    bad("-netdev user", "-netdev: 'user': a kind and id= are needed");
}

TEST(consoles)
{
    struct options *o = good("-nographic -serial none -monitor none");

    EXPECT(!o->machine->serial[0]);
    options_free(o);
    o = good("-nographic -monitor none");
    EXPECT_STR(o->machine->serial[0], "stdio");
    options_free(o);
    o = good("-nodefaults -qmp unix:/tmp/q,server=on,wait=off -serial pty -serial file:x");
    EXPECT_STR(o->machine->serial[0], "pty");
    EXPECT_STR(o->machine->serial[1], "file:x");
    EXPECT_EQ(o->monitors->len, 1);
    EXPECT(((struct monitor_desc *)o->monitors->pdata[0])->qmp);
    options_free(o);
    o = good("-chardev stdio,id=m -mon chardev=m,mode=control,pretty=on");
    EXPECT_STR(((struct monitor_desc *)o->monitors->pdata[0])->chardev, "chardev:m");
    options_free(o);
    bad("-serial vc", "-serial: 'vc': there is no screen yet");
    bad("-display gtk", "-display: 'gtk' is not there yet; only none: there is no screen");
    bad("-mon foo=1", "-mon: 'foo=1': chardev= is needed");
    bad("-nographic -daemonize", "-daemonize: cannot be used with -nographic");
}

TEST(small_ones)
{
    struct options *o = good("-S -name guest=a,debug-threads=on -rtc base=2024-02-03T04:05:06 "
                             "-uuid 12345678-1234-1234-1234-123456789abc -boot dc,menu=on "
                             "-fw_cfg opt/x,string=hello -smbios type=1,product=P,serial=S "
                             "-global virtio-blk-pci.serial=x -object rng-random,id=r0 "
                             "-sandbox off -no-user-config -action reboot=shutdown");

    EXPECT(o->stopped && o->machine->no_reboot);
    EXPECT_STR(o->machine->name, "a");
    EXPECT_EQ(o->machine->uuid[0], 0x12);
    EXPECT_EQ(o->machine->uuid[15], 0xbc);
    EXPECT_STR(o->machine->boot_order, "dc");
    EXPECT(o->machine->boot_menu);
    options_free(o);
    bad("-uuid 12345678-1234-1234-1234-123456789ab", "-uuid: '12345678-1234-1234-1234-"
                                                     "123456789ab' is no UUID");
    bad("-boot z", "-boot: 'z' is no boot device (a to p)");
    bad("-boot cc", "-boot: boot device 'c' is given twice");
    bad("-rtc base=never", "-rtc: base=never is not utc, localtime or a date "
                           "(2024-01-31T12:00:00)");
    bad("-smbios type=9", "-smbios: type 9 is not there; there is 0, 1, 2, 3, 4, 11, 17");
    bad("-smbios type=1,colour=x", "-smbios: type 1 has no field 'colour'");
    bad("-fw_cfg opt/x", "-fw_cfg: 'opt/x': either file= or string= is needed");
    bad("-global x=y", "-global: 'x=y' is not DEVICE.PROPERTY=VALUE");
    bad("-object tls,id=s", "-object: there is no 'tls'; there is rng-random, rng-builtin, secret, "
                            "throttle-group, tls-creds-anon, tls-creds-psk, tls-creds-x509");
    bad("-object tls-creds-x509,id=s,colour=x", "-object: tls-creds-x509 has no property "
                                                "'colour'");
    bad("-object secret,id=s,colour=sesame", "-object: secret has no property 'colour'");
    bad("-object secret,data=sesame", "-object: a type and id= are needed");
    bad("-d foo", "-d: there is no log item 'foo'; use -d help");
}

TEST_MAIN()
