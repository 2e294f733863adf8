/* hooks.h - /run/rfaas/node.sock, where Slurm's hooks (as root) say that a job comes or is gone. Spec: 009-hooks.md. */
#ifndef RFAAS_NODE_HOOKS_H
#define RFAAS_NODE_HOOKS_H

#include "slices.h"

enum { MOST_CALLERS = 64, CALLER_TIMEOUT_MS = 2000 };

struct caller {
    int connection;    /* -1: nobody */
    bool evicts;       /* waits for `awaited` */
    uint64_t awaited;  /* slots whose death is not yet proven */
    int evicted;
    uint64_t since_ms;
};

struct hooks {
    struct slices *slices;
    int listener;
    struct caller callers[MOST_CALLERS];
    char path[TEXT_BYTES + 16];
};

/* Listen. false: `why` says what is wrong. */
bool hooks_open(struct hooks *hooks, struct slices *slices, char *why, size_t room);
void hooks_accept(struct hooks *hooks);
void hooks_heard(struct hooks *hooks, struct caller *caller);

/* Answer whom an eviction is proven to, hang up on who says nothing; ms until somebody's time is over, -1: nobody is there. */
int hooks_tick(struct hooks *hooks);

#endif
