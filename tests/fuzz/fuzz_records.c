/* fuzz_records.c - tls_stream.c: what comes from the network before and after the proof of the key. Nothing of it is ever
 * delivered: nobody without the key can make a record.
 */
#include <sys/socket.h>
#include <unistd.h>

#include "fuzz.h"
#include "tls_stream.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t key[RFAAS_SECURE_KEY_BYTES] = "of this test";
    int fds[2];
    uint8_t bytes[256];
    const struct iovec place = {bytes, sizeof bytes};
    bool is_dialer = size > 0 && data[0] % 2, is_proven = size > 0 && data[0] % 4 >= 2;
    EXPECT(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    rfaas_secure *ours = rfaas_tls.begin(fds[0], is_dialer, key), *theirs = rfaas_tls.begin(fds[1], !is_dialer, key);
    EXPECT(ours != NULL && theirs != NULL);
    for (int i = 0; is_proven && i < 4; i++) {
        EXPECT(rfaas_tls.shake_hands(i % 2 == is_dialer ? theirs : ours) != RFAAS_BROKEN);
    }
    if (size > 1)
        EXPECT(send(fds[1], data + 1, size - 1, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)(size - 1));
    shutdown(fds[1], SHUT_WR);
    rfaas_rc rc;
    size_t got_bytes = 0;
    for (int i = 0; i < 100 && (rc = rfaas_tls.shake_hands(ours)) == RFAAS_AGAIN; i++)
        ;
    if (rc == RFAAS_OK) {
        EXPECT(is_proven);
        rc = rfaas_tls.read(ours, &place, 1, &got_bytes);
        EXPECT(got_bytes == 0 && rc != RFAAS_OK);
    }
    EXPECT(rc == RFAAS_BROKEN && strlen(rfaas_tls.why(ours)) > 0);
    rfaas_tls.free(ours);
    rfaas_tls.free(theirs);
    close(fds[0]);
    close(fds[1]);
    return 0;
}
