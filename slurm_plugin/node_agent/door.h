/* door.h - the TCP port on which users ask for slices: bounds on who may be there, and a process that hears each. */
#ifndef RFAAS_NODE_DOOR_H
#define RFAAS_NODE_DOOR_H

#include <netinet/in.h>

#include "proof.h"

enum {
    MOST_VISITORS = 32,
    MOST_OF_ONE_ADDRESS = 8,
    REMEMBERED_ADDRESSES = 128,
    MOST_BAD = 8,            /* requests that fail, of one address ... */
    FORGIVE_ONE_MS = 2000,   /* ... each forgotten after so long */
};

struct visitor {
    int connection; /* -1: nobody */
    int proof;      /* the end of the hearer's pipe */
    pid_t hearer;
    uint64_t until_ms;
    struct in6_addr address;
    size_t got;
    struct proof told;
};

struct address_record {
    struct in6_addr address;
    uint64_t until_ms; /* MOST_BAD * FORGIVE_ONE_MS ahead of now: refused */
};

struct door {
    const struct config *config;
    int listener;
    struct visitor visitors[MOST_VISITORS];
    struct address_record records[REMEMBERED_ADDRESSES];
};

/* Listen. false: `why` says what is wrong. */
bool door_open(struct door *door, const struct config *config, char *why, size_t room);

/* Let one in, and let a process of its own hear him. */
void door_accept(struct door *door);

/* The hearer of a visitor has said something or ended. true: `told` is whole, and the connection is the caller's. */
bool door_heard(struct door *door, struct visitor *visitor, int *connection);

/* That request came to nothing: his address is remembered. */
void door_note_bad(struct door *door, const struct in6_addr *address);

/* End hearers whose time is over; returns when to look again, in ms (-1: nobody is heard). */
int door_tick(struct door *door);

#endif
