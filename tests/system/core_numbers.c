/* core_numbers.c - more calls on one channel than 16 bits number, over each medium and on loan; test_core_numbers.py runs it.
 *
 * Usage: core_numbers N_CALLS. Prints each medium and what its channel counted. Exits 0 when each answer was its call's.
 */
#include <string.h>

#include "core_pairs.h"

void test_loan(uint64_t n_calls); /* core_loan_test.c */

static rfaas_frame next_frame(rfaas_channel *receiver, rfaas_channel *sender)
{
    rfaas_frame frame;
    rfaas_rc rc;
    while ((rc = rfaas_channel_poll(receiver, BUDGET_BYTES, &frame)) == RFAAS_AGAIN || rc == RFAAS_MORE)
        rfaas_channel_flush(sender, BUDGET_BYTES);
    EXPECT(rc == RFAAS_OK);
    return frame;
}

/* One frame of `kind` from one side to the other, with its number as its payload. */
static void pass(rfaas_channel *from, rfaas_channel *to, uint8_t kind, uint64_t number, uint16_t credits)
{
    uint64_t content = ~number;
    const struct iovec segment = {&content, sizeof content};
    rfaas_header header = {.kind = kind, .call_id = number, .credits = credits};
    EXPECT(rfaas_channel_send(from, &header, &segment, 1, NULL, 0, NULL) == RFAAS_OK);
    rfaas_frame frame = next_frame(to, from);
    EXPECT(frame.header.kind == kind && frame.header.call_id == number && frame.n_segments == 1);
    EXPECT(frame.segments[0].iov_len == sizeof content);
    EXPECT(memcmp(frame.segments[0].iov_base, &content, sizeof content) == 0);
    frame.memory.release(frame.memory.context, frame.buffer, frame.buffer_bytes);
}

static void call(const char *name, make_pair_f make_pair, uint64_t n_calls)
{
    rfaas_channel *client, *worker;
    make_pair(&client, &worker);
    pass(worker, client, RFAAS_KIND_HELLO, 0, 1);
    for (uint64_t number = 1; number <= n_calls; number++) {
        pass(client, worker, RFAAS_KIND_CALL, number, 0);
        pass(worker, client, RFAAS_KIND_RESULT, number, 1);
    }
    EXPECT(client->statistics.frames_sent == n_calls && client->statistics.frames_received == n_calls + 1);
    EXPECT(client->tx_credits == 1 && worker->rx_credits == 1); /* each call took one and gave one back */
    printf("%s %llu\n", name, (unsigned long long)client->statistics.frames_sent);
    rfaas_channel_free(client);
    rfaas_channel_free(worker);
}

int main(int argc, char **argv)
{
    EXPECT(argc == 2);
    uint64_t n_calls = strtoull(argv[1], NULL, 10);
    call("inproc", inproc_pair, n_calls);
    call("shm", shm_pair, n_calls);
    call("unix", unix_pair, n_calls);
    call("tcp", tcp_pair, n_calls);
    call("tls", tls_pair, n_calls);
    test_loan(n_calls);
    printf("loan %llu\n", (unsigned long long)n_calls);
    return 0;
}
