#include "hooks.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "say.h"

static bool own_directory(const char *path, char *why, size_t room)
{
    struct stat about;
    if (mkdir(path, 0755) != 0 && errno != EEXIST) {
        snprintf(why, room, "%s: %s", path, strerror(errno));
        return false;
    }
    if (lstat(path, &about) != 0 || !S_ISDIR(about.st_mode) || about.st_uid != geteuid() ||
        (about.st_mode & (S_IWGRP | S_IWOTH))) {
        snprintf(why, room, "run_dir = %s: others than root can write it: chown root, chmod go-w", path);
        return false;
    }
    return true;
}

bool hooks_open(struct hooks *hooks, struct slices *slices, char *why, size_t room)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memset(hooks, 0, sizeof *hooks);
    hooks->slices = slices;
    for (int i = 0; i < MOST_CALLERS; i++)
        hooks->callers[i].connection = -1;
    if (!own_directory(slices->config->run_dir, why, room))
        return false;
    snprintf(hooks->path, sizeof hooks->path, "%s/node.sock", slices->config->run_dir);
    if (strlen(hooks->path) >= sizeof address.sun_path) {
        snprintf(why, room, "run_dir = %s: the path is too long for a socket", slices->config->run_dir);
        return false;
    }
    strcpy(address.sun_path, hooks->path);
    hooks->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (hooks->listener >= 0 && connect(hooks->listener, (struct sockaddr *)&address, sizeof address) == 0) {
        snprintf(why, room, "%s: another node agent serves there", hooks->path);
        return false;
    }
    unlink(hooks->path); /* of one that was killed */
    mode_t before = umask(0177);
    bool open = hooks->listener >= 0 && bind(hooks->listener, (struct sockaddr *)&address, sizeof address) == 0 &&
                listen(hooks->listener, 128) == 0;
    umask(before);
    if (!open)
        snprintf(why, room, "%s: %s", hooks->path, strerror(errno));
    return open;
}

static void hang_up(struct caller *caller)
{
    close(caller->connection);
    caller->connection = -1;
}

static void reply(struct caller *caller, const char *text)
{
    (void)!send(caller->connection, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL);
    hang_up(caller);
}

void hooks_accept(struct hooks *hooks)
{
    int connection = accept4(hooks->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (connection < 0)
        return;
    struct ucred who = {.uid = (uid_t)-1};
    socklen_t size = sizeof who;
    struct caller *caller = NULL;
    for (int i = 0; i < MOST_CALLERS && !caller; i++)
        if (hooks->callers[i].connection < 0)
            caller = &hooks->callers[i];
    bool root = getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &who, &size) == 0 &&
                (who.uid == 0 || who.uid == geteuid());
    if (!caller || !root) {
        say("refused hook uid=%d reason=%s", (int)who.uid, root ? "too-many" : "not-root");
        close(connection);
        return;
    }
    *caller = (struct caller){.connection = connection, .since_ms = boottime_ms()};
}

static void status(struct hooks *hooks, struct caller *caller)
{
    const struct slices *slices = hooks->slices;
    int alive = __builtin_popcountll(slices_alive(slices)), holds = 0, cores = 0;
    unsigned long long memory_bytes = 0;
    char text[1024], held[512] = "";
    for (int i = 0; i < MOST_SLICES; i++)
        if (slices->book.lent[i].used) {
            cores += CPU_COUNT(&slices->book.lent[i].cpus);
            memory_bytes += slices->book.lent[i].memory_bytes;
        }
    for (int i = 0, at = 0; i < MOST_HOLDS; i++) {
        if (!slices->book.holds[i].used)
            continue;
        holds++;
        if (at < (int)sizeof held - 24) /* the first ones are enough for whoever compares them with squeue */
            at += snprintf(held + at, sizeof held - (size_t)at, "%s%llu", at ? "," : "",
                           (unsigned long long)slices->book.holds[i].job);
    }
    snprintf(text, sizeof text,
             "rfaas-hook/1 done slices=%d jobs=%d cores=%d share_cores=%d memory_bytes=%llu share_memory_bytes=%llu held=%s",
             alive,
             holds, cores, CPU_COUNT(&slices->config->cpus), memory_bytes,
             (unsigned long long)slices->config->memory_bytes, held);
    reply(caller, text);
}

static void evict(struct hooks *hooks, struct caller *caller, const struct hook_packet *packet)
{
    struct slices *slices = hooks->slices;
    cpu_set_t cpus = {0};
    /* Slurm's list and ours may differ on odd machines: what can't be read means the whole node. */
    if (!packet->cpus[0] || !config_cpu_list(packet->cpus, &cpus))
        memset(&cpus, 0xff, sizeof cpus);
    if (!book_hold(&slices->book, packet->job, &cpus, boottime_ms()))
        say("job job=%llu not-held reason=too-many", (unsigned long long)packet->job);
    caller->evicts = true;
    caller->awaited = slices_end(slices, &cpus, slices->config->evict_grace_ms, "evicted");
    caller->evicted = __builtin_popcountll(caller->awaited);
    say("evicting job=%llu slices=%d", (unsigned long long)packet->job, caller->evicted);
}

void hooks_heard(struct hooks *hooks, struct caller *caller)
{
    char text[PACKET_BYTES + 1];
    struct hook_packet packet;
    ssize_t size = recv(caller->connection, text, sizeof text, MSG_DONTWAIT);
    if (size <= 0 || caller->evicts) { /* left, or says more than one packet: the eviction goes on without an answer */
        if (size < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        hang_up(caller);
        return;
    }
    if (!wire_read_hook(text, (size_t)size, &packet)) {
        reply(caller, "rfaas-hook/1 error reason=bad-packet");
        return;
    }
    if (packet.verb == HOOK_EVICT) {
        evict(hooks, caller, &packet);
    } else if (packet.verb == HOOK_FREE) {
        book_release(&hooks->slices->book, packet.job);
        say("job-gone job=%llu", (unsigned long long)packet.job);
        reply(caller, "rfaas-hook/1 done evicted=0 ms=0");
    } else if (packet.verb == HOOK_STATUS) {
        status(hooks, caller);
    } else {
        reply(caller, "rfaas-hook/1 error reason=unknown-verb");
    }
}

static void proven(struct caller *caller, uint64_t now_ms)
{
    char text[128];
    snprintf(text, sizeof text, "rfaas-hook/1 done evicted=%d ms=%llu", caller->evicted,
             (unsigned long long)(now_ms - caller->since_ms));
    reply(caller, text);
}

int hooks_tick(struct hooks *hooks)
{
    uint64_t now_ms = boottime_ms(), alive = slices_alive(hooks->slices);
    int wait_ms = -1;
    for (int i = 0; i < MOST_CALLERS; i++) {
        struct caller *caller = &hooks->callers[i];
        if (caller->connection < 0)
            continue;
        caller->awaited &= alive;
        if (caller->evicts && !caller->awaited)
            proven(caller, now_ms);
        else if (!caller->evicts && now_ms >= caller->since_ms + CALLER_TIMEOUT_MS)
            hang_up(caller);
        else
            wait_ms = CALLER_TIMEOUT_MS;
    }
    return wait_ms;
}
