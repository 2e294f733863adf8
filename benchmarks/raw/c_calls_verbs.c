/* c_calls_verbs.c - calls by rfaas.h over RDMA beside bare RDMA, by turns in one run, from one process.
 *
 * Usage: c_calls_verbs LIBRARY STATE SIZE[,SIZE...] BLOCKS ITERATIONS SECONDS CPU CPU: for each size BLOCKS blocks of calls, each followed by one of
 * bare round trips (transport/raw/raw_verbs.c) with a second process on the worker's CPU, which sleeps while calls are made.
 * Of both together at most ITERATIONS round trips and SECONDS each. STATE hot: both sides poll. warm: before each round trip
 * the client pauses until the worker sleeps, and both sides of the bare link sleep.
 * Prints a JSON object for each size: for each block the minimum, the 25th percentile and the median, of calls and of the bare link.
 */
#include "calls.h"

#include <errno.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "raw_verbs.h"

enum { WARM_UP_CALLS = 20, WARM_UP_ROUNDS = 16, SIZES_MAX = 16 };

static const uint64_t patience_ns = 30000000000u, warm_pause_ns = 2000000;

typedef struct effort {
    bool warm;
    size_t sizes_bytes[SIZES_MAX], n_sizes;
    size_t size_bytes; /* the present one */
    size_t blocks, a_block;
    uint64_t budget_ns; /* of a block */
} effort;

static raw_series series_of(const effort *asked, uint64_t budget_ns)
{
    return (raw_series){.sleeps = asked->warm,
                        .pause_ns = asked->warm ? warm_pause_ns : 0,
                        .budget_ns = budget_ns,
                        .patience_ns = patience_ns};
}

static raw_verbs *link_up(int fd, size_t size_bytes, uint8_t **room)
{
    char why[RAW_VERBS_WHY_BYTES];
    *room = calloc(2, size_bytes);
    raw_verbs *link = *room == NULL ? NULL : raw_verbs_begin(fd, *room, *room + size_bytes, size_bytes, why);
    if (link == NULL)
        fail_with(why, NULL);
    return link;
}

/* The other side of the bare link: serves each block when it is told to, and sleeps between. */
static int serve(int fd, const effort *asked)
{
    raw_series series = series_of(asked, UINT64_MAX);
    for (size_t i = 0; i < asked->n_sizes; i++) {
        uint8_t *room;
        char go;
        raw_verbs *link = link_up(fd, asked->sizes_bytes[i], &room);
        for (size_t served = 0; served < asked->blocks; served++)
            if (read(fd, &go, 1) != 1 || raw_verbs_serve(link, &series) < 0)
                return 1;
        raw_verbs_end(link);
        free(room);
    }
    return 0;
}

static size_t block_of_calls(caller *by, const effort *asked, int64_t *took_ns)
{
    const struct timespec pause = {.tv_nsec = warm_pause_ns};
    for (int i = 0; i < WARM_UP_CALLS; i++)
        call_once(by);
    int64_t until_ns = clock_ns() + (int64_t)asked->budget_ns;
    size_t n = 0;
    while (n < asked->a_block && (n == 0 || clock_ns() < until_ns)) {
        if (asked->warm)
            nanosleep(&pause, NULL);
        took_ns[n++] = call_once(by);
    }
    return n;
}

static size_t block_of_raw(raw_verbs *link, int fd, const effort *asked, int64_t *took_ns)
{
    raw_series series = series_of(asked, asked->budget_ns);
    int64_t unused_ns[WARM_UP_ROUNDS], n = -EPIPE;
    if (write(fd, "g", 1) == 1 && raw_verbs_ping(link, &series, unused_ns, WARM_UP_ROUNDS, false) > 0)
        n = raw_verbs_ping(link, &series, took_ns, asked->a_block, true);
    if (n <= 0)
        fail_with("the bare link broke", NULL);
    return (size_t)n;
}

typedef struct block {
    size_t n;
    int64_t *took_ns;
} block;

static void print_at(const char *name, const block *blocks, size_t n_blocks, size_t percent)
{
    printf(", \"%s_ns\": [", name);
    for (size_t i = 0; i < n_blocks; i++)
        printf("%s%lld", i == 0 ? "" : ", ", (long long)blocks[i].took_ns[(blocks[i].n - 1) * percent / 100]);
    printf("]");
}

static void print_all(const effort *asked, const block *calls, const block *raws)
{
    size_t n = 0;
    for (size_t i = 0; i < asked->blocks; i++) {
        qsort(calls[i].took_ns, calls[i].n, sizeof(int64_t), in_order);
        qsort(raws[i].took_ns, raws[i].n, sizeof(int64_t), in_order);
        n += calls[i].n;
    }
    printf("{\"state\": \"%s\", \"size_bytes\": %zu, \"n\": %zu", asked->warm ? "warm" : "hot", asked->size_bytes, n);
    print_at("call_min", calls, asked->blocks, 0);
    print_at("call_p25", calls, asked->blocks, 25);
    print_at("call_p50", calls, asked->blocks, 50);
    print_at("raw_min", raws, asked->blocks, 0);
    print_at("raw_p25", raws, asked->blocks, 25);
    print_at("raw_p50", raws, asked->blocks, 50);
    printf("}\n");
}

static block *make_blocks(const effort *asked)
{
    block *made = calloc(asked->blocks, sizeof *made);
    for (size_t i = 0; made != NULL && i < asked->blocks; i++)
        if ((made[i].took_ns = calloc(asked->a_block, sizeof(int64_t))) == NULL)
            made = NULL;
    if (made == NULL)
        fail_with("malloc", NULL);
    return made;
}

static void measure_size(caller *by, const effort *asked, int fd, block *calls, block *raws)
{
    uint8_t *room;
    raw_verbs *link = link_up(fd, asked->size_bytes, &room);
    by->size_bytes = asked->size_bytes;
    for (size_t i = 0; i < asked->blocks; i++) {
        calls[i].n = block_of_calls(by, asked, calls[i].took_ns);
        raws[i].n = block_of_raw(link, fd, asked, raws[i].took_ns);
    }
    raw_verbs_end(link);
    free(room);
    print_all(asked, calls, raws);
}

static void measure(const char *library, effort *asked, int fd, int client_cpu, int worker_cpu)
{
    size_t largest_bytes = 0;
    for (size_t i = 0; i < asked->n_sizes; i++)
        if (asked->sizes_bytes[i] > largest_bytes)
            largest_bytes = asked->sizes_bytes[i];
    caller by = caller_begin(library, "verbs", largest_bytes, asked->warm ? 0 : -1);
    pin_process(0, client_cpu);
    pin_process(by.worker, worker_cpu);
    block *calls = make_blocks(asked), *raws = make_blocks(asked);
    for (size_t i = 0; i < asked->n_sizes; i++) {
        asked->size_bytes = asked->sizes_bytes[i];
        measure_size(&by, asked, fd, calls, raws);
    }
    caller_end(&by); /* what is left goes with the process */
}

/* False: these are no sizes. */
static bool read_sizes(effort *asked, char *text)
{
    for (char *one = strtok(text, ","); one != NULL; one = strtok(NULL, ",")) {
        size_t size_bytes = strtoull(one, NULL, 10);
        if (size_bytes == 0 || asked->n_sizes == SIZES_MAX)
            return false;
        asked->sizes_bytes[asked->n_sizes++] = size_bytes;
    }
    return asked->n_sizes > 0;
}

int main(int argc, char **argv)
{
    if (argc != 9) {
        fprintf(stderr, "usage: c_calls_verbs LIBRARY hot|warm SIZE[,SIZE...] BLOCKS ITERATIONS SECONDS CPU CPU\n");
        return 2;
    }
    effort asked = {.warm = strcmp(argv[2], "warm") == 0, .blocks = strtoull(argv[4], NULL, 10)};
    if (!read_sizes(&asked, argv[3]) || asked.blocks == 0)
        return 2;
    asked.a_block = (strtoull(argv[5], NULL, 10) + asked.blocks - 1) / asked.blocks;
    asked.budget_ns = (uint64_t)(strtod(argv[6], NULL) * 1e9 / (double)asked.blocks);
    int ends[2], client_cpu = atoi(argv[7]), worker_cpu = atoi(argv[8]), status = 1;
    if (asked.a_block == 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
        return 2;
    pid_t peer = fork(); /* before either side has anything of RDMA */
    if (peer == 0) {
        close(ends[0]);
        pin_process(0, worker_cpu);
        _exit(serve(ends[1], &asked));
    }
    close(ends[1]);
    measure(argv[1], &asked, ends[0], client_cpu, worker_cpu);
    close(ends[0]);
    waitpid(peer, &status, 0);
    return status != 0;
}
