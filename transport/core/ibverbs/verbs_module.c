/* verbs_module.c - see verbs_module.h. */
#include "verbs_module.h"

#include <stdio.h>
#include <string.h>

#include "verbs_device.h"
#include "verbs_over_ib.h"

typedef struct found {
    bool any, usable;
} found;

static void look_at(void *told, const char *device, const struct ibv_device_attr *limits, uint8_t port,
                    const struct ibv_port_attr *attributes, const struct ibv_gid_entry *gid)
{
    (void)device;
    (void)limits;
    (void)port;
    found *so_far = told;
    so_far->any = true;
    so_far->usable |= attributes->state == IBV_PORT_ACTIVE && gid != NULL;
}

static void why_no_port(char why[RFAAS_VERBS_WHY_BYTES])
{
    found here = {false, false};
    int error = rfaas_verbs_devices(look_at, &here);
    if (error != 0)
        snprintf(why, RFAAS_VERBS_WHY_BYTES, "the list of RDMA devices can't be read: %s", strerror(error));
    else
        snprintf(why, RFAAS_VERBS_WHY_BYTES, "%s",
                 !here.any ? RFAAS_VERBS_NO_DEVICE : here.usable ? "" : RFAAS_VERBS_NO_PORT);
}

extern const rfaas_verbs_module rfaas_verbs_module_of_c; /* found by RFAAS_VERBS_MODULE_SYMBOL */

__attribute__((visibility("default"))) const rfaas_verbs_module rfaas_verbs_module_of_c = {
    .ops_bytes = sizeof(rfaas_verbs_ops),
    .ops = &rfaas_verbs,
    .why_no_port = why_no_port,
};
