/* core_region_test.c - one-sided reads and writes of a region (008 section 2.1), under sanitizers: a part of core_test.c's
 * program.
 *
 * The device is memory of this process, and as unkind as RDMA may be: a write takes effect as soon as it is posted, a read
 * as late as it is done, some spans can't be opened, and few requests are taken at a time. Frames are the channel's own.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "expect.h"
#include "region_span.h"

enum {
    LIMIT_BYTES = 4 << 20,
    OPS_MAX = 12,
    OP_BYTES_MAX = 600000,
    POSTED_MAX = 9,
    ZONE_BYTES = 1 << 20, /* about the beginning of a span, where all operations are */
    SPANS = 3,
    REGION_BYTES = 2 * RFAAS_REGION_SPAN_BYTES + 700001,
};

void test_region(int rounds);

static struct {
    rfaas_remote_access posted[POSTED_MAX];
    uint32_t n_posted;
    uint64_t n_begun, n_done, accesses;
    uint64_t closed_at; /* the span that can't be opened begins here */
    const uint8_t *region;
    uint32_t n_lent;
    bool broken, full;
} device;

static uint32_t seed = 20261126;

static uint32_t next_random(uint32_t below)
{
    seed ^= seed << 13;
    seed ^= seed >> 17;
    seed ^= seed << 5;
    return seed % below;
}

static int lend(rfaas_channel *channel, uint8_t *bytes, size_t size_bytes, uint32_t *key)
{
    (void)channel;
    EXPECT(size_bytes > 0 && size_bytes <= RFAAS_REGION_SPAN_BYTES);
    if ((uint64_t)(bytes - device.region) == device.closed_at)
        return ENOMEM;
    *key = 100 + device.n_lent++;
    return 0;
}

static int use(rfaas_channel *channel, uint8_t *bytes, size_t size_bytes, uint32_t *key)
{
    (void)channel, (void)bytes, (void)size_bytes;
    *key = 7;
    return device.full ? ENOMEM : 0;
}

static rfaas_rc begin(rfaas_channel *channel, const rfaas_remote_access *access, uint64_t *number)
{
    (void)channel;
    if (device.n_posted == POSTED_MAX)
        return RFAAS_AGAIN;
    EXPECT(access->bytes_key == 7 && access->key >= 100 && access->size_bytes > 0);
    if (access->is_write)
        memcpy((void *)(uintptr_t)access->address, access->bytes, access->size_bytes);
    device.posted[device.n_posted++] = *access;
    device.accesses++;
    *number = ++device.n_begun;
    return RFAAS_OK;
}

static rfaas_rc done(rfaas_channel *channel, uint64_t *number)
{
    (void)channel;
    uint32_t n = next_random(device.n_posted + 1);
    for (uint32_t i = 0; i < n; i++)
        if (!device.posted[i].is_write)
            memcpy(device.posted[i].bytes, (const void *)(uintptr_t)device.posted[i].address, device.posted[i].size_bytes);
    memmove(device.posted, device.posted + n, (device.n_posted - n) * sizeof *device.posted);
    device.n_posted -= n;
    *number = device.n_done += n;
    return device.broken ? RFAAS_BROKEN : RFAAS_OK;
}

static bool arm(rfaas_channel *channel)
{
    (void)channel;
    return true;
}

static const rfaas_remote_ops remote = {.lend = lend, .use = use, .begin = begin, .done = done, .arm = arm};

typedef struct pair {
    rfaas_channel *left, *right;
    rfaas_medium medium; /* that of both, and the device */
    rfaas_region region;
    rfaas_region_server server;
    rfaas_region_client client;
    uint8_t *model;
} pair;

static uint8_t *zeros(size_t size_bytes)
{
    uint8_t *made = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    EXPECT(made != MAP_FAILED);
    return made;
}

static void set_up(pair *two)
{
    memset(two, 0, sizeof *two);
    EXPECT(rfaas_inproc_pair(LIMIT_BYTES, &two->left, &two->right) == RFAAS_OK);
    two->medium = *two->left->medium;
    two->medium.remote = &remote;
    two->left->medium = two->right->medium = &two->medium;
    two->region = (rfaas_region){zeros(REGION_BYTES), REGION_BYTES};
    two->model = zeros(REGION_BYTES);
    two->server = (rfaas_region_server){.region = &two->region, .channel = two->right, .lease_seq = 3, .epoch = 4};
    two->client = (rfaas_region_client){.channel = two->left, .lease_seq = 3, .epoch = 4, .next_id = 1};
    rfaas_region_server_begin(&two->server);
    rfaas_region_client_begin(&two->client);
    rfaas_header hello = {.kind = RFAAS_KIND_HELLO, .credits = RFAAS_REGION_CREDITS};
    EXPECT(rfaas_channel_send(two->right, &hello, NULL, 0, NULL, 0, NULL) == RFAAS_OK);
    memset(&device, 0, sizeof device);
    device.closed_at = UINT64_MAX;
    device.region = two->region.bytes;
}

static void tear_down(pair *two)
{
    rfaas_channel_close(two->left);
    rfaas_channel_close(two->right);
    rfaas_region_client_end(&two->client);
    rfaas_region_server_end(&two->server);
    rfaas_channel_free(two->left);
    rfaas_channel_free(two->right);
    munmap(two->region.bytes, REGION_BYTES);
    munmap(two->model, REGION_BYTES);
}

static rfaas_rc transfer(pair *two, const rfaas_region_op *ops, size_t n_ops)
{
    rfaas_region_progress progress = {0};
    rfaas_rc rc;
    two->client.status = 0;
    while ((rc = rfaas_region_transfer(&two->client, ops, n_ops, &progress, 0, false)) == RFAAS_AGAIN) {
        rfaas_rc served = rfaas_region_serve(&two->server, 0);
        EXPECT(served == RFAAS_AGAIN || served == RFAAS_MORE);
    }
    return rc;
}

/* Operations about the beginning of a span, each of which begins where many others do. */
static size_t make_ops(pair *two, rfaas_region_op *ops, uint8_t **expected)
{
    size_t n = 1 + next_random(OPS_MAX);
    for (size_t i = 0; i < n; i++) {
        uint64_t size_bytes = 1 + next_random(next_random(2) ? 100 : OP_BYTES_MAX);
        uint64_t offset = next_random(SPANS) * (uint64_t)RFAAS_REGION_SPAN_BYTES + next_random(ZONE_BYTES);
        offset = offset > ZONE_BYTES / 2 ? offset - ZONE_BYTES / 2 : 0;
        if (offset + size_bytes > REGION_BYTES)
            offset = REGION_BYTES - size_bytes;
        ops[i] = (rfaas_region_op){offset, malloc(size_bytes), size_bytes, next_random(2) == 0};
        expected[i] = malloc(size_bytes);
        EXPECT(ops[i].bytes != NULL && expected[i] != NULL);
        memset(ops[i].bytes, (int)next_random(256), size_bytes);
        if (ops[i].is_write)
            memcpy(two->model + offset, ops[i].bytes, size_bytes);
        memcpy(expected[i], two->model + offset, size_bytes);
    }
    return n;
}

static void random_ops(pair *two, int rounds)
{
    for (int round = 0; round < rounds; round++) {
        rfaas_region_op ops[OPS_MAX];
        uint8_t *expected[OPS_MAX];
        size_t n = make_ops(two, ops, expected);
        EXPECT(transfer(two, ops, n) == RFAAS_OK && two->client.status == 0);
        for (size_t i = 0; i < n; i++) {
            EXPECT(memcmp(ops[i].bytes, expected[i], ops[i].size_bytes) == 0);
            free(ops[i].bytes);
            free(expected[i]);
        }
    }
}

static void test_what_memory_would_do(int rounds, uint64_t closed_at, bool full)
{
    pair two;
    set_up(&two);
    device.closed_at = closed_at;
    device.full = full;
    random_ops(&two, rounds);
    uint32_t n_open = full ? 0 : closed_at == UINT64_MAX ? SPANS : SPANS - 1;
    if (rounds >= 20) { /* each was asked for, once */
        EXPECT(two.client.n_spans == n_open && device.n_lent == n_open);
        EXPECT((device.accesses > 0) == (n_open > 0) && (two.server.n_requests > 0) == (n_open < SPANS));
    }
    tear_down(&two);
}

static void test_what_is_beyond_the_region_is_refused_whole(void)
{
    pair two;
    uint8_t bytes[3] = "abc";
    set_up(&two);
    rfaas_region_op op = {REGION_BYTES - 2, bytes, 3, true};
    EXPECT(transfer(&two, &op, 1) == RFAAS_OK && two.client.status == RFAAS_STATUS_OUT_OF_RANGE);
    op = (rfaas_region_op){UINT64_MAX, bytes, 1, false};
    EXPECT(transfer(&two, &op, 1) == RFAAS_OK && two.client.status == RFAAS_STATUS_OUT_OF_RANGE);
    op = (rfaas_region_op){REGION_BYTES - 3, bytes, 3, false};
    EXPECT(transfer(&two, &op, 1) == RFAAS_OK && two.client.status == 0 && memcmp(bytes, "\0\0\0", 3) == 0);
    tear_down(&two);
}

static void test_a_connection_that_fails_is_told(void)
{
    pair two;
    uint8_t bytes[100] = {0};
    const rfaas_region_op op = {0, bytes, sizeof bytes, true};
    set_up(&two);
    EXPECT(transfer(&two, &op, 1) == RFAAS_OK);
    device.broken = true;
    EXPECT(transfer(&two, &op, 1) == RFAAS_BROKEN);
    tear_down(&two);
}

void test_region(int rounds)
{
    test_what_memory_would_do(rounds, UINT64_MAX, false);
    test_what_memory_would_do(rounds, RFAAS_REGION_SPAN_BYTES, false);
    test_what_memory_would_do(rounds, UINT64_MAX, true);
    test_what_is_beyond_the_region_is_refused_whole();
    test_a_connection_that_fails_is_told();
}
