/* nbody.c - a cluster of stars, its forces computed on harvested cores.
 *
 *     make && ./nbody            on this machine
 *     srun -n4 ./nbody           each rank its own cluster, on what `rfaas up --slurm` harvests
 *
 * Each step is cut into calls, which may run twice without harm: so they are idempotent, and a core that goes back to its
 * owner in the middle costs nothing but the time. The program counts that every call was answered exactly once, and that
 * the energy of the cluster stays what it was.
 */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rfaas.h>

#include "nbody.h"

enum { CHUNKS_MAX = 64, WORKERS = 8 };

typedef struct settings {
    uint32_t n_bodies, n_steps, n_chunks;
    double step;
} settings;

typedef struct chunk {
    rfaas_call *call;
    nbody_request *request; /* its own: it is the library's until the call is done */
    nbody_answer *answer;
    uint64_t answer_size;
    unsigned n_answers;
} chunk;

static void complain(const char *what, const rfaas_error *error)
{
    char text[1200];
    rfaas_error_text(error, text, sizeof text);
    fprintf(stderr, "%s: %s\n", what, text);
}

/* Random numbers in [-1, 1), the same on every machine. */
static double next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (double)(*state >> 11) / 4503599627370496.0 - 1;
}

static double energy(const nbody_body *bodies, const nbody_vector *speeds, uint32_t n)
{
    double total = 0;
    for (uint32_t i = 0; i < n; i++) {
        const nbody_vector *v = &speeds[i];
        total += bodies[i].mass * (v->x * v->x + v->y * v->y + v->z * v->z) / 2;
        for (uint32_t j = 0; j < i; j++) {
            double dx = bodies[j].x - bodies[i].x, dy = bodies[j].y - bodies[i].y, dz = bodies[j].z - bodies[i].z;
            total -= bodies[i].mass * bodies[j].mass / sqrt(dx * dx + dy * dy + dz * dz + 1e-4);
        }
    }
    return total;
}

static int submit_step(rfaas_client *client, const rfaas_function *function, chunk *chunks, const settings *set,
                       const nbody_body *bodies, uint32_t step, rfaas_error *error)
{
    uint64_t size = sizeof(nbody_request) + set->n_bodies * sizeof *bodies;
    for (uint32_t i = 0; i < set->n_chunks; i++) {
        nbody_request *request = chunks[i].request;
        request->n_bodies = set->n_bodies;
        request->begin = (uint32_t)((uint64_t)set->n_bodies * i / set->n_chunks);
        request->end = (uint32_t)((uint64_t)set->n_bodies * (i + 1) / set->n_chunks);
        request->step = step;
        memcpy(request->bodies, bodies, set->n_bodies * sizeof *bodies);
        int code = rfaas_submit(client, function, request, size, chunks[i].answer, chunks[i].answer_size, NULL,
                                &chunks[i].call, error);
        if (code != RFAAS_SUCCESS)
            return code;
    }
    return RFAAS_SUCCESS;
}

/* Takes answers as they come; each goes to its place in `accelerations`. */
static int collect_step(chunk *chunks, const settings *set, nbody_vector *accelerations, uint32_t step, rfaas_error *error)
{
    rfaas_call *calls[CHUNKS_MAX];
    for (uint32_t i = 0; i < set->n_chunks; i++)
        calls[i] = chunks[i].call;
    for (uint32_t left = set->n_chunks; left > 0; left--) {
        size_t i;
        uint64_t size = 0;
        int code = rfaas_wait_any(calls, set->n_chunks, -1, &i, &size, error);
        if (code != RFAAS_SUCCESS)
            return code;
        const nbody_request *request = chunks[i].request;
        const nbody_answer *answer = chunks[i].answer;
        uint32_t n = request->end - request->begin;
        if (answer->step != step || answer->begin != request->begin || size != sizeof *answer + n * sizeof(nbody_vector)) {
            fprintf(stderr, "step %u: a call got another one's answer\n", step);
            return RFAAS_ERROR_PROTOCOL;
        }
        memcpy(accelerations + request->begin, answer->accelerations, n * sizeof(nbody_vector));
        chunks[i].n_answers++;
    }
    return RFAAS_SUCCESS;
}

static void kick(nbody_vector *speeds, const nbody_vector *pulls, uint32_t n, double time)
{
    for (uint32_t i = 0; i < n; i++) {
        speeds[i].x += time * pulls[i].x;
        speeds[i].y += time * pulls[i].y;
        speeds[i].z += time * pulls[i].z;
    }
}

static void drift(nbody_body *bodies, const nbody_vector *speeds, uint32_t n, double time)
{
    for (uint32_t i = 0; i < n; i++) {
        bodies[i].x += time * speeds[i].x;
        bodies[i].y += time * speeds[i].y;
        bodies[i].z += time * speeds[i].z;
    }
}

/* Leapfrog: half a kick, then drift and kick in turn, half a kick at the end. */
static int simulate(rfaas_client *client, const rfaas_function *function, chunk *chunks, const settings *set,
                    nbody_body *bodies, nbody_vector *speeds, nbody_vector *pulls, int rank, rfaas_error *error)
{
    for (uint32_t step = 0; step <= set->n_steps; step++) {
        int code = submit_step(client, function, chunks, set, bodies, step, error);
        if (code == RFAAS_SUCCESS)
            code = collect_step(chunks, set, pulls, step, error);
        if (code != RFAAS_SUCCESS)
            return code;
        bool at_end = step == 0 || step == set->n_steps;
        kick(speeds, pulls, set->n_bodies, at_end ? set->step / 2 : set->step);
        if (step < set->n_steps)
            drift(bodies, speeds, set->n_bodies, set->step);
        if (step % 10 == 0)
            printf("rank %d: step %u\n", rank, step);
    }
    return RFAAS_SUCCESS;
}

static void *allocate(size_t n, size_t size)
{
    void *memory = calloc(n, size);
    if (memory == NULL) {
        fputs("no memory\n", stderr);
        exit(1);
    }
    return memory;
}

static void make_cluster(nbody_body *bodies, nbody_vector *speeds, uint32_t n, uint64_t seed)
{
    for (uint32_t i = 0; i < n; i++) {
        bodies[i] = (nbody_body){next_random(&seed), next_random(&seed), next_random(&seed), 1.0 / n};
        speeds[i] = (nbody_vector){next_random(&seed) / 4, next_random(&seed) / 4, next_random(&seed) / 4};
    }
}

/* The library lies beside this program. */
static const char *library_path(const char *program, char *path, size_t room)
{
    const char *slash = strrchr(program, '/');
    int n = slash == NULL ? 1 : (int)(slash - program);
    snprintf(path, room, "%.*s/libnbody.so", n, slash == NULL ? "." : program);
    return path;
}

static bool read_number(const char *argument, const char *name, uint32_t least, uint32_t most, uint32_t *number)
{
    size_t n = strlen(name);
    char *end;
    if (strncmp(argument, name, n) != 0)
        return false;
    unsigned long value = strtoul(argument + n, &end, 10);
    if (*end != '\0' || value < least || value > most)
        return false;
    *number = (uint32_t)value;
    return true;
}

static int report(rfaas_client *client, const chunk *chunks, const settings *set, int rank, double before, double after)
{
    rfaas_client_statistics counted = RFAAS_CLIENT_STATISTICS_INIT;
    unsigned n_answers = 0, n_calls = (set->n_steps + 1) * set->n_chunks;
    bool once = true;
    rfaas_get_statistics(client, &counted);
    for (uint32_t i = 0; i < set->n_chunks; i++) {
        n_answers += chunks[i].n_answers;
        once &= chunks[i].n_answers == set->n_steps + 1;
    }
    printf("rank %d: %u steps of %u bodies: %u calls, %u answers, %s; energy %.6f, then %.6f; "
           "sent again %llu, reclaimed %llu, notices %llu\n",
           rank, set->n_steps, set->n_bodies, n_calls, n_answers, once ? "each once" : "NOT EACH ONCE", before, after,
           (unsigned long long)counted.redispatched, (unsigned long long)counted.reclaimed,
           (unsigned long long)counted.notices);
    return once && fabs(after - before) < 0.01 * fabs(before) ? 0 : 1;
}

int main(int argc, char **argv)
{
    settings set = {.n_bodies = 1000, .n_steps = 50, .n_chunks = 8, .step = 1e-4};
    for (int i = 1; i < argc; i++) {
        if (!read_number(argv[i], "--bodies=", 2, 100000, &set.n_bodies) &&
            !read_number(argv[i], "--steps=", 1, 1000000, &set.n_steps) &&
            !read_number(argv[i], "--chunks=", 1, CHUNKS_MAX, &set.n_chunks)) {
            fprintf(stderr, "usage: %s [--bodies=N] [--steps=N] [--chunks=1..%d]\n", argv[0], CHUNKS_MAX);
            return 2;
        }
    }
    const char *task = getenv("SLURM_PROCID");
    int rank = task == NULL ? 0 : atoi(task);

    setvbuf(stdout, NULL, _IOLBF, 0);

    rfaas_error error = RFAAS_ERROR_INIT;
    rfaas_options options;
    rfaas_client *client = NULL;
    rfaas_function *function = NULL;
    char path[4096];
    rfaas_options_init(&options, sizeof options);
    options.max_workers = WORKERS;
    options.idempotent = 1;
    options.retries = 3;
    if (rfaas_connect(&options, &client, &error) != RFAAS_SUCCESS) {
        complain("no workers", &error);
        return 1;
    }
    if (rfaas_function_from_library(client, library_path(argv[0], path, sizeof path), "nbody_accelerate", NULL, &function,
                                    &error) != RFAAS_SUCCESS) {
        complain("no function", &error);
        rfaas_disconnect(client);
        return 1;
    }
    nbody_body *bodies = allocate(set.n_bodies, sizeof *bodies);
    nbody_vector *speeds = allocate(set.n_bodies, sizeof *speeds), *pulls = allocate(set.n_bodies, sizeof *pulls);
    chunk chunks[CHUNKS_MAX] = {0};
    for (uint32_t i = 0; i < set.n_chunks; i++) {
        chunks[i].request = allocate(1, sizeof(nbody_request) + set.n_bodies * sizeof *bodies);
        chunks[i].answer_size = sizeof(nbody_answer) + (set.n_bodies / set.n_chunks + 1) * sizeof(nbody_vector);
        chunks[i].answer = allocate(1, chunks[i].answer_size);
    }
    make_cluster(bodies, speeds, set.n_bodies, 2026 + (uint64_t)rank);
    double before = energy(bodies, speeds, set.n_bodies);
    int status = 1;
    if (simulate(client, function, chunks, &set, bodies, speeds, pulls, rank, &error) == RFAAS_SUCCESS)
        status = report(client, chunks, &set, rank, before, energy(bodies, speeds, set.n_bodies));
    else
        complain("a call failed", &error);
    rfaas_disconnect(client); /* before the buffers go: calls that are not done may still use them */
    for (uint32_t i = 0; i < set.n_chunks; i++) {
        free(chunks[i].request);
        free(chunks[i].answer);
    }
    free(bodies);
    free(speeds);
    free(pulls);
    return status;
}
