/* verbs_device.h - RDMA devices: which one, which of its ports and addresses (GIDs), and open ones shared in a process. */
#ifndef RFAAS_VERBS_DEVICE_H
#define RFAAS_VERBS_DEVICE_H

#include <infiniband/verbs.h>
#include <stdbool.h>
#include <stdint.h>

enum {
    RFAAS_VERBS_NAME_BYTES = 64,
    RFAAS_VERBS_PROBLEM_BYTES = 160,
};

/* What of a device a connection uses. */
typedef struct rfaas_verbs_port {
    struct ibv_context *context;
    uint8_t port;
    int gid_index;
    union ibv_gid gid;
    struct ibv_port_attr attributes;
} rfaas_verbs_port;

/* Opens, or takes one more reference to, what `wish` names ("mlx5_0", "mlx5_0:1"; "": any) with an address that the
 * socket `fd` is bound to, if there is one. False: `why` says what is missing, and the remedy. Thread-safe. */
bool rfaas_verbs_port_open(rfaas_verbs_port *port, const char *wish, int fd, char why[RFAAS_VERBS_PROBLEM_BYTES]);

void rfaas_verbs_port_close(rfaas_verbs_port *port);

/* All addresses of all devices, one call each; ports that are down have none but are told once with `gid` NULL. */
typedef void (*rfaas_verbs_tell)(void *told, const char *device, const struct ibv_device_attr *limits, uint8_t port,
                                 const struct ibv_port_attr *attributes, const struct ibv_gid_entry *gid);

/* 0, or the errno with which the system has no list of devices. */
int rfaas_verbs_devices(rfaas_verbs_tell tell, void *told);

#endif
