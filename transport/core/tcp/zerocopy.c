/* zerocopy.c - see zerocopy.h. */
#include "zerocopy.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
/* after <time.h>, which it needs and does not include */
#include <linux/errqueue.h>

bool rfaas_zerocopy_is_on(int fd)
{
    int on = 0;
    socklen_t size_bytes = sizeof on;
    return getsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &on, &size_bytes) == 0 && on != 0;
}

void rfaas_zerocopy_note(rfaas_zerocopy *zerocopy, uint64_t first, uint64_t end)
{
    if (first > zerocopy->returned) { /* rare; what finds no room here is back at the latest when the channel closes */
        for (size_t i = 0; i < RFAAS_ZEROCOPY_RANGES; i++)
            if (zerocopy->early[i].end == 0) {
                zerocopy->early[i].first = first;
                zerocopy->early[i].end = end;
                return;
            }
        return;
    }
    if (end > zerocopy->returned)
        zerocopy->returned = end;
    for (size_t i = 0; i < RFAAS_ZEROCOPY_RANGES; i++) {
        uint64_t early_first = zerocopy->early[i].first, early_end = zerocopy->early[i].end;
        if (early_end != 0 && early_first <= zerocopy->returned) {
            zerocopy->early[i].end = 0;
            rfaas_zerocopy_note(zerocopy, early_first, early_end);
        }
    }
}

/* The kernel counts in 32 bits; a loan is at most so old. */
static uint64_t loan_of(uint32_t number, uint64_t loans)
{
    return loans - (uint32_t)((uint32_t)loans - number);
}

void rfaas_zerocopy_collect(rfaas_zerocopy *zerocopy, int fd, uint64_t loans)
{
    for (;;) {
        char control[256];
        struct msghdr message = {.msg_control = control, .msg_controllen = sizeof control};
        if (recvmsg(fd, &message, MSG_ERRQUEUE | MSG_DONTWAIT) < 0) {
            if (errno == EINTR)
                continue;
            return;
        }
        for (struct cmsghdr *one = CMSG_FIRSTHDR(&message); one != NULL; one = CMSG_NXTHDR(&message, one)) {
            struct sock_extended_err about;
            bool is_error = (one->cmsg_level == SOL_IP && one->cmsg_type == IP_RECVERR) ||
                            (one->cmsg_level == SOL_IPV6 && one->cmsg_type == IPV6_RECVERR);
            if (!is_error || one->cmsg_len < CMSG_LEN(sizeof about))
                continue;
            memcpy(&about, CMSG_DATA(one), sizeof about);
            if (about.ee_errno == 0 && about.ee_origin == SO_EE_ORIGIN_ZEROCOPY)
                rfaas_zerocopy_note(zerocopy, loan_of(about.ee_info, loans), loan_of(about.ee_data, loans) + 1);
        }
    }
}
