/* rdma.c - whether channels of this program can go over RDMA, and those that are tried. Spec: 004 section 7, 007.
 *
 * What speaks to devices is a library beside this one, loaded when a session process is joined that may choose RDMA; where
 * it or libibverbs is missing, the reason goes to the session process, which chooses another medium.
 */
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client.h"
#include "verbs_module.h"

static const char library_name[] = "librfaas_verbs.so";
static const int64_t patience_ns = 5000000000; /* for a worker's first frame: 004 section 7 */

static pthread_once_t asked = PTHREAD_ONCE_INIT;
static const rfaas_verbs_module *loaded; /* for good: it watches forks */
static char why_not_loaded[400];

/* ---- loading ---- */

/* Beside this library, or the program that has it inside. */
static bool place_of_library(char place[PATH_MAX])
{
    Dl_info about;
    char own[PATH_MAX];
    if (dladdr((const void *)(uintptr_t)&rfaas_connect, &about) == 0 || about.dli_fname == NULL ||
        realpath(about.dli_fname, own) == NULL)
        return false;
    char *slash = strrchr(own, '/');
    if (slash == NULL)
        return false;
    *slash = '\0';
    int n = snprintf(place, PATH_MAX, "%s/%s", own, library_name);
    return n > 0 && n < PATH_MAX && access(place, F_OK) == 0;
}

static void load(void)
{
    char place[PATH_MAX];
    if (!place_of_library(place)) {
        snprintf(why_not_loaded, sizeof why_not_loaded, "rfaas was built without rdma-core");
        return;
    }
    void *library = dlopen(place, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (library == NULL) {
        snprintf(why_not_loaded, sizeof why_not_loaded, "libibverbs can't be loaded: %s", dlerror());
        return;
    }
    const rfaas_verbs_module *found = dlsym(library, RFAAS_VERBS_MODULE_SYMBOL);
    if (found == NULL || found->ops_bytes != sizeof(rfaas_verbs_ops))
        snprintf(why_not_loaded, sizeof why_not_loaded, "%s is of another version than librfaas",
                 library_name);
    else
        loaded = found;
}

static const rfaas_verbs_module *module(void)
{
    pthread_once(&asked, load);
    return loaded;
}

void rdma_why_not(const rfaas_client *client, char *why, size_t room_bytes)
{
    char problem[RFAAS_VERBS_WHY_BYTES] = "";
    struct stat about;
    if (strcmp(client->transport, "auto") != 0 && strcmp(client->transport, "verbs") != 0)
        snprintf(why, room_bytes, "transport=\"%s\"", client->transport);
    else if (stat("/sys/class/infiniband", &about) != 0) /* no module of the kernel that knows any: nothing is loaded */
        snprintf(why, room_bytes, "%s", RFAAS_VERBS_NO_DEVICE);
    else if (module() == NULL)
        snprintf(why, room_bytes, "%s", why_not_loaded);
    else {
        module()->why_no_port(problem);
        snprintf(why, room_bytes, "%s", problem);
    }
}

rfaas_rc rdma_adopt(int fd, rfaas_channel **channel, char why[RFAAS_VERBS_WHY_BYTES])
{
    if (module() == NULL) { /* the session process errs, or never heard why not */
        snprintf(why, RFAAS_VERBS_WHY_BYTES, "%.*s", RFAAS_VERBS_WHY_BYTES - 1, why_not_loaded);
        return RFAAS_UNSUITABLE;
    }
    snprintf(why, RFAAS_VERBS_WHY_BYTES, "no memory");
    return rfaas_verbs_adopt(fd, module()->ops, "", PAYLOAD_BYTES_MAX, channel, why);
}

/* ---- channels that are tried ---- */

static void note_due(rfaas_client *client, int64_t due_ns)
{
    if (due_ns < client->tried_due_ns)
        client->tried_due_ns = due_ns;
}

void rdma_try(port *one, int64_t now_ns)
{
    one->tried_until_ns = now_ns + patience_ns;
    note_due(one->client, one->tried_until_ns);
}

void rdma_failed(port *one, const char *why)
{
    one->tried_until_ns = 0;
    session_unusable(one->client, one->core.lease, why); /* its worker is reached over another medium then */
}

void rdma_tick(rfaas_client *client, int64_t now_ns)
{
    client->tried_due_ns = INT64_MAX;
    for (core_channel *channel = client->core.channels; channel != NULL;) {
        port *one = (port *)channel;
        channel = channel->next;
        if (one->tried_until_ns == 0 || one->core.ended)
            continue;
        if (one->tried_until_ns <= now_ns)
            port_give_up(one, "nothing of the worker came over RDMA: the two devices may be on two fabrics");
        else
            note_due(client, one->tried_until_ns);
    }
}

/* The set-up needs this side's turns, and there were none: a program that computed meanwhile has not waited. */
void rdma_was_away(rfaas_client *client, int64_t away_ns)
{
    for (core_channel *channel = client->core.channels; channel != NULL; channel = channel->next) {
        port *one = (port *)channel;
        if (one->tried_until_ns != 0)
            one->tried_until_ns += away_ns;
    }
    client->tried_due_ns += away_ns;
}
