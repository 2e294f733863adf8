#include "ask.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "deadline.h"

#define RETRY_MS 2 /* while as many wait for the daemon as it lets wait */

/* The address of a socket; of one with a path by its directory, which is open in `*directory` then and can't be replaced
 * under us any more. */
static rfaas_asked find(const char *path, uid_t owner, struct sockaddr_un *address, socklen_t *size, int *directory)
{
    *directory = -1;
    address->sun_family = AF_UNIX;
    if (path[0] == '@') {
        size_t length = strlen(path);
        memcpy(address->sun_path, path, length);
        address->sun_path[0] = '\0';
        *size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
        return RFAAS_ASK_DONE;
    }
    char folder[sizeof address->sun_path];
    const char *name = strrchr(path, '/') + 1;
    snprintf(folder, sizeof folder, "%.*s", (int)(name - path), path);
    *directory = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (*directory < 0)
        return errno == ENOENT ? RFAAS_ASK_ABSENT : RFAAS_ASK_FOREIGN;
    struct stat about;
    if (fstat(*directory, &about) != 0 || (about.st_uid != 0 && about.st_uid != owner) ||
        (about.st_mode & (S_IWGRP | S_IWOTH)) != 0)
        return RFAAS_ASK_FOREIGN;
    int length = snprintf(address->sun_path, sizeof address->sun_path, "/proc/self/fd/%d/%.80s", *directory, name);
    *size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)length + 1);
    return RFAAS_ASK_DONE;
}

static rfaas_asked connect_until(int fd, const struct sockaddr_un *address, socklen_t size, int64_t deadline_ms)
{
    while (connect(fd, (const struct sockaddr *)address, size) != 0) {
        if (errno == ENOENT)
            return RFAAS_ASK_ABSENT;
        if (errno == ECONNREFUSED)
            return RFAAS_ASK_DEAD;
        if (errno != EAGAIN && errno != EINTR)
            return RFAAS_ASK_REFUSED;
        if (rfaas_left_ms(deadline_ms) == 0)
            return RFAAS_ASK_SILENT;
        rfaas_pause_ms(RETRY_MS);
    }
    return RFAAS_ASK_DONE;
}

static rfaas_asked check_peer(int fd, uid_t owner)
{
    struct ucred peer;
    socklen_t size = sizeof peer;
    bool known = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0;
    return known && (peer.uid == 0 || peer.uid == owner) ? RFAAS_ASK_DONE : RFAAS_ASK_FOREIGN;
}

static rfaas_asked await(int fd, int64_t deadline_ms)
{
    char answer[RFAAS_HOOK_PACKET_BYTES];
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    for (;;) {
        int ready = poll(&wait, 1, rfaas_left_ms(deadline_ms));
        if (ready == 0)
            return RFAAS_ASK_SILENT;
        ssize_t size = ready < 0 ? -1 : recv(fd, answer, sizeof answer, MSG_DONTWAIT);
        if (size < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        return size > 0 && rfaas_packet_says_done(answer, (size_t)size) ? RFAAS_ASK_DONE : RFAAS_ASK_REFUSED;
    }
}

static rfaas_asked converse(int fd, const struct sockaddr_un *address, socklen_t size, uid_t owner,
                            const rfaas_packet *packet, int64_t deadline_ms)
{
    rfaas_asked asked = connect_until(fd, address, size, deadline_ms);
    if (asked == RFAAS_ASK_DONE)
        asked = check_peer(fd, owner);
    if (asked == RFAAS_ASK_DONE && send(fd, packet->bytes, packet->size, MSG_NOSIGNAL) != (ssize_t)packet->size)
        asked = RFAAS_ASK_REFUSED;
    return asked;
}

static rfaas_asked speak(const char *path, uid_t owner, const rfaas_packet *packet, int64_t deadline_ms, bool answered)
{
    struct sockaddr_un address = {0};
    socklen_t size = 0;
    int directory, fd = -1;
    rfaas_asked asked = find(path, owner, &address, &size, &directory);
    if (asked == RFAAS_ASK_DONE && (fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) < 0)
        asked = RFAAS_ASK_REFUSED;
    if (asked == RFAAS_ASK_DONE)
        asked = converse(fd, &address, size, owner, packet, deadline_ms);
    if (asked == RFAAS_ASK_DONE && answered)
        asked = await(fd, deadline_ms);
    if (fd >= 0)
        close(fd);
    if (directory >= 0)
        close(directory);
    return asked;
}

rfaas_asked rfaas_ask(const char *socket, uid_t owner, const rfaas_packet *packet, int64_t deadline_ms)
{
    return speak(socket, owner, packet, deadline_ms, true);
}

rfaas_asked rfaas_tell(const char *socket, uid_t owner, const rfaas_packet *packet, int64_t deadline_ms)
{
    return speak(socket, owner, packet, deadline_ms, false);
}

const char *rfaas_asked_text(rfaas_asked asked)
{
    switch (asked) {
    case RFAAS_ASK_DONE: return "done";
    case RFAAS_ASK_ABSENT: return "no such socket";
    case RFAAS_ASK_DEAD: return "nobody listens there";
    case RFAAS_ASK_FOREIGN: return "the socket or its directory is not of whom it must be";
    case RFAAS_ASK_SILENT: return "no answer in time";
    case RFAAS_ASK_REFUSED: return "refused";
    }
    return "?";
}
