#include "state_page.h"

/* A plain aligned store may be split or merged by the compiler; these can't be. */
static void store(uint64_t *field, uint64_t value) { __atomic_store_n(field, value, __ATOMIC_RELEASE); }
static uint64_t load(const uint64_t *field) { return __atomic_load_n(field, __ATOMIC_ACQUIRE); }

/* Worker and agent each write one field, then read the other's. In one order of all these four (as in Dekker's
 * algorithm) at least one of them sees what the other wrote. */
static void publish(uint64_t *field, uint64_t value) { __atomic_store_n(field, value, __ATOMIC_SEQ_CST); }
static uint64_t observe(const uint64_t *field) { return __atomic_load_n(field, __ATOMIC_SEQ_CST); }

void rfaas_page_open(rfaas_page_slot *slot, uint64_t channel)
{
    store(&slot->started, 0);
    store(&slot->done, 0);
    store(&slot->deadline_boot_ns, 0);
    store(&slot->started_boot_ns, 0);
    store(&slot->interrupted, 0);
    store(&slot->channel, channel);
}

bool rfaas_page_start(rfaas_page_slot *slot, uint64_t call_id, uint64_t deadline_boot_ns, uint64_t now_boot_ns)
{
    store(&slot->deadline_boot_ns, deadline_boot_ns);
    store(&slot->started_boot_ns, now_boot_ns);
    uint64_t before = slot->started; /* our own store */
    publish(&slot->started, call_id);
    if (observe(&slot->interrupted) != call_id)
        return true;
    store(&slot->started, before); /* it never runs: should this process be killed now, the page says so */
    return false;
}

bool rfaas_page_finish(rfaas_page_slot *slot, uint64_t call_id)
{
    publish(&slot->done, call_id);
    store(&slot->deadline_boot_ns, 0);
    return observe(&slot->interrupted) != call_id;
}

bool rfaas_page_interrupt(rfaas_page_slot *slot, uint64_t call_id)
{
    if (call_id < slot->interrupted)
        return false;
    publish(&slot->interrupted, call_id);
    /* Lower, not other: between the two looks the worker may have ended a later call. */
    return observe(&slot->started) == call_id && observe(&slot->done) < call_id;
}

void rfaas_page_account(rfaas_page_usage *usage, uint64_t running_ns, uint64_t bytes_in, uint64_t bytes_out)
{
    store(&usage->bytes_in, usage->bytes_in + bytes_in);
    store(&usage->bytes_out, usage->bytes_out + bytes_out);
    store(&usage->calls, usage->calls + 1);
    store(&usage->running_ns, usage->running_ns + running_ns);
}

void rfaas_page_read_usage(const rfaas_page_usage *usage, rfaas_page_usage *copy)
{
    copy->running_ns = load(&usage->running_ns);
    copy->hot_ns = load(&usage->hot_ns);
    copy->calls = load(&usage->calls);
    copy->bytes_in = load(&usage->bytes_in);
    copy->bytes_out = load(&usage->bytes_out);
}

void rfaas_page_take_output(rfaas_page_output *output) { publish(&output->takes, output->takes + 1); }

uint64_t rfaas_page_output_takes(const rfaas_page_output *output) { return observe(&output->takes); }

void rfaas_page_read(const rfaas_page_slot *slot, rfaas_page_slot *copy)
{
    copy->started = load(&slot->started);
    copy->done = load(&slot->done);
    copy->deadline_boot_ns = load(&slot->deadline_boot_ns);
    copy->started_boot_ns = load(&slot->started_boot_ns);
    copy->channel = load(&slot->channel);
}
