/* book.h - what this node lends now, to whom, and whether one more grant may be used. Decides; touches nothing. */
#ifndef RFAAS_NODE_BOOK_H
#define RFAAS_NODE_BOOK_H

#include <sys/types.h>

#include "config.h"

enum { MOST_SLICES = 64, MOST_HOLDS = 256, MOST_NONCES = 4096, LONGEST_USE_S = 600, LONGEST_SLICE_S = 366 * 86400 };

struct lent {
    bool used;
    uint8_t slice_id[SLICE_ID_BYTES];
    cpu_set_t cpus;
    uint64_t memory_bytes;
};

struct hold { /* a job that has these CPUs: nothing is lent there until it is gone */
    bool used;
    uint64_t job, since_ms; /* CLOCK_BOOTTIME */
    cpu_set_t cpus;
};

struct nonce {
    uint64_t use_by_s;
    uint8_t bytes[NONCE_BYTES];
};

struct book {
    bool unsure;     /* jobs may be here that were begun before this life: nothing is lent until Slurm has named them */
    bool overflowed; /* more jobs came than there is room for: nothing is lent until all that are known are gone */
    uint64_t opened_s; /* since 1970: grants from before may have been used */
    struct lent lent[MOST_SLICES];
    struct hold holds[MOST_HOLDS];
    struct nonce nonces[MOST_NONCES];
};

struct verdict {
    const char *code; /* NULL: go on */
    const char *hint;
};

/* Whether `uid`, as munged says, may use this grant at `now_s`. The signature is right, that was seen to before. */
struct verdict book_judge(const struct book *book, const struct config *config, const struct grant *grant, uid_t uid,
                          uint64_t now_s);

/* Note what book_judge agreed to; the slot in `lent`, or -1 with no room in it (then nothing is noted). */
int book_lend(struct book *book, const struct config *config, const struct grant *grant, uint64_t now_s);

/* What was lent in this slot is back, by proof of death. */
void book_take_back(struct book *book, int slot);

/* A job has these CPUs now. false: too many jobs at once; nothing is lent for a while. */
bool book_hold(struct book *book, uint64_t job, const cpu_set_t *cpus, uint64_t now_ms);

/* That job is gone. */
void book_release(struct book *book, uint64_t job);

#endif
