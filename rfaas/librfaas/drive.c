/* drive.c - how a waiting thread makes progress: it polls for a moment, then sleeps; one thread does it for all. */
#include <errno.h>
#include <sched.h>

#include "entries.h"

enum {
    TOKENS = 64,
    LOOKS_A_CLOCK = 64,
    SLICES_AT_ONCE = 8,
    PACKETS_A_TURN = 64,
    TURNS_A_GLANCE = 256, /* of a thread that is never without results: then it asks all descriptors too */
};

static const int64_t yield_after_ns = 20000;  /* a worker that answers at all at once has answered by then */
static const int64_t taken_away_ns = 200000;  /* a yield that took so long let somebody else run: others want the CPU */

void client_do_effects(rfaas_client *client)
{
    for (;;) {
        effect next = core_next(&client->core);
        switch (next.kind) {
        case EFFECT_NONE:
            return;
        case EFFECT_CLOSE:
            port_close((port *)next.channel);
            break;
        case EFFECT_SEND:
            port_send((port *)next.channel, next.call);
            break;
        case EFFECT_INTERRUPT:
            session_interrupt(client, next.channel->number, next.number);
            break;
        case EFFECT_JOIN:
            join_begin(client);
            break;
        case EFFECT_WANT:
            session_want(client, next.number);
            break;
        }
    }
}

/* Frees what is closed; nobody may be looking at it: the driver after its turn, others while nobody drives. */
static void bury(rfaas_client *client)
{
    while (client->dead != NULL) {
        port *one = client->dead;
        client->dead = one->next_dead;
        port_free(one);
    }
}

static uint64_t n_ended(const rfaas_client *client)
{
    const rfaas_client_statistics *counters = &client->core.counters;
    return counters->answered + counters->failed + counters->cancelled;
}

/* ---- polling ---- */

/* Between looks at memory; others take long enough by themselves, and emulated CPUs leave the guest for it. */
static void relax(const port *one)
{
    if (one != NULL && one->channel->medium->looks_a_clock > 0)
        return;
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Looks at a channel that take some 2 us: between them the clock is looked at, or others get the lock. */
static uint32_t looks_a_clock(const port *one)
{
    uint32_t looks = one == NULL ? 0 : one->channel->medium->looks_a_clock;
    return looks > 0 ? looks : LOOKS_A_CLOCK;
}

/* Serves each channel that has something of a call that was sent; true: something was there. */
static bool look(rfaas_client *client)
{
    port *hot = client->hot;
    if (client->core.n_busy == 1 && hot != NULL && hot->core.call != NULL && !hot->core.ended) {
        port_stay_awake(hot);
        if (!port_is_ready(hot))
            return false;
        port_serve(hot);
        return true;
    }
    bool found = false;
    for (core_channel *channel = client->core.channels; channel != NULL;) {
        port *one = (port *)channel;
        channel = channel->next; /* serving one may close it, and no other */
        if (one->core.call == NULL || one->core.ended)
            continue;
        port_stay_awake(one);
        if (port_is_ready(one)) {
            port_serve(one);
            found = true;
        }
    }
    return found;
}

/* Gives the lock to those who want it. */
static void let_others_in(rfaas_client *client)
{
    if (atomic_load_explicit(&client->wanting, memory_order_relaxed) == 0)
        return;
    pthread_mutex_unlock(&client->lock);
    sched_yield();
    pthread_mutex_lock(&client->lock);
}

/* Polls until something comes, for spin_ns at most; true: something came. */
static bool spin(rfaas_client *client)
{
    int64_t start_ns = 0;
    while (client->core.n_busy > 0) {
        for (uint32_t looks = looks_a_clock(client->hot); looks > 0; looks--) {
            if (look(client)) {
                client_do_effects(client);
                return true;
            }
            relax(client->hot);
        }
        let_others_in(client);
        int64_t now_ns = client_now_ns();
        if (start_ns == 0)
            start_ns = now_ns;
        if (now_ns - start_ns >= client->spin_ns || now_ns >= core_due_ns(&client->core))
            return false;
        if (now_ns - start_ns >= yield_after_ns) {
            sched_yield();
            if (client_now_ns() - now_ns > taken_away_ns)
                return false;
        }
    }
    return false;
}

/* ---- sleeping ---- */

/* False: there is something to read already, and it was read. */
static bool fall_asleep(rfaas_client *client)
{
    bool quiet = true;
    for (core_channel *channel = client->core.channels; channel != NULL;) {
        port *one = (port *)channel;
        channel = channel->next;
        if (!one->core.ended && !port_may_sleep(one)) {
            port_serve(one);
            quiet = false;
        }
    }
    return quiet;
}

/* What a packet means is done before the next is read: that may be about a channel which this one brought. */
static void serve_session(rfaas_client *client)
{
    for (int i = 0; i < PACKETS_A_TURN && session_serve(client); i++)
        client_do_effects(client);
}

static void serve_token(rfaas_client *client, uint64_t token)
{
    if (token == 0) {
        serve_session(client);
    } else if (token == 1) {
        join_serve(client);
    } else {
        port *one = (port *)(uintptr_t)token;
        if (!one->core.gone && !one->core.ended)
            port_serve(one);
    }
    client_do_effects(client);
}

static int64_t earliest(int64_t a_ns, int64_t b_ns)
{
    return a_ns < b_ns ? a_ns : b_ns;
}

static int64_t due_ns(const rfaas_client *client)
{
    return earliest(client->tried_due_ns, earliest(core_due_ns(&client->core), join_due_ns(client)));
}

static void tick(rfaas_client *client, int64_t now_ns)
{
    if (client->tried_due_ns <= now_ns)
        rdma_tick(client, now_ns);
    if (core_due_ns(&client->core) <= now_ns)
        core_tick(&client->core, now_ns);
    if (join_due_ns(client) <= now_ns)
        join_tick(client, now_ns);
    client_do_effects(client);
}

/* Waits for the descriptors of all, until `until_ns` at most, and serves what is there. */
static void sleep_once(rfaas_client *client, int64_t until_ns)
{
    uint64_t tokens[TOKENS];
    uint64_t ended = n_ended(client);
    bool quiet = fall_asleep(client);
    client_do_effects(client);
    tick(client, client_now_ns());
    if (!quiet || n_ended(client) != ended)
        until_ns = 0;
    until_ns = earliest(until_ns, due_ns(client));
    int64_t now_ns = client_now_ns();
    int64_t timeout_ns = until_ns == INT64_MAX ? -1 : until_ns > now_ns ? until_ns - now_ns : 0;
    client->turns = 0;
    client->asleep = timeout_ns != 0;
    client->asleep_until_ns = until_ns;
    if (client->asleep)
        pthread_mutex_unlock(&client->lock);
    int n = rfaas_poller_wait(&client->poller, tokens, TOKENS, timeout_ns);
    if (client->asleep)
        pthread_mutex_lock(&client->lock);
    client->asleep = false;
    for (int i = 0; i < n; i++) /* an error is a signal: the caller looks whether it is done, and waits again */
        serve_token(client, tokens[i]);
}

/* ---- waiting ---- */

static void follow(rfaas_client *client, int64_t until_ns)
{
    struct timespec until = {.tv_sec = until_ns / 1000000000, .tv_nsec = until_ns % 1000000000};
    client->followers++;
    if (until_ns == INT64_MAX)
        pthread_cond_wait(&client->moved, &client->lock);
    else
        pthread_cond_timedwait(&client->moved, &client->lock, &until);
    client->followers--;
}

/* Takes what the session process said, though results keep coming: notices and losses among it. */
static void glance(rfaas_client *client)
{
    uint64_t tokens[TOKENS];
    client->turns = 0;
    int n = rfaas_poller_wait(&client->poller, tokens, TOKENS, 0);
    for (int i = 0; i < n; i++)
        serve_token(client, tokens[i]);
    tick(client, client_now_ns());
}

/* One turn of whoever drives. */
static void drive(rfaas_client *client, int64_t until_ns)
{
    uint64_t ended = n_ended(client);
    if (client->spin_ns == 0 || until_ns == 0 || !spin(client))
        sleep_once(client, until_ns);
    else if (++client->turns >= TURNS_A_GLANCE)
        glance(client);
    bury(client);
    if (client->followers > 0 && n_ended(client) != ended)
        pthread_cond_broadcast(&client->moved);
}

/* Looks at one channel until its call is over, in slices between which others get the lock. */
static bool look_at_one(rfaas_client *client, port *one, const rfaas_call *call)
{
    for (int slice = 0; slice < SLICES_AT_ONCE; slice++) {
        for (uint32_t looks = looks_a_clock(one); looks > 0; looks--) {
            if (port_is_ready(one)) {
                port_serve(one);
                client_do_effects(client);
                return call->state == CALL_DONE;
            }
            relax(one);
        }
        let_others_in(client);
        if (call->state != CALL_SENT || client->hot != one) /* cancelled, say: the channel may be gone */
            return false;
    }
    return false;
}

void await_at_once(rfaas_client *client, core_channel *channel, rfaas_call *call)
{
    port *one = (port *)channel;
    client->driving = true;
    port_stay_awake(one);
    port_send(one, call);
    client_do_effects(client);
    if (call->state == CALL_SENT && client->hot == one && look_at_one(client, one, call) &&
        ++client->turns >= TURNS_A_GLANCE)
        glance(client);
    if (client->dead != NULL)
        bury(client);
    client->driving = false;
    if (client->followers > 0)
        pthread_cond_broadcast(&client->moved);
}

/* The driver sleeps by what was due before we came. */
static void wake_driver(rfaas_client *client)
{
    if (client->asleep && due_ns(client) < client->asleep_until_ns)
        rfaas_poller_wake(&client->poller);
}

/* Between two drivers nothing of a channel that is tried moves on. */
static void note_absence(rfaas_client *client, bool leaves)
{
    if (client->tried_due_ns == INT64_MAX)
        return;
    int64_t now_ns = client_now_ns();
    if (!leaves && client->away_since_ns != 0)
        rdma_was_away(client, now_ns - client->away_since_ns);
    client->away_since_ns = leaves ? now_ns : 0;
}

bool await(rfaas_client *client, await_test is_done, void *context, double timeout_s)
{
    int64_t until_ns = INT64_MAX;
    if (timeout_s >= 0 && timeout_s < 1e9)
        until_ns = timeout_s == 0 ? 0 : client_now_ns() + duration_ns(timeout_s);
    bool drove = false, done;
    for (bool first = true; !(done = is_done(context)); first = false) {
        if (!first && until_ns != INT64_MAX && client_now_ns() >= until_ns)
            break;
        if (client->driving && !drove) {
            wake_driver(client);
            if (until_ns == 0)
                break; /* somebody makes progress for all */
            follow(client, until_ns);
            continue;
        }
        if (!drove)
            note_absence(client, false);
        client->driving = drove = true;
        drive(client, until_ns);
    }
    if (drove) {
        client->driving = false;
        note_absence(client, true);
        if (client->followers > 0)
            pthread_cond_broadcast(&client->moved); /* one of them drives on */
    } else {
        wake_driver(client);
    }
    return done;
}
