/* One packet to a daemon's socket, and its answer. docs/spec/009-hooks.md section 1. */
#ifndef RFAAS_ASK_H
#define RFAAS_ASK_H

#include <stdint.h>
#include <sys/types.h>

#include "packet.h"

typedef enum {
    RFAAS_ASK_DONE,    /* answered: done; or sent, if no answer was wanted */
    RFAAS_ASK_ABSENT,  /* there is no such socket */
    RFAAS_ASK_DEAD,    /* nobody listens there any more */
    RFAAS_ASK_FOREIGN, /* it is not of whom it must be: nothing was sent */
    RFAAS_ASK_SILENT,  /* no answer until the deadline */
    RFAAS_ASK_REFUSED, /* an answer that is not done, or an error */
} rfaas_asked;

/* Send `packet` to `socket` ('@name': abstract), whose listener must be `owner` or root, and wait for its answer until
 * `deadline_ms`. A path's directory must belong to one of these two and be nobody else's to write. */
rfaas_asked rfaas_ask(const char *socket, uid_t owner, const rfaas_packet *packet, int64_t deadline_ms);

/* The same without waiting for an answer: for what delays a job as long as it lasts. */
rfaas_asked rfaas_tell(const char *socket, uid_t owner, const rfaas_packet *packet, int64_t deadline_ms);

/* In words, for a log. */
const char *rfaas_asked_text(rfaas_asked asked);

#endif
