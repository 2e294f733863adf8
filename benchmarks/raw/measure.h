/* measure.h - what the raw measurements share: two pinned processes, a connected pair of TCP sockets, figures as JSON. */
#ifndef RFAAS_RAW_MEASURE_H
#define RFAAS_RAW_MEASURE_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

static void pin(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (cpu >= 0 && sched_setaffinity(0, sizeof set, &set) != 0)
        fail("sched_setaffinity");
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Two ends of a loopback connection, without delay and non-blocking. */
static void tcp_pair(int ends[2])
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size_bytes = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 1) != 0 ||
        getsockname(listener, (struct sockaddr *)&address, &size_bytes) != 0)
        fail("listen");
    ends[0] = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(ends[0], (struct sockaddr *)&address, sizeof address) != 0)
        fail("connect");
    ends[1] = accept(listener, NULL, NULL);
    if (ends[1] < 0)
        fail("accept");
    close(listener);
    for (int i = 0; i < 2; i++)
        if (setsockopt(ends[i], IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0 ||
            fcntl(ends[i], F_SETFL, O_NONBLOCK) != 0)
            fail("socket options");
}

/* One side of a ping-pong over whatever `state` is. Both move `size_bytes` of `buffer` whole. */
typedef struct ping_pong {
    void *state;
    void (*send)(void *state, uint8_t *buffer, size_t size_bytes);
    void (*receive)(void *state, uint8_t *buffer, size_t size_bytes);
} ping_pong;

/* Rounds before those that count. */
static size_t warm_up(size_t iterations)
{
    return iterations < 200 ? iterations : 200;
}

static int by_size(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return a < b ? -1 : a > b;
}

/* Answers until the other side has done its rounds, checking nothing. */
static void pong(ping_pong side, size_t size_bytes, size_t iterations)
{
    uint8_t *buffer = calloc(1, size_bytes);
    for (size_t i = 0; i < iterations + warm_up(iterations); i++) {
        side.receive(side.state, buffer, size_bytes);
        side.send(side.state, buffer, size_bytes);
    }
    free(buffer);
}

/* Measures, checks that every byte came back, and prints one line. */
static void ping(const char *name, ping_pong side, size_t size_bytes, size_t iterations)
{
    uint8_t *buffer = malloc(size_bytes);
    uint64_t *took_ns = malloc(iterations * sizeof *took_ns);
    if (buffer == NULL || took_ns == NULL)
        fail("malloc");
    for (size_t i = 0; i < iterations + warm_up(iterations); i++) {
        memset(buffer, (int)(i & 0xff), size_bytes < 64 ? size_bytes : 64);
        uint64_t start_ns = now_ns();
        side.send(side.state, buffer, size_bytes);
        side.receive(side.state, buffer, size_bytes);
        if (i >= warm_up(iterations))
            took_ns[i - warm_up(iterations)] = now_ns() - start_ns;
        if (buffer[0] != (uint8_t)(i & 0xff)) {
            fprintf(stderr, "round %zu brought something else back\n", i);
            exit(1);
        }
    }
    qsort(took_ns, iterations, sizeof *took_ns, by_size);
    printf("{\"name\": \"%s\", \"size\": %zu, \"iterations\": %zu, \"min_ns\": %llu, \"p50_ns\": %llu, \"p90_ns\": %llu, "
           "\"p99_ns\": %llu}\n",
           name, size_bytes, iterations, (unsigned long long)took_ns[0],
           (unsigned long long)took_ns[iterations / 2], (unsigned long long)took_ns[iterations * 9 / 10],
           (unsigned long long)took_ns[iterations * 99 / 100]);
    free(took_ns);
    free(buffer);
}

/* SIZE ITERATIONS [CPU CPU] at `arguments`; returns the CPU of each side, -1: any. */
static void read_arguments(int count, char **arguments, const char *usage, size_t *size_bytes, size_t *iterations,
                           int cpus[2])
{
    if (count != 2 && count != 4) {
        fprintf(stderr, "usage: %s SIZE ITERATIONS [CPU CPU]\n", usage);
        exit(2);
    }
    *size_bytes = strtoull(arguments[0], NULL, 10);
    *iterations = strtoull(arguments[1], NULL, 10);
    cpus[0] = count == 4 ? atoi(arguments[2]) : -1;
    cpus[1] = count == 4 ? atoi(arguments[3]) : -1;
    if (*size_bytes == 0 || *iterations == 0) {
        fprintf(stderr, "SIZE and ITERATIONS are numbers above 0\n");
        exit(2);
    }
}

#endif
