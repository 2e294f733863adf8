/* say.h - one line on standard error for each event: `time rfaas-node-agent EVENT key=value ...`; systemd's journal keeps it. */
#ifndef RFAAS_NODE_SAY_H
#define RFAAS_NODE_SAY_H

#include <stdarg.h>
#include <stdio.h>
#include <time.h>

__attribute__((format(printf, 1, 2))) static inline void say(const char *format, ...)
{
    char line[1024];
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    size_t at = strftime(line, sizeof line, "%Y-%m-%dT%H:%M:%S", &utc);
    at += (size_t)snprintf(line + at, sizeof line - at, ".%03ldZ rfaas-node-agent ", now.tv_nsec / 1000000);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line + at, sizeof line - at, format, arguments);
    va_end(arguments);
    fprintf(stderr, "%s\n", line);
}

#endif
