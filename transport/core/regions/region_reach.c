/* region_reach.c - a borrower's one-sided reads and writes of spans that its lender opened; see region_span.h.
 *
 * What is read or written passes through memory of this side that is registered once, a piece at a time: any bytes of the
 * program can be read and written that way, and none of them is ever open to the device.
 */
#include "region_span.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum {
    PIECES = 32,
    PIECE_BYTES = 128 << 10,
    STAGE_BYTES = PIECES * PIECE_BYTES,
    LOOKS_A_YIELD = 32, /* soft-RoCE does its work on the CPU that looks */
};

static const uint64_t REGION_BYTES_MAX = (uint64_t)1 << 50; /* 008 section 1 */

typedef enum span_state { UNASKED, OPEN, REFUSED } span_state;

typedef struct reach_span {
    span_state state;
    uint32_t key;
    uint64_t address, size_bytes;
} reach_span;

/* Under way, or free. Piece n uses the n-th part of the stage. */
typedef struct reach_piece {
    uint64_t number; /* among all that the channel's link posted */
    uint64_t offset;
    uint8_t *bytes;
    uint32_t size_bytes;
    bool is_write;
} reach_piece;

struct rfaas_region_reach {
    uint8_t *stage;
    uint32_t stage_key;
    reach_span *spans;
    uint64_t n_spans;
    reach_piece pieces[PIECES]; /* a ring */
    uint32_t first;
};

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static const rfaas_remote_ops *remote_of(const rfaas_region_client *client)
{
    return client->channel->medium->remote;
}

static rfaas_region_reach *make(rfaas_region_client *client)
{
    rfaas_region_reach *made = calloc(1, sizeof *made);
    if (made == NULL)
        return NULL;
    made->stage = mmap(NULL, STAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (made->stage == MAP_FAILED) {
        free(made);
        return NULL;
    }
    madvise(made->stage, STAGE_BYTES, MADV_DONTFORK); /* a child's first write would give this side other pages */
    if (remote_of(client)->use(client->channel, made->stage, STAGE_BYTES, &made->stage_key) != 0) {
        munmap(made->stage, STAGE_BYTES);
        free(made);
        return NULL;
    }
    return made;
}

/* NULL: no region is so large, or there is no memory for it. */
static reach_span *span_of(rfaas_region_reach *reach, uint64_t offset)
{
    uint64_t index = offset / RFAAS_REGION_SPAN_BYTES;
    if (offset >= REGION_BYTES_MAX)
        return NULL; /* the server says so */
    if (index >= reach->n_spans) {
        uint64_t n = index + 1 > 2 * reach->n_spans ? index + 1 : 2 * reach->n_spans;
        reach_span *grown = calloc((size_t)n, sizeof *grown); /* what of it is not touched costs nothing */
        if (grown == NULL)
            return NULL;
        if (reach->n_spans > 0)
            memcpy(grown, reach->spans, (size_t)reach->n_spans * sizeof *grown);
        free(reach->spans);
        reach->spans = grown;
        reach->n_spans = n;
    }
    return &reach->spans[index];
}

rfaas_region_way rfaas_region_reach_way(rfaas_region_client *client, uint64_t offset, uint64_t size_bytes)
{
    if (remote_of(client) == NULL || client->takes_no_span || client->channel->statistics.frames_received == 0)
        return RFAAS_REGION_BY_FRAMES;
    if (client->reach == NULL && (client->reach = make(client)) == NULL) {
        client->takes_no_span = true; /* a limit of locked memory: frames do */
        return RFAAS_REGION_BY_FRAMES;
    }
    const reach_span *span = span_of(client->reach, offset);
    if (span == NULL || span->state == REFUSED)
        return RFAAS_REGION_BY_FRAMES;
    if (span->state == UNASKED)
        return RFAAS_REGION_ASK;
    uint64_t end = offset % RFAAS_REGION_SPAN_BYTES + size_bytes;
    bool is_last = span->size_bytes < RFAAS_REGION_SPAN_BYTES;
    return is_last && end > span->size_bytes ? RFAAS_REGION_BY_FRAMES : RFAAS_REGION_ONE_SIDED;
}

void rfaas_region_reach_answer(rfaas_region_client *client, uint64_t offset, bool refused)
{
    reach_span *span = span_of(client->reach, offset);
    rfaas_region_span_decode(client->span_answer, &span->address, &span->size_bytes, &span->key);
    span->state = refused ? REFUSED : OPEN;
    client->n_spans += !refused;
}

/* A WRITE may overtake a READ, and nothing else anything. */
static bool must_wait(const rfaas_region_client *client, uint64_t offset, uint64_t size_bytes)
{
    const rfaas_region_reach *reach = client->reach;
    for (uint32_t i = 0; i < client->n_pieces; i++) {
        const reach_piece *one = &reach->pieces[(reach->first + i) % PIECES];
        if (!one->is_write && offset < one->offset + one->size_bytes && one->offset < offset + size_bytes)
            return true;
    }
    return false;
}

rfaas_rc rfaas_region_reach_begin(rfaas_region_client *client, uint64_t offset, uint8_t *bytes, uint64_t size_bytes,
                                  bool is_write, uint64_t *begun_bytes)
{
    rfaas_region_reach *reach = client->reach;
    const reach_span *span = &reach->spans[offset / RFAAS_REGION_SPAN_BYTES];
    uint64_t at = offset % RFAAS_REGION_SPAN_BYTES, left_bytes = span->size_bytes - at;
    if (size_bytes > left_bytes)
        size_bytes = left_bytes;
    if (size_bytes > PIECE_BYTES)
        size_bytes = PIECE_BYTES;
    if (client->n_pieces == PIECES || (is_write && must_wait(client, offset, size_bytes)))
        return RFAAS_AGAIN;
    uint32_t index = (reach->first + client->n_pieces) % PIECES;
    uint8_t *stage = reach->stage + (size_t)index * PIECE_BYTES;
    if (is_write)
        memcpy(stage, bytes, (size_t)size_bytes);
    const rfaas_remote_access access = {is_write, stage, reach->stage_key, (uint32_t)size_bytes, span->address + at, span->key};
    uint64_t number;
    rfaas_rc rc = remote_of(client)->begin(client->channel, &access, &number);
    if (rc != RFAAS_OK)
        return rc;
    reach->pieces[index] = (reach_piece){number, offset, bytes, (uint32_t)size_bytes, is_write};
    client->n_pieces++;
    *begun_bytes = size_bytes;
    return RFAAS_OK;
}

static rfaas_rc take(rfaas_region_client *client, rfaas_region_progress *progress)
{
    rfaas_region_reach *reach = client->reach;
    uint64_t done = 0;
    rfaas_rc rc = remote_of(client)->done(client->channel, &done), found = RFAAS_AGAIN;
    while (client->n_pieces > 0 && reach->pieces[reach->first].number <= done) {
        const reach_piece *one = &reach->pieces[reach->first];
        if (!one->is_write)
            memcpy(one->bytes, reach->stage + (size_t)reach->first * PIECE_BYTES, one->size_bytes);
        progress->done_bytes += one->size_bytes;
        reach->first = (reach->first + 1) % PIECES;
        client->n_pieces--;
        found = RFAAS_OK;
    }
    return rc == RFAAS_OK ? found : rc;
}

rfaas_rc rfaas_region_reach_take(rfaas_region_client *client, rfaas_region_progress *progress, int64_t spin_ns)
{
    if (client->n_pieces == 0)
        return RFAAS_AGAIN;
    rfaas_rc rc = take(client, progress);
    int64_t until_ns = rc == RFAAS_AGAIN && spin_ns > 0 ? now_ns() + spin_ns : 0;
    while (rc == RFAAS_AGAIN && until_ns > 0) {
        for (int i = 0; i < LOOKS_A_YIELD && rc == RFAAS_AGAIN; i++)
            rc = take(client, progress);
        if (rc == RFAAS_AGAIN)
            sched_yield();
        if (now_ns() >= until_ns)
            break;
    }
    return rc;
}

bool rfaas_region_reach_may_sleep(rfaas_region_client *client)
{
    uint64_t done = 0;
    if (client->n_pieces == 0)
        return true;
    return remote_of(client)->arm(client->channel) && remote_of(client)->done(client->channel, &done) == RFAAS_OK &&
           client->reach->pieces[client->reach->first].number > done;
}

void rfaas_region_reach_end(rfaas_region_client *client)
{
    rfaas_region_reach *reach = client->reach;
    client->reach = NULL;
    client->n_pieces = 0;
    if (reach == NULL)
        return;
    if (!rfaas_channel_is_inherited(client->channel)) /* a forked child does not have it */
        munmap(reach->stage, STAGE_BYTES);
    free(reach->spans);
    free(reach);
}
