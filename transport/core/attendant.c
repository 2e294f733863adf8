#include "attendant.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
    LOOK_NS = 1000000,       /* how long the owner works on one frame before anybody looks at its channel */
    LOOK_LATER_NS = 4000000, /* while it works on and nothing comes */
    QUIET_LOOKS = 32,        /* after which that is so */
    LOOKS_A_CENSUS = 16,     /* is the owner alive at all? */
    STACK_BYTES = 256 << 10,
    TURN_BYTES = 1 << 20,    /* read before the owner can have its channel back */
};

static int load(const int *field) { return __atomic_load_n(field, __ATOMIC_SEQ_CST); }
static void store(int *field, int value) { __atomic_store_n(field, value, __ATOMIC_SEQ_CST); }

/* The number of the frame that the owner works on, 0: none. */
static uint64_t working_on(const rfaas_attendant *attendant)
{
    uint64_t started = __atomic_load_n(attendant->started, __ATOMIC_SEQ_CST);
    return started != __atomic_load_n(attendant->done, __ATOMIC_SEQ_CST) ? started : 0;
}

static bool has_descriptor(const rfaas_attendant *attendant)
{
    struct stat now;
    return fstat(rfaas_channel_fd(attendant->channel), &now) == 0 && now.st_dev == attendant->device &&
           now.st_ino == attendant->inode;
}

/* Reads what is there; true if there was something. */
static bool look(rfaas_attendant *attendant, uint64_t number)
{
    rfaas_rc rc = RFAAS_AGAIN;
    uint64_t before = 0, after = 0;
    do {
        if (pthread_mutex_trylock(attendant->channel_lock) != 0)
            return true; /* the owner sends */
        before = attendant->channel->statistics.frames_received;
        if (working_on(attendant) == number && !attendant->channel->closed && has_descriptor(attendant))
            rc = rfaas_channel_read_ahead(attendant->channel, TURN_BYTES);
        else
            rc = RFAAS_AGAIN;
        after = attendant->channel->statistics.frames_received;
        pthread_mutex_unlock(attendant->channel_lock);
    } while (rc == RFAAS_MORE && after != before && !load(&attendant->stopping));
    return after != before;
}

/* Sleeps for `sleep_ns`, or for as long as the owner does; false: this is the end. */
static bool sleep_on(rfaas_attendant *attendant, int64_t sleep_ns)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += (long)sleep_ns;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&attendant->lock);
    int rc = 0;
    while (rc != ETIMEDOUT && !load(&attendant->stopping))
        rc = pthread_cond_timedwait(&attendant->wake, &attendant->lock, &until);
    store(&attendant->resting, 1); /* then look once more: the owner does it the other way round */
    while (load(&attendant->wanted_at_rest) && !load(&attendant->stopping))
        pthread_cond_wait(&attendant->wake, &attendant->lock);
    store(&attendant->resting, 0);
    pthread_mutex_unlock(&attendant->lock);
    return !load(&attendant->stopping);
}

/* A function may end the thread that it runs in (pthread_exit, or the system call): the process is dead but for us, and
 * stays until we are gone. */
static bool is_left_alone(void)
{
    char text[512];
    int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    text[n > 0 ? n : 0] = '\0';
    const char *name_end = strrchr(text, ')'); /* the name may hold anything */
    return name_end != NULL && name_end[1] == ' ' && (name_end[2] == 'Z' || name_end[2] == 'X');
}

static void *attend(void *argument)
{
    rfaas_attendant *attendant = argument;
    uint64_t seen = 0;
    uint32_t looks = 0;
    int quiet_looks = 0;
    while (sleep_on(attendant, quiet_looks < QUIET_LOOKS ? LOOK_NS : LOOK_LATER_NS)) {
        uint64_t number = working_on(attendant);
        if (number == 0 || number != seen)
            quiet_looks = 0;
        else if (look(attendant, number))
            quiet_looks = 0;
        else if (quiet_looks < QUIET_LOOKS)
            quiet_looks++;
        if (number == 0 || number != seen)
            looks = 0;
        else if (++looks % LOOKS_A_CENSUS == 0 && is_left_alone())
            syscall(SYS_exit, 0); /* the thread alone, without what it would do at its end: the process keeps its status */
        seen = number;
    }
    return NULL;
}

static int start_thread(rfaas_attendant *attendant)
{
    pthread_attr_t attributes;
    sigset_t all, before;
    int rc = pthread_attr_init(&attributes);
    if (rc != 0)
        return rc;
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    sigfillset(&all); /* its own mask is inherited: no handler of the owner's ever runs there */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    rc = pthread_create(&attendant->thread, &attributes, attend, attendant);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return rc;
}

int rfaas_attendant_start(rfaas_attendant *attendant, rfaas_channel *channel, pthread_mutex_t *channel_lock,
                          const uint64_t *started, const uint64_t *done)
{
    struct stat descriptor;
    pthread_condattr_t attributes;
    memset(attendant, 0, sizeof *attendant);
    if (fstat(rfaas_channel_fd(channel), &descriptor) != 0)
        return errno;
    attendant->channel = channel;
    attendant->channel_lock = channel_lock;
    attendant->started = started;
    attendant->done = done;
    attendant->device = descriptor.st_dev;
    attendant->inode = descriptor.st_ino;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&attendant->lock, NULL);
    pthread_cond_init(&attendant->wake, &attributes);
    pthread_condattr_destroy(&attributes);
    int rc = start_thread(attendant);
    if (rc == 0) {
        attendant->owner = getpid();
        return 0;
    }
    pthread_cond_destroy(&attendant->wake);
    pthread_mutex_destroy(&attendant->lock);
    return rc;
}

void rfaas_attendant_rest(rfaas_attendant *attendant) { store(&attendant->wanted_at_rest, 1); }

static void wake(rfaas_attendant *attendant)
{
    pthread_mutex_lock(&attendant->lock);
    pthread_cond_signal(&attendant->wake);
    pthread_mutex_unlock(&attendant->lock);
}

void rfaas_attendant_resume(rfaas_attendant *attendant)
{
    store(&attendant->wanted_at_rest, 0);
    if (load(&attendant->resting) && attendant->owner == getpid())
        wake(attendant);
}

void rfaas_attendant_stop(rfaas_attendant *attendant)
{
    if (attendant->owner == 0 || attendant->owner != getpid())
        return;
    store(&attendant->stopping, 1);
    wake(attendant);
    pthread_join(attendant->thread, NULL);
    attendant->owner = 0;
    pthread_cond_destroy(&attendant->wake);
    pthread_mutex_destroy(&attendant->lock);
}
