/* tcp_spin.c - a ping-pong over loopback TCP whose sides poll without sleeping: the limit of medium "tcp", and that medium.
 *
 * Usage: tcp_spin raw|channel SIZE ITERATIONS [CPU CPU]. Prints one JSON object, nanoseconds a round trip.
 */
#include "channel_side.h"

static void raw_send(void *state, uint8_t *buffer, size_t size_bytes)
{
    for (size_t sent_bytes = 0; sent_bytes < size_bytes;) {
        ssize_t n = send(*(int *)state, buffer + sent_bytes, size_bytes - sent_bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0)
            sent_bytes += (size_t)n;
        else if (errno != EAGAIN)
            fail("send");
    }
}

static void raw_receive(void *state, uint8_t *buffer, size_t size_bytes)
{
    for (size_t got_bytes = 0; got_bytes < size_bytes;) {
        ssize_t n = recv(*(int *)state, buffer + got_bytes, size_bytes - got_bytes, MSG_DONTWAIT);
        if (n > 0)
            got_bytes += (size_t)n;
        else if (n == 0 || errno != EAGAIN)
            fail("recv");
    }
}

int main(int count, char **arguments)
{
    size_t size_bytes, iterations;
    int cpus[2], ends[2];
    bool is_raw = count > 1 && strcmp(arguments[1], "raw") == 0;
    if (count < 2 || (!is_raw && strcmp(arguments[1], "channel") != 0))
        count = 1;
    read_arguments(count - 2, arguments + 2, "tcp_spin raw|channel", &size_bytes, &iterations, cpus);
    const rfaas_tcp_options options = {.max_payload_bytes = 1ull << 32};
    tcp_pair(ends);
    pid_t child = fork();
    int side = child == 0;
    close(ends[1 - side]);
    pin(cpus[side]);
    ping_pong here = is_raw ? (ping_pong){&ends[side], raw_send, raw_receive} : channel_over(ends[side], &options);
    if (child == 0) {
        pong(here, size_bytes, iterations);
        _exit(0);
    }
    ping(is_raw ? "raw tcp" : "channel tcp", here, size_bytes, iterations);
    return waitpid(child, NULL, 0) == child ? 0 : 1;
}
