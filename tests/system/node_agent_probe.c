/* node_agent_probe.c - what the node agent starts in tests, in an agent's place: tells what it was given, then waits.
 *
 * Writes report.txt into the state directory. What it does then is what the file `way` there says:
 * wait, or no such file: ends at SIGTERM; stubborn: ignores it; fork: forks without end, ignoring it; quit: ends with status 3.
 */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

extern char **environ;

static void tell_file(FILE *out, const char *path)
{
    char line[4096];
    FILE *in = fopen(path, "r");
    while (in && fgets(line, sizeof line, in))
        fprintf(out, "%s", line);
    if (in)
        fclose(in);
}

static void tell_descriptors(FILE *out)
{
    char path[64], target[256];
    for (int fd = 0; fd < 1024; fd++) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        ssize_t size = fd == fileno(out) ? -1 : readlink(path, target, sizeof target - 1);
        if (size >= 0)
            fprintf(out, "fd %d %.*s\n", fd, (int)size, target);
    }
}

static void tell_processes(FILE *out)
{
    DIR *proc = opendir("/proc");
    struct dirent *entry;
    while (proc && (entry = readdir(proc)))
        if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9')
            fprintf(out, "sees %s\n", entry->d_name);
    if (proc)
        closedir(proc);
}

static void tell_way(const char *state_dir, char *way, size_t room)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/way", state_dir);
    FILE *in = fopen(path, "r");
    if (in && !fgets(way, (int)room, in))
        way[0] = '\0';
    if (in)
        fclose(in);
}

int main(int count, char **arguments)
{
    const char *state_dir = "";
    char path[1024], temporary[1100], folder[1024], does[16] = "";
    unsigned char secret[64];
    for (int i = 1; i + 1 < count; i++)
        if (strcmp(arguments[i], "--state-dir") == 0)
            state_dir = arguments[i + 1];
    snprintf(path, sizeof path, "%s/report.txt", state_dir);
    snprintf(temporary, sizeof temporary, "%s.new", path);
    FILE *out = fopen(temporary, "w");
    if (!out)
        return 4;
    fprintf(out, "pid %d session %d groups", (int)getpid(), (int)getsid(0));
    gid_t groups[64];
    for (int i = 0, n = getgroups(64, groups); i < n; i++)
        fprintf(out, " %d", (int)groups[i]);
    fprintf(out, "\ncwd %s\nsecret ", getcwd(folder, sizeof folder));
    ssize_t size = read(0, secret, sizeof secret);
    for (ssize_t i = 0; i < size; i++)
        fprintf(out, "%02x", secret[i]);
    int died = 0;
    prctl(PR_GET_PDEATHSIG, &died);
    struct rlimit core;
    getrlimit(RLIMIT_CORE, &core);
    fprintf(out, "\ndeathsig %d\ncore %lu\n", died, (unsigned long)core.rlim_max);
    for (int i = 0; i < count; i++)
        fprintf(out, "argument %s\n", arguments[i]);
    for (char **variable = environ; *variable; variable++)
        fprintf(out, "environment %s\n", *variable);
    tell_file(out, "/proc/self/status");
    tell_file(out, "/proc/self/cgroup");
    tell_descriptors(out);
    tell_processes(out);
    fclose(out);
    tell_way(state_dir, does, sizeof does);
    if (strcmp(does, "stubborn") == 0 || strcmp(does, "fork") == 0)
        signal(SIGTERM, SIG_IGN);
    rename(temporary, path);
    if (strcmp(does, "quit") == 0)
        return 3;
    for (;;) {
        if (strcmp(does, "fork") != 0)
            pause();
        else if (fork() == 0)
            setsid();
    }
}
