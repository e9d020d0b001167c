// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * kvm_test.c - the KVM backend with guests of a few bytes: ports, MMIO, doorbells, dirty log,
 * state in and out, interrupts with either local APIC.  Skipped where /dev/kvm does not open.
 */
#include "vmm/cpu/kvm/kvm.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/test.h"

enum { PORT = 0x99, MMIO = 0x200000 };

/* What the guest wrote; a device that ends the test on a write to port 0x9a. */
struct sink {
    struct dev dev;
    struct vm *vm;
    u32 n;
    u64 last, before;
};
static struct sink sink;

static u64 sink_read(struct dev *d UNUSED, u64 off, unsigned size UNUSED)
{
    return 0x1122334455667788 >> (8 * (off & 7));
}

static void sink_write(struct dev *d, u64 off, u64 val, unsigned size UNUSED)
{
    struct sink *s = container_of(d, struct sink, dev);

    if (off == 1) {
        vm_request(s->vm, VM_REQ_QUIT, VM_BY_GUEST);
        return;
    }
    s->n++;
    s->before = s->last;
    s->last = val;
}

static const struct region sink_ports = {
    .name = "sink", .len = 4, .min = 1, .max = 4, .read = sink_read, .write = sink_write
};
static const struct region sink_mem = {
    .name = "sink", .len = 0x1000, .min = 1, .max = 8, .read = sink_read, .write = sink_write
};
static const struct dev_type sink_type = { .name = "sink", .size = sizeof(struct sink) };

/* A local APIC that has one interrupt to give. */
static _Atomic int vector = -1;
static u8 tpr;
static int fake_ack(struct dev *d UNUSED)
{
    return atomic_exchange(&vector, -1);
}
static bool fake_pending(struct dev *d UNUSED)
{
    int v = atomic_load(&vector);
    return v >= 0 && v >> 4 > tpr >> 4;
}
static u8 fake_tpr_get(struct dev *d UNUSED)
{
    return tpr;
}
static void fake_tpr_set(struct dev *d UNUSED, u8 val)
{
    tpr = val;
}
static bool fake_read(struct dev *d UNUSED, u32 msr, u64 *ret)
{
    *ret = msr;
    return msr == 0x802;
}
static bool fake_write(struct dev *d UNUSED, u32 msr UNUSED, u64 val UNUSED)
{
    return true;
}
static void fake_init(struct dev *d UNUSED)
{
}
static const struct lapic_ops fake_lapic = { fake_ack,     fake_pending, fake_tpr_get,
                                             fake_tpr_set, fake_read,    fake_write,
                                             fake_init };

static bool have_kvm(void)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

static struct vm *make(const struct cpu_config *cfg)
{
    struct vm *vm = vm_new();
    GError *error = NULL;
    struct ram_block *b = ram_block_new(vm->ram, "ram", 1 * MiB, &error);

    memset(&sink, 0, sizeof sink);
    sink.dev.type = &sink_type;
    sink.dev.vm = sink.vm = vm;
    pthread_mutex_init(&sink.dev.lock, NULL);
    ram_map_at(vm->ram, 0, 1 * MiB, b, 0, false);
    ram_map_at(vm->ram, 4 * GiB - 64 * KiB, 64 * KiB, b, 64 * KiB, true);
    ram_commit(vm->ram);
    bus_map(vm->io, PORT, &sink_ports, &sink.dev, 0);
    bus_map(vm->mem, MMIO, &sink_mem, &sink.dev, 0);
    EXPECT(cpu_open(vm, cfg, &error) && cpu_make_vcpus(vm, cfg, &error));
    if (error)
        printf("# %s\n", error->message);
    g_clear_error(&error);
    return vm;
}

/* Flat 32-bit code at 0x1000. */
static void load(struct vm *vm, const void *code, size_t n)
{
    struct x86_state s;
    GError *error = NULL;

    EXPECT(ram_load(vm->ram, 0x1000, code, n));
    EXPECT(cpu_get_state(vm->vcpus[0], &s, &error));
    x86_set_flat32(&s, 0x1000);
    s.gpr[RSP] = 0x8000;
    s.gdt = (struct x86_dtable){ .base = 0x800, .limit = 0x1f };
    s.idt = (struct x86_dtable){ .base = 0x4000, .limit = 0x7ff };
    EXPECT(cpu_set_state(vm->vcpus[0], &s, &error));
    g_clear_error(&error);
}

static guint guard;

static gboolean too_long(gpointer vm)
{
    guard = 0;
    EXPECT(!"the guest ends by itself");
    vm_request(vm, VM_REQ_QUIT, VM_BY_SIGNAL);
    return G_SOURCE_REMOVE;
}

static void run(struct vm *vm)
{
    GError *error = NULL;

    guard = g_timeout_add(20000, too_long, vm);
    EXPECT(cpu_start_threads(vm, &error));
    vm_cont(vm);
    vm_run(vm);
    vm_stop(vm, RUN_PAUSED);
    if (guard)
        g_source_remove(guard);
}

static void done(struct vm *vm)
{
    cpu_close(vm);
    vm_free(vm);
    pthread_mutex_destroy(&sink.dev.lock);
}

#define END "\xb0\x01\xe6\x9a\xeb\xfe" /* mov al,1; out 0x9a,al; jmp . */

static const struct cpu_config config = { .accel = "kvm", .smp = 1 };
static const struct cpu_config config_off = { .accel = "kvm",
                                              .smp = 1,
                                              .no_kernel_irqchip = true };

TEST(self_test_says_why)
{
    char *why = NULL;
    bool ok = kvm_self_test(&why);

    printf("# %s: %s\n", ok ? "taken" : "not taken", why);
    EXPECT(why && *why);
    EXPECT(have_kvm() || !ok);
    g_free(why);
}

TEST(ports_and_mmio)
{
    if (!have_kvm())
        return;
    /* mov al,0x5a; out 0x99,al; mov eax,[0x200004]; mov [0x200008],eax; in eax,0x99 */
    static const char code[] =
        "\xb0\x5a\xe6\x99\xa1\x04\x00\x20\x00\xa3\x08\x00\x20\x00\xe5\x99" END;
    struct vm *vm = make(&config);
    struct x86_state s;

    load(vm, code, sizeof code - 1);
    run(vm);
    EXPECT_EQ(sink.n, 2);
    EXPECT_EQ(sink.last, 0x11223344);
    EXPECT(cpu_get_state(vm->vcpus[0], &s, NULL));
    EXPECT_EQ(s.gpr[RAX], 0x55667701); /* the write that asked for the end is complete */
    EXPECT_EQ(s.rip, 0x1000 + sizeof code - 3);
    done(vm);
}

TEST(rom_is_not_written)
{
    if (!have_kvm())
        return;
    /* mov byte [0xffff0000],0x12 ; mov al,[0xffff0000]; out 0x99,al */
    static const char code[] = "\xc6\x05\x00\x00\xff\xff\x12\xa0\x00\x00\xff\xff\xe6\x99" END;
    struct vm *vm = make(&config);
    u8 mark = 0x77;

    EXPECT(ram_load(vm->ram, 0x10000, &mark, 1));
    load(vm, code, sizeof code - 1);
    run(vm);
    EXPECT_EQ(sink.last, 0x77);
    done(vm);
}

TEST(doorbell_and_dirty_log)
{
    if (!have_kvm())
        return;
    /* mov [0x5000],al ; mov [0x200010],ax */
    static const char code[] = "\xa2\x00\x50\x00\x00\x66\xa3\x10\x00\x20\x00" END;
    struct vm *vm = make(&config);
    struct doorbell d = { .at = MMIO + 0x10, .size = 2, .fd = eventfd(0, EFD_NONBLOCK) };
    unsigned long map[256 / 64] = { 0 };
    u64 rung = 0;

    bus_doorbell_add(vm->mem, &d);
    load(vm, code, sizeof code - 1);
    ram_log(vm->ram, RAM_PAGE_DIRTY_MIGRATE, true);
    vm->cpu->dirty(vm);
    ram_log_fetch(vm->ram, RAM_PAGE_DIRTY_MIGRATE, ram_block_at(vm->ram, 0), map);
    memset(map, 0, sizeof map);
    run(vm);
    EXPECT(read(d.fd, &rung, 8) == 8 && rung == 1);
    EXPECT_EQ(sink.n, 0);
    vm->cpu->dirty(vm);
    ram_log_fetch(vm->ram, RAM_PAGE_DIRTY_MIGRATE, ram_block_at(vm->ram, 0), map);
    EXPECT(map[0] & 1ul << 5);
    EXPECT(!(map[0] & 1ul << 6));
    bus_doorbell_del(vm->mem, &d);
    close(d.fd);
    done(vm);
}

static void state_round_trip(const struct cpu_config *cfg)
{
    struct vm *vm = make(cfg);
    struct x86_state a, b;
    GError *error = NULL;
    g_autoptr(GByteArray) one = g_byte_array_new(), two = g_byte_array_new();

    EXPECT(cpu_get_state(vm->vcpus[0], &a, &error));
    EXPECT_EQ(a.rip, 0xfff0);
    EXPECT_EQ(a.seg[CS].base, 0xffff0000);
    for (int i = 0; i < 16; i++)
        a.gpr[i] = 0x0101010101010101 * (u64)(i + 1);
    a.dr[0] = 0x1234;
    a.msr.lstar = 0xffffffff81000000;
    a.msr.mtrr_def_type = 0xc06;
    a.xsave[160] = 0x5a; /* XMM0 */
    a.xsave[512] |= 2;
    EXPECT(cpu_set_state(vm->vcpus[0], &a, &error));
    EXPECT(cpu_get_state(vm->vcpus[0], &b, &error));
    b.msr.tsc = a.msr.tsc;
    b.msr.tsc_adjust = a.msr.tsc_adjust;
    EXPECT_EQ(b.gpr[R15], a.gpr[R15]);
    EXPECT_EQ(b.xsave[160], 0x5a);
    EXPECT_EQ(b.msr.lstar, a.msr.lstar);
    EXPECT_EQ(b.dr[0], 0x1234);
    state_save(&x86_state_table, &a, one);
    state_save(&x86_state_table, &b, two);
    EXPECT_EQ(one->len, two->len);
    for (u32 i = 0; i < sizeof a && i < sizeof b; i++)
        if (((u8 *)&a)[i] != ((u8 *)&b)[i] && i < offsetof(struct x86_state, xsave)) {
            printf("# byte %u: %02x, then %02x\n", i, ((u8 *)&a)[i], ((u8 *)&b)[i]);
            break;
        }
    if (error)
        printf("# %s\n", error->message);
    EXPECT(!error);
    g_clear_error(&error);
    done(vm);
}

TEST(state)
{
    if (!have_kvm())
        return;
    state_round_trip(&config);
    state_round_trip(&config_off);
}

static struct dev *find_dev(struct vm *vm, const char *id)
{
    for (u32 i = 0; i < vm->devs->len; i++) {
        struct dev *d = vm->devs->pdata[i];

        if (!strcmp(d->id, id))
            return d;
    }
    return NULL;
}

/* What a guest has set in the kernel's controllers, another one finds there after a load. */
TEST(irqchip_state_moves)
{
    if (!have_kvm())
        return;
    /* 8259: ICW1 to 4, mask 0xfb; 8254: channel 0, mode 2, 11932; IOAPIC: entry 1, vector 0x31
     */
    static const char set[] =
        "\xb0\x11\xe6\x20\xb0\x50\xe6\x21\xb0\x04\xe6\x21\xb0\x01\xe6\x21\xb0\xfb\xe6\x21"
        "\xb0\x34\xe6\x43\xb0\x9c\xe6\x40\xb0\x2e\xe6\x40"
        "\xc7\x05\x00\x00\xc0\xfe\x12\x00\x00\x00\xc7\x05\x10\x00\xc0\xfe\x31\x00\x01\x00" END;
    /* xor eax,eax; status of channel 0 to ah, mask to al, out; the IOAPIC's register, out */
    static const char get[] = "\x31\xc0\xb0\xe2\xe6\x43\xe4\x40\x24\x3f\x88\xc4\xe4\x21\xe7\x99"
                              "\xa1\x10\x00\xc0\xfe\xe7\x99" END;
    g_autoptr(GByteArray) one = g_byte_array_new(), two = g_byte_array_new();
    g_autoptr(GByteArray) fresh = g_byte_array_new(), again = g_byte_array_new();
    g_autofree char *why = NULL;
    GError *error = NULL;
    struct vm *vm = make(&config);
    struct dev *d = find_dev(vm, "kvm-irqchip");

    EXPECT(state_check_table(&d->type->state, &why));
    dev_save(d, fresh);
    load(vm, set, sizeof set - 1);
    run(vm);
    dev_save(d, one);
    vm_reset(vm);
    dev_save(d, again);
    EXPECT(fresh->len == again->len && !memcmp(fresh->data, again->data, fresh->len));
    done(vm);

    vm = make(&config);
    d = find_dev(vm, "kvm-irqchip");
    EXPECT(!dev_load(d, one->data, one->len - 1, NULL));
    EXPECT(dev_load(d, one->data, one->len, &error));
    dev_save(d, two);
    EXPECT(one->len == two->len && !memcmp(one->data, two->data, one->len));
    load(vm, get, sizeof get - 1);
    run(vm);
    EXPECT_EQ(sink.n, 2);
    EXPECT_EQ(sink.before, 0x34fb);
    EXPECT_EQ(sink.last, 0x10031);
    if (error)
        printf("# %s\n", error->message);
    g_clear_error(&error);
    done(vm);

    vm = make(&config_off);
    EXPECT(!find_dev(vm, "kvm-irqchip"));
    done(vm);
}

static gboolean raise_vector(gpointer vm)
{
    atomic_store(&vector, 0x41);
    vcpu_signal(((struct vm *)vm)->vcpus[0], VCPU_INTR);
    return G_SOURCE_REMOVE;
}

/* Our own local APIC wakes HLT, and gives its vector when CR8 and IF allow. */
TEST(interrupt_from_our_lapic)
{
    if (!have_kvm())
        return;
    /* sti; hlt; mov al,0x11; out 0x99,al; END; handler at 0x1100: the same with 0x22 */
    static const char code[] = "\xfb\xf4\xb0\x11\xe6\x99" END;
    static const char handler[] = "\xb0\x22\xe6\x99" END; /* no IRET: not every KVM can */
    static const u8 gdt[] = { 0,    0, 0,    0,    0, 0,    0,    0,    0,    0, 0,
                              0,    0, 0,    0,    0, 0xff, 0xff, 0,    0,    0, 0x9b,
                              0xcf, 0, 0xff, 0xff, 0, 0,    0,    0x93, 0xcf, 0 };
    static const u8 gate[] = { 0x00, 0x11, 0x10, 0, 0, 0x8e, 0, 0 };
    struct vm *vm = make(&config_off);

    vm->vcpus[0]->lapic = &sink.dev;
    vm->vcpus[0]->lapic_ops = &fake_lapic;
    EXPECT(ram_load(vm->ram, 0x1100, handler, sizeof handler - 1));
    EXPECT(ram_load(vm->ram, 0x800, gdt, sizeof gdt));
    EXPECT(ram_load(vm->ram, 0x4000 + 8 * 0x41, gate, sizeof gate));
    load(vm, code, sizeof code - 1);
    g_timeout_add(50, raise_vector, vm);
    run(vm);
    EXPECT_EQ(sink.n, 1);
    EXPECT_EQ(sink.last, 0x22);
    done(vm);
}

TEST(stop_and_go)
{
    if (!have_kvm())
        return;
    static const char code[] = "\x40\xeb\xfd"; /* inc eax; jmp back */
    struct vm *vm = make(&config);
    struct x86_state a, b;

    load(vm, code, sizeof code - 1);
    EXPECT(cpu_start_threads(vm, NULL));
    for (int i = 0; i < 20; i++) {
        vm_cont(vm);
        g_usleep(i * 500);
        vm_stop(vm, RUN_PAUSED);
    }
    EXPECT(cpu_get_state(vm->vcpus[0], &a, NULL));
    g_usleep(2000);
    EXPECT(cpu_get_state(vm->vcpus[0], &b, NULL));
    EXPECT_EQ(a.gpr[RAX], b.gpr[RAX]);
    EXPECT(a.gpr[RAX] > 0);
    done(vm);
}

TEST_MAIN()
