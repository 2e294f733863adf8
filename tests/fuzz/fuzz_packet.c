/* fuzz_packet.c - librfaas's session.c: a packet of the session process, whatever is in it. */
#include "../../rfaas/librfaas/session.c"

#include <fcntl.h>

#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static rfaas_client client;
    uint8_t *bytes = copy_of(data, size);
    pack_value message;
    memset(&client, 0, sizeof client);
    client.session_fd = -1;
    core_init(&client.core, 2, 1000000000, 1);
    core_session_up(&client.core, true);
    for (int again = 0; again < 2; again++) { /* said twice */
        int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        if (pack_read(bytes, size, &message))
            take(&client, &message, &fd);
        if (fd >= 0)
            close(fd);
        for (effect next = core_next(&client.core); next.kind != EFFECT_NONE; next = core_next(&client.core))
            ;
    }
    core_fini(&client.core);
    free(bytes);
    return 0;
}
