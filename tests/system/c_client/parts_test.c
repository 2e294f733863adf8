/* parts_test.c - the parts of the client in C that do no I/O: reader and writer of msgpack, SHA-256, timers, the core. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client_core.h"
#include "pack.h"
#include "sha256.h"

#define REQUIRE(what)                                                          \
    do {                                                                       \
        if (!(what)) {                                                         \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #what); \
            exit(1);                                                           \
        }                                                                      \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t state;

static uint64_t draw(uint64_t below)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (state >> 11) % below;
}

/* ---- msgpack ---- */

static void hex(const uint8_t *bytes, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        printf("%02x", bytes[i]);
}

/* One text for each value, as the test in Python writes it of what msgpack's own reader finds. */
static void show(const pack_value *value)
{
    const uint8_t *at = NULL;
    pack_value list = *value;
    uint64_t bits;
    switch (value->kind) {
    case PACK_NIL:
        printf("n");
        break;
    case PACK_BOOL:
        printf("%s", value->magnitude ? "T" : "F");
        break;
    case PACK_INTEGER:
        if (value->negative)
            printf("i%lld", (long long)pack_as_signed(value, 0));
        else
            printf("i%llu", (unsigned long long)pack_as_unsigned(value, 0));
        break;
    case PACK_REAL:
        memcpy(&bits, &value->real, sizeof bits);
        printf("f%016llx", (unsigned long long)bits);
        break;
    case PACK_TEXT:
    case PACK_BYTES:
        printf(value->kind == PACK_TEXT ? "t" : "b");
        hex(value->data, value->size);
        break;
    case PACK_MAP: /* pairs are elements like an array's */
        list.kind = PACK_ARRAY;
        /* fall through */
    case PACK_ARRAY:
        printf(value->kind == PACK_MAP ? "{" : "[");
        for (pack_value child = pack_next(&list, &at); child.kind != PACK_NOTHING; child = pack_next(&list, &at)) {
            show(&child);
            printf(",");
        }
        printf(value->kind == PACK_MAP ? "}" : "]");
        break;
    case PACK_NOTHING:
        printf("?");
    }
}

/* Standard input: lengths (u32) and bytes; a line for each, "-" if they are no value. */
static int read_values(void)
{
    uint32_t size;
    while (fread(&size, sizeof size, 1, stdin) == 1) {
        uint8_t *bytes = malloc(size > 0 ? size : 1);
        REQUIRE(fread(bytes, 1, size, stdin) == size);
        pack_value value;
        if (pack_read(bytes, size, &value))
            show(&value);
        else
            printf("-");
        printf("\n");
        free(bytes);
    }
    return 0;
}

static int write_values(void)
{
    static char long_text[70001];
    memset(long_text, 'x', 70000);
    static const uint64_t numbers[] = {0, 127, 128, 255, 256, 65535, 65536, 4294967295u, 4294967296u, UINT64_MAX};
    pack_writer out = {0};
    pack_map(&out, 4);
    pack_text(&out, "numbers");
    pack_array(&out, 10);
    for (int i = 0; i < 10; i++)
        pack_unsigned(&out, numbers[i]);
    pack_text(&out, "texts");
    pack_array(&out, 20);
    for (size_t i = 0; i < 20; i++)
        pack_text(&out, long_text + 70000 - (i < 10 ? 27 + i : i == 10 ? 300 : i == 11 ? 70000 : 250 + i));
    pack_text(&out, "bytes");
    pack_array(&out, 3);
    pack_bytes(&out, long_text, 2);
    pack_bytes(&out, long_text, 300);
    pack_bytes(&out, long_text, 70000);
    pack_text(&out, "real");
    pack_real(&out, -0.15625);
    REQUIRE(!out.failed);
    fwrite(out.bytes, 1, out.size_bytes, stdout);
    pack_free(&out);
    return 0;
}

static int fuzz(uint64_t n)
{
    uint8_t bytes[256];
    for (uint64_t i = 0; i < n; i++) {
        size_t size = draw(sizeof bytes);
        for (size_t k = 0; k < size; k++)
            bytes[k] = draw(3) == 0 ? (uint8_t)draw(256) : (uint8_t)(0x80 + draw(0x60)); /* heads more often than not */
        LLVMFuzzerTestOneInput(bytes, size);
    }
    return 0;
}

static int hash(void)
{
    static uint8_t bytes[1 << 20];
    uint8_t digest[SHA256_BYTES];
    sha256(bytes, fread(bytes, 1, sizeof bytes, stdin), digest);
    hex(digest, sizeof digest);
    return 0;
}

/* ---- timers ---- */

static int try_timers(uint64_t n)
{
    enum { N = 200 };
    static timer all[N];
    timers heap = {0};
    for (int i = 0; i < N; i++)
        REQUIRE(timers_reserve(&heap));
    for (uint64_t step = 0; step < n; step++) {
        timer *one = &all[draw(N)];
        if (draw(3) == 0)
            timers_clear(&heap, one);
        else
            timers_set(&heap, one, (int64_t)draw(1000));
        const timer *first = timers_first(&heap);
        for (int i = 0; i < N; i++)
            REQUIRE(all[i].place == 0 || (first != NULL && first->due_ns <= all[i].due_ns && heap.heap[all[i].place] == &all[i]));
    }
    timers_free(&heap);
    return 0;
}

/* ---- the core, in a world of workers that die and connections that break ---- */

enum { CALLS = 40, CHANNELS = 6 };

typedef struct worker {
    core_channel channel;
    bool open, closed; /* known to the core; CLOSE was told */
    bool dead, ended, condemned;
    uint64_t call_id; /* that it has */
    int call;         /* whose */
    uint64_t started, done;
} worker;

static client_core core;
static rfaas_call calls[CALLS];
static unsigned runs[CALLS];
static bool submitted[CALLS];
static worker workers[CHANNELS];
static uint64_t channels_made;
static int64_t now_ns = 1000000000;
static const uint8_t lease[16] = {7};

static void grant_lease(void)
{
    core_lease *granted = calloc(1, sizeof *granted);
    REQUIRE(granted != NULL);
    memcpy(granted->lease, lease, sizeof lease);
    core_lease_granted(&core, granted);
}

static void do_effects(void)
{
    for (effect next = core_next(&core); next.kind != EFFECT_NONE; next = core_next(&core)) {
        worker *one = (worker *)next.channel;
        switch (next.kind) {
        case EFFECT_SEND:
            REQUIRE(one->open && !one->closed && one->call < 0 && next.call->state == CALL_SENT);
            REQUIRE(next.call->channel == &one->channel && one->channel.call == next.call);
            REQUIRE(next.call->call_id > one->started);
            if (one->dead && draw(2) == 0) {
                core_not_sent(&core, next.call, true, 0, "", now_ns);
                break;
            }
            one->call = (int)(next.call - calls);
            one->call_id = next.call->call_id;
            break;
        case EFFECT_CLOSE:
            REQUIRE(one->open && !one->closed);
            one->closed = true;
            break;
        case EFFECT_INTERRUPT:
            REQUIRE(next.call != NULL);
            break;
        case EFFECT_JOIN:
            break;
        case EFFECT_WANT:
            REQUIRE(next.number <= CHANNELS);
            break;
        case EFFECT_NONE:
            break;
        }
    }
}

static void open_worker(worker *one)
{
    memset(one, 0, sizeof *one);
    one->call = -1;
    one->open = true;
    one->channel.number = ++channels_made;
    memcpy(one->channel.lease, lease, sizeof lease);
    REQUIRE(timers_reserve(&core.timers));
    core_channel_opened(&core, &one->channel);
    core_credits(&core, &one->channel, 1);
}

static void farewell(worker *one, int reason, bool known)
{
    verdict said = {.known = known, .reason = reason, .last_started = one->started, .last_done = one->done};
    said.exit_status = -1;
    said.grace_s = -1;
    one->condemned = true;
    core_condemned(&core, one->channel.number, &said, now_ns);
}

static void work(worker *one)
{
    static const int reasons[] = {1, 6, 14, 15, 17, 18, 19, 20};
    if (!one->open || one->closed) {
        core.timers.reserved -= one->open;
        open_worker(one);
        return;
    }
    uint64_t chance = draw(100);
    if (one->dead) {
        if (chance < 40 && !one->ended) {
            one->ended = true;
            core_channel_ended(&core, &one->channel, now_ns);
        } else if (chance < 80 && !one->condemned) {
            farewell(one, reasons[draw(8)], draw(10) > 0);
        }
        return;
    }
    if (one->call >= 0 && one->started != one->call_id && chance < 50) {
        one->started = one->call_id;
        runs[one->call]++;
    } else if (one->call >= 0 && one->started == one->call_id && chance < 80) {
        one->done = one->call_id;
        rfaas_call *call = one->channel.call;
        REQUIRE(call == NULL || call == &calls[one->call]);
        one->call = -1;
        if (call == NULL)
            return; /* it had its end already, and its channel with it */
        if (draw(8) == 0)
            core_answered(&core, &one->channel, RFAAS_ERROR_FUNCTION, NULL);
        else
            core_answered(&core, &one->channel, RFAAS_SUCCESS, NULL);
        core_credits(&core, &one->channel, 1);
    } else if (one->call >= 0 && one->started != one->call_id && chance < 55) {
        one->call = -1;
        core_given_back(&core, &one->channel, draw(2) == 0, now_ns);
    } else if (chance >= 96) {
        one->dead = true;
    } else if (chance == 95) {
        core_notice(&core, lease);
    }
}

static void submit(int i)
{
    rfaas_call *call = &calls[i];
    core_forget(&core, call);
    runs[i] = 0;
    submitted[i] = true;
    call->settings = (call_settings){draw(2) == 0, (uint32_t)draw(4), draw(4) == 0 ? (int64_t)(1 + draw(5000000000u)) : 0};
    core_submit(&core, call, now_ns);
}

/* What a caller may rely on. */
static void check_end(int i)
{
    const rfaas_call *call = &calls[i];
    submitted[i] = false;
    if (call->code == RFAAS_SUCCESS || call->code == RFAAS_ERROR_FUNCTION)
        REQUIRE(runs[i] >= 1);
    else
        REQUIRE(call->failure != NULL && call->failure->code == call->code && call->failure->message[0] != '\0');
    if (call->failure != NULL && !call->failure->may_have_run)
        REQUIRE(runs[i] == 0); /* else somebody runs it again that ran */
    if (!call->settings.idempotent)
        REQUIRE(runs[i] <= 1);
    REQUIRE(runs[i] <= call->settings.retries + 12);
}

static void session_events(void)
{
    if (core.session == SESSION_JOINING && draw(3) == 0) {
        if (draw(4) == 0) {
            rfaas_error why = RFAAS_ERROR_INIT;
            why.code = RFAAS_ERROR_ALLOCATOR_UNAVAILABLE;
            strcpy(why.message, "nobody there");
            core_session_failed(&core, &why, now_ns);
        } else {
            core_session_up(&core, draw(2) == 0);
            grant_lease();
        }
    } else if (core.session == SESSION_UP && draw(200) == 0) {
        core_session_lost(&core, now_ns);
    } else if (core.session == SESSION_UP && draw(300) == 0) {
        core_denied(&core, draw(2) ? "quota" : "environment-failed", "because", now_ns);
    } else if (draw(300) == 0) {
        core_lease_ended(&core, lease);
    }
}

static void look_at_calls(bool submit_more)
{
    for (int i = 0; i < CALLS; i++) {
        if (submitted[i] && calls[i].state == CALL_DONE)
            check_end(i);
        else if (!submitted[i] && submit_more && draw(20) == 0)
            submit(i);
        else if (submitted[i] && draw(400) == 0)
            core_cancel(&core, &calls[i], draw(2) == 0, now_ns);
        do_effects();
    }
}

static unsigned n_open(void)
{
    unsigned n = 0;
    for (int i = 0; i < CALLS; i++)
        n += submitted[i] && calls[i].state != CALL_DONE;
    return n;
}

static int live(uint64_t n)
{
    core_init(&core, CHANNELS, draw(2) ? 0 : 3000000000, state);
    for (int i = 0; i < CALLS; i++) {
        calls[i].timer.kind = TIMER_CALL;
        REQUIRE(timers_reserve(&core.timers));
    }
    core_connect(&core);
    for (uint64_t step = 0; step < n || (n_open() > 0 && step < 10 * n); step++) {
        now_ns += (int64_t)draw(100000000);
        if (core_due_ns(&core) <= now_ns)
            core_tick(&core, now_ns);
        do_effects();
        session_events();
        do_effects();
        work(&workers[draw(CHANNELS)]);
        do_effects();
        look_at_calls(step < n);
        REQUIRE(core.outstanding == n_open());
    }
    REQUIRE(n_open() == 0 && core.outstanding == 0 && core.n_busy == 0 && core.queue == NULL && core.counters.queued == 0);
    const rfaas_client_statistics *c = &core.counters;
    REQUIRE(c->submitted == c->answered + c->failed + c->cancelled);
    printf("submitted=%llu answered=%llu failed=%llu cancelled=%llu redispatched=%llu retried=%llu reclaimed=%llu\n",
           (unsigned long long)c->submitted, (unsigned long long)c->answered, (unsigned long long)c->failed,
           (unsigned long long)c->cancelled, (unsigned long long)c->redispatched, (unsigned long long)c->retried,
           (unsigned long long)c->reclaimed);
    for (int i = 0; i < CALLS; i++)
        core_forget(&core, &calls[i]);
    core_fini(&core);
    return 0;
}

int main(int argc, char **argv)
{
    const char *command = argc > 1 ? argv[1] : "";
    state = argc > 2 ? strtoull(argv[2], NULL, 10) * 2654435761u + 88172645463325252u : 1;
    uint64_t n = argc > 3 ? strtoull(argv[3], NULL, 10) : 1000;
    if (strcmp(command, "read") == 0)
        return read_values();
    if (strcmp(command, "write") == 0)
        return write_values();
    if (strcmp(command, "fuzz") == 0)
        return fuzz(n);
    if (strcmp(command, "hash") == 0)
        return hash();
    if (strcmp(command, "timers") == 0)
        return try_timers(n);
    if (strcmp(command, "core") == 0)
        return live(n);
    return 2;
}
