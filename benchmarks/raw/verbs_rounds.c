/* verbs_rounds.c - round trips of calls through two channels over RDMA whose device is memory: for counting instructions.
 *
 * Usage: verbs_rounds BYTES ROUNDS: so many round trips of a CALL and its RESULT with so many bytes each, in one thread.
 * What is left of a call over RDMA without device, kernel and function: encoding, slots, polling, decoding. Two runs differ
 * by that alone:
 *
 *   for n in 100 1100; do valgrind --tool=callgrind --callgrind-out-file=/dev/null .cache/raw/verbs_rounds-* 1 $n; done
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "verbs_channel.h"

enum { WORDS = 64, BUDGET_BYTES = 1 << 20, TURNS_OF_SET_UP = 6 };

struct rfaas_verbs_link {
    uint8_t *memory;
    struct rfaas_verbs_link *peer;
    uint32_t words[WORDS], n_taken, n_told;
    int fd;
};

static rfaas_verbs_link links[2];
static int n_links;

static void fail_with(const char *what)
{
    fprintf(stderr, "verbs_rounds: %s\n", what);
    exit(1);
}

/* ---- the device ---- */

static rfaas_verbs_link *begin(const char *device, int fd, uint8_t *memory, size_t memory_bytes, size_t ring_bytes,
                               rfaas_verbs_address *address, char *why)
{
    (void)device, (void)fd, (void)memory_bytes, (void)why;
    rfaas_verbs_link *made = &links[n_links];
    *address = (rfaas_verbs_address){.ring_bytes = (uint32_t)ring_bytes, .mtu = 5, .is_ethernet = 1};
    *made = (rfaas_verbs_link){.memory = memory, .peer = &links[1 - n_links], .fd = eventfd(0, EFD_CLOEXEC)};
    n_links++;
    return made;
}

static bool connect_to(rfaas_verbs_link *link, const rfaas_verbs_address *peer) { return link->peer != NULL && peer != NULL; }

static rfaas_rc write_to(rfaas_verbs_link *link, size_t from, size_t size_bytes, uint64_t to, uint32_t word)
{
    rfaas_verbs_link *peer = link->peer;
    memcpy(peer->memory + to, link->memory + from, size_bytes);
    peer->words[peer->n_told++ % WORDS] = word;
    return RFAAS_OK;
}

static int poll_words(rfaas_verbs_link *link, uint32_t *words, int room)
{
    int n = 0;
    while (n < room && link->n_taken != link->n_told)
        words[n++] = link->words[link->n_taken++ % WORDS];
    return n;
}

static bool allow(rfaas_verbs_link *link, uint32_t n) { return link != NULL && n <= RFAAS_VERBS_MESSAGES_MAX; }
static int descriptor(const rfaas_verbs_link *link) { return link->fd; }
static bool arm(rfaas_verbs_link *link) { return link != NULL; }
static uint32_t unacknowledged(rfaas_verbs_link *link) { return link == NULL; }
static bool violated(rfaas_verbs_link *link) { return link == NULL; }
static const char *why(const rfaas_verbs_link *link) { return link == NULL ? "no link" : "nothing failed"; }
static void let_go(rfaas_verbs_link *link, bool inherited) { (void)link, (void)inherited; }

static const rfaas_verbs_ops memory_ops = {.begin = begin,
                                           .connect = connect_to,
                                           .write = write_to,
                                           .poll = poll_words,
                                           .allow = allow,
                                           .fd = descriptor,
                                           .arm = arm,
                                           .unacknowledged = unacknowledged,
                                           .violated = violated,
                                           .why = why,
                                           .free = let_go};

/* ---- round trips ---- */

static void send_frame(rfaas_channel *channel, uint8_t kind, uint64_t call_id, const uint8_t *bytes, size_t size_bytes)
{
    const struct iovec segment = {(void *)(uintptr_t)bytes, size_bytes};
    rfaas_header header = {.kind = kind, .call_id = call_id, .credits = kind == RFAAS_KIND_RESULT, .out_size = size_bytes};
    if (rfaas_channel_send(channel, &header, &segment, size_bytes > 0, NULL, 0, NULL) != RFAAS_OK)
        fail_with("a frame was not sent whole");
}

static void take_frame(rfaas_channel *channel, uint64_t call_id, const uint8_t *bytes, size_t size_bytes)
{
    rfaas_frame frame;
    if (rfaas_channel_look(channel) != RFAAS_OK || rfaas_channel_poll(channel, BUDGET_BYTES, &frame) != RFAAS_OK)
        fail_with("a frame did not come");
    if (frame.header.call_id != call_id || frame.header.in_size != size_bytes ||
        (size_bytes > 0 && memcmp(frame.segments[0].iov_base, bytes, size_bytes) != 0))
        fail_with("a frame came as something else");
    if (frame.buffer != NULL)
        frame.memory.release(frame.memory.context, frame.buffer, frame.buffer_bytes);
}

static void open_two(rfaas_channel *ends[2])
{
    int fds[2];
    char text[RFAAS_VERBS_WHY_BYTES];
    rfaas_frame none;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0)
        fail_with("no socket pair");
    for (int i = 0; i < 2; i++)
        if (rfaas_verbs_adopt(fds[i], &memory_ops, "", BUDGET_BYTES, &ends[i], text) != RFAAS_OK)
            fail_with(text);
    for (int i = 0; i < TURNS_OF_SET_UP; i++)
        if (rfaas_channel_poll(ends[i % 2], BUDGET_BYTES, &none) != RFAAS_AGAIN)
            fail_with("setting up failed");
    for (int i = 0; i < 2; i++)
        rfaas_channel_stay_awake(ends[i], true);
    ends[0]->tx_credits = ends[1]->rx_credits = 1;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: verbs_rounds BYTES ROUNDS\n");
        return 2;
    }
    size_t size_bytes = strtoull(argv[1], NULL, 10);
    uint64_t rounds = strtoull(argv[2], NULL, 10);
    uint8_t *bytes = calloc(1, size_bytes + 1);
    rfaas_channel *ends[2];
    if (bytes == NULL)
        fail_with("no memory");
    open_two(ends);
    for (uint64_t round = 1; round <= rounds; round++) {
        bytes[size_bytes / 2] = bytes[size_bytes > 0 ? size_bytes - 1 : 0] = (uint8_t)round; /* no old answer */
        send_frame(ends[0], RFAAS_KIND_CALL, round, bytes, size_bytes);
        take_frame(ends[1], round, bytes, size_bytes);
        send_frame(ends[1], RFAAS_KIND_RESULT, round, bytes, size_bytes);
        take_frame(ends[0], round, bytes, size_bytes);
    }
    for (int i = 0; i < 2; i++)
        rfaas_channel_free(ends[i]);
    free(bytes);
    return 0;
}
