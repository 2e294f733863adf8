#include "door.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "say.h"
#include "slices.h"

/* "address:port" with an IPv6 address in brackets. */
static bool split(const char *listen, char host[TEXT_BYTES], char port[TEXT_BYTES])
{
    const char *colon = strrchr(listen, ':');
    if (!colon || colon == listen || !colon[1])
        return false;
    bool brackets = listen[0] == '[' && colon[-1] == ']';
    snprintf(host, TEXT_BYTES, "%.*s", (int)(colon - listen) - 2 * brackets, listen + brackets);
    snprintf(port, TEXT_BYTES, "%s", colon + 1);
    return true;
}

static bool every_interface(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET6)
        return IN6_IS_ADDR_UNSPECIFIED(&((const struct sockaddr_in6 *)address)->sin6_addr);
    return ((const struct sockaddr_in *)address)->sin_addr.s_addr == htonl(INADDR_ANY);
}

bool door_open(struct door *door, const struct config *config, char *why, size_t room)
{
    char host[TEXT_BYTES], port[TEXT_BYTES];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV}, *found = NULL;
    int yes = 1;
    memset(door, 0, sizeof *door);
    door->config = config;
    for (int i = 0; i < MOST_VISITORS; i++)
        door->visitors[i].connection = -1;
    if (!split(config->listen, host, port) || getaddrinfo(host, port, &hints, &found) != 0) {
        snprintf(why, room, "listen = %s: an address of the fabric and a port are due, as 10.1.0.7:7410", config->listen);
        return false;
    }
    if (every_interface(found->ai_addr)) {
        snprintf(why, room, "listen = %s: that is every interface: name an address of the fabric", config->listen);
        freeaddrinfo(found);
        return false;
    }
    door->listener = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool open = door->listener >= 0 && setsockopt(door->listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) == 0 &&
                bind(door->listener, found->ai_addr, found->ai_addrlen) == 0 && listen(door->listener, 64) == 0;
    if (!open)
        snprintf(why, room, "listen = %s: %s", config->listen, strerror(errno));
    freeaddrinfo(found);
    return open;
}

static struct in6_addr address_of(const struct sockaddr_storage *peer)
{
    struct in6_addr address = {0};
    if (peer->ss_family == AF_INET6)
        return ((const struct sockaddr_in6 *)peer)->sin6_addr;
    memcpy(&address.s6_addr[12], &((const struct sockaddr_in *)peer)->sin_addr, 4);
    return address;
}

static struct address_record *record_of(struct door *door, const struct in6_addr *address)
{
    for (int i = 0; i < REMEMBERED_ADDRESSES; i++)
        if (memcmp(&door->records[i].address, address, sizeof *address) == 0)
            return &door->records[i];
    return NULL;
}

void door_note_bad(struct door *door, const struct in6_addr *address)
{
    uint64_t now_ms = boottime_ms();
    struct address_record *record = record_of(door, address);
    if (!record) {
        record = &door->records[0]; /* the one that is forgotten first */
        for (int i = 1; i < REMEMBERED_ADDRESSES; i++)
            if (door->records[i].until_ms < record->until_ms)
                record = &door->records[i];
        *record = (struct address_record){.address = *address};
    }
    record->until_ms = (record->until_ms > now_ms ? record->until_ms : now_ms) + FORGIVE_ONE_MS;
}

static bool welcome(struct door *door, const struct in6_addr *address)
{
    const struct address_record *record = record_of(door, address);
    if (record && record->until_ms > boottime_ms() + (MOST_BAD - 1) * FORGIVE_ONE_MS)
        return false;
    int of_his = 0;
    for (int i = 0; i < MOST_VISITORS; i++)
        of_his += door->visitors[i].connection >= 0 &&
                  memcmp(&door->visitors[i].address, address, sizeof *address) == 0;
    return of_his < MOST_OF_ONE_ADDRESS;
}

__attribute__((noreturn)) static void hear(const struct config *config, int connection, int told)
{
    struct proof proof;
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (dup2(connection, 3) < 0 || dup2(told, 4) < 0)
        _exit(1);
    syscall(SYS_close_range, 5U, ~0U, 0U); /* neither the other visitors nor the slices are his */
    proof_take(config, 3, &proof);
    for (size_t at = 0; at < sizeof proof;) {
        ssize_t wrote = write(4, (char *)&proof + at, sizeof proof - at);
        if (wrote <= 0)
            _exit(1);
        at += (size_t)wrote;
    }
    _exit(0);
}

static bool start_hearing(struct door *door, struct visitor *visitor)
{
    int told[2];
    if (pipe2(told, O_CLOEXEC) != 0)
        return false;
    visitor->hearer = fork();
    if (visitor->hearer == 0) {
        int connection = fcntl(visitor->connection, F_DUPFD_CLOEXEC, 10), end = fcntl(told[1], F_DUPFD_CLOEXEC, 10);
        hear(door->config, connection, end);
    }
    close(told[1]);
    visitor->proof = told[0];
    if (visitor->hearer < 0)
        close(told[0]);
    return visitor->hearer > 0;
}

void door_accept(struct door *door)
{
    struct sockaddr_storage peer = {0};
    socklen_t size = sizeof peer;
    int connection = accept4(door->listener, (struct sockaddr *)&peer, &size, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (connection < 0)
        return;
    struct in6_addr address = address_of(&peer);
    struct visitor *visitor = NULL;
    for (int i = 0; i < MOST_VISITORS && !visitor; i++)
        if (door->visitors[i].connection < 0)
            visitor = &door->visitors[i];
    if (!visitor || !welcome(door, &address)) {
        answer(connection, "rfaas-node/1 refused code=busy hint=too many requests: try again in some seconds");
        return;
    }
    memset(visitor, 0, sizeof *visitor);
    visitor->connection = connection;
    visitor->address = address;
    visitor->until_ms = boottime_ms() + PROOF_TIMEOUT_S * 1000;
    if (!start_hearing(door, visitor)) {
        say("failed stage=hearing error=%s", strerror(errno));
        visitor->connection = -1;
        answer(connection, "rfaas-node/1 refused code=busy hint=the node is short of processes or descriptors");
    }
}

bool door_heard(struct door *door, struct visitor *visitor, int *connection)
{
    ssize_t got = read(visitor->proof, (char *)&visitor->told + visitor->got, sizeof visitor->told - visitor->got);
    if (got > 0) {
        visitor->got += (size_t)got;
        if (visitor->got < sizeof visitor->told)
            return false;
    }
    close(visitor->proof);
    kill(visitor->hearer, SIGKILL); /* it has ended by itself or is late */
    waitpid(visitor->hearer, NULL, 0);
    bool whole = visitor->got == sizeof visitor->told;
    *connection = visitor->connection;
    visitor->connection = -1;
    if (whole && proof_check(door->config, &visitor->told))
        return true;
    door_note_bad(door, &visitor->address);
    const char *code = whole ? visitor->told.code : "not-proven";
    const char *hint = whole ? visitor->told.hint : "munged of this node does not answer";
    char from[INET6_ADDRSTRLEN] = "?";
    inet_ntop(AF_INET6, &visitor->address, from, sizeof from);
    say("refused from=%s uid=%d code=%s hint=\"%s\"", from, whole ? (int)visitor->told.uid : -1, code, hint);
    answer(*connection, "rfaas-node/1 refused code=%s hint=%s", code, hint);
    return false;
}

int door_tick(struct door *door)
{
    uint64_t now_ms = boottime_ms();
    int wait_ms = -1;
    for (int i = 0; i < MOST_VISITORS; i++) {
        struct visitor *visitor = &door->visitors[i];
        if (visitor->connection < 0)
            continue;
        if (now_ms >= visitor->until_ms)
            kill(visitor->hearer, SIGKILL); /* its pipe ends, which is heard */
        int left_ms = now_ms >= visitor->until_ms ? 50 : (int)(visitor->until_ms - now_ms);
        wait_ms = wait_ms < 0 || left_ms < wait_ms ? left_ms : wait_ms;
    }
    return wait_ms;
}
