#include "native_server.h"

#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* A plain request is the first dispatch of its invocation, and has no deadline. */
static void fill(rfaas_ctx *ctx, const rfaas_native_server *server, const rfaas_header *request) {
    memcpy(ctx->invocation_id, server->holder_id, sizeof(server->holder_id));
    for (int i = 0; i < 8; i++) ctx->invocation_id[16 + i] = (uint8_t)(request->call_id >> (56 - 8 * i));
    ctx->attempt = 0;
    ctx->lease_seq = request->lease_seq;
    ctx->epoch = request->epoch;
    ctx->deadline_ns = 0;
}

/* Whether a function that took so long may have printed; what C's own stdout held back is written. */
static bool may_have_printed(const rfaas_native_server *server, uint64_t took_ns) {
    int out_bytes = 0, err_bytes = 0;
    if (server->out_fd < 0 || took_ns < server->write_ns) return false;
    if (server->taken == NULL || ioctl(server->out_fd, FIONREAD, &out_bytes) != 0 ||
        ioctl(server->err_fd, FIONREAD, &err_bytes) != 0)
        return true;
    /* The agent counts before it reads: so after the look into the pipes. */
    return out_bytes != 0 || err_bytes != 0 || rfaas_page_output_takes(server->taken) != *server->known_takes;
}

/* Room for what the request asks for; 0: as much as a channel takes. */
static void fit(rfaas_native_server *server, uint64_t asked_bytes) {
    const uint64_t most_bytes = server->capacity_bytes_max;
    const uint64_t capacity_bytes = asked_bytes > 0 && asked_bytes < most_bytes ? asked_bytes : most_bytes;
    if (capacity_bytes != server->output->capacity_bytes) (void)rfaas_output_fit(server->output, capacity_bytes);
}

static bool leave(rfaas_native_server *server, rfaas_native_left why) {
    server->left = why;
    return false;
}

bool rfaas_native_serve(void *context, const rfaas_header *request, const struct iovec *in, struct iovec *answer) {
    rfaas_native_server *server = context;
    const uint64_t started_ns = rfaas_ticks_now_ns(&server->ticks);
    if (!rfaas_page_start(server->slot, request->call_id, 0, started_ns)) return leave(server, RFAAS_LEFT_INTERRUPTED);
    fit(server, request->out_size);
    fill(server->ctx, server, request);
    server->result = rfaas_native_call(server->function, in->iov_len > 0 ? in->iov_base : NULL, in->iov_len,
                                       server->output, request->out_size != 0, server->ctx);
    if (!server->is_this_process()) _exit(0);
    const uint64_t took_ns = rfaas_ticks_now_ns(&server->ticks) - started_ns;
    const uint64_t out_bytes = server->result.out_bytes;
    if (server->result.end != RFAAS_CALL_OK || out_bytes > server->out_bytes_max ||
        may_have_printed(server, took_ns) || (server->watched.fd >= 0 && !rfaas_is_held(&server->watched)))
        return leave(server, RFAAS_LEFT_ENDED);
    const bool goes_on = rfaas_page_finish(server->slot, request->call_id);
    if (!goes_on) return leave(server, RFAAS_LEFT_AT_END);
    if (server->usage != NULL) rfaas_page_account(server->usage, took_ns, request->in_size, out_bytes);
    *answer = (struct iovec){server->output->start, (size_t)out_bytes};
    return true;
}
