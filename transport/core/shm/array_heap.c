/* array_heap.c - see array_heap.h. */
#include "array_heap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fork_guard.h"
#include "shm_channel.h"

enum { STEP_BYTES = RFAAS_SHM_ARENA_STEP_BYTES };

struct rfaas_array_pin { /* of an array that was given out; unused: at == NULL */
    uint8_t *at;
    size_t size_bytes;
    uint32_t slot, generation;
    rfaas_shm_segment *segment;
    const rfaas_channel *channel; /* NULL: it has ended */
    uint32_t n_pins;
    bool freed;     /* by whom it was given to */
    bool inherited; /* a child's copy of its parent's */
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; /* of all below; a channel's lock is only tried while it is held */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static rfaas_array_pin arrays[RFAAS_ARRAY_HEAP_MOST];
static _Atomic uint32_t n_arrays;
static rfaas_array_allocator plain;
static _Atomic(rfaas_channel *) serving;
static pthread_mutex_t *serving_lock;
static int copying[2]; /* of a fork: the child holds it open while it copies */

static uint64_t rounded(size_t size_bytes)
{
    return ((uint64_t)size_bytes + STEP_BYTES - 1) & ~(uint64_t)(STEP_BYTES - 1);
}

/* ---- forks ---- */

static bool is_shared(const rfaas_array_pin *array)
{
    return array->at != NULL && !array->inherited;
}

static void before_fork(void)
{
    bool any = false;
    pthread_mutex_lock(&mutex);
    for (int i = 0; i < RFAAS_ARRAY_HEAP_MOST; i++)
        any = any || is_shared(&arrays[i]);
    if (!any || pipe2(copying, O_CLOEXEC) != 0) /* without a descriptor nobody waits; a child is fast as a rule */
        copying[0] = copying[1] = -1;
}

/* Until the child has its copies: it would see what is written here from now on. If there is no child, or it dies, the pipe
 * ends likewise. */
static void after_fork_in_parent(void)
{
    char none;
    if (copying[1] >= 0) {
        close(copying[1]);
        while (read(copying[0], &none, 1) < 0 && errno == EINTR) {
        }
        close(copying[0]);
    }
    pthread_mutex_unlock(&mutex);
}

/* Without memory for it the child goes on seeing what its parent writes. */
static void make_private(rfaas_array_pin *array)
{
    void *copy = mmap(NULL, array->size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    array->inherited = true;
    array->channel = NULL;
    if (copy == MAP_FAILED)
        return;
    memcpy(copy, array->at, array->size_bytes);
    mremap(copy, array->size_bytes, array->size_bytes, MREMAP_MAYMOVE | MREMAP_FIXED, array->at);
}

/* Only what is allowed between fork and exec. The guard has made the mapping private already, but what it shows of pages
 * that are not written here is still the parent's. */
static void after_fork_in_child(void)
{
    for (int i = 0; i < RFAAS_ARRAY_HEAP_MOST; i++)
        if (is_shared(&arrays[i]))
            make_private(&arrays[i]);
    serving = NULL;
    if (copying[1] >= 0) {
        close(copying[0]);
        close(copying[1]);
    }
    pthread_mutex_unlock(&mutex);
}

static void install(void)
{
    rfaas_guard_install(); /* first: its handler in the child comes before this one's, its lock is taken after it */
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

/* ---- taking ---- */

static rfaas_array_pin *unused(void)
{
    for (int i = 0; i < RFAAS_ARRAY_HEAP_MOST; i++)
        if (arrays[i].at == NULL)
            return &arrays[i];
    return NULL;
}

/* True if arrays of this channel leave room for what is copied there, whoever keeps them for ever. */
static bool is_within_limit(const shm_channel *channel, uint64_t size_bytes)
{
    uint64_t used_bytes = size_bytes;
    for (int i = 0; i < RFAAS_ARRAY_HEAP_MOST; i++)
        if (arrays[i].at != NULL && arrays[i].segment == channel->segment)
            used_bytes += arrays[i].size_bytes;
    return used_bytes <= channel->segment->arena_bytes / 2;
}

static void *take_of(rfaas_channel *base, uint64_t size_bytes)
{
    shm_channel *channel = (shm_channel *)base;
    rfaas_channel_array taken = {0};
    rfaas_array_pin *array = unused();
    if (array == NULL || rfaas_channel_is_inherited(base) || !is_within_limit(channel, size_bytes) ||
        !rfaas_channel_array_take(base, size_bytes, &taken))
        return NULL;
    *array = (rfaas_array_pin){
        .at = taken.at,
        .size_bytes = size_bytes,
        .slot = taken.slot,
        .generation = taken.generation,
        .segment = channel->segment,
        .channel = base,
    };
    atomic_fetch_add(&channel->segment->users, 1);
    n_arrays++;
    return taken.at;
}

/* NULL: there is no room, or somebody uses the channel at this moment. */
static void *take(size_t size_bytes)
{
    void *at = NULL;
    if (size_bytes < RFAAS_ARRAY_HEAP_LEAST_BYTES || size_bytes > SIZE_MAX / 2 || serving == NULL)
        return NULL;
    pthread_mutex_lock(&mutex);
    if (serving != NULL && pthread_mutex_trylock(serving_lock) == 0) {
        at = take_of(serving, rounded(size_bytes));
        pthread_mutex_unlock(serving_lock);
    }
    pthread_mutex_unlock(&mutex);
    return at;
}

/* ---- giving back ---- */

/* The entry of the array that begins there; NULL: it is none of ours. */
static rfaas_array_pin *find(const void *at)
{
    for (int i = 0; i < RFAAS_ARRAY_HEAP_MOST; i++)
        if (arrays[i].at == at && !arrays[i].freed)
            return &arrays[i];
    return NULL;
}

static bool may_be_ours(const void *at)
{
    return at != NULL && (uintptr_t)at % STEP_BYTES == 0 && n_arrays > 0;
}

/* The writer sees it when it next looks for room: nobody waits here for who uses the channel. */
static void release(rfaas_array_pin *array)
{
    if (array->inherited) {
        madvise(array->at, array->size_bytes, MADV_DONTNEED);
    } else {
        atomic_store(&array->segment->freed[array->slot], array->generation);
        rfaas_shm_unuse(array->segment);
    }
    array->at = NULL;
    n_arrays--;
}

static bool give_back(const void *at)
{
    pthread_mutex_lock(&mutex);
    rfaas_array_pin *array = find(at);
    if (array != NULL) {
        array->freed = true;
        if (array->n_pins == 0)
            release(array);
    }
    pthread_mutex_unlock(&mutex);
    return array != NULL;
}

/* How much an array of ours can hold; 0: it is none. */
static size_t capacity_bytes(const void *at)
{
    pthread_mutex_lock(&mutex);
    const rfaas_array_pin *array = find(at);
    size_t size_bytes = array == NULL ? 0 : array->size_bytes;
    pthread_mutex_unlock(&mutex);
    return size_bytes;
}

/* ---- what numpy calls ---- */

static void *heap_malloc(void *context, size_t size_bytes)
{
    (void)context;
    void *at = take(size_bytes);
    return at != NULL ? at : plain.malloc(plain.context, size_bytes);
}

static void *heap_calloc(void *context, size_t n, size_t size_bytes)
{
    (void)context;
    void *at = size_bytes == 0 || n <= SIZE_MAX / size_bytes ? take(n * size_bytes) : NULL;
    return at != NULL ? memset(at, 0, n * size_bytes) : plain.calloc(plain.context, n, size_bytes);
}

static void *heap_realloc(void *context, void *at, size_t size_bytes)
{
    size_t had_bytes = may_be_ours(at) ? capacity_bytes(at) : 0;
    if (had_bytes == 0)
        return plain.realloc(plain.context, at, size_bytes);
    if (size_bytes <= had_bytes)
        return at;
    void *grown = heap_malloc(context, size_bytes);
    if (grown == NULL)
        return NULL;
    memcpy(grown, at, had_bytes);
    give_back(at);
    return grown;
}

static void heap_free(void *context, void *at, size_t size_bytes)
{
    (void)context;
    if (!may_be_ours(at) || !give_back(at))
        plain.free(plain.context, at, size_bytes);
}

rfaas_array_handler *rfaas_array_heap_begin(const rfaas_array_allocator *behind)
{
    static rfaas_array_handler handler = {
        .name = "rfaas",
        .version = 1,
        .allocator = {NULL, heap_malloc, heap_calloc, heap_realloc, heap_free},
    };
    pthread_once(&once, install);
    plain = *behind;
    return &handler;
}

/* ---- calls ---- */

void rfaas_array_heap_serve(rfaas_channel *channel, pthread_mutex_t *channel_lock)
{
    bool has_arena = channel != NULL && channel->medium->receive == rfaas_shm_receive;
    pthread_mutex_lock(&mutex);
    serving = has_arena ? channel : NULL;
    serving_lock = channel_lock;
    pthread_mutex_unlock(&mutex);
}

void rfaas_array_heap_leave(const rfaas_channel *channel)
{
    pthread_mutex_lock(&mutex);
    if (serving == channel)
        serving = NULL;
    for (int i = 0; i < RFAAS_ARRAY_HEAP_MOST; i++)
        if (arrays[i].channel == channel)
            arrays[i].channel = NULL;
    pthread_mutex_unlock(&mutex);
}

bool rfaas_array_heap_is_used(void)
{
    return n_arrays > 0;
}

rfaas_array_pin *rfaas_array_heap_pin(const rfaas_channel *channel, const void *bytes, size_t size_bytes)
{
    rfaas_array_pin *found = NULL;
    uintptr_t begin = (uintptr_t)bytes;
    pthread_mutex_lock(&mutex);
    for (int i = 0; i < RFAAS_ARRAY_HEAP_MOST && found == NULL; i++) {
        uintptr_t at = (uintptr_t)arrays[i].at;
        if (at != 0 && arrays[i].channel == channel && !arrays[i].freed && begin >= at &&
            begin - at < arrays[i].size_bytes && size_bytes <= arrays[i].size_bytes - (begin - at))
            found = &arrays[i];
    }
    if (found != NULL)
        found->n_pins++;
    pthread_mutex_unlock(&mutex);
    return found;
}

bool rfaas_array_heap_claim(rfaas_array_pin *pin, rfaas_channel_array *array, size_t *size_bytes)
{
    pthread_mutex_lock(&mutex);
    bool is_free = pin->freed && pin->n_pins == 1 && pin->channel != NULL;
    if (is_free) {
        *array = (rfaas_channel_array){.at = pin->at, .slot = pin->slot, .generation = pin->generation};
        *size_bytes = pin->size_bytes;
        rfaas_shm_unuse(pin->segment); /* never the last: the channel is there */
        pin->at = NULL;
        n_arrays--;
    }
    pthread_mutex_unlock(&mutex);
    return is_free;
}

void rfaas_array_heap_unpin(rfaas_array_pin *pin)
{
    pthread_mutex_lock(&mutex);
    pin->n_pins--;
    if (pin->freed && pin->n_pins == 0)
        release(pin);
    pthread_mutex_unlock(&mutex);
}
