// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * smp.c - several processors: INIT and SIPI, IPIs of all kinds, TLB shootdown, atomics (within
 * and across cache lines and pages), locks, memory order, code that another processor changes,
 * TSC.
 */
#include "lib/pic.h"

enum { MAX = 8, CLOSED = 0x100 };

extern u8 ap_start[], ap_end[];
extern u32 ap_stack_next;
extern u64 pml4[512];
void ap_main(void);

#define VA ((volatile u8 *)0x0000400000000000)

static u32 rounds;
static volatile u32 up, go, finished, job, cpus = 1;
static volatile u32 ids[MAX], hits[MAX], nmis[MAX], acked;
static u8 pages[4][4096] __attribute__((aligned(4096)));
static u64 tables[3][512] __attribute__((aligned(4096)));
static volatile u64 counter, counter2, errors;
static u8 line[256] __attribute__((aligned(64)));
static volatile u32 lock_word, owned, ticket_next, ticket_now;
static volatile u32 x, y, r[2], turn;
static volatile u64 stamps, last_stamp;
static volatile bool stop;
static u8 code[4096] __attribute__((aligned(4096)));
static u8 *code_writer = code; /* where the first processor writes it */
static volatile u32 refused;

static u32 me(void)
{
    u32 id = apic_read(APIC_ID) >> 24;

    for (u32 i = 0; i < cpus; i++)
        if (ids[i] == id)
            return i;
    return 0;
}

static void pause(void)
{
    __asm__ volatile("pause" ::: "memory");
}

static bool wait_eq(volatile u32 *n, u32 want)
{
    u64 end = rdtsc() + 120000000000ull;

    while (*n != want && rdtsc() < end)
        pause();
    return *n == want;
}

static void on_ipi(struct frame *f)
{
    u32 n = me();

    if (f->vector == 0x70) {
        invlpg(VA);
        __sync_fetch_and_add(&acked, 1);
    } else if (f->vector == 0x71) {
        hits[n]++;
    } else if (f->vector == 0x72) {
        set_cr3(cr3());
        __sync_fetch_and_add(&acked, 1);
    }
    apic_eoi();
}

static void on_nmi(struct frame *f)
{
    nmis[me()]++;
}

/* ---- what all processors do at once ---- */

static void job_atomics(u32 n)
{
    for (u32 i = 0; i < rounds; i++) {
        __asm__ volatile("lock incq %0" : "+m"(counter)::"memory", "cc");
        __asm__ volatile("lock addl $1, (%0)" ::"r"(line) : "memory", "cc");
        __asm__ volatile("lock addl $1, (%0)" ::"r"(line + 62)
                         : "memory", "cc"); /* two lines */
        u64 v = 1;
        __asm__ volatile("lock xaddq %0, (%1)" : "+r"(v) : "r"(line + 128) : "memory", "cc");
        u64 a, d;
        do {
            a = *(volatile u64 *)(line + 192);
            d = *(volatile u64 *)(line + 200);
            u8 ok;
            __asm__ volatile("lock cmpxchg16b (%4); setz %0"
                             : "=q"(ok), "+a"(a), "+d"(d)
                             : "b"(a + 1), "r"(line + 192), "c"(d + 2)
                             : "memory", "cc");
            if (ok)
                break;
        } while (true);
        if (n == 0 && (i & 1023) == 0)
            barrier();
    }
}

static void job_locks(u32 n)
{
    for (u32 i = 0; i < rounds / 4; i++) {
        u32 v;
        do { /* xchg lock */
            v = 1;
            __asm__ volatile("xchgl %0, %1" : "+r"(v), "+m"(lock_word)::"memory");
            if (v)
                pause();
        } while (v);
        if (owned++)
            errors++;
        counter++;
        owned--;
        barrier();
        lock_word = 0;
        u32 mine = __sync_fetch_and_add(&ticket_next, 1);
        while (ticket_now != mine)
            pause();
        counter2++;
        barrier();
        ticket_now = ticket_now + 1;
    }
}

/* Loads are not reordered past a full fence: both cannot read 0 (SDM 3, 8.2.3.4). */
static void job_order(u32 n)
{
    if (n > 1)
        return;
    for (u32 i = 0; i < rounds / 4; i++) {
        if (n == 0) {
            x = y = 0;
            r[0] = r[1] = 9;
            barrier();
            __sync_fetch_and_add(&turn, 1);
            x = 1;
            __asm__ volatile("mfence" ::: "memory");
            r[0] = y;
            while (turn != 2 * i + 2)
                pause();
            while (r[1] == 9)
                pause();
            if (!r[0] && !r[1])
                errors++;
        } else {
            while (turn != 2 * i + 1)
                pause();
            y = 1;
            __asm__ volatile("lock orl $0, (%%rsp)" ::: "memory");
            u32 got = x;
            __sync_fetch_and_add(&turn, 1);
            r[1] = got;
        }
        if (n == 1)
            while (turn == 2 * i + 2 && i + 1 < rounds / 4)
                pause();
    }
}

/* A value and then a flag: who sees the flag sees the value. */
static void job_message(u32 n)
{
    if (n == 0) {
        for (u32 i = 1; i <= rounds; i++) {
            x = i;
            barrier();
            y = i;
        }
    } else {
        u32 seen;
        do {
            seen = y;
            barrier();
            if (x < seen)
                __sync_fetch_and_add(&errors, 1);
        } while (seen < rounds);
    }
}

static void job_tsc(u32 n)
{
    (void)n;
    for (u32 i = 0; i < rounds / 4; i++) {
        u32 v;
        do {
            v = 1;
            __asm__ volatile("xchgl %0, %1" : "+r"(v), "+m"(lock_word)::"memory");
        } while (v);
        __asm__ volatile("lfence" ::: "memory");
        u64 now = rdtsc();
        if (now < last_stamp)
            errors++;
        last_stamp = now;
        barrier();
        lock_word = 0;
        pause();
    }
}

/* Reads a page that the first processor maps elsewhere and shoots down. */
static void job_shoot(u32 n)
{
    if (n) {
        sti();
        while (!stop) {
            u32 before = acked;
            barrier();
            u8 v = *VA;
            barrier();
            if (v != 0x11 && v != 0x22)
                __sync_fetch_and_add(&errors, 1);
            (void)before;
        }
        cli();
        return;
    }
    for (u32 i = 0; i < 200; i++) {
        u8 want = i & 1 ? 0x11 : 0x22;

        tables[2][0] = (u64)pages[i & 1 ? 0 : 1] | 3;
        acked = 0;
        invlpg(VA);
        apic_ipi(0, 0xc0000 | (i & 2 ? 0x70 : 0x72)); /* all but self */
        u64 end = rdtsc() + 120000000000ull;
        while (acked != cpus - 1 && rdtsc() < end)
            pause();
        if (acked != cpus - 1) {
            errors += 1000;
            break;
        }
        /* Now nobody may reach the old page. */
        pages[i & 1 ? 1 : 0][0] = 0x99;
        for (u32 k = 0; k < 200; k++)
            pause();
        pages[i & 1 ? 1 : 0][0] = i & 1 ? 0x22 : 0x11;
        if (*VA != want)
            errors++;
    }
    stop = true;
}

/*
 * A word across two pages: some add to all of it, the others to its upper half, which lies in
 * the second page.  Nothing is lost if the one is locked against the other.
 */
static void job_pages(u32 n)
{
    for (u32 i = 0; i < 300; i++) {
        if (n & 1)
            __asm__ volatile("lock incw (%0)" ::"r"(pages[3]) : "memory", "cc");
        else
            __asm__ volatile("lock incl (%0)" ::"r"(pages[3] - 2) : "memory", "cc");
    }
}

/* A write to the page while it is read-only: waits until it is not. */
static void on_write_fault(struct frame *f)
{
    if (f->error != 3 || cr2() >> 12 != (ul)VA >> 12)
        __sync_fetch_and_add(&errors, 1);
    __sync_fetch_and_add(&refused, 1);
    sti();
    while (!(*(volatile u64 *)&tables[2][0] & 2))
        pause();
    cli();
    invlpg(VA);
}

/* The first processor takes the right to write away: after the others said so, none writes. */
static void job_protect(u32 n)
{
    if (n) {
        sti();
        while (!stop)
            ++*(volatile u32 *)(VA + 64 * n);
        cli();
        return;
    }
    for (u32 i = 0; i < 50; i++) {
        u32 was[MAX];

        tables[2][0] = (u64)pages[0] | 1;
        acked = 0;
        apic_ipi(0, 0xc0000 | (i & 1 ? 0x70 : 0x72));
        wait_eq(&acked, cpus - 1);
        for (u32 k = 1; k < cpus; k++)
            was[k] = *(volatile u32 *)(pages[0] + 64 * k);
        for (u32 k = 0; k < 500; k++)
            pause();
        for (u32 k = 1; k < cpus; k++)
            errors += was[k] != *(volatile u32 *)(pages[0] + 64 * k);
        tables[2][0] = (u64)pages[0] | 3;
        u64 end = rdtsc() + 120000000000ull;
        for (u32 k = 1; k < cpus; k++) /* until each has written again */
            while (was[k] == *(volatile u32 *)(pages[0] + 64 * k) && rdtsc() < end)
                pause();
    }
    stop = true;
}

/* Runs code that the first processor rewrites; each serializes with CPUID (SDM 3, 8.1.3). */
static void job_code(u32 n)
{
    if (n == 0) {
        for (u32 i = 1; i <= 100; i++) {
            *(volatile u32 *)(code_writer + 1) = i;
            barrier();
            x = i;
            u64 end = rdtsc() + 120000000000ull;
            while (acked != i * (cpus - 1) && rdtsc() < end)
                pause();
            if (acked != i * (cpus - 1)) {
                errors += 1000;
                x = 100;
                break;
            }
        }
        return;
    }
    for (u32 i = 1; i <= 100; i++) {
        u32 v, c[4];

        while (x < i)
            pause();
        cpuid(0, 0, c);
        __asm__ volatile("call *%1" : "=a"(v) : "r"(code) : "memory");
        if (v != i)
            __sync_fetch_and_add(&errors, 1);
        __sync_fetch_and_add(&acked, 1);
    }
}

/* The other way round: both see data in the page of running code. */
static void job_code_data(u32 n)
{
    for (u32 i = 0; i < 200; i++) {
        u32 v;
        __asm__ volatile("lock incl (%0)" ::"r"(code + 512 + 64 * n) : "memory", "cc");
        __asm__ volatile("lock incl (%0)" ::"r"(code + 256) : "memory", "cc");
        __asm__ volatile("call *%1" : "=a"(v) : "r"(code) : "memory");
        if (v != 100)
            __sync_fetch_and_add(&errors, 1);
    }
}

static void (*const jobs[])(u32) = { job_atomics, job_locks,  job_order, job_message,
                                     job_tsc,     job_shoot,  job_code,  job_code_data,
                                     job_pages,   job_protect };

static void run_all(u32 n)
{
    finished = 0;
    errors = 0;
    stop = false;
    job = n;
    barrier();
    go = go + 1;
    jobs[n](0);
    check("everybody ends", wait_eq(&finished, cpus - 1));
}

void ap_main(void)
{
    struct {
        u16 limit;
        ul base;
    } __attribute__((packed)) p = { sizeof(struct gate) * 256 - 1, (ul)idt };
    u32 round = 0, n;

    __asm__ volatile("lidt %0" ::"m"(p));
    apic_on();
    n = __sync_fetch_and_add(&up, 1) + 1;
    if (n >= MAX) /* too many, or too late: the list is closed */
        for (;;)
            __asm__ volatile("cli; hlt");
    ids[n] = apic_read(APIC_ID) >> 24;
    __sync_fetch_and_add(&finished, 1);
    for (;;) {
        sti();
        while (go == round)
            pause();
        cli();
        round++;
        jobs[job](n);
        __sync_fetch_and_add(&finished, 1);
    }
}

static void start(void)
{
    memcpy((void *)0x8000, ap_start, (ul)(ap_end - ap_start));
    /* the pseudo-descriptor that it loads lies in the copy */
    apic_on();
    ids[0] = apic_read(APIC_ID) >> 24;
    finished = 0;
    apic_ipi(0, 0xc4500); /* INIT to all but self */
    delay_us(10000);
    apic_ipi(0, 0xc4608); /* SIPI, page 8 */
    delay_us(1000);
    apic_ipi(0, 0xc4608);
    for (u32 i = 0, was = 0, still = 0; i < 2000 && still < 400; i++) {
        delay_us(500);
        still = up == was && up ? still + 1 : 0;
        was = up;
    }
    cpus = __sync_fetch_and_or(&up, CLOSED) + 1;
    wait_eq(&finished, cpus - 1);
    put("# processors: ");
    put_hex(cpus);
    put("\n");
}

static void ipis(void)
{
    bool ok = true;

    for (u32 i = 1; i < cpus; i++) {
        u32 was = hits[i];

        apic_ipi(ids[i], 0x71);
        ok &= wait_eq(&hits[i], was + 1);
    }
    check("an IPI to each", ok);
    for (u32 i = 0; i < 200; i++) {
        u32 n = 1 + i % (cpus - 1), was = hits[n];

        apic_ipi(ids[n], 0x71);
        ok &= wait_eq(&hits[n], was + 1);
    }
    check("200 round trips", ok);
    u32 mine = hits[0];
    apic_ipi(0, 0x80071); /* all with self */
    sti();
    ok = wait_eq(&hits[0], mine + 1);
    cli();
    check("an IPI to all comes back", ok);
    apic_ipi(ids[1], 0x400);
    check("an NMI to another", wait_eq(&nmis[1], 1));
    /* logical, flat: each gets a bit when asked; only ours is set here */
    apic_write(APIC_LDR, 0x80000000);
    mine = hits[0];
    apic_ipi(0x80, 0x871);
    sti();
    ok = wait_eq(&hits[0], mine + 1);
    cli();
    check("logical destination", ok);
}

static u64 at(const void *p)
{
    return *(const volatile u64 *)p;
}

void main(void)
{
    handlers[0x70] = handlers[0x71] = handlers[0x72] = on_ipi;
    handlers[2] = on_nmi;
    start();
    check("other processors started", cpus > 1);
    if (cpus < 2)
        return;
    rounds = 16000 / cpus;
    ipis();
    counter = 0;
    run_all(0);
    u64 n = (u64)cpus * rounds;
    check_eq("lock inc", counter, n);
    check_eq("lock add", *(volatile u32 *)line, n);
    check_eq("lock add across lines", *(volatile u32 *)(line + 62), n);
    check_eq("lock xadd", at(line + 128), n);
    check_eq("lock cmpxchg16b, low", at(line + 192), n);
    check_eq("lock cmpxchg16b, high", at(line + 200), 2 * n);
    counter = 0;
    run_all(1);
    check_eq("locks exclude", errors, 0);
    check_eq("counts under XCHG", counter, (u64)cpus * (rounds / 4));
    check_eq("counts under XADD", counter2, (u64)cpus * (rounds / 4));
    turn = 0;
    run_all(2);
    check_eq("store and load with fences", errors, 0);
    x = y = 0;
    barrier();
    run_all(3);
    check_eq("stores in order", errors, 0);
    last_stamp = 0;
    run_all(4);
    check_eq("TSC never goes back", errors, 0);
    pml4[128] = (u64)tables[0] | 7;
    tables[0][0] = (u64)tables[1] | 7;
    tables[1][0] = (u64)tables[2] | 7;
    tables[2][0] = (u64)pages[0] | 3;
    memset(pages[0], 0x11, 4096);
    memset(pages[1], 0x22, 4096);
    run_all(5);
    check_eq("TLB shootdown", errors, 0);
    static const u8 mov_ret[] = { 0xb8, 0, 0, 0, 0, 0xc3 };
    memcpy(code, mov_ret, sizeof mov_ret);
    x = acked = 0;
    barrier();
    run_all(6);
    check_eq("code written by another", errors, 0);
    tables[2][1] = (u64)code | 3;
    code_writer = (u8 *)VA + 4096;
    x = acked = 0;
    barrier();
    run_all(6);
    check_eq("code written by another through another mapping", errors, 0);
    run_all(7);
    check_eq("code among shared data", errors, 0);
    check_eq("data among shared code", *(volatile u32 *)(code + 256), 200 * cpus);
    memset(pages[2], 0, 8192);
    run_all(8);
    check_eq("lock across pages and lock within one",
             *(volatile u16 *)(pages[3] - 2) | (u32) * (volatile u16 *)pages[3] << 16,
             300 * ((cpus + 1) / 2) + (300 * (cpus / 2) << 16));
    handlers[14] = on_write_fault;
    tables[2][0] = (u64)pages[0] | 3;
    invlpg(VA);
    run_all(9);
    check_eq("write protection by another", errors, 0);
    check("some writes were refused", refused > 0);
}
