/* verbs_landing.c - see verbs_landing.h. */
#include "verbs_landing.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "large_buffer.h"

enum { PAGE_BYTES = 4096 };

typedef struct block {
    struct block *next;
    void *buffer;
    size_t capacity_bytes;
    rfaas_verbs_region *region; /* NULL: it could not be registered, or the link has ended */
    bool in_use;
} block;

struct rfaas_verbs_landing {
    pthread_mutex_t lock;
    const rfaas_verbs_ops *ops;
    rfaas_verbs_link *link; /* NULL: it has ended */
    block *blocks;
    size_t kept_bytes;
    pid_t owner;
};

/* Whole pages: no other memory is pinned with them. */
static size_t capacity_of(size_t size_bytes)
{
    return (size_bytes + PAGE_BYTES - 1) & ~(size_t)(PAGE_BYTES - 1);
}

static void *take_memory(size_t capacity_bytes)
{
    void *buffer;
    if (capacity_bytes >= RFAAS_LARGE_BUFFER_MIN_BYTES)
        return rfaas_large_buffer_take(capacity_bytes);
    return posix_memalign(&buffer, PAGE_BYTES, capacity_bytes) == 0 ? buffer : NULL;
}

static void give_memory(void *buffer, size_t capacity_bytes)
{
    if (capacity_bytes >= RFAAS_LARGE_BUFFER_MIN_BYTES)
        rfaas_large_buffer_give(buffer, capacity_bytes);
    else
        free(buffer);
}

static block **find(rfaas_verbs_landing *landing, const void *buffer)
{
    block **at = &landing->blocks;
    while (*at != NULL && (*at)->buffer != buffer)
        at = &(*at)->next;
    return at;
}

static void drop(rfaas_verbs_landing *landing, block **at)
{
    block *dropped = *at;
    *at = dropped->next;
    if (dropped->region != NULL)
        landing->ops->withdraw(landing->link, dropped->region);
    give_memory(dropped->buffer, dropped->capacity_bytes);
    free(dropped);
}

/* One that is kept, of this size or up to a quarter more. */
static block *find_kept(rfaas_verbs_landing *landing, size_t capacity_bytes)
{
    for (block *one = landing->blocks; one != NULL; one = one->next)
        if (!one->in_use && one->capacity_bytes >= capacity_bytes &&
            one->capacity_bytes - capacity_bytes <= capacity_bytes / 4)
            return one;
    return NULL;
}

static block *make(rfaas_verbs_landing *landing, size_t capacity_bytes)
{
    block *made = calloc(1, sizeof *made);
    if (made == NULL)
        return NULL;
    made->buffer = take_memory(capacity_bytes);
    if (made->buffer == NULL) {
        free(made);
        return NULL;
    }
    made->capacity_bytes = capacity_bytes;
    made->region = landing->ops->enroll(landing->link, made->buffer, capacity_bytes, RFAAS_VERBS_TO_READ_TO, NULL);
    made->next = landing->blocks;
    landing->blocks = made;
    return made;
}

static void *allocate(void *context, size_t size_bytes)
{
    rfaas_verbs_landing *landing = context;
    size_t capacity_bytes = capacity_of(size_bytes);
    pthread_mutex_lock(&landing->lock);
    block *taken = find_kept(landing, capacity_bytes);
    if (taken != NULL)
        landing->kept_bytes -= taken->capacity_bytes;
    else
        taken = make(landing, capacity_bytes);
    if (taken != NULL)
        taken->in_use = true;
    pthread_mutex_unlock(&landing->lock);
    return taken == NULL ? NULL : taken->buffer;
}

static void free_if_over(rfaas_verbs_landing *landing)
{
    bool is_over = landing->link == NULL && landing->blocks == NULL;
    pthread_mutex_unlock(&landing->lock);
    if (!is_over)
        return;
    pthread_mutex_destroy(&landing->lock);
    free(landing);
}

/* A block that could be registered is kept for the next; others go for it where they are too many. */
static void release(void *context, void *buffer, size_t size_bytes)
{
    rfaas_verbs_landing *landing = context;
    if (getpid() != landing->owner) { /* a thread that is not here may have held the lock at the fork */
        give_memory(buffer, capacity_of(size_bytes));
        return;
    }
    pthread_mutex_lock(&landing->lock);
    block **at = find(landing, buffer);
    (*at)->in_use = false;
    if (landing->link == NULL || (*at)->region == NULL || (*at)->capacity_bytes > RFAAS_VERBS_LANDING_KEPT_BYTES) {
        drop(landing, at);
    } else {
        landing->kept_bytes += (*at)->capacity_bytes;
        for (block **one = &landing->blocks; *one != NULL && landing->kept_bytes > RFAAS_VERBS_LANDING_KEPT_BYTES;) {
            bool goes = !(*one)->in_use && (*one)->buffer != buffer;
            if (goes)
                landing->kept_bytes -= (*one)->capacity_bytes;
            if (goes)
                drop(landing, one);
            else
                one = &(*one)->next;
        }
    }
    free_if_over(landing);
}

rfaas_verbs_landing *rfaas_verbs_landing_begin(const rfaas_verbs_ops *ops, rfaas_verbs_link *link)
{
    rfaas_verbs_landing *landing = calloc(1, sizeof *landing);
    if (landing == NULL)
        return NULL;
    pthread_mutex_init(&landing->lock, NULL);
    landing->ops = ops;
    landing->link = link;
    landing->owner = getpid();
    return landing;
}

rfaas_memory rfaas_verbs_landing_memory(rfaas_verbs_landing *landing)
{
    return (rfaas_memory){allocate, release, landing};
}

const rfaas_verbs_region *rfaas_verbs_landing_region(rfaas_verbs_landing *landing, const void *buffer)
{
    pthread_mutex_lock(&landing->lock);
    const block *found = *find(landing, buffer);
    const rfaas_verbs_region *region = found == NULL ? NULL : found->region;
    pthread_mutex_unlock(&landing->lock);
    return region;
}

void rfaas_verbs_landing_end(rfaas_verbs_landing *landing, bool inherited)
{
    if (landing == NULL || inherited) /* a child's copy is left alone: some of it is in use there */
        return;
    pthread_mutex_lock(&landing->lock);
    for (block **at = &landing->blocks; *at != NULL;) {
        if (!(*at)->in_use) {
            drop(landing, at);
            continue;
        }
        if ((*at)->region != NULL)
            landing->ops->withdraw(landing->link, (*at)->region);
        (*at)->region = NULL;
        at = &(*at)->next;
    }
    landing->link = NULL;
    free_if_over(landing);
}
