/* verbs_device.c - see verbs_device.h. */
#include "verbs_device.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { GIDS_MAX = 256 };

/* ---- open devices: a context costs a device some of its memory, so channels share one ---- */

typedef struct opened {
    struct opened *next;
    struct ibv_context *context;
    uint32_t references;
    pid_t owner; /* a forked child opens its own */
    char name[RFAAS_VERBS_NAME_BYTES];
} opened;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t prepared = PTHREAD_ONCE_INIT;
static opened *all_opened;

static void lock_before_fork(void) { pthread_mutex_lock(&lock); }
static void unlock_after_fork(void) { pthread_mutex_unlock(&lock); }

/* Kernels without copy-on-fork for pinned pages (before 5.12) need the library's help, before anything is registered. */
static void prepare_forks(void)
{
    ibv_fork_init();
    pthread_atfork(lock_before_fork, unlock_after_fork, unlock_after_fork);
}

/* Posting may be a write to this descriptor (soft-RoCE), and programs that close what they don't know open others, which
 * get the lowest free number: one high up is found closed then, and is never somebody's file. */
static void move_out_of_reach(int *fd)
{
    enum { HIGH = 500 };
    struct rlimit limit;
    int least = getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur / 2 < HIGH ? (int)(limit.rlim_cur / 2) : HIGH;
    int moved = fcntl(*fd, F_DUPFD_CLOEXEC, least);
    if (moved < 0)
        return; /* there is no room: it serves where it is */
    close(*fd);
    *fd = moved;
}

static struct ibv_context *open_device(struct ibv_device *device)
{
    struct ibv_context *context = NULL;
    const char *name = ibv_get_device_name(device);
    pthread_once(&prepared, prepare_forks);
    pthread_mutex_lock(&lock);
    opened *found = all_opened;
    while (found != NULL && (strcmp(found->name, name) != 0 || found->owner != getpid()))
        found = found->next;
    if (found != NULL) {
        found->references++;
        context = found->context;
    } else if ((found = calloc(1, sizeof *found)) != NULL) {
        context = found->context = ibv_open_device(device);
        if (context == NULL) {
            free(found);
        } else {
            fcntl(context->async_fd, F_SETFL, fcntl(context->async_fd, F_GETFL) | O_NONBLOCK);
            move_out_of_reach(&context->cmd_fd);
            found->references = 1;
            found->owner = getpid();
            snprintf(found->name, sizeof found->name, "%s", name);
            found->next = all_opened;
            all_opened = found;
        }
    }
    pthread_mutex_unlock(&lock);
    return context;
}

static void close_device(struct ibv_context *context)
{
    pthread_mutex_lock(&lock);
    opened **at = &all_opened;
    while (*at != NULL && ((*at)->context != context || (*at)->owner != getpid()))
        at = &(*at)->next;
    opened *found = *at;
    if (found != NULL && --found->references == 0) {
        *at = found->next;
        ibv_close_device(found->context);
        free(found);
    }
    pthread_mutex_unlock(&lock);
}

/* ---- choosing ---- */

typedef struct wish {
    char name[RFAAS_VERBS_NAME_BYTES]; /* "": any */
    unsigned port;                     /* 0: any */
    bool has_address;
    union ibv_gid address; /* of the socket, as a GID */
} wish;

static void parse(wish *parsed, const char *text, int fd)
{
    struct sockaddr_storage local;
    socklen_t size_bytes = sizeof local;
    memset(parsed, 0, sizeof *parsed);
    snprintf(parsed->name, sizeof parsed->name, "%s", text);
    char *colon = strchr(parsed->name, ':');
    if (colon != NULL) {
        *colon = '\0';
        parsed->port = (unsigned)strtoul(colon + 1, NULL, 10);
    }
    if (getsockname(fd, (struct sockaddr *)&local, &size_bytes) != 0)
        return;
    if (local.ss_family == AF_INET) { /* RoCE writes IPv4 addresses as mapped ones */
        parsed->address.raw[10] = parsed->address.raw[11] = 0xff;
        memcpy(parsed->address.raw + 12, &((struct sockaddr_in *)&local)->sin_addr, 4);
        parsed->has_address = true;
    } else if (local.ss_family == AF_INET6) {
        memcpy(parsed->address.raw, &((struct sockaddr_in6 *)&local)->sin6_addr, 16);
        parsed->has_address = true;
    }
}

static bool is_mapped_ipv4(const union ibv_gid *gid)
{
    static const uint8_t prefix[12] = {[10] = 0xff, [11] = 0xff};
    return memcmp(gid->raw, prefix, sizeof prefix) == 0;
}

/* How well an address suits: RoCE version 2 is routable, version 1 is another wire; the socket's own address is where the
 * peer is reached. */
static int suits(const struct ibv_gid_entry *entry, const wish *wanted)
{
    int score = entry->gid_type == IBV_GID_TYPE_ROCE_V1 ? 1 : 2;
    if (entry->gid_type == IBV_GID_TYPE_ROCE_V2 && is_mapped_ipv4(&entry->gid))
        score += 2;
    if (wanted->has_address && memcmp(entry->gid.raw, wanted->address.raw, 16) == 0)
        score += 4;
    return score;
}

/* The best address of one port, 0 if it has none. */
static int choose_gid(struct ibv_context *context, uint8_t port, const wish *wanted, rfaas_verbs_port *chosen)
{
    struct ibv_port_attr attributes;
    struct ibv_gid_entry entry;
    int best = 0;
    if (ibv_query_port(context, port, &attributes) != 0 || attributes.state != IBV_PORT_ACTIVE)
        return 0;
    for (int i = 0; i < attributes.gid_tbl_len && i < GIDS_MAX; i++) {
        if (ibv_query_gid_ex(context, port, (uint32_t)i, &entry, 0) != 0)
            continue;
        int score = suits(&entry, wanted);
        if (score <= best)
            continue;
        best = score;
        *chosen = (rfaas_verbs_port){context, port, i, entry.gid, attributes};
    }
    return best;
}

static int choose_port(struct ibv_context *context, const wish *wanted, rfaas_verbs_port *chosen)
{
    struct ibv_device_attr limits;
    int best = 0;
    if (ibv_query_device(context, &limits) != 0)
        return 0;
    for (uint8_t port = 1; port <= limits.phys_port_cnt; port++) {
        rfaas_verbs_port candidate;
        int score = wanted->port != 0 && wanted->port != port ? 0 : choose_gid(context, port, wanted, &candidate);
        if (score > best) {
            best = score;
            *chosen = candidate;
        }
    }
    return best;
}

static void say_missing(char why[RFAAS_VERBS_PROBLEM_BYTES], const char *text, int n_devices, int error)
{
    if (n_devices == 0)
        snprintf(why, RFAAS_VERBS_PROBLEM_BYTES, "no RDMA device is here (/sys/class/infiniband is empty)");
    else if (error != 0)
        snprintf(why, RFAAS_VERBS_PROBLEM_BYTES, "the RDMA device can't be opened: %s", strerror(error));
    else if (text[0] != '\0')
        snprintf(why, RFAAS_VERBS_PROBLEM_BYTES, "no RDMA device %.60s with a port that is up (rfaas devices lists them)", text);
    else
        snprintf(why, RFAAS_VERBS_PROBLEM_BYTES, "no port of an RDMA device is up (rfaas devices lists them)");
}

bool rfaas_verbs_port_open(rfaas_verbs_port *port, const char *text, int fd, char why[RFAAS_VERBS_PROBLEM_BYTES])
{
    wish wanted;
    int n_devices = 0, best = 0, error = 0;
    parse(&wanted, text, fd);
    struct ibv_device **devices = ibv_get_device_list(&n_devices);
    for (int i = 0; devices != NULL && devices[i] != NULL; i++) {
        if (wanted.name[0] != '\0' && strcmp(wanted.name, ibv_get_device_name(devices[i])) != 0)
            continue;
        rfaas_verbs_port candidate;
        struct ibv_context *context = open_device(devices[i]);
        if (context == NULL) {
            error = errno;
            continue;
        }
        int score = choose_port(context, &wanted, &candidate);
        if (score > best) {
            if (best > 0)
                rfaas_verbs_port_close(port);
            best = score;
            *port = candidate;
        } else {
            close_device(context);
        }
    }
    if (devices != NULL)
        ibv_free_device_list(devices);
    if (best == 0)
        say_missing(why, text, n_devices, error);
    return best > 0;
}

void rfaas_verbs_port_close(rfaas_verbs_port *port)
{
    close_device(port->context);
}

/* ---- for people ---- */

static void tell_port(struct ibv_context *context, const struct ibv_device_attr *limits, uint8_t port,
                      rfaas_verbs_tell tell, void *told)
{
    struct ibv_port_attr attributes;
    struct ibv_gid_entry entry;
    const char *name = ibv_get_device_name(context->device);
    if (ibv_query_port(context, port, &attributes) != 0)
        return;
    bool any = false;
    for (int i = 0; i < attributes.gid_tbl_len && i < GIDS_MAX; i++) {
        if (ibv_query_gid_ex(context, port, (uint32_t)i, &entry, 0) != 0)
            continue;
        any = true;
        tell(told, name, limits, port, &attributes, &entry);
    }
    if (!any)
        tell(told, name, limits, port, &attributes, NULL);
}

int rfaas_verbs_devices(rfaas_verbs_tell tell, void *told)
{
    int n = 0;
    struct ibv_device **devices = ibv_get_device_list(&n);
    if (devices == NULL)
        return errno == ENOSYS ? 0 : errno; /* a kernel without RDMA has no devices */
    for (int i = 0; i < n; i++) {
        struct ibv_device_attr limits;
        struct ibv_context *context = open_device(devices[i]);
        if (context == NULL)
            continue;
        if (ibv_query_device(context, &limits) == 0)
            for (uint8_t port = 1; port <= limits.phys_port_cnt; port++)
                tell_port(context, &limits, port, tell, told);
        close_device(context);
    }
    ibv_free_device_list(devices);
    return 0;
}
