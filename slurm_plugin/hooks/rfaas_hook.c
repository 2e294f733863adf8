/* rfaas-hook: what Slurm runs around each job, one program for Prolog, Epilog, PrologSlurmctld and EpilogSlurmctld.
 *
 * A Prolog that fails drains its node and fails its job, so this one exits 0 whatever happens, and soon: jobs start as if it
 * were not there where rfaas is not. What it says and to whom: docs/spec/009-hooks.md. Which of the four it is, Slurm says in
 * SLURM_SCRIPT_CONTEXT; by hand the first argument does. Build: cc -O2 -static -o rfaas-hook *.c
 */
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "ask.h"
#include "deadline.h"
#include "end_cgroup.h"
#include "packet.h"
#include "settings.h"

#define TELL_MS 50     /* for the allocator's socket: no answer is awaited */
#define END_MS 600     /* to kill what is left, after the answer failed to come */
#define LONGEST_MS 950 /* for everything */

/* Whatever hangs (a file system, a log that nobody reads) ends here: a job waits for us. */
static void out_of_time(int signum)
{
    (void)signum;
    _exit(0);
}

static void limit_time(void)
{
    struct sigaction act = {.sa_handler = out_of_time};
    sigset_t alarm;
    sigemptyset(&alarm);
    sigaddset(&alarm, SIGALRM);
    sigaction(SIGALRM, &act, NULL);
    sigprocmask(SIG_UNBLOCK, &alarm, NULL);
    struct itimerval limit = {.it_value = {.tv_usec = LONGEST_MS * 1000}};
    setitimer(ITIMER_REAL, &limit, NULL);
}

static const char *job(void)
{
    const char *id = getenv("SLURM_JOB_ID");
    return id != NULL ? id : "?";
}

/* One line to the log: the file of the settings, else syslog. */
static void say(const rfaas_hook_settings *settings, const char *form, ...)
{
    char text[512];
    va_list values;
    va_start(values, form);
    vsnprintf(text, sizeof text, form, values);
    va_end(values);
    if (settings->log_file[0] == '\0') {
        openlog("rfaas-hook", LOG_PID | LOG_NDELAY, LOG_DAEMON);
        syslog(LOG_WARNING, "job %.20s: %s", job(), text);
        return;
    }
    char line[640], when[32] = "";
    time_t now = time(NULL);
    struct tm utc;
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    int size = snprintf(line, sizeof line, "%s rfaas-hook[%d]: job %.20s: %s\n", when, (int)getpid(), job(), text);
    int fd = open(settings->log_file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0644);
    if (fd < 0)
        return; /* there is nobody to tell */
    ssize_t written = write(fd, line, (size_t)size);
    (void)written;
    close(fd);
}

/* What every packet says of the job. */
static void describe(rfaas_packet *packet, const char *verb)
{
    rfaas_packet_begin(packet, verb);
    rfaas_packet_add(packet, "job", getenv("SLURM_JOB_ID"));
    rfaas_packet_add(packet, "uid", getenv("SLURM_JOB_UID"));
    rfaas_packet_add(packet, "node", getenv("SLURMD_NODENAME"));
    rfaas_packet_add(packet, "partition", getenv("SLURM_JOB_PARTITION"));
}

/* Prolog: no task of the job runs before the node's executors are dead. */
static void evict(const rfaas_hook_settings *settings)
{
    rfaas_packet packet;
    describe(&packet, "evict");
    const int64_t began_ms = rfaas_now_ms();
    rfaas_asked asked = rfaas_ask(settings->node_socket, 0, &packet, began_ms + settings->answer_ms);
    if (asked == RFAAS_ASK_DONE)
        return;
    rfaas_cgroup_end end = rfaas_end_cgroup(settings->cgroup, rfaas_now_ms() + END_MS);
    const long long ms = rfaas_now_ms() - began_ms;
    const char *why = rfaas_asked_text(asked);
    if (end == RFAAS_CGROUP_ENDED)
        say(settings, "%s: %s; killed cgroup %s myself, %lld ms", settings->node_socket, why, settings->cgroup, ms);
    else if (end == RFAAS_CGROUP_ALIVE)
        say(settings, "%s: %s; cgroup %s STILL LIVES after %lld ms", settings->node_socket, why, settings->cgroup, ms);
    else if (asked != RFAAS_ASK_ABSENT) /* rfaas is there, but not well */
        say(settings, "%s: %s; nothing of it ran, %lld ms", settings->node_socket, why, ms);
}

/* Epilog: the node agent may use the node again. Slurm keeps it COMPLETING as long as we take, so nothing is awaited. */
static void node_is_free(const rfaas_hook_settings *settings)
{
    rfaas_packet packet;
    describe(&packet, "free");
    rfaas_tell(settings->node_socket, 0, &packet, rfaas_now_ms() + settings->answer_ms);
}

/* The hooks of slurmctld, as SlurmUser: the allocator hears of the whole job, some 50 ms before its nodes do. */
static void tell_allocator(const rfaas_hook_settings *settings, const char *verb)
{
    if (settings->allocator_socket[0] == '\0')
        return;
    rfaas_packet packet;
    describe(&packet, verb);
    rfaas_packet_add(&packet, "nodes", getenv("SLURM_JOB_NODELIST")); /* left out if too long: look for yourself */
    const int64_t deadline_ms = rfaas_now_ms() + TELL_MS;
    rfaas_asked asked = rfaas_tell(settings->allocator_socket, settings->allocator_uid, &packet, deadline_ms);
    if (asked != RFAAS_ASK_DONE && asked != RFAAS_ASK_ABSENT && asked != RFAAS_ASK_DEAD)
        say(settings, "%s: %s", settings->allocator_socket, rfaas_asked_text(asked));
}

int main(int argc, char **argv)
{
    limit_time();
    const char *context = argc > 1 ? argv[1] : getenv("SLURM_SCRIPT_CONTEXT");
    context = context != NULL ? context : "";
    rfaas_hook_settings settings;
    char fault[256];
    rfaas_hook_settings_read(&settings, fault, sizeof fault);
    if (strcmp(context, "prolog_slurmd") == 0)
        evict(&settings);
    else if (strcmp(context, "epilog_slurmd") == 0)
        node_is_free(&settings);
    else if (strcmp(context, "prolog_slurmctld") == 0)
        tell_allocator(&settings, "warn");
    else if (strcmp(context, "epilog_slurmctld") == 0)
        tell_allocator(&settings, "free");
    else
        say(&settings, "neither Slurm (SLURM_SCRIPT_CONTEXT) nor an argument says which hook this is: '%.40s'", context);
    if (fault[0] != '\0')
        say(&settings, "%s", fault);
    return 0;
}
