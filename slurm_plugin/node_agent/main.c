/* rfaas-node-agent: lends a node's share to users whom munge names and the site's allocator has granted it.
 *
 * The only program of rfaas that runs as root. Never unpickles, decides nothing about who gets what, and runs nothing of a
 * user's but as that user. Spec: docs/spec/010-node-agent.md; why it is so: docs/adr/0021-node-agent.md; use: docs/site.md.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "door.h"
#include "hooks.h"
#include "proof.h"
#include "reconcile.h"
#include "say.h"

enum { MOST_POLLED = 4 + 2 * MOST_SLICES + MOST_VISITORS + MOST_CALLERS, EX_USAGE = 64, EX_CONFIG = 78 };
enum { SWEEP_MS = 5000, MOST_FILES = 64 + 2 * MOST_VISITORS + 4 * MOST_SLICES + 2 * MOST_CALLERS };

static const char *config_path = "/etc/rfaas/node.conf";
static struct config config;
static struct slices slices;
static struct hooks hooks;
static struct door door;
static struct reconcile reconcile;

enum source { SIGNALS, HOOKS, DOOR, SQUEUE, AGENT, REPORT, VISITOR, CALLER };

struct watched {
    struct pollfd polled[MOST_POLLED];
    enum source source[MOST_POLLED];
    int which[MOST_POLLED];
    nfds_t count;
};

static void watch(struct watched *watched, int fd, enum source source, int which)
{
    if (fd < 0)
        return;
    watched->polled[watched->count] = (struct pollfd){.fd = fd, .events = POLLIN};
    watched->source[watched->count] = source;
    watched->which[watched->count++] = which;
}

static void watch_all(struct watched *watched, int signals, bool leaving)
{
    watched->count = 0;
    watch(watched, signals, SIGNALS, 0);
    watch(watched, hooks.listener, HOOKS, 0);
    watch(watched, reconcile.output, SQUEUE, 0);
    if (!leaving)
        watch(watched, door.listener, DOOR, 0);
    for (int i = 0; i < MOST_SLICES; i++)
        if (slices.slice[i].state != SLICE_GONE) {
            watch(watched, slices.slice[i].pidfd, AGENT, i);
            watch(watched, slices.slice[i].report, REPORT, i);
        }
    for (int i = 0; i < MOST_VISITORS; i++)
        if (door.visitors[i].connection >= 0)
            watch(watched, door.visitors[i].proof, VISITOR, i);
    for (int i = 0; i < MOST_CALLERS; i++)
        watch(watched, hooks.callers[i].connection, CALLER, i);
}

static void heard(int which, bool leaving)
{
    struct visitor *visitor = &door.visitors[which];
    int connection;
    if (!door_heard(&door, visitor, &connection))
        return;
    if (leaving)
        answer(connection, "rfaas-node/1 refused code=draining hint=the node agent is being stopped");
    else if (proof_is_query(&visitor->told))
        slices_asked(&slices, &visitor->told.query, connection);
    else
        slices_start(&slices, &visitor->told, connection);
    explicit_bzero(&visitor->told, sizeof visitor->told); /* a user's secret */
}

/* Take the keys of the site's allocator from the configuration again; whatever is wrong with it, the old ones stay. */
static void reload_keys(void)
{
    static struct config fresh;
    char why[512] = "", names[MOST_KEYS * 9 + 1] = "";
    if (!config_read(config_path, &fresh, why, sizeof why)) {
        say("reload-failed keys=kept why=%s", why);
        return;
    }
    memcpy(config.allocator_keys, fresh.allocator_keys, sizeof config.allocator_keys);
    config.n_allocator_keys = fresh.n_allocator_keys;
    for (unsigned i = 0; i < config.n_allocator_keys; i++) {
        const uint8_t *key = config.allocator_keys[i];
        sprintf(names + strlen(names), "%s%02x%02x%02x%02x", i ? "," : "", key[0], key[1], key[2], key[3]);
    }
    say("reloaded keys=%s", names);
}

static void end_all(void)
{
    cpu_set_t all;
    memset(&all, 0xff, sizeof all);
    slices_end(&slices, &all, config.grace_ms, "shutdown");
}

static void signalled(int signals, bool *leaving)
{
    struct signalfd_siginfo info;
    if (read(signals, &info, sizeof info) != sizeof info)
        return;
    if (info.ssi_signo == SIGHUP) {
        reload_keys();
    } else if (!*leaving) {
        *leaving = true;
        end_all();
    }
}

static void attend(const struct watched *watched, int signals, bool *leaving)
{
    for (nfds_t i = 0; i < watched->count; i++) {
        int which = watched->which[i];
        if (!watched->polled[i].revents)
            continue;
        switch (watched->source[i]) {
        case SIGNALS:
            signalled(signals, leaving);
            break;
        case HOOKS:
            hooks_accept(&hooks);
            break;
        case DOOR:
            door_accept(&door);
            break;
        case SQUEUE:
            reconcile_heard(&reconcile);
            break;
        case AGENT:
            if (slices.slice[which].pidfd == watched->polled[i].fd)
                slices_agent_ended(&slices, which);
            break;
        case REPORT:
            if (slices.slice[which].report == watched->polled[i].fd)
                slices_reported(&slices, which);
            break;
        case VISITOR:
            heard(which, *leaving);
            break;
        case CALLER:
            hooks_heard(&hooks, &hooks.callers[which]);
            break;
        }
    }
}

static int soonest(int a, int b)
{
    return a < 0 ? b : b < 0 ? a : a < b ? a : b;
}

static void serve(int signals)
{
    static struct watched watched;
    bool leaving = false;
    for (;;) {
        int wait_ms = slices_tick(&slices);
        wait_ms = soonest(wait_ms, door_tick(&door));
        wait_ms = soonest(wait_ms, hooks_tick(&hooks));
        wait_ms = soonest(wait_ms, reconcile_tick(&reconcile));
        if (leaving && !slices_alive(&slices))
            return;
        watch_all(&watched, signals, leaving);
        int ready = poll(watched.polled, watched.count, wait_ms);
        if (ready < 0 && errno != EINTR) {
            say("failed stage=poll error=%s", strerror(errno));
            return;
        }
        if (ready > 0)
            attend(&watched, signals, &leaving);
    }
}

static int block_signals(void)
{
    sigset_t ours;
    sigemptyset(&ours);
    sigaddset(&ours, SIGTERM);
    sigaddset(&ours, SIGINT);
    sigaddset(&ours, SIGHUP);
    sigprocmask(SIG_BLOCK, &ours, NULL);
    signal(SIGPIPE, SIG_IGN);
    return signalfd(-1, &ours, SFD_CLOEXEC | SFD_NONBLOCK);
}

static int refuse(const char *why)
{
    fprintf(stderr, "rfaas-node-agent: %s\n", why);
    return EX_CONFIG;
}

/* Its own memory holds secrets of users for moments: no core file, no ptrace but root's. */
static void protect(void)
{
    struct rlimit none = {0, 0}, files;
    setrlimit(RLIMIT_CORE, &none);
    /* All visitors, slices and callers at once: strangers must not use up what an eviction needs. */
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < MOST_FILES) {
        files.rlim_cur = files.rlim_max < MOST_FILES ? files.rlim_max : MOST_FILES;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    clearenv();
    setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin", 1);
    umask(022);
}

int main(int count, char **arguments)
{
    char why[512] = "";
    bool check = false;
    for (int option; (option = getopt(count, arguments, "c:t")) != -1;) {
        if (option == 'c')
            config_path = optarg;
        else if (option == 't')
            check = true;
        else {
            fprintf(stderr, "usage: rfaas-node-agent [-t] [-c /etc/rfaas/node.conf]   -t: check the configuration\n");
            return EX_USAGE;
        }
    }
    protect();
    if (!config_read(config_path, &config, why, sizeof why))
        return refuse(why);
    if (check) {
        printf("%s: right\n", config_path);
        return 0;
    }
    if (geteuid() != 0)
        return refuse("it starts agents as their users: root is needed");
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur < MOST_FILES)
        return refuse("it may not open enough files: LimitNOFILE=1024 in its unit, or ulimit -Hn 1024");
    slices.config = &config;
    slices.book.opened_s = (uint64_t)time(NULL);
    reconcile_init(&reconcile, &config, &slices.book);
    proof_prepare(&config);
    int signals = block_signals();
    if (!door_open(&door, &config, why, sizeof why)) /* who comes waits in the kernel until the sweep is done */
        return refuse(why);
    if (!cgroups_open(&slices.groups, &config, why, sizeof why) || !hooks_open(&hooks, &slices, why, sizeof why))
        return refuse(why);
    /* Before anybody is heard: whatever an earlier life left here is nobody's any more. */
    if (!cgroups_sweep(&slices.groups, SWEEP_MS))
        return refuse("what an earlier node agent started can't be killed");
    char cpus[256];
    cgroup_cpu_text(&config.cpus, cpus, sizeof cpus);
    say("serving node=%s listen=%s cpus=%s memory_bytes=%llu cgroup=v%d", config.node, config.listen, cpus,
        (unsigned long long)config.memory_bytes, slices.groups.unified ? 2 : 1);
    serve(signals);
    unlink(hooks.path);
    say("left");
    return 0;
}
