/* state_page_schedules.c - the state page under every order in which a worker and its agent can meet on it.
 *
 * test_interrupt_race.py builds it. It includes the source with its atomic accesses replaced by ones that first let the
 * other side go on, and runs both sides as coroutines through all schedules. What it shows holds for one order of all
 * accesses, which is what the sequentially consistent ones of the source have.
 *
 * Exits 0 and prints how many schedules there were; otherwise says which one broke which promise.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

static void let_other_go_on(const void *field);

#define __atomic_store_n(field, value, order) (let_other_go_on(field), (void)(order), *(field) = (value))
#define __atomic_load_n(field, order) (let_other_go_on(field), (void)(order), *(field))
#include STATE_PAGE_SOURCE
#undef __atomic_store_n
#undef __atomic_load_n

enum { WORKER, AGENT, N_SIDES, NEITHER = N_SIDES };
enum { N_CALLS = 3, MAX_ASKS = 2, MAX_STEPS = 64, STACK_BYTES = 64 << 10 };

static struct {
    ucontext_t scheduler, side[N_SIDES];
    char stack[N_SIDES][STACK_BYTES];
    bool ended[N_SIDES];
    int runs; /* whose turn it is */
} machine;

static rfaas_page_slot slot;

/* What the sides saw. */
static struct {
    uint64_t asked[MAX_ASKS];
    int n_asks;
    bool told_it_runs[MAX_ASKS];
    uint64_t done_when_told[MAX_ASKS];
    int n_told;
    bool impossible; /* a question that no client asks */
    uint64_t last_run, refused, started_before_refusal, stopped_at;
} seen;

static void let_other_go_on(const void *field)
{
    if (machine.runs != NEITHER && (field == &slot.started || field == &slot.done || field == &slot.interrupted))
        swapcontext(&machine.side[machine.runs], &machine.scheduler);
}

/* A worker on one channel: calls follow each other until one was interrupted. */
static void work(void)
{
    for (uint64_t call_id = 1; call_id <= N_CALLS && seen.stopped_at == 0; call_id++) {
        seen.started_before_refusal = slot.started;
        if (!rfaas_page_start(&slot, call_id, 0, 1)) {
            seen.refused = seen.stopped_at = call_id;
        } else {
            seen.last_run = call_id;
            if (!rfaas_page_finish(&slot, call_id))
                seen.stopped_at = call_id;
        }
    }
    machine.ended[WORKER] = true;
}

/* Its agent: takes calls back, until one of them ran. */
static void ask(void)
{
    for (int i = 0; i < seen.n_asks; i++) {
        /* A channel has one call at a time: who asked for a later one knows that this one is over. */
        if (i > 0 && seen.asked[i] < seen.asked[i - 1] && slot.done < seen.asked[i])
            seen.impossible = true;
        seen.told_it_runs[i] = rfaas_page_interrupt(&slot, seen.asked[i]);
        seen.done_when_told[i] = slot.done;
        seen.n_told = i + 1;
        if (seen.told_it_runs[i])
            break;
    }
    machine.ended[AGENT] = true;
}

/* Run both sides to their ends. `schedule` holds the sides to choose where both could go on, `n_given` of them; further
 * choices are WORKER and are written behind. Returns how many choices there were. */
static int run(unsigned char *schedule, int n_given)
{
    int n_choices = 0;
    void (*const entry[N_SIDES])(void) = {work, ask};
    machine.runs = NEITHER;
    memset(&slot, 0, sizeof slot);
    rfaas_page_open(&slot, 7);
    for (int side = 0; side < N_SIDES; side++) {
        machine.ended[side] = false;
        getcontext(&machine.side[side]);
        machine.side[side].uc_stack.ss_sp = machine.stack[side];
        machine.side[side].uc_stack.ss_size = STACK_BYTES;
        machine.side[side].uc_link = &machine.scheduler;
        makecontext(&machine.side[side], entry[side], 0);
    }
    while (!machine.ended[WORKER] || !machine.ended[AGENT]) {
        int next = machine.ended[WORKER] ? AGENT : WORKER;
        if (!machine.ended[WORKER] && !machine.ended[AGENT]) {
            if (n_choices == MAX_STEPS)
                abort();
            if (n_choices >= n_given)
                schedule[n_choices] = WORKER;
            next = schedule[n_choices++];
        }
        machine.runs = next;
        swapcontext(&machine.scheduler, &machine.side[next]);
    }
    return n_choices;
}

/* The promise of state_page.h that this run broke, or NULL. */
static const char *broken_promise(void)
{
    if (seen.refused != 0 && slot.started != seen.started_before_refusal)
        return "a call that was refused counts as started";
    for (int i = 0; i < seen.n_told; i++) {
        const uint64_t call_id = seen.asked[i];
        const bool superseded = i + 1 < seen.n_told && seen.asked[i + 1] > call_id;
        if (seen.told_it_runs[i] && seen.stopped_at != call_id)
            return "the agent was told that a call runs, and its worker went on";
        if (!seen.told_it_runs[i] && !superseded && seen.done_when_told[i] < call_id && seen.last_run >= call_id)
            return "the agent was told that a call is over or never starts, and it ran";
    }
    return NULL;
}

/* Try all schedules of one list of questions; returns how many there were. */
static long explore(const uint64_t *asked, int n_asks)
{
    unsigned char schedule[MAX_STEPS];
    long n_schedules = 0;
    int n_given = 0;
    for (;;) {
        memset(&seen, 0, sizeof seen);
        memcpy(seen.asked, asked, sizeof *asked * (size_t)n_asks);
        seen.n_asks = n_asks;
        int n_choices = run(schedule, n_given);
        const char *broken = seen.impossible ? NULL : broken_promise();
        n_schedules++;
        if (broken != NULL) {
            printf("%s; asked", broken);
            for (int i = 0; i < seen.n_told; i++)
                printf(" %llu", (unsigned long long)seen.asked[i]);
            printf(", schedule ");
            for (int i = 0; i < n_choices; i++)
                putchar(schedule[i] == WORKER ? 'w' : 'a');
            putchar('\n');
            exit(1);
        }
        while (n_choices > 0 && schedule[n_choices - 1] == AGENT)
            n_choices--;
        if (n_choices == 0)
            return n_schedules;
        schedule[n_choices - 1] = AGENT;
        n_given = n_choices;
    }
}

int main(void)
{
    long n_schedules = 0;
    for (uint64_t first = 1; first <= N_CALLS + 1; first++) {
        n_schedules += explore(&first, 1);
        for (uint64_t second = 1; second <= N_CALLS + 1; second++)
            n_schedules += explore((uint64_t[]){first, second}, 2);
    }
    printf("%ld schedules\n", n_schedules);
    return 0;
}
