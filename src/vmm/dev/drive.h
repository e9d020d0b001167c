// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * drive.h - what -drive and -blockdev make: a named place for a disk image, which a disk device
 * takes as its medium.  It may be empty, and those that can be opened change their medium.
 *
 * The device that has it registers itself by drive_attach(); from then on `image` changes only
 * with that device's lock held and no request of it under way.
 *
 * Threads: all but what says otherwise on the main thread, no device lock held.
 */
#pragma once

#include "image/image.h"
#include "vmm/core/dev.h"

/* What a device with a removable medium does; all with `lock`'s lock held. */
struct drive_ops {
    bool (*tray_open)(void *opaque);
    bool (*locked)(void *opaque); /* the guest does not want it to be taken out */
    void (*asked)(void *opaque);  /* somebody pressed the eject button of a locked drive */
    void (*set_tray)(void *opaque, bool open);
    void (*changed)(void *opaque); /* another medium, or none */
    bool (*busy)(void *opaque);    /* requests are under way */
};

struct drive {
    struct vm *vm;
    char *id;
    struct image *image; /* NULL: no medium */
    struct image_options options;
    bool cdrom;
    enum image_on_error rerror, werror;
    char *group; /* throttling; NULL: none */
    struct image_throttle throttle;
    bool node; /* -blockdev, blockdev-add: the id is that of a node, not of a drive */
    /* the device, NULL: none */
    struct dev *dev;             /* who it is for people */
    struct dev *lock;            /* whose lock guards it */
    const struct drive_ops *ops; /* NULL: the medium cannot be changed */
    void *opaque;
};

/* In vm->drives; id is copied, image (or NULL) taken over. */
struct drive *drive_new(struct vm *, const char *id, struct image *, bool cdrom);
/* One for a node of blockdev-add that a device wants. */
struct drive *drive_of_node(struct vm *, const char *node_name, GError **error);
/* Those of a node that no device has: so that the node can go. */
void drive_free_unused(struct vm *, const char *node_name);
void drive_free(struct drive *);
/* What is set above holds for the image from now on. */
void drive_settle(struct drive *);
/* What a device has as rerror= and werror=; NULL and "auto": as the drive has it. */
bool drive_error_props(struct drive *, const char *rerror, const char *werror, GError **error);
struct drive *drive_find_image(struct vm *, const struct image *); /* NULL: it is no drive's */
/* Limits for the drive and all of its group; false: they do not go together, or it is empty.
 * group NULL: the one it is in, or its own. */
bool drive_set_throttle(struct drive *, const char *group, const struct image_throttle *,
                        GError **error);
/* vm->graph, which knows the drives by name. */
void drive_make_graph(struct vm *);
void drive_free_all(struct vm *);
/* By its own id, or by the id of its device; NULL: none. */
struct drive *drive_find(struct vm *, const char *id, const char *dev_id);

/* For devices, from init and fini. */
void drive_attach(struct drive *, struct dev *dev, struct dev *lock, const struct drive_ops *,
                  void *opaque);
void drive_detach(struct drive *);

bool drive_tray_open(struct drive *);
bool drive_locked(struct drive *);
/* force: although the guest has locked it. */
bool drive_open_tray(struct drive *, bool force, GError **error);
bool drive_close_tray(struct drive *, GError **error);
/* Opens the tray and takes the medium out, if there is one. */
bool drive_eject(struct drive *, bool force, GError **error);
/* Ejects, puts this one in and closes the tray. format NULL: probed; read_only -1: as before.
 */
bool drive_change(struct drive *, const char *file, const char *format, int read_only,
                  bool force, GError **error);

/* A device says that its tray moved. Any thread, any lock. */
void drive_tray_moved(struct drive *, bool open);
