#include "loan.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "failpoint.h"

enum { SLICE_NS = 20000 }; /* of looking, before the borrower asks whether its channel was recalled, and yields */

static int load(const int *field) { return __atomic_load_n(field, __ATOMIC_SEQ_CST); }
static void store(int *field, int value) { __atomic_store_n(field, value, __ATOMIC_SEQ_CST); }

static bool go(rfaas_loan *loan, int from, int to)
{
    return __atomic_compare_exchange_n(&loan->state, &from, to, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

int rfaas_loan_open(rfaas_loan *loan)
{
    loan->state = RFAAS_LOAN_ABSENT;
    loan->recalled = 0;
    loan->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return loan->wake_fd < 0 ? -1 : 0;
}

void rfaas_loan_close(rfaas_loan *loan)
{
    if (loan->wake_fd >= 0)
        close(loan->wake_fd);
    loan->wake_fd = -1;
}

static void calm(rfaas_loan *loan)
{
    uint64_t count;
    while (read(loan->wake_fd, &count, sizeof count) < 0 && errno == EINTR)
        ;
}

void rfaas_loan_begin(rfaas_loan *loan)
{
    calm(loan); /* of a borrower that was woken late */
    store(&loan->recalled, 0);
    store(&loan->state, RFAAS_LOAN_IDLE);
}

static void wake(rfaas_loan *loan)
{
    uint64_t one = 1;
    while (write(loan->wake_fd, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

void rfaas_loan_recall(rfaas_loan *loan)
{
    store(&loan->recalled, 1);
    if (go(loan, RFAAS_LOAN_ASLEEP, RFAAS_LOAN_LEFT))
        wake(loan);
}

bool rfaas_loan_end(rfaas_loan *loan)
{
    if (load(&loan->state) == RFAAS_LOAN_ABSENT)
        return false;
    rfaas_loan_recall(loan);
    for (int looks = 0;; looks++) {
        if (go(loan, RFAAS_LOAN_IDLE, RFAAS_LOAN_ABSENT) || go(loan, RFAAS_LOAN_LEFT, RFAAS_LOAN_ABSENT))
            return true;
        if (go(loan, RFAAS_LOAN_ASLEEP, RFAAS_LOAN_LEFT))
            wake(loan);
        struct timespec pause = {0, looks < 100 ? 1000 : 100000}; /* it may be moving a large payload */
        nanosleep(&pause, NULL);
    }
}

rfaas_loan_state rfaas_loan_look(const rfaas_loan *loan) { return (rfaas_loan_state)load(&loan->state); }

bool rfaas_loan_take(rfaas_loan *loan)
{
    if (!go(loan, RFAAS_LOAN_IDLE, RFAAS_LOAN_BUSY))
        return false;
    if (!load(&loan->recalled))
        return true;
    store(&loan->state, RFAAS_LOAN_IDLE);
    return false;
}

void rfaas_loan_give_back(rfaas_loan *loan) { store(&loan->state, RFAAS_LOAN_IDLE); }

void rfaas_loan_leave(rfaas_loan *loan) { store(&loan->state, RFAAS_LOAN_LEFT); }

/* The first channel with something to poll, -1: none. */
static int look(rfaas_channel *const channels[], int n, int64_t spin_ns)
{
    for (int i = 0; i < n; i++) {
        if (rfaas_channel_spin(channels[i], spin_ns / n) != RFAAS_AGAIN)
            return i;
    }
    return -1;
}

/* The borrower has the channels again, and the one that is returned has something; -1: they are left. */
static int sleep_until_ready(rfaas_loan *loan, rfaas_channel *const channels[], int n, int64_t sleep_ns)
{
    struct pollfd wanted[RFAAS_LOAN_CHANNELS + 1];
    for (int i = 0; i < n; i++) {
        short events = rfaas_channel_wants_write(channels[i]) ? POLLIN | POLLOUT : POLLIN;
        wanted[i] = (struct pollfd){rfaas_channel_fd(channels[i]), events, 0};
    }
    wanted[n] = (struct pollfd){loan->wake_fd, POLLIN, 0};
    store(&loan->state, RFAAS_LOAN_ASLEEP);
    FAILPOINT("loan-asleep");
    int n_ready = load(&loan->recalled) ? 0 : poll(wanted, (nfds_t)n + 1, (int)(sleep_ns / 1000000));
    FAILPOINT("loan-woken");
    int ready = 0;
    while (ready < n && wanted[ready].revents == 0)
        ready++;
    bool goes_on = n_ready > 0 && ready < n;
    /* Where the owner was faster the loan is left already. */
    return go(loan, RFAAS_LOAN_ASLEEP, goes_on ? RFAAS_LOAN_BUSY : RFAAS_LOAN_LEFT) && goes_on ? ready : -1;
}

int rfaas_loan_await(rfaas_loan *loan, rfaas_channel *const channels[], int n, int64_t spin_ns, int64_t sleep_ns)
{
    int64_t slice_ns = n == 1 ? SLICE_NS : SLICE_NS / 10; /* one is looked at without a clock between, several in turn */
    for (int64_t left_ns = spin_ns; left_ns > 0; left_ns -= slice_ns) {
        int i = look(channels, n, slice_ns);
        if (i >= 0)
            return i;
        if (load(&loan->recalled)) {
            rfaas_loan_leave(loan);
            return -1;
        }
        /* The peer would have answered by now if it could run: it, or what brings its answer, may wait for this CPU. */
        sched_yield();
    }
    for (int i = 0; i < n; i++) {
        if (rfaas_channel_stay_awake(channels[i], false)) {
            for (int k = 0; k <= i; k++)
                rfaas_channel_stay_awake(channels[k], true);
            return i;
        }
    }
    int ready = sleep_until_ready(loan, channels, n, sleep_ns);
    for (int i = 0; ready >= 0 && i < n; i++)
        rfaas_channel_stay_awake(channels[i], true);
    return ready;
}
