#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "seal.h"

static int report_end;

__attribute__((noreturn)) static void fail(const char *stage)
{
    struct launch_failure failure = {.error = errno};
    snprintf(failure.stage, sizeof failure.stage, "%s", stage);
    (void)!write(report_end, &failure, sizeof failure);
    _exit(127);
}

static void fresh_signals(void)
{
    sigset_t none;
    for (int signo = 1; signo < NSIG; signo++)
        signal(signo, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* A /proc that shows this user's processes alone, in a mount namespace that still sees what is mounted later (homes). */
static void hide_processes(void)
{
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) != 0 ||
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "hidepid=2") != 0)
        fail("hide_processes");
}

/* Processes are limited by the group: RLIMIT_NPROC would count what the user runs elsewhere on this node too. */
static void limit(void)
{
    struct rlimit files, none = {0, 0};
    if (setrlimit(RLIMIT_CORE, &none) != 0 || getrlimit(RLIMIT_NOFILE, &files) != 0)
        fail("limits");
    files.rlim_cur = files.rlim_max < 4096 ? files.rlim_max : 4096;
    setrlimit(RLIMIT_NOFILE, &files);
}

/* The secret waits on standard input, in a pipe; the rest of what was open is closed. */
static void arrange_descriptors(int input)
{
    int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (nothing < 0 || dup2(input, 0) < 0 || dup2(nothing, 1) < 0 || dup2(nothing, 2) < 0)
        fail("descriptors");
    if (report_end != 3 && dup3(report_end, 3, O_CLOEXEC) < 0)
        fail("descriptors");
    report_end = 3;
    fcntl(3, F_SETFD, FD_CLOEXEC);
    if (syscall(SYS_close_range, 4U, ~0U, 0U) != 0)
        for (int fd = 4; fd < 65536; fd++)
            close(fd);
}

static void see_that_nothing_is_left(uid_t uid, gid_t gid)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct sets[2];
    uid_t real, effective, saved;
    gid_t real_group, effective_group, saved_group;
    if (getresuid(&real, &effective, &saved) != 0 || real != uid || effective != uid || saved != uid)
        fail("uid");
    if (getresgid(&real_group, &effective_group, &saved_group) != 0 || real_group != gid || effective_group != gid ||
        saved_group != gid)
        fail("gid");
    if (syscall(SYS_capget, &header, sets) != 0 || sets[0].effective | sets[0].permitted | sets[0].inheritable |
                                                       sets[1].effective | sets[1].permitted | sets[1].inheritable)
        fail("capabilities");
    if (setuid(0) == 0)
        fail("uid");
}

static void become(const struct passwd *user)
{
    if (initgroups(user->pw_name, user->pw_gid) != 0)
        fail("groups");
    const char *stayed = seal_unbind();
    if (stayed)
        fail(stayed);
    if (setresgid(user->pw_gid, user->pw_gid, user->pw_gid) != 0)
        fail("gid");
    if (setresuid(user->pw_uid, user->pw_uid, user->pw_uid) != 0)
        fail("uid");
    see_that_nothing_is_left(user->pw_uid, user->pw_gid);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        fail("no_new_privs");
}

/* Opened by the user, who can't get at anybody else's file by a link then; without it the log is lost, no more. */
static void open_log(const struct launch *launch)
{
    char path[STATE_DIR_BYTES + NAME_BYTES + 32];
    snprintf(path, sizeof path, "%s/log/slice-%s.log", launch->request->state_dir, launch->name);
    int log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0600);
    if (log < 0)
        return;
    dup2(log, 1);
    dup2(log, 2);
    close(log);
}

__attribute__((noreturn)) static void execute(const struct launch *launch, const struct passwd *user)
{
    const struct config *config = launch->config;
    const struct grant *grant = &launch->request->grant;
    char cores[16], memory[24], grace[24], ends[24], key[NAME_BYTES + 8], home[1024], name[256], logname[256];
    snprintf(cores, sizeof cores, "%u", grant->cores);
    snprintf(memory, sizeof memory, "%llu", (unsigned long long)grant->memory_bytes);
    snprintf(grace, sizeof grace, "%.3f", (double)config->grace_ms / 1000);
    snprintf(ends, sizeof ends, "%llu", (unsigned long long)launch->lasts_s);
    snprintf(key, sizeof key, "site:%s", launch->name);
    snprintf(home, sizeof home, "HOME=%s", user->pw_dir);
    snprintf(name, sizeof name, "USER=%s", user->pw_name);
    snprintf(logname, sizeof logname, "LOGNAME=%s", user->pw_name);
    const char *arguments[32] = {config->python, "-I", "-m", "rfaas_executors", "--secret-stdin",
                                 "--state-dir", launch->request->state_dir, "--cores", cores, "--memory-bytes", memory,
                                 "--grace-s", grace, "--end-in-s", ends, "--slice-key", key, "--node", config->node,
                                 "--sched", "idle"};
    int count = 21;
    char idle[24];
    snprintf(idle, sizeof idle, "%llu", (unsigned long long)config->idle_s);
    if (config->idle_s) {
        arguments[count++] = "--idle-after-s";
        arguments[count++] = idle;
    }
    if (config->agent_listen[0]) {
        arguments[count++] = "--listen";
        arguments[count++] = config->agent_listen;
    }
    if (launch->request->allocator[0]) {
        arguments[count++] = "--allocator";
        arguments[count++] = launch->request->allocator;
    }
    char *const environment[] = {"PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8", home, name, logname, NULL};
    execve(config->python, (char *const *)arguments, environment);
    fail("python");
}

__attribute__((noreturn)) static void run(const struct launch *launch, int input, pid_t parent)
{
    if (!cgroup_enter(launch->groups, launch->name)) /* first: from here on the group's end is this process's */
        fail("cgroup");
    fresh_signals();
    umask(077);
    if (setsid() < 0)
        fail("session");
    errno = 0;
    const struct passwd *user = getpwuid(launch->request->grant.uid);
    if (!user || user->pw_uid != launch->request->grant.uid)
        fail("user");
    if (sched_setaffinity(0, sizeof launch->cpus, &launch->cpus) != 0)
        fail("affinity");
    if (launch->config->hide_processes)
        hide_processes();
    limit();
    arrange_descriptors(input);
    become(user);
    /* After the change of user, which takes it away again: with the node agent the slice ends. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0 || getppid() != parent)
        fail("parent");
    if (chdir("/") != 0)
        fail("directory");
    open_log(launch);
    execute(launch, user);
}

pid_t launch_agent(const struct launch *launch, int *report)
{
    int input[2], told[2];
    if (pipe2(input, O_CLOEXEC) != 0)
        return -1;
    if (pipe2(told, O_CLOEXEC) != 0) {
        close(input[0]);
        close(input[1]);
        return -1;
    }
    pid_t parent = getpid();
    /* 32 bytes fit in any pipe */
    pid_t pid = write(input[1], launch->request->secret, SECRET_BYTES) == SECRET_BYTES ? fork() : -1;
    if (pid == 0) {
        report_end = told[1];
        run(launch, input[0], parent);
    }
    int error = errno;
    close(input[0]);
    close(input[1]);
    close(told[1]);
    if (pid < 0) {
        close(told[0]);
        errno = error;
        return -1;
    }
    *report = told[0];
    return pid;
}
