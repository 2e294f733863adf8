/* core_loan_test.c - a loan of channels, under sanitizers: a part of core_test.c's program, and of T60's.
 *
 * First each transition that its table has or must not have, in one thread; then an owner that lends and takes back all
 * the time, and two borrowers that call.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "expect.h"
#include "loan.h"

enum { LIMIT_BYTES = 1 << 20, BUDGET_BYTES = 1 << 20, BORROWERS = 2, LONG_NS = 1000000000 };

void test_loan(uint64_t n_calls);

static void shm_pair(rfaas_channel **left, rfaas_channel **right)
{
    int fds[2], memory_fd = rfaas_shm_create(1 << 20);
    EXPECT(memory_fd >= 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    EXPECT(rfaas_shm_adopt(fds[0], dup(memory_fd), 0, LIMIT_BYTES, left) == RFAAS_OK);
    EXPECT(rfaas_shm_adopt(fds[1], memory_fd, 1, LIMIT_BYTES, right) == RFAAS_OK);
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * (int64_t)1000000000 + now.tv_nsec;
}

static void say(rfaas_channel *channel, uint64_t number)
{
    rfaas_header header = {.kind = RFAAS_KIND_RESULT, .call_id = number};
    const struct iovec segment = {&number, sizeof number};
    EXPECT(rfaas_channel_send(channel, &header, &segment, 1, NULL, 0, NULL) == RFAAS_OK);
}

/* The number that was said; 0: nothing was. */
static uint64_t hear(rfaas_channel *channel)
{
    rfaas_frame frame;
    uint64_t number;
    rfaas_rc rc = rfaas_channel_poll(channel, BUDGET_BYTES, &frame);
    EXPECT(rc == RFAAS_OK || rc == RFAAS_AGAIN || rc == RFAAS_MORE);
    if (rc != RFAAS_OK)
        return 0;
    EXPECT(frame.n_segments == 1 && frame.segments[0].iov_len == sizeof number);
    memcpy(&number, frame.segments[0].iov_base, sizeof number);
    EXPECT(number == frame.header.call_id);
    frame.memory.release(frame.memory.context, frame.buffer, frame.buffer_bytes);
    return number;
}

/* ---- one thread ---- */

static void test_transitions(void)
{
    rfaas_loan loan;
    rfaas_channel *left, *right;
    shm_pair(&left, &right);
    EXPECT(rfaas_loan_open(&loan) == 0);
    EXPECT(!rfaas_loan_take(&loan) && !rfaas_loan_end(&loan)); /* ABSENT */
    rfaas_loan_begin(&loan);
    EXPECT(rfaas_loan_take(&loan) && !rfaas_loan_take(&loan)); /* one borrower at a time */
    rfaas_loan_give_back(&loan);
    EXPECT(rfaas_loan_take(&loan));
    say(right, 1); /* something came */
    EXPECT(rfaas_loan_await(&loan, &left, 1, LONG_NS, LONG_NS) == 0 && rfaas_loan_look(&loan) == RFAAS_LOAN_BUSY);
    EXPECT(hear(left) == 1);
    EXPECT(rfaas_loan_await(&loan, &left, 1, 1000, 1000000) == -1); /* nothing came: it is the owner's affair */
    EXPECT(rfaas_loan_look(&loan) == RFAAS_LOAN_LEFT && !rfaas_loan_take(&loan));
    EXPECT(rfaas_loan_end(&loan) && rfaas_loan_look(&loan) == RFAAS_LOAN_ABSENT);
    rfaas_loan_begin(&loan);
    rfaas_loan_recall(&loan);
    EXPECT(!rfaas_loan_take(&loan) && rfaas_loan_look(&loan) == RFAAS_LOAN_IDLE); /* recalled */
    EXPECT(rfaas_loan_end(&loan));
    for (int looks = 0; looks < 2; looks++) { /* recalled while it looks, or on the way to sleep */
        rfaas_loan_begin(&loan);
        EXPECT(rfaas_loan_take(&loan));
        rfaas_loan_recall(&loan);
        int64_t begun_ns = now_ns();
        EXPECT(rfaas_loan_await(&loan, &left, 1, looks ? 3 * (int64_t)LONG_NS : 0, 3 * (int64_t)LONG_NS) == -1);
        EXPECT(now_ns() - begun_ns < 2 * (int64_t)LONG_NS && rfaas_loan_look(&loan) == RFAAS_LOAN_LEFT);
        EXPECT(rfaas_loan_end(&loan));
    }
    EXPECT(eventfd_write(loan.wake_fd, 1) == 0); /* a borrower that was woken late does not disturb the next loan */
    rfaas_loan_begin(&loan);
    uint64_t count;
    EXPECT(read(loan.wake_fd, &count, sizeof count) < 0 && errno == EAGAIN);
    rfaas_channel *const both[] = {left, right};
    EXPECT(rfaas_loan_take(&loan));
    say(left, 2); /* something on the second of two */
    EXPECT(rfaas_loan_await(&loan, both, 2, 0, LONG_NS) == 1 && hear(right) == 2);
    rfaas_loan_leave(&loan);
    EXPECT(rfaas_loan_end(&loan));
    rfaas_loan_close(&loan);
    rfaas_channel_free(left);
    rfaas_channel_free(right);
}

#ifdef RFAAS_FAILPOINTS
extern void (*rfaas_at_failpoint)(const char *name);
static rfaas_loan *loan_to_end;
static const char *when_to_end;

static void end_it(const char *name)
{
    if (strcmp(name, when_to_end) != 0)
        return;
    rfaas_at_failpoint = NULL;
    EXPECT(rfaas_loan_end(loan_to_end));
}

/* The owner takes the channels back in the moment when the borrower falls asleep, or wakes because something came. */
static void test_ended_meanwhile(void)
{
    rfaas_loan loan;
    rfaas_channel *left, *right;
    shm_pair(&left, &right);
    EXPECT(rfaas_loan_open(&loan) == 0);
    loan_to_end = &loan;
    for (int woken = 0; woken < 2; woken++) {
        when_to_end = woken ? "loan-woken" : "loan-asleep";
        rfaas_loan_begin(&loan);
        EXPECT(rfaas_loan_take(&loan));
        rfaas_at_failpoint = end_it;
        EXPECT(rfaas_loan_await(&loan, &left, 1, 0, 1000000) == -1);
        EXPECT(rfaas_at_failpoint == NULL && rfaas_loan_look(&loan) == RFAAS_LOAN_ABSENT);
    }
    rfaas_loan_close(&loan);
    rfaas_channel_free(left);
    rfaas_channel_free(right);
}
#else
static void test_ended_meanwhile(void)
{
}
#endif

/* ---- an owner and borrowers ---- */

typedef struct lending {
    rfaas_loan loan;
    rfaas_channel *left, *right;
    uint64_t n_calls;
    /* Whoever has the channels reads and writes these, nobody else. */
    int user;
    uint64_t asked, answered; /* numbers of calls */
    uint64_t n_by_owner;
    _Atomic bool over;
} lending;

/* Nobody else has what this one has now; a sanitizer sees it too. */
static void have(lending *all, int user)
{
    EXPECT(all->user == 0);
    all->user = user;
}

static void have_no_more(lending *all, int user)
{
    EXPECT(all->user == user);
    all->user = 0;
}

static void take_answer(lending *all)
{
    uint64_t number = hear(all->left);
    if (number == 0)
        return;
    EXPECT(number == all->asked && all->answered == number - 1); /* each call has its own answer, once */
    all->answered = number;
}

static void ask(lending *all)
{
    if (all->answered == all->asked && all->asked < all->n_calls)
        say(all->left, ++all->asked);
}

static void *echo(void *argument)
{
    lending *all = argument;
    for (uint64_t expected = 1; expected <= all->n_calls; expected++) {
        uint64_t number;
        while ((number = hear(all->right)) == 0)
            rfaas_channel_wait(all->right, -1);
        EXPECT(number == expected);
        say(all->right, number);
    }
    return NULL;
}

static void *borrow(void *argument)
{
    lending *all = argument;
    static _Atomic int n;
    int me = ++n;
    while (!all->over) {
        if (!rfaas_loan_take(&all->loan)) {
            sched_yield();
            continue;
        }
        for (int calls = 0; calls < 50; calls++) {
            have(all, me);
            ask(all);
            have_no_more(all, me);
            int i = rfaas_loan_await(&all->loan, &all->left, 1, calls % 16 ? 20000 : 0, 20000000);
            if (i < 0)
                break; /* not ours any more */
            have(all, me);
            take_answer(all);
            bool done = all->answered == all->n_calls;
            have_no_more(all, me);
            if (calls < 49 && !done)
                continue;
            if (calls % 2)
                rfaas_loan_give_back(&all->loan);
            else
                rfaas_loan_leave(&all->loan);
            break;
        }
    }
    return NULL;
}

static void own(lending *all)
{
    enum { OWNER = 100 };
    const struct timespec pause = {0, 200000};
    for (bool over = false; !over;) {
        rfaas_channel_stay_awake(all->left, true);
        rfaas_loan_begin(&all->loan);
        nanosleep(&pause, NULL);
        EXPECT(rfaas_loan_end(&all->loan));
        have(all, OWNER);
        uint64_t before = all->answered;
        take_answer(all);
        all->n_by_owner += all->answered > before;
        ask(all);
        over = all->answered == all->n_calls;
        have_no_more(all, OWNER);
    }
    all->over = true;
}

static void test_borrowers(uint64_t n_calls)
{
    static lending all;
    pthread_t threads[BORROWERS + 1];
    all = (lending){.n_calls = n_calls};
    shm_pair(&all.left, &all.right);
    EXPECT(rfaas_loan_open(&all.loan) == 0);
    EXPECT(pthread_create(&threads[BORROWERS], NULL, echo, &all) == 0);
    for (int i = 0; i < BORROWERS; i++)
        EXPECT(pthread_create(&threads[i], NULL, borrow, &all) == 0);
    own(&all);
    for (int i = 0; i <= BORROWERS; i++)
        pthread_join(threads[i], NULL);
    EXPECT(all.answered == n_calls && all.n_by_owner < n_calls);
    rfaas_loan_close(&all.loan);
    rfaas_channel_free(all.left);
    rfaas_channel_free(all.right);
}

void test_loan(uint64_t n_calls)
{
    test_transitions();
    test_ended_meanwhile();
    test_borrowers(n_calls);
}
