/* c_calls.c - what calling a compiled function costs a program in C, by rfaas.h.
 *
 * Usage: c_calls LIBRARY SIZE ITERATIONS [CPU CPU]: the library holds `echo` and `process_id` (transport/raw/echo_function.c);
 * the client is pinned to the first CPU, the worker to the second. Embedded workers over shared memory.
 * Prints one JSON object: nanoseconds a call. Every answer is compared with what was sent.
 */
#include <rfaas.h>

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { WARM_UP = 1000 };

static void fail(const char *what, const rfaas_error *error)
{
    char text[1024] = "";
    if (error != NULL)
        rfaas_error_text(error, text, sizeof text);
    fprintf(stderr, "%s: %s\n", what, text);
    exit(1);
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void pin(pid_t process, int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(process, sizeof set, &set) != 0)
        fail("sched_setaffinity", NULL);
}

static int by_size(const void *left, const void *right)
{
    int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
    return a < b ? -1 : a > b;
}

static void call(rfaas_client *client, const rfaas_function *function, uint8_t *in, uint8_t *out, size_t size_bytes,
                 size_t number, int64_t *took_ns)
{
    rfaas_error error = RFAAS_ERROR_INIT;
    uint64_t out_bytes = size_bytes;
    memcpy(in, &number, size_bytes < sizeof number ? size_bytes : sizeof number); /* so that an old answer is seen */
    int64_t begun_ns = now_ns();
    int rc = rfaas_invoke(client, function, in, size_bytes, out, &out_bytes, &error);
    *took_ns = now_ns() - begun_ns;
    if (rc != RFAAS_SUCCESS)
        fail("rfaas_invoke", &error);
    if (out_bytes != size_bytes || memcmp(in, out, size_bytes) != 0)
        fail("a call brought back something else", NULL);
}

int main(int argc, char **argv)
{
    if (argc != 4 && argc != 6) {
        fprintf(stderr, "usage: c_calls LIBRARY SIZE ITERATIONS [CPU CPU]\n");
        return 2;
    }
    size_t size_bytes = strtoull(argv[2], NULL, 10), n = strtoull(argv[3], NULL, 10);
    if (size_bytes == 0 || n == 0)
        return 2;
    rfaas_error error = RFAAS_ERROR_INIT;
    rfaas_options options;
    rfaas_client *client;
    rfaas_function *echo, *process_id;
    rfaas_options_init(&options, sizeof options);
    options.max_workers = 1;
    options.allocator = "embedded";
    options.transport = "shm";
    if (rfaas_connect(&options, &client, &error) != RFAAS_SUCCESS)
        fail("rfaas_connect", &error);
    if (rfaas_function_from_library(client, argv[1], "echo", NULL, &echo, &error) != RFAAS_SUCCESS ||
        rfaas_function_from_library(client, argv[1], "process_id", NULL, &process_id, &error) != RFAAS_SUCCESS)
        fail(argv[1], &error);
    int64_t worker = 0;
    uint64_t worker_bytes = sizeof worker;
    if (rfaas_invoke(client, process_id, NULL, 0, &worker, &worker_bytes, &error) != RFAAS_SUCCESS)
        fail("process_id", &error);
    if (argc == 6) {
        pin(0, atoi(argv[4]));
        pin((pid_t)worker, atoi(argv[5]));
    }
    uint8_t *in = calloc(2, size_bytes), *out = in + size_bytes;
    int64_t *took_ns = malloc(n * sizeof *took_ns);
    if (in == NULL || took_ns == NULL)
        fail("malloc", NULL);
    memset(took_ns, 0, n * sizeof *took_ns);
    for (size_t i = 0; i < WARM_UP; i++)
        call(client, echo, in, out, size_bytes, i, &took_ns[0]);
    for (size_t i = 0; i < n; i++)
        call(client, echo, in, out, size_bytes, i, &took_ns[i]);
    rfaas_disconnect(client);
    qsort(took_ns, n, sizeof *took_ns, by_size);
    printf("{\"size_bytes\": %zu, \"iterations\": %zu, \"min_ns\": %lld, \"p50_ns\": %lld, \"p90_ns\": %lld, "
           "\"p99_ns\": %lld, \"p999_ns\": %lld, \"max_ns\": %lld}\n",
           size_bytes, n, (long long)took_ns[0], (long long)took_ns[(n - 1) / 2], (long long)took_ns[n * 9 / 10],
           (long long)took_ns[n * 99 / 100], (long long)took_ns[n * 999 / 1000], (long long)took_ns[n - 1]);
    free(in);
    free(took_ns);
    return 0;
}
