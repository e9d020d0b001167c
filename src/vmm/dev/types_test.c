// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * types_test.c - what every device type has to stand, without knowing what it is.
 *
 * Its table covers each byte of its registers; save, load, save gives the same bytes; each
 * bounded field refuses what is above its bound; mangled streams are refused or loaded, and
 * what was loaded can be used, saved and reset; random guest accesses do no harm.  Types that
 * need a board around them (PCI functions, the LAPICs) are realized by their own tests; here
 * only their tables are looked at.
 */
#include <errno.h>

#include "base/test.h"
#include "vmm/core/bench.h"

enum { PORT = 0x1000, NOISE_ROUNDS = 300, ACCESSES = 3000 };

TEST(every_type_is_described)
{
    for (u32 i = 0; dev_types[i]; i++) {
        const struct dev_type *t = dev_types[i];
        g_autofree char *why = NULL;
        bool ok = !t->state.size || state_check_table(&t->state, &why);

        if (!ok)
            printf("# %s: %s\n", t->name, why);
        EXPECT(ok);
        EXPECT(t->name && t->name[0]);
        EXPECT(t->size >= sizeof(struct dev));
        EXPECT(t->state.offset + t->state.size <= t->size);
        EXPECT(!t->state.size || t->state.offset >= sizeof(struct dev));
        EXPECT(t->irqs <= DEV_IRQS_MAX);
        EXPECT(dev_type_find(t->name) == t); /* names are unique */
        for (const struct prop *p = t->props; p && p->name; p++) {
            EXPECT(p->offset >= sizeof(struct dev) && p->offset < t->size);
            EXPECT(dev_prop_find(t, p->name) == p);
            EXPECT(p->kind != PROP_PTR || !p->def);
        }
        for (u32 k = 0; k < ARRAY_LEN(t->io) + ARRAY_LEN(t->mem); k++) {
            const struct region *r =
                k < ARRAY_LEN(t->io) ? t->io[k] : t->mem[k - ARRAY_LEN(t->io)];
            if (!r)
                continue;
            EXPECT(r->name && r->len);
            EXPECT(r->min && r->min <= r->max && r->max <= 8);
            EXPECT(!(r->min & (r->min - 1)) && !(r->max & (r->max - 1)));
            EXPECT_EQ(r->len % r->min, 0);
        }
    }
}

/* Devices that stand alone; NULL when this one does not. */
static bool alone(const struct dev_type *t, struct bench *ret)
{
    g_autoptr(GError) error = NULL;

    if (t->kind == DEV_PCI)
        return false;
    *ret = bench_begin(t, PORT);
    if (bench_realize(ret, &error))
        return true;
    printf("# %s needs its board: %s\n", t->name, error->message);
    bench_free(ret);
    return false;
}

static int load_raw(struct bench *b, const u8 *regs)
{
    struct state_table t = b->dev->type->state;
    g_autoptr(GByteArray) s = g_byte_array_new();

    t.offset = 0;
    state_save(&t, regs, s);
    return bench_load_bytes(b, s->data, s->len);
}

static u64 type_max(u32 size)
{
    return UINT64_MAX >> (64 - 8 * size);
}

static u32 exceed(struct bench *b, const struct state_field *fields, u32 n, u8 *regs, u32 base)
{
    u32 tried = 0;

    for (u32 i = 0; i < n; i++) {
        const struct state_field *f = &fields[i];

        for (u32 k = 0; k < f->count; k++) {
            u32 at = base + f->offset + k * f->size;

            if (f->kind == STATE_K_STRUCT)
                tried += exceed(b, f->sub, f->n_sub, regs, at);
            if (f->kind != STATE_K_UINT || f->max >= type_max(f->size))
                continue;
            u64 old = 0, bad = f->max + 1; /* little-endian hosts only, as the whole */
            memcpy(&old, regs + at, f->size);
            memcpy(regs + at, &bad, f->size);
            bool refused = load_raw(b, regs) == -EBADMSG;
            if (!refused)
                printf("# %s: field '%s' takes %#llx\n", b->dev->type->name, f->name,
                       (unsigned long long)bad);
            EXPECT(refused);
            memcpy(regs + at, &old, f->size);
            tried++;
        }
    }
    return tried;
}

TEST(every_type_bounds_its_fields)
{
    for (u32 i = 0; dev_types[i]; i++) {
        const struct dev_type *t = dev_types[i];
        struct bench b;

        if (!t->state.size || !alone(t, &b))
            continue;
        g_autofree u8 *regs = g_memdup2((u8 *)b.dev + t->state.offset, t->state.size);

        EXPECT_EQ(load_raw(&b, regs), 0);
        u32 tried = exceed(&b, t->state.fields, t->state.n, regs, 0);
        printf("# %s: %u bounds\n", t->name, tried);
        bench_free(&b);
    }
}

TEST(every_type_saves_what_it_loads)
{
    for (u32 i = 0; dev_types[i]; i++) {
        struct bench b;

        if (!alone(dev_types[i], &b))
            continue;
        g_autoptr(GByteArray) s = bench_save(&b);
        bench_migrate(&b);
        g_autoptr(GByteArray) s2 = bench_save(&b);
        EXPECT(s->len == s2->len && (!s->len || !memcmp(s->data, s2->data, s->len)));
        bench_free(&b);
    }
}

/* What a guest may do, at random, to all that the device shows. */
static void poke(struct bench *b, GRand *rand, u32 n)
{
    const struct dev_type *t = b->dev->type;
    u64 ports = 0;
    u32 mems = 0;

    for (u32 k = 0; k < ARRAY_LEN(t->io) && t->io[k]; k++)
        ports += t->io[k]->len;
    while (mems < ARRAY_LEN(t->mem) && t->mem[mems])
        mems++;
    while (n--) {
        unsigned size = 1u << g_rand_int_range(rand, 0, 4);
        bool io = ports && (!mems || g_rand_boolean(rand));
        u64 val = (u64)g_rand_int(rand) << 32 | g_rand_int(rand), at;

        if (g_rand_boolean(rand))
            val &= 0xff;
        if (io) {
            size = MIN(size, 4);
            at = PORT + g_rand_int(rand) % ports;
        } else if (mems) {
            u32 k = g_rand_int(rand) % mems;
            at = BENCH_MEM + k * MiB + g_rand_int(rand) % MIN(t->mem[k]->len, MiB);
        } else {
            break;
        }
        struct bus *bus = io ? b->vm->io : b->vm->mem;
        if (g_rand_boolean(rand))
            bus_read(bus, at, size);
        else
            bus_write(bus, at, val, size);
        if (n % 16 == 0)
            bench_step(b, 10 * NS_PER_US);
    }
}

TEST(every_type_stands_noise)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(20);

    for (u32 i = 0; dev_types[i]; i++) {
        const struct dev_type *t = dev_types[i];
        struct bench b;
        u32 loaded = 0;

        if (!alone(t, &b))
            continue;
        for (u32 pin = 0; t->irq_in && pin < 4; pin++)
            bench_irq_in(&b, pin, true);
        poke(&b, rand, ACCESSES);
        g_autoptr(GByteArray) used = bench_save(&b);
        EXPECT_EQ(bench_load_bytes(&b, used->data, used->len),
                  0); /* its own state is in bounds */
        for (u32 n = 0; n < NOISE_ROUNDS && used->len; n++) {
            g_autofree u8 *copy = g_memdup2(used->data, used->len);

            for (u32 k = (u32)g_rand_int_range(rand, 1, 6); k--;)
                copy[g_rand_int(rand) % used->len] = (u8)g_rand_int(rand);
            if (bench_load_bytes(&b, copy, used->len))
                continue;
            loaded++;
            poke(&b, rand, 20);
            g_autoptr(GByteArray) again = bench_save(&b);
            EXPECT_EQ(bench_load_bytes(&b, again->data, again->len), 0);
        }
        printf("# %s: %u of %u mangled states were loaded\n", t->name, loaded, NOISE_ROUNDS);
        dev_reset(b.dev);
        bench_free(&b);
    }
}
TEST_MAIN()
