/* held.h - what a descriptor refers to, to be compared after code ran that may have closed or replaced it. */
#ifndef RFAAS_HELD_H
#define RFAAS_HELD_H

#include <stdbool.h>
#include <sys/stat.h>

typedef struct {
    int fd;
    dev_t device;
    ino_t inode;
} rfaas_held;

/* Remember what a descriptor refers to. 0, or -1 with errno. */
static inline int rfaas_hold(int fd, rfaas_held *held)
{
    struct stat about;
    if (fstat(fd, &about) != 0)
        return -1;
    *held = (rfaas_held){.fd = fd, .device = about.st_dev, .inode = about.st_ino};
    return 0;
}

/* True while it refers to the same. */
static inline bool rfaas_is_held(const rfaas_held *held)
{
    struct stat about;
    return fstat(held->fd, &about) == 0 && about.st_dev == held->device && about.st_ino == held->inode;
}

#endif
