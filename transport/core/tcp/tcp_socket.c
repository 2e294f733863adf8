/* tcp_socket.c - see tcp_socket.h. */
#include "tcp_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

enum {
    KEEPALIVE_IDLE_S = 10,
    KEEPALIVE_INTERVAL_S = 5,
    KEEPALIVE_PROBES = 3,
};

static int option_of(int fd, int name)
{
    int value = -1;
    socklen_t size_bytes = sizeof value;
    return getsockopt(fd, SOL_SOCKET, name, &value, &size_bytes) == 0 ? value : -1;
}

const char *rfaas_tcp_socket_name(int fd)
{
    struct sockaddr_storage peer;
    socklen_t size_bytes = sizeof peer;
    if (option_of(fd, SO_TYPE) != SOCK_STREAM)
        return NULL;
    /* A peer that has hung up already leaves ENOTCONN: its last frames can still be read. */
    if (getpeername(fd, (struct sockaddr *)&peer, &size_bytes) != 0 && errno != ENOTCONN)
        return NULL;
    if (option_of(fd, SO_ACCEPTCONN) != 0)
        return NULL;
    switch (option_of(fd, SO_DOMAIN)) {
    case AF_UNIX: return "unix";
    case AF_INET:
    case AF_INET6: return "tcp";
    default: return NULL;
    }
}

static bool set_tcp_options(int fd, const rfaas_tcp_options *options)
{
    const struct {
        int level, name, value;
    } wanted[] = {
        {IPPROTO_TCP, TCP_NODELAY, 1},
        {SOL_SOCKET, SO_KEEPALIVE, 1},
        {IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_S},
        {IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S},
        {IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES},
        {IPPROTO_TCP, TCP_USER_TIMEOUT, (int)options->user_timeout_ms}, /* last: 0 leaves what it was */
    };
    size_t n_wanted = sizeof wanted / sizeof *wanted - (options->user_timeout_ms == 0);
    for (size_t i = 0; i < n_wanted; i++)
        if (setsockopt(fd, wanted[i].level, wanted[i].name, &wanted[i].value, sizeof wanted[i].value) != 0)
            return false;
    return true;
}

bool rfaas_tcp_socket_set_up(int fd, const char *name, const rfaas_tcp_options *options)
{
    if (strcmp(name, "tcp") == 0 && !set_tcp_options(fd, options))
        return false;
    int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0 && fcntl(fd, F_SETFD, FD_CLOEXEC) == 0;
}
