#include "lender.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MOST_GROUPS 16 /* control groups: one a hierarchy */
#define START_MS 500   /* from fork to exec */
#define LOOK_MS 5
#define CLAIM_FD 3
#define SAY_FD 4

/* The file to write a pid to, for a line of /proc/PID/cgroup. A job's cores are those of its own cpuset, not of the step. */
static void procs_file(char *line, char *path, size_t size)
{
    char *controllers = strchr(line, ':'), *group;
    *path = '\0';
    if (controllers == NULL || (group = strchr(++controllers, ':')) == NULL)
        return;
    *group++ = '\0';
    group[strcspn(group, "\n")] = '\0';
    if (strcmp(group, "/") == 0)
        return;
    char *step = strcmp(controllers, "cpuset") == 0 ? strstr(group, "/step_") : NULL;
    if (step != NULL)
        *step = '\0';
    if (strncmp(controllers, "name=", 5) == 0)
        controllers += 5;
    snprintf(path, size, "/sys/fs/cgroup%s%s%s/cgroup.procs", *controllers != '\0' ? "/" : "", controllers, group);
}

/* Open the control groups of a task, to be entered by writing 0. Their number. */
static int open_groups(pid_t task, int *fds)
{
    char name[64], line[1024], path[1200];
    int count = 0;
    snprintf(name, sizeof name, "/proc/%d/cgroup", (int)task);
    FILE *file = fopen(name, "re");
    while (file != NULL && count < MOST_GROUPS && fgets(line, sizeof line, file) != NULL) {
        procs_file(line, path, sizeof path);
        if (*path != '\0' && (fds[count] = open(path, O_WRONLY | O_CLOEXEC)) >= 0)
            count++;
    }
    if (file != NULL)
        fclose(file);
    return count;
}

/* One lender a job and node: whoever holds this name is it. The descriptor lives as long as the lender. */
static int claim(const rfaas_lender *lender)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    int length = snprintf(name.sun_path + 1, sizeof name.sun_path - 1, "rfaas-share-%u-%u", (unsigned)lender->uid,
                          lender->job_id);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
    if (fd >= 0 && bind(fd, (struct sockaddr *)&name, size) != 0) {
        int why = errno;
        close(fd);
        errno = why;
        return -1;
    }
    return fd;
}

static int write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t written = write(fd, text, strlen(text));
    close(fd);
    return written < 0 ? -1 : 0;
}

/* The job's environment but for what is of the node where its script runs and not of this one; NULL without memory. */
static char **environment_here(char *const *environ_)
{
    static const char *const of_a_node[] = {"SLURMD_NODENAME=", "SLURM_CPUS_ON_NODE="};
    static char name[HOST_NAME_MAX + 32] = "SLURMD_NODENAME=";
    size_t count = 0, kept = 0;
    while (environ_[count] != NULL)
        count++;
    char **here = calloc(count + 2, sizeof *here);
    for (size_t i = 0; here != NULL && i < count; i++)
        if (strncmp(environ_[i], of_a_node[0], strlen(of_a_node[0])) != 0 &&
            strncmp(environ_[i], of_a_node[1], strlen(of_a_node[1])) != 0)
            here[kept++] = environ_[i];
    if (here != NULL && gethostname(name + strlen(of_a_node[0]), HOST_NAME_MAX) == 0) {
        name[strcspn(name, ".")] = '\0'; /* as slurmd names itself where slurm.conf says nothing else */
        here[kept] = name;
    }
    return here;
}

/* The owner's own process, with nothing of slurmstepd's: for good. */
static int become_owner(const rfaas_lender *lender)
{
    write_text("/proc/self/oom_score_adj", "0"); /* slurmstepd's keeps it from being killed */
    if (setgroups((size_t)lender->n_groups, lender->groups) != 0 ||
        setresgid(lender->gid, lender->gid, lender->gid) != 0 ||
        setresuid(lender->uid, lender->uid, lender->uid) != 0)
        return -1;
    return 0;
}

static void default_signals(void)
{
    sigset_t none;
    sigemptyset(&none);
    for (int number = 1; number < NSIG; number++)
        signal(number, SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static void keep_only(int claimed, int say)
{
    int null = open("/dev/null", O_RDWR);
    int held = fcntl(claimed, F_DUPFD, 10), told = fcntl(say, F_DUPFD, 10);
    for (int fd = 0; fd <= 2; fd++)
        dup2(null, fd);
    dup2(held, CLAIM_FD);
    dup3(told, SAY_FD, O_CLOEXEC);
    if (syscall(SYS_close_range, SAY_FD + 1, ~0U, 0) != 0)
        for (int fd = SAY_FD + 1; fd < 1024; fd++)
            close(fd);
}

_Noreturn static void run(const rfaas_lender *lender, char **environment, const int *groups, int n_groups, int claimed,
                          int say)
{
    char cores[24], memory[24], grace[24];
    snprintf(cores, sizeof cores, "%ld", lender->cores);
    snprintf(memory, sizeof memory, "%ldMiB", lender->memory_mib);
    snprintf(grace, sizeof grace, "%lds", lender->grace_s);
    for (int i = 0; i < n_groups; i++)
        if (write(groups[i], "0", 1) != 1)
            break; /* a hierarchy that the job has no group in */
    default_signals();
    keep_only(claimed, say);
    setsid();
    int failed = become_owner(lender) != 0 || chdir("/") != 0;
    if (!failed) {
        const char *argv[] = {lender->command, "share",   "--here", "--log",   "--cores", cores,
                              "--memory",      memory,    "--grace", grace,    NULL};
        environ = environment; /* before: it is the job's PATH that counts */
        execvp(lender->command, (char *const *)argv);
    }
    int why = errno;
    ssize_t written = write(SAY_FD, &why, sizeof why);
    (void)written;
    _exit(127);
}

/* What the child says if it can't begin; 0 if it did begin. */
static int hear(int fd)
{
    int why = 0;
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    if (poll(&wait, 1, START_MS) == 1 && read(fd, &why, sizeof why) != sizeof why)
        why = 0;
    return why;
}

pid_t rfaas_lender_start(const rfaas_lender *lender, char *why, size_t why_size)
{
    int claimed = claim(lender);
    if (claimed < 0) {
        snprintf(why, why_size, "%s", strerror(errno));
        return errno == EADDRINUSE ? 0 : -1;
    }
    int groups[MOST_GROUPS], n_groups = open_groups(lender->beside, groups), say[2];
    char **environment = environment_here(lender->environ_);
    pid_t pid = environment != NULL && pipe2(say, O_CLOEXEC) == 0 ? fork() : -1;
    if (pid == 0)
        run(lender, environment, groups, n_groups, claimed, say[1]);
    int failed = pid < 0 ? errno : 0;
    free(environment);
    for (int i = 0; i < n_groups; i++)
        close(groups[i]);
    close(claimed);
    if (pid > 0) {
        close(say[1]);
        failed = hear(say[0]);
        close(say[0]);
    }
    if (failed == 0)
        return pid;
    if (pid > 0)
        waitpid(pid, NULL, 0);
    snprintf(why, why_size, "can't run %s: %s", lender->command, strerror(failed));
    return -1;
}

/* slurmstepd waits for all its children and may have reaped this one. */
static int is_gone(pid_t pid)
{
    pid_t reaped = waitpid(pid, NULL, WNOHANG);
    return reaped == pid || (reaped < 0 && errno == ECHILD);
}

void rfaas_lender_end(pid_t pid, long grace_s)
{
    if (pid <= 0 || is_gone(pid) || kill(pid, SIGTERM) != 0)
        return;
    for (long left_ms = 1000 * grace_s + 500; left_ms > 0; left_ms -= LOOK_MS) {
        if (is_gone(pid))
            return;
        nanosleep(&(struct timespec){.tv_nsec = LOOK_MS * 1000000L}, NULL);
    }
    kill(pid, SIGKILL);
}
