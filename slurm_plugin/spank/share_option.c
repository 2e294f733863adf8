#include "share_option.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_CORES 65535
#define MOST_MEMORY_MIB (1L << 30) /* a pebibyte */
#define MOST_GRACE_S 3600

/* A whole number from `*text` on, which is moved behind it; -1 if there is none, or one that is too large. */
static long take_number(const char **text, long most)
{
    if (!isdigit((unsigned char)**text))
        return -1;
    char *end;
    errno = 0;
    long number = strtol(*text, &end, 10);
    *text = end;
    return errno == 0 && number <= most ? number : -1;
}

/* Slurm's own forms: MiB without a letter; K, M, G, T with, and iB or B behind that. */
static long take_memory_mib(const char **text)
{
    long amount = take_number(text, MOST_MEMORY_MIB);
    char letter = (char)toupper((unsigned char)**text);
    long mib = -1;
    if (letter == 'K')
        mib = amount / 1024;
    else if (letter == 'G' && amount <= MOST_MEMORY_MIB >> 10)
        mib = amount << 10;
    else if (letter == 'T' && amount <= MOST_MEMORY_MIB >> 20)
        mib = amount << 20;
    else if (letter == 'M' || letter == ':' || letter == '\0')
        mib = amount;
    if (isalpha((unsigned char)letter)) {
        ++*text;
        if (strncasecmp(*text, "iB", 2) == 0)
            *text += 2;
        else if (**text == 'B' || **text == 'b')
            ++*text;
    }
    return amount < 0 ? -1 : mib;
}

static bool refuse(char *why, size_t size, const char *text, const char *what)
{
    snprintf(why, size, "--rfaas-share=%.60s: %s; write cores:mem[:grace], e.g. 2:8G or 2:8G:10s", text, what);
    return false;
}

bool rfaas_share_parse(const char *text, rfaas_share *share, char *why, size_t why_size)
{
    const char *rest = text != NULL ? text : "";
    text = rest;
    share->cores = take_number(&rest, MOST_CORES);
    if (share->cores < 1)
        return refuse(why, why_size, text, "no whole number of cores, 1 or more");
    if (*rest++ != ':')
        return refuse(why, why_size, text, "the memory is missing");
    share->memory_mib = take_memory_mib(&rest);
    if (share->memory_mib < 1)
        return refuse(why, why_size, text, "no amount of memory, 1M or more");
    share->grace_s = RFAAS_SHARE_GRACE_S;
    if (*rest == ':') {
        rest++;
        share->grace_s = take_number(&rest, MOST_GRACE_S);
        if (share->grace_s < 0)
            return refuse(why, why_size, text, "no grace in whole seconds, at most 3600");
        if (*rest == 's')
            rest++;
    }
    return *rest == '\0' || refuse(why, why_size, text, "something follows that does not belong there");
}

long rfaas_share_count(const char *list)
{
    long count = 0;
    do {
        long first = take_number(&list, MOST_CORES), last = first;
        if (*list == '-') {
            list++;
            last = take_number(&list, MOST_CORES);
        }
        if (first < 0 || last < first)
            return -1;
        count += last - first + 1;
    } while (*list++ == ',');
    return list[-1] == '\0' ? count : -1;
}
