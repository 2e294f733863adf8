/* verbs_rendezvous.c - large segments that the peer reads from where they lie to where they will lie: both ends of that.
 *
 * The side that lends registers them, says where they are, and takes them back when the peer has said that it read them.
 * The side that fetches lets its device read, while the rest of the frame is there already. Spec: docs/spec/007-verbs.md
 * section 7.
 */
#include <string.h>

#include "verbs_channel.h"

enum {
    READ_PIECE_BYTES = 1 << 20, /* every device takes as much in one message */
    READS_AT_ONCE = 32,         /* pieces that are asked for before the device is waited for */
};

/* ---- lending ---- */

static void withdraw(verbs_channel *channel, uint64_t loan)
{
    rfaas_verbs_lending *lending = &channel->lending;
    for (size_t i = 0; i < RFAAS_PLACED_MAX; i++) {
        rfaas_verbs_loan *one = &lending->frames[loan % RFAAS_VERBS_LENT_FRAMES].loans[i];
        if (one->region != NULL)
            channel->ops->withdraw(channel->link, one->region);
        if (one->window != NULL) {
            channel->ops->close_window(channel->link, one->window);
            one->cached->n_windows--;
        }
        *one = (rfaas_verbs_loan){0};
    }
}

/* Memory of `rfaas.empty` is registered once a channel and lent by windows, any other for this frame. False: it can't be. */
static bool enroll(verbs_channel *channel, const struct iovec *segment, rfaas_verbs_loan *loan, uint32_t *key)
{
    const rfaas_verbs_ops *ops = channel->ops;
    void *at = segment->iov_base;
    rfaas_verbs_cached *cached = rfaas_verbs_cache_find(&channel->lending.cache, ops, channel->link, at, segment->iov_len);
    if (cached != NULL)
        loan->window = ops->open_window(channel->link, cached->region, at, segment->iov_len, key);
    if (loan->window != NULL) {
        loan->cached = cached;
        cached->n_windows++;
        return true;
    }
    loan->region = ops->enroll(channel->link, at, segment->iov_len, RFAAS_VERBS_BY_KEY, key);
    return loan->region != NULL;
}

static void take_back_until(verbs_channel *channel, uint64_t loans)
{
    rfaas_verbs_lending *lending = &channel->lending;
    for (; lending->taken_back < loans; lending->taken_back++) {
        withdraw(channel, lending->taken_back);
        lending->size_bytes -= lending->frames[lending->taken_back % RFAAS_VERBS_LENT_FRAMES].size_bytes;
    }
}

rfaas_rc rfaas_verbs_take_back(verbs_channel *channel)
{
    uint64_t returned = atomic_load_explicit(&channel->lending.returned, memory_order_acquire);
    if (returned > channel->queue.loans)
        return rfaas_verbs_malformed(channel);
    take_back_until(channel, returned);
    rfaas_frame_queue_returned(&channel->base, &channel->queue, returned);
    return RFAAS_OK;
}

void rfaas_verbs_withdraw_all(verbs_channel *channel)
{
    take_back_until(channel, channel->queue.loans);
}

/* Registers what is large of the first frame; says where that is. How many segments. */
static uint32_t enroll_segments(verbs_channel *channel, rfaas_verbs_place places[RFAAS_PLACED_MAX])
{
    rfaas_queued *frame = channel->queue.first;
    rfaas_verbs_loan *loans = channel->lending.frames[channel->queue.loans % RFAAS_VERBS_LENT_FRAMES].loans;
    uint32_t n = 0;
    for (uint32_t i = 0; i < frame->cursor.n_segments && n < RFAAS_PLACED_MAX; i++) {
        struct iovec segment = frame->segments[i];
        if (segment.iov_len < RFAAS_VERBS_LEND_BYTES || !enroll(channel, &segment, &loans[n], &places[n].key))
            continue;
        places[n].address = (uintptr_t)segment.iov_base;
        places[n].size_bytes = segment.iov_len;
        places[n].segment = i;
        n++;
    }
    return n;
}

rfaas_rc rfaas_verbs_lend(verbs_channel *channel)
{
    rfaas_verbs_lending *lending = &channel->lending;
    rfaas_verbs_place places[RFAAS_PLACED_MAX];
    uint8_t bytes[RFAAS_PLACED_MAX * RFAAS_VERBS_PLACE_BYTES];
    uint64_t loan = channel->queue.loans, size_bytes = 0;
    if (loan - lending->taken_back >= RFAAS_VERBS_LENT_FRAMES)
        return RFAAS_OK;
    uint32_t n = enroll_segments(channel, places);
    if (n == 0)
        return RFAAS_OK;
    for (uint32_t i = 0; i < n; i++) {
        rfaas_verbs_place_encode(&places[i], bytes + i * RFAAS_VERBS_PLACE_BYTES);
        size_bytes += places[i].size_bytes;
    }
    rfaas_rc rc = rfaas_verbs_put_places(channel, bytes, n * RFAAS_VERBS_PLACE_BYTES);
    if (rc != RFAAS_OK) {
        withdraw(channel, loan);
        return rc;
    }
    for (uint32_t i = 0; i < n; i++)
        rfaas_frame_queue_pass(&channel->base, &channel->queue, places[i].segment);
    lending->frames[loan % RFAAS_VERBS_LENT_FRAMES].size_bytes = size_bytes;
    lending->size_bytes += size_bytes;
    channel->queue.loans++;
    return RFAAS_OK;
}

/* ---- fetching ---- */

rfaas_rc rfaas_verbs_expect(verbs_channel *channel, const uint8_t *bytes, uint32_t size_bytes)
{
    rfaas_verbs_fetching *fetching = &channel->fetching;
    rfaas_receiver *receiver = &channel->base.receiver;
    uint32_t n = size_bytes / RFAAS_VERBS_PLACE_BYTES;
    if (fetching->landing == NULL || fetching->n_places > 0 || !rfaas_receiver_is_between_frames(receiver) || n == 0 ||
        n > RFAAS_PLACED_MAX || size_bytes % RFAAS_VERBS_PLACE_BYTES != 0)
        return rfaas_verbs_malformed(channel);
    for (uint32_t i = 0; i < n; i++) {
        rfaas_verbs_place *place = &fetching->places[i];
        rfaas_verbs_place_decode(bytes + i * RFAAS_VERBS_PLACE_BYTES, place);
        if (place->size_bytes == 0 || place->size_bytes > receiver->max_payload_bytes)
            return rfaas_verbs_malformed(channel);
        receiver->placed[i] = (rfaas_placed){.segment = place->segment, .where = {NULL, (size_t)place->size_bytes}};
    }
    receiver->n_placed = fetching->n_places = n;
    receiver->memory = rfaas_verbs_landing_memory(fetching->landing);
    fetching->at = 0;
    fetching->asked_bytes = 0;
    return RFAAS_OK;
}

/* The next piece, straight to where it belongs, or to the spare bytes. */
static rfaas_rc ask(verbs_channel *channel, const rfaas_verbs_region *region)
{
    rfaas_verbs_fetching *fetching = &channel->fetching;
    const rfaas_verbs_place *place = &fetching->places[fetching->at];
    uint64_t left_bytes = place->size_bytes - fetching->asked_bytes;
    uint64_t most_bytes = region != NULL ? READ_PIECE_BYTES : RFAAS_VERBS_SPARE_BYTES;
    size_t step_bytes = (size_t)(left_bytes < most_bytes ? left_bytes : most_bytes);
    uint8_t *to = (uint8_t *)channel->base.receiver.frame.segments[place->segment].iov_base + fetching->asked_bytes;
    void *at = region != NULL ? to : channel->memory + 2 * RFAAS_VERBS_RING_BYTES;
    rfaas_rc rc = channel->ops->read(channel->link, region, at, step_bytes, place->address + fetching->asked_bytes, place->key);
    if (rc != RFAAS_OK)
        return rc;
    atomic_store(&fetching->under_way, true);
    if (region == NULL) {
        fetching->spared_to = to;
        fetching->spared_bytes = (uint32_t)step_bytes;
    }
    fetching->asked_bytes += step_bytes;
    if (fetching->asked_bytes == place->size_bytes) {
        fetching->at++;
        fetching->asked_bytes = 0;
    }
    return RFAAS_OK;
}

static void fetched(verbs_channel *channel)
{
    channel->fetching.n_places = 0;
    channel->fetching.untold++;
    channel->base.receiver.memory = rfaas_memory_default;
    rfaas_verbs_tell_fetched(channel);
}

rfaas_rc rfaas_verbs_fetch(verbs_channel *channel)
{
    rfaas_verbs_fetching *fetching = &channel->fetching;
    const rfaas_frame *frame = &channel->base.receiver.frame;
    const rfaas_verbs_region *region = NULL;
    if (!frame->dropped)
        region = rfaas_verbs_landing_region(fetching->landing, frame->buffer);
    for (;;) {
        int reading = channel->ops->reading(channel->link);
        if (reading != 0)
            return reading > 0 ? RFAAS_AGAIN : rfaas_verbs_broken_below(channel);
        atomic_store(&fetching->under_way, false);
        if (fetching->spared_to != NULL)
            memcpy(fetching->spared_to, channel->memory + 2 * RFAAS_VERBS_RING_BYTES, fetching->spared_bytes);
        fetching->spared_to = NULL;
        if (frame->dropped || fetching->at == fetching->n_places)
            break;
        rfaas_rc rc = RFAAS_OK;
        for (int i = 0; i < (region != NULL ? READS_AT_ONCE : 1) && fetching->at < fetching->n_places && rc == RFAAS_OK; i++)
            rc = ask(channel, region);
        if (rc == RFAAS_BROKEN)
            return rfaas_verbs_broken_below(channel);
        if (rc == RFAAS_AGAIN && !fetching->under_way)
            return RFAAS_AGAIN; /* a full queue of sends: its completions were asked for just now */
    }
    fetched(channel);
    return RFAAS_OK;
}

void rfaas_verbs_tell_fetched(verbs_channel *channel)
{
    while (channel->fetching.untold > 0 && rfaas_verbs_tell(channel, RFAAS_VERBS_OF_PLACES) == RFAAS_OK)
        channel->fetching.untold--;
}

/* ---- the end ---- */

static void end_lending(verbs_channel *channel)
{
    rfaas_verbs_withdraw_all(channel);
    rfaas_verbs_cache_end(&channel->lending.cache, channel->ops, channel->link);
}

void rfaas_verbs_end_rendezvous(verbs_channel *channel, bool inherited)
{
    if (!inherited)
        end_lending(channel);
    rfaas_verbs_landing_end(channel->fetching.landing, inherited);
    channel->fetching.landing = NULL;
}
