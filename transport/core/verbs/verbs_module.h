/* verbs_module.h - RDMA for a program that is no Python: what librfaas_verbs.so exports. librfaas loads it where RDMA is
 * asked for, so that it itself needs no libibverbs.
 *
 * The two come from one build and lie in one directory; `ops_bytes` tells where they don't.
 */
#ifndef RFAAS_VERBS_MODULE_H
#define RFAAS_VERBS_MODULE_H

#include "verbs_link.h"

typedef struct rfaas_verbs_module {
    size_t ops_bytes; /* sizeof(rfaas_verbs_ops) */
    const rfaas_verbs_ops *ops;

    /* Leaves in `why` why no device of this host can be used now, "" if one can. Opens devices for that. */
    void (*why_no_port)(char why[RFAAS_VERBS_WHY_BYTES]);
} rfaas_verbs_module;

#define RFAAS_VERBS_MODULE_SYMBOL "rfaas_verbs_module_of_c"
#define RFAAS_VERBS_NO_DEVICE "no RDMA device is here (/sys/class/infiniband is empty)"
#define RFAAS_VERBS_NO_PORT "no port of an RDMA device is up"

#endif
