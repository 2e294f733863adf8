/* client.h - the I/O of a client in C: what its parts share. The public side is rfaas.h, what is decided client_core.h.
 *
 * One lock a client, held by whoever is in an entry, and given up while the thread sleeps. One thread at a time drives:
 * it polls, for all; others wait to be told. Nothing in here starts a thread.
 */
#ifndef RFAAS_CLIENT_H
#define RFAAS_CLIENT_H

#include <pthread.h>
#include <stdatomic.h>

#include "client_core.h"
#include "clock.h"
#include "pack.h"
#include "poller.h"
#include "rfaas_channel.h"
#include "sha256.h"
#include "verbs_link.h"

enum {
    EXECUTOR = 1,              /* the session process's number of our only executor */
    PACKET_BYTES_MAX = 131072, /* 004 section 3 */
    FUNCTIONS_A_CHANNEL = 256, /* announced at a time */
};

#define PAYLOAD_BYTES_MAX ((uint64_t)1 << 32) /* of a frame, as in the client in Python */

struct rfaas_function {
    rfaas_function *next;
    rfaas_client *client;
    uint32_t number; /* among the client's */
    pack_writer manifest;
    uint8_t digest[SHA256_BYTES]; /* of the blob */
    void *blob;                   /* malloc's */
    size_t blob_bytes;
};

/* A channel with what was announced on it. */
typedef struct port {
    core_channel core; /* first: effects know ports by it */
    rfaas_client *client;
    rfaas_channel *channel;
    const rfaas_function *announced[FUNCTIONS_A_CHANNEL]; /* by index */
    void *direct;       /* the caller's buffer that the payload of the frame under way goes to; NULL: none */
    bool awake;         /* polled all the time: the peer rings no bell */
    bool watched;       /* by the poller */
    bool watches_write; /* so far */
    int64_t tried_until_ns; /* over RDMA, and no frame has come; 0: it is a channel */
    struct port *next_dead;
} port;

typedef enum join_state { JOIN_IDLE, JOIN_HELPER, JOIN_WELCOME, JOIN_AGAIN } join_state;

/* Joining a session process: a helper in Python finds or starts it, then we say who we are (004 sections 3, 6). */
typedef struct joiner {
    join_state state;
    pid_t helper;
    int fd; /* the helper's pipe, then the socket; -1 */
    pack_writer said; /* by the helper */
    int64_t deadline_ns, again_ns;
} joiner;

struct rfaas_client {
    pthread_mutex_t lock;
    pthread_cond_t moved; /* for those who do not drive */
    atomic_uint wanting;  /* threads that wait for the lock */
    unsigned fork_generation;
    bool driving, asleep;
    unsigned followers;
    unsigned turns; /* since the descriptors were asked */
    int64_t asleep_until_ns;

    client_core core;
    rfaas_poller poller;
    joiner joiner;
    rfaas_error join_error; /* what came of the last join, if nothing good */
    int session_fd;         /* -1: none */
    bool embedded_session;
    uint8_t id[16];
    uint64_t start; /* of this process: field 22 of /proc/self/stat */
    char **helper_command;
    pack_writer unsent; /* one packet that the session process had no room for, behind its length; others follow */
    uint8_t *packet;    /* room for one that comes */

    port *dead;    /* closed, not freed: somebody may still look at them */
    port *hot;     /* that was sent to last */
    rfaas_function *functions;
    uint32_t n_functions;
    rfaas_call *free_calls, *made_calls;
    call_settings settings;
    int64_t spin_ns, connect_timeout_ns;
    bool show_output;
    /* As the helper told them, for `want`. */
    uint64_t cores, memory_bytes;
    double hot_for_s;
    char placement[16], transport[16], load[16];
    char no_verbs[512]; /* why no channel can go over RDMA; "" if they can; once `asked_verbs` */
    bool asked_verbs;
    int64_t tried_due_ns, away_since_ns; /* the first `tried_until_ns`; since when nobody drives, 0: somebody does */
};

/* What a channel goes over, as the session process says it. */
typedef enum medium {
    MEDIUM_STREAM, /* TCP, or a unix socket */
    MEDIUM_SHM,
    MEDIUM_VERBS,
} medium;

/* Carries out what the core wants. */
void client_do_effects(rfaas_client *client);

/* ---- ports.c ---- */

/* Makes a channel of a descriptor, which is its own from then on, or closed. */
void port_open(rfaas_client *client, const core_channel *about, int fd, medium over);
void port_send(port *to, rfaas_call *call);
void port_serve(port *from); /* reads all that is there; what comes of it is in the core */
void port_close(port *one);
void port_give_up(port *one, const char *why); /* as if it had ended */
void port_free(port *one);
bool port_is_ready(const port *one);
void port_stay_awake(port *one);
bool port_may_sleep(port *one); /* false: there is something to read already */

/* ---- rdma.c ---- */

/* Leaves in `why` why no channel of this client can go over RDMA, "" if they can. Loads what speaks to devices only where
 * there is a device and the client's transport allows it. */
void rdma_why_not(const rfaas_client *client, char *why, size_t room_bytes);

/* As rfaas_verbs_adopt(). */
rfaas_rc rdma_adopt(int fd, rfaas_channel **channel, char why[RFAAS_VERBS_WHY_BYTES]);

/* A channel over RDMA is tried from now on, until its first frame (004 section 7); it came to nothing; whether any has taken
 * too long; nobody drove for so long. */
void rdma_try(port *one, int64_t now_ns);
void rdma_failed(port *one, const char *why);
void rdma_tick(rfaas_client *client, int64_t now_ns);
void rdma_was_away(rfaas_client *client, int64_t away_ns);

/* ---- results.c ---- */

/* The end that a RESULT or ERROR means for the call that runs on this channel. */
void result_take(port *from, const rfaas_frame *frame, int64_t now_ns);

/* ---- session.c ---- */

/* One packet; false: nothing is there, or the connection has ended. */
bool session_serve(rfaas_client *client);
void session_flush(rfaas_client *client);
void session_want(rfaas_client *client, uint64_t workers);
void session_interrupt(rfaas_client *client, uint64_t channel, uint64_t call_id);
void session_unusable(rfaas_client *client, const uint8_t lease[16], const char *why);
void session_leave(rfaas_client *client); /* says so, and waits for the end of an embedded one */
bool session_send(rfaas_client *client, pack_writer *message); /* frees it */
void session_lose(rfaas_client *client);

/* ---- output.c ---- */

void output_show(const pack_value *message); /* an `output`; never waits for who reads it */

/* ---- joining.c ---- */

void join_begin(rfaas_client *client);
void join_serve(rfaas_client *client);
void join_tick(rfaas_client *client, int64_t now_ns);
int64_t join_due_ns(const rfaas_client *client);
void join_abandon(rfaas_client *client);

/* ---- launch.c ---- */

extern const int64_t connect_default_ns; /* of rfaas_connect */

/* The command that finds or starts a session process for these options; NULL: no memory. Freed by launch_free(). */
char **launch_command(const rfaas_options *options, uint64_t start);
void launch_free(char **command);

/* Starts it, with the write end of a pipe as descriptor 3: its pid, and the pipe's read end in `*fd`; -errno. */
int launch_helper(char **command, int *fd);

/* Field 22 of /proc/self/stat; 0: can't be read. */
uint64_t launch_process_start(void);

/* ---- errors ---- */

__attribute__((format(printf, 4, 5))) int say_error(rfaas_error *error, int code, const char *hint, const char *form, ...);
int copy_error(rfaas_error *to, const rfaas_error *from);

#endif
