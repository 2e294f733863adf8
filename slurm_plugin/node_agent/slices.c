#include "slices.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "say.h"

enum { LOOK_MS = 2 }; /* while something is being killed */

uint64_t boottime_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void answer(int asker, const char *format, ...)
{
    char text[512];
    va_list arguments;
    if (asker < 0)
        return;
    va_start(arguments, format);
    int length = vsnprintf(text + 4, sizeof text - 4, format, arguments);
    va_end(arguments);
    if (length < 0 || (size_t)length > sizeof text - 5)
        length = sizeof text - 5;
    uint8_t size[4] = {(uint8_t)length, (uint8_t)(length >> 8), 0, 0};
    memcpy(text, size, sizeof size);
    (void)!send(asker, text, (size_t)length + 4, MSG_DONTWAIT | MSG_NOSIGNAL); /* fits in the socket's buffer */
    close(asker);
}

static void hex(const uint8_t *bytes, size_t size, char *text)
{
    for (size_t i = 0; i < size; i++)
        sprintf(text + 2 * i, "%02x", bytes[i]);
}

static void close_if_open(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void kill_now(struct slices *slices, struct slice *slice, const char *reason)
{
    if (!slice->reason)
        slice->reason = reason;
    slice->state = SLICE_KILLING;
    cgroup_kill(&slices->groups, slice->name);
}

static void refused(int asker, const struct grant *grant, uid_t uid, const char *code, const char *hint)
{
    say("refused uid=%d node=%s code=%s", (int)uid, grant->node, code);
    answer(asker, "rfaas-node/1 refused code=%s hint=%s", code, hint);
}

static bool launched(struct slices *slices, struct slice *slice, const struct proof *proof, int slot, uint64_t now_s)
{
    const struct grant *grant = &proof->request.grant;
    struct lent *lent = &slices->book.lent[slot];
    struct cgroup_limits limits = {grant->memory_bytes, slices->config->pids_max, lent->cpus};
    struct launch launch = {slices->config, &slices->groups, &proof->request, "", lent->cpus, grant->ends_s - now_s};
    memcpy(launch.name, slice->name, sizeof launch.name);
    if (!cgroup_make(&slices->groups, slice->name, &limits, slices->config->limits))
        return false;
    slice->pid = launch_agent(&launch, &slice->report);
    slice->pidfd = slice->pid > 0 ? (int)syscall(SYS_pidfd_open, slice->pid, 0) : -1;
    if (slice->pidfd >= 0)
        return true;
    int error = errno;
    if (slice->pid > 0) { /* out of descriptors: what can't be watched may not live */
        close_if_open(&slice->report);
        kill(slice->pid, SIGKILL);
        waitpid(slice->pid, NULL, 0);
    }
    cgroup_remove(&slices->groups, slice->name);
    errno = error;
    return false;
}

void slices_start(struct slices *slices, const struct proof *proof, int asker)
{
    const struct grant *grant = &proof->request.grant;
    uint64_t now_s = (uint64_t)time(NULL);
    struct verdict verdict = book_judge(&slices->book, slices->config, grant, proof->uid, now_s);
    if (verdict.code) {
        refused(asker, grant, proof->uid, verdict.code, verdict.hint);
        return;
    }
    int slot = book_lend(&slices->book, slices->config, grant, now_s);
    if (slot < 0) {
        refused(asker, grant, proof->uid, "no-room", "try again");
        return;
    }
    struct slice *slice = &slices->slice[slot];
    *slice = (struct slice){.state = SLICE_STARTING, .uid = proof->uid, .pidfd = -1, .report = -1, .asker = asker};
    hex(grant->slice_id, SLICE_ID_BYTES, slice->name);
    slice->started_ms = boottime_ms();
    slice->ends_ms = slice->started_ms + (grant->ends_s - now_s) * 1000;
    if (!launched(slices, slice, proof, slot, now_s)) {
        say("failed slice=%s uid=%d stage=launch error=%s", slice->name, (int)proof->uid, strerror(errno));
        refused(asker, grant, proof->uid, "start-failed", "the node's administrator finds more in its log");
        slice->state = SLICE_GONE;
        book_take_back(&slices->book, slot);
        return;
    }
    char cpus[256];
    cgroup_cpu_text(&slices->book.lent[slot].cpus, cpus, sizeof cpus);
    say("starting slice=%s uid=%d pid=%d cpus=%s memory_bytes=%llu ends_in_s=%llu", slice->name, (int)slice->uid,
        (int)slice->pid, cpus, (unsigned long long)grant->memory_bytes, (unsigned long long)(grant->ends_s - now_s));
}

enum { QUERY_AGE_S = 120, LINE_BYTES = 160, LIST_BYTES = MOST_SLICES * LINE_BYTES + 128 };

static void send_list(const struct slices *slices, int asker)
{
    static const char *const states[] = {"gone", "starting", "running", "noticed", "killing"};
    static char list[4 + LIST_BYTES];
    uint64_t now_ms = boottime_ms();
    int jobs = 0, lent = 0;
    for (int i = 0; i < MOST_HOLDS; i++)
        jobs += slices->book.holds[i].used;
    int at = 4 + snprintf(list + 4, LIST_BYTES, "rfaas-node/1 lends jobs=%d unsure=%d slices=", jobs,
                          slices->book.unsure || slices->book.overflowed);
    for (int i = 0; i < MOST_SLICES; i++) {
        const struct slice *slice = &slices->slice[i];
        if (slice->state == SLICE_GONE)
            continue;
        at += snprintf(list + at, LINE_BYTES, "%s%s:%d:%d:%llu:%llu:%s", lent++ ? "," : "", slice->name, (int)slice->uid,
                       CPU_COUNT(&slices->book.lent[i].cpus), (unsigned long long)slices->book.lent[i].memory_bytes,
                       (unsigned long long)(slice->ends_ms > now_ms ? (slice->ends_ms - now_ms) / 1000 : 0),
                       states[slice->state]);
    }
    for (int i = 0; i < 4; i++)
        list[i] = (char)((at - 4) >> 8 * i);
    (void)!send(asker, list, (size_t)at, MSG_DONTWAIT | MSG_NOSIGNAL);
    close(asker);
}

void slices_asked(struct slices *slices, const struct node_query *query, int asker)
{
    uint64_t now_s = (uint64_t)time(NULL);
    cpu_set_t every;
    memset(&every, 0xff, sizeof every);
    if (strcmp(query->node, slices->config->node) != 0) {
        answer(asker, "rfaas-node/1 refused code=wrong-node hint=this is %s", slices->config->node);
        return;
    }
    if (query->issued_s + QUERY_AGE_S < now_s || query->issued_s > now_s + QUERY_AGE_S) {
        answer(asker, "rfaas-node/1 refused code=expired hint=compare the clocks of both hosts");
        return;
    }
    if (query->verb == QUERY_NOTICE) {
        if (query->job && !book_hold(&slices->book, query->job, &every, boottime_ms()))
            say("job job=%llu not-held reason=too-many", (unsigned long long)query->job);
        slices_end(slices, &every, slices->config->grace_ms, "warned");
        say("warned job=%llu slices=%d", (unsigned long long)query->job, __builtin_popcountll(slices_alive(slices)));
    }
    send_list(slices, asker);
}

void slices_reported(struct slices *slices, int slot)
{
    struct slice *slice = &slices->slice[slot];
    struct launch_failure failure = {0};
    ssize_t got = read(slice->report, &failure, sizeof failure);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    close_if_open(&slice->report);
    if (got > 0) {
        failure.stage[sizeof failure.stage - 1] = '\0';
        say("failed slice=%s uid=%d stage=%s error=%s", slice->name, (int)slice->uid, failure.stage,
            strerror(failure.error));
        answer(slice->asker, "rfaas-node/1 refused code=start-failed hint=%s: %s", failure.stage,
               strerror(failure.error));
        slice->asker = -1;
        kill_now(slices, slice, "start-failed");
        return;
    }
    answer(slice->asker, "rfaas-node/1 started slice=%s pid=%d", slice->name, (int)slice->pid);
    slice->asker = -1;
    if (slice->state == SLICE_STARTING)
        slice->state = SLICE_RUNNING;
}

void slices_agent_ended(struct slices *slices, int slot)
{
    struct slice *slice = &slices->slice[slot];
    siginfo_t ended = {0};
    if (waitid(P_PIDFD, (id_t)slice->pidfd, &ended, WEXITED | WNOHANG) != 0 || ended.si_pid == 0)
        return;
    close_if_open(&slice->pidfd);
    if (slice->report >= 0)
        slices_reported(slices, slot);
    say("agent-ended slice=%s uid=%d %s=%d", slice->name, (int)slice->uid,
        ended.si_code == CLD_EXITED ? "status" : "signal", ended.si_status);
    kill_now(slices, slice, "left");
}

static void notice(struct slices *slices, struct slice *slice, uint64_t grace_ms, const char *reason)
{
    uint64_t kill_at_ms = boottime_ms() + grace_ms;
    if (slice->state == SLICE_NOTICED && slice->kill_at_ms <= kill_at_ms)
        return;
    /* An agent counts on grace_ms from a SIGTERM. With less it must not wait for its calls: its farewells would die with it. */
    int signo = grace_ms < slices->config->grace_ms ? SIGQUIT : SIGTERM;
    if (slice->pidfd >= 0 && (slice->state != SLICE_NOTICED || signo == SIGQUIT))
        syscall(SYS_pidfd_send_signal, slice->pidfd, signo, NULL, 0);
    slice->reason = reason;
    slice->state = SLICE_NOTICED;
    slice->kill_at_ms = kill_at_ms;
    if (grace_ms == 0)
        kill_now(slices, slice, reason);
}

uint64_t slices_end(struct slices *slices, const cpu_set_t *cpus, uint64_t grace_ms, const char *reason)
{
    uint64_t which = 0;
    for (int i = 0; i < MOST_SLICES; i++) {
        struct slice *slice = &slices->slice[i];
        cpu_set_t common;
        CPU_AND(&common, cpus, &slices->book.lent[i].cpus);
        if (slice->state == SLICE_GONE || CPU_COUNT(&common) == 0)
            continue;
        which |= UINT64_C(1) << i;
        if (slice->state != SLICE_KILLING)
            notice(slices, slice, grace_ms, reason);
    }
    return which;
}

static void gone(struct slices *slices, int slot)
{
    struct slice *slice = &slices->slice[slot];
    say("freed slice=%s uid=%d reason=%s lasted_ms=%llu", slice->name, (int)slice->uid, slice->reason,
        (unsigned long long)(boottime_ms() - slice->started_ms));
    if (slice->pidfd >= 0) { /* dead, or on its way into a group that is gone, which it can't enter */
        syscall(SYS_pidfd_send_signal, slice->pidfd, SIGKILL, NULL, 0);
        waitid(P_PIDFD, (id_t)slice->pidfd, &(siginfo_t){0}, WEXITED);
        close_if_open(&slice->pidfd);
    }
    close_if_open(&slice->report);
    answer(slice->asker, "rfaas-node/1 refused code=start-failed hint=%s", slice->reason);
    slice->state = SLICE_GONE;
    book_take_back(&slices->book, slot);
}

static int sooner(int a, uint64_t due_ms, uint64_t now_ms)
{
    uint64_t wait_ms = due_ms > now_ms ? due_ms - now_ms : 0;
    int b = wait_ms > 60000 ? 60000 : (int)wait_ms;
    return a < 0 || b < a ? b : a;
}

int slices_tick(struct slices *slices)
{
    int wait_ms = -1;
    uint64_t now_ms = boottime_ms();
    for (int i = 0; i < MOST_SLICES; i++) {
        struct slice *slice = &slices->slice[i];
        if ((slice->state == SLICE_STARTING || slice->state == SLICE_RUNNING) && now_ms >= slice->ends_ms)
            notice(slices, slice, slices->config->grace_ms, "expired");
        if (slice->state == SLICE_NOTICED && now_ms >= slice->kill_at_ms)
            kill_now(slices, slice, slice->reason);
        if (slice->state == SLICE_KILLING) {
            if (cgroup_remove(&slices->groups, slice->name))
                gone(slices, i);
            else
                cgroup_kill(&slices->groups, slice->name);
        }
        if (slice->state == SLICE_KILLING)
            wait_ms = LOOK_MS;
        else if (slice->state != SLICE_GONE)
            wait_ms = sooner(wait_ms, slice->state == SLICE_NOTICED ? slice->kill_at_ms : slice->ends_ms, now_ms);
    }
    return wait_ms;
}

uint64_t slices_alive(const struct slices *slices)
{
    uint64_t alive = 0;
    for (int i = 0; i < MOST_SLICES; i++)
        if (slices->slice[i].state != SLICE_GONE)
            alive |= UINT64_C(1) << i;
    return alive;
}
