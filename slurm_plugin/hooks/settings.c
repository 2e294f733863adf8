#include "settings.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LARGEST_FILE_BYTES 16384
#define BLANKS " \t\r"

static void say(char *fault, size_t size, const char *what, const char *why)
{
    if (*fault == '\0')
        snprintf(fault, size, RFAAS_HOOKS_CONF ": %.80s: %s", what, why);
}

/* Copy a text that must fit. */
static bool take_text(char *target, size_t size, const char *value)
{
    if (strlen(value) >= size)
        return false;
    memcpy(target, value, strlen(value) + 1);
    return true;
}

static bool take_number(long *target, const char *value, long least, long most)
{
    char *end;
    errno = 0;
    long number = strtol(value, &end, 10);
    if (errno != 0 || end == value || *end != '\0' || number < least || number > most)
        return false;
    *target = number;
    return true;
}

/* A path below the mount of a hierarchy: it may not climb out, nor be the hierarchy itself. */
static bool is_cgroup_name(const char *value)
{
    return *value != '\0' && *value != '/' && strcmp(value, ".") != 0 && strstr(value, "..") == NULL;
}

static bool take(rfaas_hook_settings *settings, const char *key, const char *value)
{
    long number;
    if (strcmp(key, "node_socket") == 0)
        return *value == '/' && take_text(settings->node_socket, sizeof settings->node_socket, value);
    if (strcmp(key, "allocator_socket") == 0)
        return (*value == '/' || *value == '@') &&
               take_text(settings->allocator_socket, sizeof settings->allocator_socket, value);
    if (strcmp(key, "cgroup") == 0)
        return is_cgroup_name(value) && take_text(settings->cgroup, sizeof settings->cgroup, value);
    if (strcmp(key, "log_file") == 0)
        return *value == '/' && take_text(settings->log_file, sizeof settings->log_file, value);
    if (strcmp(key, "allocator_uid") == 0 && take_number(&number, value, 0, INT_MAX)) {
        settings->allocator_uid = (uid_t)number;
        return true;
    }
    if (strcmp(key, "answer_ms") == 0 && take_number(&number, value, 1, 500)) {
        settings->answer_ms = (int)number;
        return true;
    }
    return false;
}

/* `key = value`, `# comment`, or nothing. */
static bool take_line(rfaas_hook_settings *settings, char *line)
{
    line += strspn(line, BLANKS);
    if (*line == '\0' || *line == '#')
        return true;
    char *value = strchr(line, '=');
    if (value == NULL)
        return false;
    *value++ = '\0';
    line[strcspn(line, BLANKS)] = '\0';
    value += strspn(value, BLANKS);
    value[strcspn(value, BLANKS)] = '\0';
    return take(settings, line, value);
}

/* The file's size in bytes; -1: there is none or it is not to be believed, and `why` says so if it is there. */
static ssize_t read_file(char *text, size_t size, const char **why)
{
    int fd = open(RFAAS_HOOKS_CONF, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0) {
        *why = errno == ENOENT ? NULL : strerror(errno);
        return -1;
    }
    struct stat about;
    ssize_t length = -1;
    if (fstat(fd, &about) != 0 || !S_ISREG(about.st_mode))
        *why = "is no file";
    else if (about.st_uid != 0 || (about.st_mode & (S_IWGRP | S_IWOTH)) != 0)
        *why = "not root's alone to write, so it is not believed: chown root, chmod go-w";
    else if (about.st_size >= (off_t)size)
        *why = "too large";
    else if ((length = read(fd, text, size - 1)) < 0)
        *why = strerror(errno);
    close(fd);
    return length;
}

void rfaas_hook_settings_read(rfaas_hook_settings *settings, char *fault, size_t fault_size)
{
    *settings = (rfaas_hook_settings){.node_socket = "/run/rfaas/node.sock", .cgroup = "rfaas", .answer_ms = RFAAS_ANSWER_MS};
    *fault = '\0';
    char text[LARGEST_FILE_BYTES];
    const char *why = NULL;
    ssize_t size = read_file(text, sizeof text, &why);
    if (size < 0) {
        if (why != NULL)
            say(fault, fault_size, "the file", why);
        return;
    }
    text[size] = '\0';
    char *rest = text, *line;
    while ((line = strsep(&rest, "\n")) != NULL)
        if (!take_line(settings, line))
            say(fault, fault_size, line, "not understood, so it is left out");
}
