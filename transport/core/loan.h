/* loan.h - channels on loan to whichever thread asks: who may use them now, and how their owner gets them back.
 *
 * The owner is one thread, which reads the channels at all other times. Another thread takes the loan to send and to
 * receive, and gives it back: all that happens between is C, so nothing of an interpreter's can come in between and
 * leave the channels in nobody's hands. What is not answered soon is left to the owner.
 *
 *   from      what                          who        to
 *   ABSENT    the owner lends               owner      IDLE
 *   IDLE      rfaas_loan_take               borrower   BUSY
 *   BUSY      rfaas_loan_give_back          borrower   IDLE
 *   BUSY      nothing came while it looked  borrower   ASLEEP
 *   ASLEEP    something came                borrower   BUSY
 *   BUSY      rfaas_loan_leave; recalled    borrower   LEFT
 *   ASLEEP    recalled                      either     LEFT
 *   IDLE,LEFT rfaas_loan_end                owner      ABSENT
 */
#ifndef RFAAS_LOAN_H
#define RFAAS_LOAN_H

#include "rfaas_channel.h"

enum { RFAAS_LOAN_CHANNELS = 64 };

typedef enum rfaas_loan_state {
    RFAAS_LOAN_ABSENT,
    RFAAS_LOAN_IDLE,
    RFAAS_LOAN_BUSY,
    RFAAS_LOAN_ASLEEP,
    RFAAS_LOAN_LEFT
} rfaas_loan_state;

typedef struct rfaas_loan {
    int state;    /* rfaas_loan_state; atomic */
    int recalled; /* the owner wants the channels back; atomic */
    int wake_fd;  /* wakes a borrower that sleeps */
} rfaas_loan;

/* Without a loan yet: 0, or -1 with errno. */
int rfaas_loan_open(rfaas_loan *loan);
void rfaas_loan_close(rfaas_loan *loan);

/* ---- the owner ---- */

/* There is a loan from now on. Only while there is none. */
void rfaas_loan_begin(rfaas_loan *loan);

/* Nobody takes it any more; who uses it leaves it. From any thread. */
void rfaas_loan_recall(rfaas_loan *loan);

/* Waits until no borrower uses the channels, which takes as long as a borrower looks, and ends the loan. False if there
 * was none. Recalls it. */
bool rfaas_loan_end(rfaas_loan *loan);

rfaas_loan_state rfaas_loan_look(const rfaas_loan *loan);

/* ---- a borrower ---- */

/* The channels are the caller's until it gives them back; false if somebody uses them, if they are recalled, or if there
 * is no loan. */
bool rfaas_loan_take(rfaas_loan *loan);

/* Others may take it. */
void rfaas_loan_give_back(rfaas_loan *loan);

/* What comes next is the owner's affair. */
void rfaas_loan_leave(rfaas_loan *loan);

/* Waits for something to poll on one of these channels (at most RFAAS_LOAN_CHANNELS): looks for `spin_ns`, then sleeps
 * for `sleep_ns`. Returns its index; or -1: the channels are the owner's now, recalled or because nothing came, and must
 * not be touched. */
int rfaas_loan_await(rfaas_loan *loan, rfaas_channel *const channels[], int n, int64_t spin_ns, int64_t sleep_ns);

#endif
