/* verbs_pair.h - one reliable connected queue pair with all that it needs: made, connected, ended; and what befell it.
 *
 * For the files that offer verbs_link.h over libibverbs: this one, verbs_over_ib.c, which moves bytes through it, and
 * verbs_regions.c, which registers memory and has the device read and write for it.
 */
#ifndef RFAAS_VERBS_PAIR_H
#define RFAAS_VERBS_PAIR_H

#include "verbs_alarm.h"
#include "verbs_link.h"

enum {
    RFAAS_VERBS_SENDS_MAX = 512,
    RFAAS_VERBS_POLL_AT_ONCE = 16,
};

typedef struct rfaas_verbs_kept {
    struct rfaas_verbs_kept *next;
    struct ibv_mr *memory;
} rfaas_verbs_kept;

struct rfaas_verbs_link {
    rfaas_verbs_port port;
    rfaas_verbs_alarm alarm;
    bool has_alarm;
    int wait_fd; /* readable: completion events, or the device or the alarm has something to tell */
    struct ibv_pd *domain;
    struct ibv_comp_channel *events;
    struct ibv_cq *sent, *received;
    struct ibv_qp *pair;
    struct ibv_mr *ring, *source; /* what the peer writes to; what this side sends from, and the bytes behind that */
    rfaas_verbs_kept *kept;       /* more memory, for reads and writes of either side's, until the queue pair has gone */
    uint8_t *memory;
    uint32_t packet_sequence, inline_bytes;
    uint64_t peer_ring;
    uint32_t peer_key, peer_ring_bytes;
    uint64_t posted, last_signalled; /* sends and reads, counted */
    _Atomic uint64_t acknowledged, read_until; /* up to where the device is done; which of them was the last read */
    atomic_flag reaping;
    uint8_t reads_served, reads_begun; /* at once: of this side's memory, of the peer's */
    bool has_windows;                  /* the device opens memory windows of type 2B, bound to one queue pair */
    _Atomic int receive_status, send_status;       /* enum ibv_wc_status, 0: all is well */
    int error;                                     /* errno of what failed otherwise */
    const char *doing;                             /* when it failed */
    char why[RFAAS_VERBS_WHY_BYTES];
};

/* Entries of struct rfaas_verbs_ops. */
rfaas_verbs_link *rfaas_verbs_pair_begin(const char *device, int fd, uint8_t *memory, size_t memory_bytes, size_t ring_bytes,
                                         rfaas_verbs_address *address, char problem[RFAAS_VERBS_WHY_BYTES]);
bool rfaas_verbs_pair_connect(rfaas_verbs_link *link, const rfaas_verbs_address *peer);
bool rfaas_verbs_pair_allow(rfaas_verbs_link *link, uint32_t n);
bool rfaas_verbs_pair_violated(rfaas_verbs_link *link);
const char *rfaas_verbs_pair_why(const rfaas_verbs_link *link);
void rfaas_verbs_pair_free(rfaas_verbs_link *link, bool inherited);

/* Hands a request over: OK, AGAIN (too many are on their way; completions were asked for just now), BROKEN. */
rfaas_rc rfaas_verbs_pair_post(rfaas_verbs_link *link, struct ibv_send_wr *request);

/* Entries of struct rfaas_verbs_ops, of verbs_regions.c. */
rfaas_verbs_region *rfaas_verbs_enroll(rfaas_verbs_link *link, void *memory, size_t size_bytes, rfaas_verbs_use use,
                                       uint32_t *key);
void rfaas_verbs_withdraw(rfaas_verbs_link *link, rfaas_verbs_region *region);
rfaas_verbs_window *rfaas_verbs_open_window(rfaas_verbs_link *link, rfaas_verbs_region *region, void *at, size_t size_bytes,
                                            uint32_t *key);
void rfaas_verbs_close_window(rfaas_verbs_link *link, rfaas_verbs_window *window);
rfaas_rc rfaas_verbs_read(rfaas_verbs_link *link, const rfaas_verbs_region *region, void *to, size_t size_bytes, uint64_t from,
                          uint32_t key);
int rfaas_verbs_reading(rfaas_verbs_link *link);
rfaas_rc rfaas_verbs_access(rfaas_verbs_link *link, const rfaas_remote_access *access, uint64_t *number);
bool rfaas_verbs_accessed(rfaas_verbs_link *link, uint64_t *number);
bool rfaas_verbs_arm_accessed(rfaas_verbs_link *link);

/* Notes what failed; false. */
bool rfaas_verbs_pair_failed(rfaas_verbs_link *link, const char *doing, int error);

/* Takes back what is kept, after the queue pair has gone. */
void rfaas_verbs_withdraw_kept(rfaas_verbs_link *link);

/* Takes completions of sends and reads, unless another thread does. False: the connection failed. */
bool rfaas_verbs_pair_reap(rfaas_verbs_link *link);

#endif
