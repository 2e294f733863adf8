/* zerocopy.h - sending by reference on a TCP socket (MSG_ZEROCOPY): which loans to the kernel have come back.
 *
 * Linux counts such sends of a socket and says on its error queue which are done. Off unless the socket has SO_ZEROCOPY.
 * Untested on a real network card: over loopback the kernel copies after all, and says so.
 */
#ifndef RFAAS_ZEROCOPY_H
#define RFAAS_ZEROCOPY_H

#include <stdbool.h>
#include <stdint.h>

enum {
    RFAAS_ZEROCOPY_MIN_BYTES = 65536, /* of a payload; pinning pages costs more than copying less */
    RFAAS_ZEROCOPY_RANGES = 16,       /* kept that came before their turn */
};

typedef struct rfaas_zerocopy {
    bool on;
    uint64_t returned; /* loans that have come back, without a gap */
    struct {
        uint64_t first, end;
    } early[RFAAS_ZEROCOPY_RANGES]; /* with a gap before them; end 0: free */
} rfaas_zerocopy;

/* Whether the socket has SO_ZEROCOPY. */
bool rfaas_zerocopy_is_on(int fd);

/* Reads the error queue to its end; never blocks. `loans`: made so far. Updates `returned`. */
void rfaas_zerocopy_collect(rfaas_zerocopy *zerocopy, int fd, uint64_t loans);

/* Loans [first, end) have come back. */
void rfaas_zerocopy_note(rfaas_zerocopy *zerocopy, uint64_t first, uint64_t end);

#endif
