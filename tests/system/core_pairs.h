/* core_pairs.h - connected channels over each medium, for tests in C. */
#ifndef RFAAS_CORE_PAIRS_H
#define RFAAS_CORE_PAIRS_H

#include "expect.h"
#include "rfaas_channel.h"

enum { BUDGET_BYTES = 1 << 20, LIMIT_BYTES = 1 << 24 };

typedef void (*make_pair_f)(rfaas_channel **left, rfaas_channel **right);

void tcp_sockets(int fds[2]);

void inproc_pair(rfaas_channel **left, rfaas_channel **right);
void unix_pair(rfaas_channel **left, rfaas_channel **right);
void shm_pair(rfaas_channel **left, rfaas_channel **right);
void tcp_pair(rfaas_channel **left, rfaas_channel **right);
void zerocopy_pair(rfaas_channel **left, rfaas_channel **right);
void awake_pair(rfaas_channel **left, rfaas_channel **right); /* tcp */

/* Both sides have proved the key when it returns. */
void tls_pair(rfaas_channel **left, rfaas_channel **right);
void awake_tls_pair(rfaas_channel **left, rfaas_channel **right);

#endif
