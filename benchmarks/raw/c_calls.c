/* c_calls.c - what calling a compiled function costs a program in C, by rfaas.h.
 *
 * Usage: c_calls LIBRARY SIZE ITERATIONS [CPU CPU]: the client is pinned to the first CPU, the worker to the second. Embedded
 * workers over shared memory. Prints one JSON object: nanoseconds a call.
 */
#include "calls.h"

enum { WARM_UP = 1000 };

int main(int argc, char **argv)
{
    if (argc != 4 && argc != 6) {
        fprintf(stderr, "usage: c_calls LIBRARY SIZE ITERATIONS [CPU CPU]\n");
        return 2;
    }
    size_t size_bytes = strtoull(argv[2], NULL, 10), n = strtoull(argv[3], NULL, 10);
    if (size_bytes == 0 || n == 0)
        return 2;
    caller by = caller_begin(argv[1], "shm", size_bytes, -1);
    if (argc == 6) {
        pin_process(0, atoi(argv[4]));
        pin_process(by.worker, atoi(argv[5]));
    }
    int64_t *took_ns = calloc(n, sizeof *took_ns);
    if (took_ns == NULL)
        fail_with("malloc", NULL);
    for (size_t i = 0; i < WARM_UP; i++)
        call_once(&by);
    for (size_t i = 0; i < n; i++)
        took_ns[i] = call_once(&by);
    caller_end(&by);
    qsort(took_ns, n, sizeof *took_ns, in_order);
    printf("{\"size_bytes\": %zu, \"iterations\": %zu, \"min_ns\": %lld, \"p50_ns\": %lld, \"p90_ns\": %lld, "
           "\"p99_ns\": %lld, \"p999_ns\": %lld, \"max_ns\": %lld}\n",
           size_bytes, n, (long long)took_ns[0], (long long)took_ns[(n - 1) / 2], (long long)took_ns[n * 9 / 10],
           (long long)took_ns[n * 99 / 100], (long long)took_ns[n * 999 / 1000], (long long)took_ns[n - 1]);
    free(took_ns);
    return 0;
}
