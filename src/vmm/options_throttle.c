// SPDX-License-Identifier: GPL-2.0-or-later
/* options_throttle.c - limits of disks: as -drive has them, and -object throttle-group. */
#include <string.h>

#include "base/error.h"
#include "vmm/options_parse.h"

/* What they were called before they had a prefix; with _max and _max_length. */
static const char *const old_names[IMAGE_LIMITS] = {
    [IMAGE_BPS] = "bps",   [IMAGE_BPS_READ] = "bps_rd",   [IMAGE_BPS_WRITE] = "bps_wr",
    [IMAGE_IOPS] = "iops", [IMAGE_IOPS_READ] = "iops_rd", [IMAGE_IOPS_WRITE] = "iops_wr",
};

static bool take(GPtrArray *kv, const char *prefix, const char *name, const char *end, u64 *io,
                 GError **error)
{
    char key[64];

    g_snprintf(key, sizeof key, "%s%s%s", prefix, name, end);
    return value_take_uint(kv, key, INT64_MAX, io, error);
}

static bool take_limits(GPtrArray *kv, const char *prefix, struct image_throttle *t,
                        GError **error)
{
    for (u32 i = 0; i < IMAGE_LIMITS; i++) {
        struct image_limit *l = &t->limit[i];

        if (!take(kv, prefix, image_limit_names[i], "", &l->avg, error) ||
            !take(kv, prefix, image_limit_names[i], "-max", &l->max, error) ||
            !take(kv, prefix, image_limit_names[i], "-max-length", &l->seconds, error))
            return false;
    }
    return take(kv, prefix, "iops-size", "", &t->op_size, error);
}

bool value_take_throttling(GPtrArray *kv, struct image_throttle *t, char **ret_group,
                           GError **error)
{
    image_throttle_init(t);
    for (u32 i = 0; i < IMAGE_LIMITS; i++) {
        struct image_limit *l = &t->limit[i];

        if (!take(kv, "", old_names[i], "", &l->avg, error) ||
            !take(kv, "", old_names[i], "_max", &l->max, error) ||
            !take(kv, "", old_names[i], "_max_length", &l->seconds, error))
            return false;
    }
    *ret_group = opts_take(kv, "throttling.group");
    return take(kv, "", "iops_size", "", &t->op_size, error) &&
           take_limits(kv, "throttling.", t, error) && image_throttle_ok(t, error);
}

bool throttle_group_option(struct parse *p, GPtrArray *kv, const char *id, GError **error)
{
    struct throttle_desc *d = g_new0(struct throttle_desc, 1);

    d->id = g_strdup(id);
    g_ptr_array_add(p->m->throttles, d);
    image_throttle_init(&d->limits);
    g_free(opts_take(kv, "qom-type"));
    g_free(opts_take(kv, "id"));
    return take_limits(kv, "x-", &d->limits, error) &&
           take_limits(kv, "limits.", &d->limits, error) &&
           image_throttle_ok(&d->limits, error) && value_none_left(kv, error);
}
