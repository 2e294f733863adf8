/* verbs_remote.c - remote_memory.h over RDMA: what a channel's owner asks of its link beside frames. */
#include "verbs_channel.h"

#include <errno.h>

static int enroll(rfaas_channel *base, uint8_t *bytes, size_t size_bytes, rfaas_verbs_use use, uint32_t *key)
{
    verbs_channel *channel = (verbs_channel *)base;
    if (base->closed)
        return ENOTCONN;
    return channel->ops->enroll(channel->link, bytes, size_bytes, use, key) != NULL ? 0 : errno;
}

static int lend(rfaas_channel *base, uint8_t *bytes, size_t size_bytes, uint32_t *key)
{
    return enroll(base, bytes, size_bytes, RFAAS_VERBS_LENT, key);
}

static int use(rfaas_channel *base, uint8_t *bytes, size_t size_bytes, uint32_t *key)
{
    return enroll(base, bytes, size_bytes, RFAAS_VERBS_BORROWING, key);
}

static rfaas_rc begin(rfaas_channel *base, const rfaas_remote_access *access, uint64_t *number)
{
    verbs_channel *channel = (verbs_channel *)base;
    if (base->closed || channel->state != RFAAS_VERBS_OPEN)
        return RFAAS_BROKEN;
    rfaas_rc rc = channel->ops->access(channel->link, access, number);
    return rc == RFAAS_BROKEN ? rfaas_verbs_broken_below(channel) : rc;
}

static rfaas_rc done(rfaas_channel *base, uint64_t *number)
{
    verbs_channel *channel = (verbs_channel *)base;
    if (base->closed)
        return RFAAS_BROKEN;
    return channel->ops->accessed(channel->link, number) ? RFAAS_OK : rfaas_verbs_broken_below(channel);
}

static bool arm(rfaas_channel *base)
{
    verbs_channel *channel = (verbs_channel *)base;
    return !base->closed && channel->ops->arm_accessed(channel->link);
}

const rfaas_remote_ops rfaas_verbs_remote = {.lend = lend, .use = use, .begin = begin, .done = done, .arm = arm};
