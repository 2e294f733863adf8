/* fuzz_verbs.c - the medium over RDMA (007): messages that set it up, words, and a ring that the peer writes to at will.
 *
 * The device is this file: what the input says is what the peer wrote and told. The first byte says whether the socket
 * carries the rest of the input in place of a set-up; after one, each record is a byte that says what happens, a size, and
 * so many bytes. Nothing that the channel writes may lie outside of the peer's ring, or on slots that were not freed; what it
 * reads goes to where it said, and at the end nothing is registered.
 */
#include <arpa/inet.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fuzz.h"
#include "verbs_channel.h"

enum { LIMIT_BYTES = 1 << 20, BUDGET_BYTES = 1 << 20, TIMES_MAX = 64, RING_BYTES = RFAAS_VERBS_RING_BYTES };

struct rfaas_verbs_link {
    uint8_t *memory;
    const uint8_t *input;
    size_t left_bytes;
    uint64_t written_slots, freed_slots; /* by this side, by the peer's words as far as they can be */
    uint32_t slot;                       /* where the peer's next message begins */
    bool has_failed;
    int fd;
    unsigned n_regions;
    int reading; /* how often that is answered before it is done */
};

struct rfaas_verbs_region {
    uint8_t *memory;
    size_t size_bytes;
};

static rfaas_verbs_link link_here;

static rfaas_verbs_link *begin(const char *device, int fd, uint8_t *memory, size_t memory_bytes, size_t ring_bytes,
                               rfaas_verbs_address *address, char *why)
{
    (void)device, (void)fd, (void)why;
    EXPECT(ring_bytes == RING_BYTES && memory_bytes == RFAAS_VERBS_MEMORY_BYTES);
    *address = (rfaas_verbs_address){.ring_bytes = (uint32_t)ring_bytes, .mtu = 5, .is_ethernet = 1, .reads = 16};
    link_here.memory = memory;
    return &link_here;
}

static bool connect_to(rfaas_verbs_link *link, const rfaas_verbs_address *peer)
{
    EXPECT(peer->mtu >= 1 && peer->mtu <= 5 && peer->queue_pair < 1 << 24 && peer->packet_sequence < 1 << 24);
    return link->left_bytes % 7 != 6;
}

/* The peer's memory is no mirror of anything here: what matters is where it is written to. */
static rfaas_rc write_to(rfaas_verbs_link *link, size_t from, size_t size_bytes, uint64_t to, uint32_t word)
{
    uint32_t n_slots = rfaas_verbs_slots_of((uint32_t)size_bytes);
    EXPECT(from >= RING_BYTES && from + size_bytes <= 2 * RING_BYTES && to + size_bytes <= RING_BYTES);
    EXPECT(rfaas_verbs_word_size_bytes(word) == size_bytes && size_bytes <= RFAAS_VERBS_PIECE_BYTES);
    EXPECT(n_slots == 0 || to == link->written_slots % RFAAS_VERBS_SLOTS * RFAAS_VERBS_SLOT_BYTES);
    EXPECT(link->written_slots + n_slots - link->freed_slots <= RFAAS_VERBS_SLOTS);
    link->written_slots += n_slots;
    return RFAAS_OK;
}

static uint8_t next_byte(rfaas_verbs_link *link)
{
    return link->left_bytes-- > 0 ? *link->input++ : (link->left_bytes = 0);
}

static uint32_t told(rfaas_verbs_link *link, uint32_t word)
{
    uint64_t freed = link->freed_slots + rfaas_verbs_word_freed_slots(word);
    link->freed_slots = freed <= link->written_slots ? freed : link->freed_slots;
    return word;
}

/* One record; true: it tells `*word`. */
static bool happens(rfaas_verbs_link *link, uint32_t *word)
{
    uint8_t what = next_byte(link);
    size_t size_bytes = next_byte(link);
    uint32_t raw;
    size_bytes = what & 8 ? size_bytes * 300 : size_bytes;
    if (size_bytes > link->left_bytes)
        size_bytes = link->left_bytes;
    size_t at = what % 4 == 2 ? (size_t)next_byte(link) * RFAAS_VERBS_SLOT_BYTES : (size_t)link->slot * RFAAS_VERBS_SLOT_BYTES;
    size_bytes = size_bytes > link->left_bytes ? link->left_bytes : size_bytes;
    size_bytes = size_bytes > RING_BYTES - at ? RING_BYTES - at : size_bytes;
    memcpy(link->memory + at, link->input, size_bytes);
    if (what % 4 == 0)
        mend_checksums(link->memory + at, size_bytes);
    link->input += size_bytes;
    link->left_bytes -= size_bytes;
    switch (what % 4) {
    case 0: /* a message as it should be */
        link->slot = (link->slot + rfaas_verbs_slots_of((uint32_t)size_bytes)) % RFAAS_VERBS_SLOTS;
        *word = told(link, rfaas_verbs_word((uint32_t)size_bytes, what >> 4,
                                            what & 4 ? RFAAS_VERBS_OF_PLACES : RFAAS_VERBS_OF_FRAMES));
        return true;
    case 1: /* any word */
        memcpy(&raw, link->memory + at, sizeof raw);
        *word = told(link, what & 16 ? raw : raw & ~(1u << 31));
        return true;
    case 2: /* bytes without a word */
        return false;
    default:
        link->has_failed = what == 0xff;
        *word = told(link, rfaas_verbs_word(0, what & 16 ? 1 : 0, what == 0x33   ? RFAAS_VERBS_OF_THE_END
                                                             : what == 0x43 ? RFAAS_VERBS_OF_PLACES
                                                                            : RFAAS_VERBS_OF_FRAMES));
        return !link->has_failed;
    }
}

static int poll_words(rfaas_verbs_link *link, uint32_t *words, int room)
{
    int n = 0;
    while (n < room && n < 3 && link->left_bytes > 0 && !link->has_failed)
        n += happens(link, &words[n]);
    return n == 0 && link->has_failed ? -1 : n;
}

static bool allow(rfaas_verbs_link *link, uint32_t n) { return link != NULL && n <= RFAAS_VERBS_MESSAGES_MAX; }
static int descriptor(const rfaas_verbs_link *link) { return link->fd; }
static bool arm(rfaas_verbs_link *link) { return link != NULL; }
static uint32_t unacknowledged(rfaas_verbs_link *link) { return link == NULL; }
static const char *why(const rfaas_verbs_link *link) { return link->has_failed ? "the device failed" : "not connected"; }
static bool violated(rfaas_verbs_link *link) { return link->has_failed && link->left_bytes % 2 != 0; }
static void let_go(rfaas_verbs_link *link, bool inherited)
{
    EXPECT(link == &link_here && !inherited && link->n_regions == 0);
}

static rfaas_verbs_region *enroll(rfaas_verbs_link *link, void *memory, size_t size_bytes, rfaas_verbs_use use,
                                  uint32_t *key)
{
    rfaas_verbs_region *made = link->left_bytes % 5 == 4 ? NULL : malloc(sizeof *made);
    if (made == NULL)
        return NULL;
    *made = (rfaas_verbs_region){memory, size_bytes};
    if (use == RFAAS_VERBS_BY_KEY)
        *key = 7;
    link->n_regions++;
    return made;
}

static void withdraw(rfaas_verbs_link *link, rfaas_verbs_region *region)
{
    link->n_regions--;
    free(region);
}

static rfaas_rc read_from(rfaas_verbs_link *link, const rfaas_verbs_region *region, void *to, size_t size_bytes,
                          uint64_t from, uint32_t key)
{
    const rfaas_verbs_region spare = {link->memory + 2 * RING_BYTES, RFAAS_VERBS_SPARE_BYTES};
    const rfaas_verbs_region *within = region == NULL ? &spare : region;
    (void)from, (void)key;
    EXPECT((uint8_t *)to >= within->memory && size_bytes <= within->size_bytes - (size_t)((uint8_t *)to - within->memory));
    memset(to, 0x5a, size_bytes);
    link->reading = (int)(link->left_bytes % 3);
    return RFAAS_OK;
}

static int reading(rfaas_verbs_link *link)
{
    if (link->has_failed)
        return -1;
    return link->reading > 0 ? link->reading-- > 0 : 0;
}

static const rfaas_verbs_ops device = {
    .begin = begin,
    .connect = connect_to,
    .write = write_to,
    .poll = poll_words,
    .allow = allow,
    .fd = descriptor,
    .arm = arm,
    .unacknowledged = unacknowledged,
    .violated = violated,
    .enroll = enroll,
    .withdraw = withdraw,
    .read = read_from,
    .reading = reading,
    .why = why,
    .free = let_go,
};

static void set_up(int fd)
{
    uint8_t bytes[RFAAS_VERBS_MESSAGE_BYTES];
    rfaas_verbs_message message = {.kind = RFAAS_VERBS_ADDRESS,
                                   .address = {.ring_bytes = RING_BYTES, .mtu = 3, .is_ethernet = 1, .reads = 16}};
    rfaas_verbs_message_encode(&message, bytes);
    EXPECT(send(fd, bytes, sizeof bytes, MSG_NOSIGNAL) == sizeof bytes);
    message.kind = RFAAS_VERBS_CONNECTED;
    rfaas_verbs_message_encode(&message, bytes);
    EXPECT(send(fd, bytes, sizeof bytes, MSG_NOSIGNAL) == sizeof bytes);
}

static void move(rfaas_channel *channel, size_t answer_bytes)
{
    static uint8_t payload[200000];
    volatile uint8_t sum = 0;
    rfaas_frame frame;
    rfaas_rc rc = RFAAS_MORE;
    for (int i = 0; i < TIMES_MAX && (rc == RFAAS_OK || rc == RFAAS_MORE || i == 0); i++) {
        rc = rfaas_channel_poll(channel, BUDGET_BYTES, &frame);
        if (rc != RFAAS_OK)
            continue;
        for (uint32_t k = 0; !frame.dropped && k < frame.n_segments; k++)
            for (size_t at = 0; at < frame.segments[k].iov_len; at += 4096)
                sum = (uint8_t)(sum + ((const uint8_t *)frame.segments[k].iov_base)[at]);
        if (frame.buffer != NULL)
            frame.memory.release(frame.memory.context, frame.buffer, frame.buffer_bytes);
    }
    (void)sum;
    rfaas_header header = {.kind = RFAAS_KIND_RESULT, .call_id = 1};
    const struct iovec segment = {payload, answer_bytes};
    rfaas_channel_send(channel, &header, &segment, 1, NULL, 0, NULL);
    rfaas_channel_flush(channel, BUDGET_BYTES);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int fds[2];
    rfaas_channel *channel;
    char problem[RFAAS_VERBS_WHY_BYTES];
    bool is_set_up = size > 0 && data[0] % 4 != 0;
    uint8_t *bytes = copy_of(data, size);
    EXPECT(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    link_here = (rfaas_verbs_link){.fd = eventfd(0, EFD_CLOEXEC)};
    EXPECT(link_here.fd >= 0);
    EXPECT(rfaas_verbs_adopt(fds[0], &device, "", LIMIT_BYTES, &channel, problem) == RFAAS_OK);
    if (is_set_up)
        set_up(fds[1]);
    else if (size > 1)
        (void)!send(fds[1], bytes + 1, size - 1 < 4096 ? size - 1 : 4096, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (size > 0) {
        link_here.input = bytes + 1;
        link_here.left_bytes = size - 1;
    }
    if (!is_set_up)
        shutdown(fds[1], SHUT_WR);
    for (int i = 0; i < TIMES_MAX && rfaas_channel_fd(channel) >= 0; i++) {
        size_t before = link_here.left_bytes;
        move(channel, size > 0 ? (size_t)data[0] * 700 : 0);
        if (link_here.left_bytes == before && i > 2)
            break;
    }
    rfaas_channel_free(channel);
    close(link_here.fd);
    close(fds[1]);
    free(bytes);
    return 0;
}
