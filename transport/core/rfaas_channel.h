/* rfaas_channel.h - the contract of every medium: a symmetric channel that carries frames and completions.
 *
 * A channel knows frames, credits and its end; it knows no calls, leases or Python, and starts no thread. A medium
 * (inproc, tcp, shm, verbs) fills in one table of operations, struct rfaas_medium, and keeps ordered
 * messages; all else here is common to all media. Spec: docs/spec/001-invocation.md.
 *
 * Threads: one thread at a time uses a channel, unless an entry says otherwise; whoever shares one brings the lock.
 * Fork: a channel belongs to the process that opened it. A forked child may close and free its copy, no more; the
 * parent's goes on undisturbed.
 * Signals: no operation raises SIGPIPE; one interrupted by a signal goes on.
 */
#ifndef RFAAS_CHANNEL_H
#define RFAAS_CHANNEL_H

#include <sys/types.h>

#include "frame.h"
#include "read_ahead.h"
#include "receiver.h"

typedef enum rfaas_rc {
    RFAAS_OK = 0,
    RFAAS_AGAIN,     /* poll: nothing more now. wait: the time is over */
    RFAAS_MORE,      /* poll, flush: the budget is spent, there is more to do */
    RFAAS_QUEUED,    /* send: taken, but the buffers stay borrowed until their cookie is completed */
    RFAAS_NO_CREDIT, /* send: nothing was sent */
    RFAAS_TOO_LARGE, /* send: nothing was sent */
    RFAAS_CLOSED,    /* closed here, or the peer ended in order: BYE, or the end of the stream between two frames */
    RFAAS_BROKEN,    /* the medium failed, or the peer sent what is no frame; rfaas_channel_why() says more */
    RFAAS_NO_MEMORY, /* send: nothing was sent */
    RFAAS_UNSUITABLE /* adopt: this descriptor can't be a channel; errno and the caller's ownership are untouched */
} rfaas_rc;

typedef struct rfaas_channel rfaas_channel;

/* A frame to be sent, encoded. All pointers are borrowed for the duration of the call; when the answer is QUEUED, the
 * bytes that the segments point to (not head, not the array) stay borrowed until `cookie` is completed. */
typedef struct rfaas_outgoing {
    const uint8_t *head;
    size_t head_bytes;
    const struct iovec *segments;
    size_t n_segments;
    uint64_t in_size;
    void *cookie;
} rfaas_outgoing;

/* What a medium provides. No entry blocks except `wait`; none is called again after `close` except `free`. */
typedef struct rfaas_medium {
    const char *name;

    /* Hands one frame over, after all that were handed over before. Returns OK (the buffers are free), QUEUED (they are
     * borrowed), NO_MEMORY (nothing was sent) or BROKEN (this frame will not arrive whole; frames that came in before
     * can still be polled). */
    rfaas_rc (*send)(rfaas_channel *channel, const rfaas_outgoing *out);

    /* The same for most frames, from the header's fields: with one segment or none of at most `small_bytes`, without flags,
     * deadline and extensions. OK, BROKEN; AGAIN: send() is to do it. NULL: the medium has no shorter way for them. */
    rfaas_rc (*send_small)(rfaas_channel *channel, const rfaas_header *header, const struct iovec *segment,
                           uint32_t n_segments);
    size_t small_bytes;

    /* Moves queued frames on, at most about `budget_bytes`: OK (nothing is queued), AGAIN (the medium is full), MORE,
     * BROKEN. Passes each cookie whose frame has left to rfaas_channel_complete(). */
    rfaas_rc (*flush)(rfaas_channel *channel, uint64_t budget_bytes);

    /* Moves arrived bytes into `channel->receiver`, at most about `budget_bytes`, and never one byte beyond the end
     * of a frame: OK (a frame is whole), AGAIN, MORE, CLOSED (the peer ended between two frames), BROKEN. */
    rfaas_rc (*receive)(rfaas_channel *channel, uint64_t budget_bytes);

    /* Blocks up to `timeout_ns` (negative: for ever) until receive() or, while frames are queued, flush() has something
     * to do: OK or AGAIN. May return OK early. Any thread, beside another that sends. */
    rfaas_rc (*wait)(rfaas_channel *channel, int64_t timeout_ns);

    /* A descriptor that is readable (epoll, level-triggered) exactly while receive() has something to do. On a medium
     * without `polls_out`, or while it `stays awake`, that holds from the moment when receive() answered AGAIN; without
     * `polls_out` it covers flush() too. */
    int (*fd)(const rfaas_channel *channel);

    /* True if receive() has something to do, or may have; cheap, takes no frame. The thread that polls, beside another
     * that sends. */
    bool (*ready)(const rfaas_channel *channel);

    /* For an owner that polls all the time and needs no descriptor: saves bells (shm), reads ahead (tcp). NULL: makes no
     * difference. Turned off before it sleeps: true says that there is something to do already. */
    bool (*stay_awake)(rfaas_channel *channel, bool on);
    bool polls_out; /* a full medium shows in the descriptor's writability, which the owner has to watch */
    uint32_t looks_a_clock; /* calls of ready() that take some 2 us; 0: 64, as memory does */
    uint32_t first_looks;   /* those within which a hot peer answers; 0: as looks_a_clock */

    /* Bytes the peer's kernel does not have yet, without those queued here. */
    uint64_t (*unacknowledged_bytes)(const rfaas_channel *channel);

    /* Gives the descriptor and the peer up at once: what was handed to the kernel is still delivered, what is queued is
     * not. Completes the cookies of all queued frames. Called once. */
    void (*close)(rfaas_channel *channel);

    /* Frees the channel. Called once, after close. */
    void (*free)(rfaas_channel *channel);

    /* Memory of one side that the other reads and writes by itself (remote_memory.h); NULL: only frames go. */
    const struct rfaas_remote_ops *remote;
} rfaas_medium;

typedef struct rfaas_statistics {
    uint64_t frames_sent; /* handed to the medium, queued ones included */
    uint64_t frames_received;
    uint64_t frames_dropped; /* received whole, answered by ERROR */
    uint64_t frames_queued;  /* sends that were answered by QUEUED */
    uint64_t payload_bytes_sent;
    uint64_t payload_bytes_received;
} rfaas_statistics;

/* Common part, first member of every medium's own struct. A medium touches `receiver` and what it is told to. */
struct rfaas_channel {
    const rfaas_medium *medium;
    const char *name; /* "tcp", "unix", "tls", "inproc", "shm", "verbs" */
    pid_t owner;      /* the process that opened it */
    uint64_t max_payload_bytes;
    uint32_t tx_credits; /* credited frames that may be sent */
    uint32_t rx_credits; /* credited frames that the peer may still send */
    uint64_t queued_bytes;
    size_t queued_frames;
    rfaas_rc tx_end; /* OK while sending works, then CLOSED or BROKEN for good */
    rfaas_rc rx_end; /* the same of receiving */
    bool closed;
    bool said_bye;
    bool violated;        /* it broke because the peer asked for memory that it has no key for */
    bool holds_bytes;     /* of what has left the descriptor something is not in a frame yet: MORE must be followed up */
    bool tx_waits_for_rx; /* what is queued goes only after something came in: a medium that is still shaking hands */
    bool rx_waits_for_tx; /* nothing comes in before the medium itself has sent something */
    char why[160]; /* the first thing that went wrong */
    rfaas_receiver receiver;
    rfaas_read_ahead ahead; /* what poll() returns first */
    rfaas_statistics statistics;
    uint8_t *head_room; /* where heads are encoded; grows */
    size_t head_room_bytes;
    void **completed; /* cookies not yet asked for; room for all that are queued is kept, so completing can't fail */
    size_t n_completed, completed_room;
};

/* ---- for the owner of a channel ---- */

enum { RFAAS_NO_TIMEOUT = 0 };

struct rfaas_secure_ops;

typedef struct rfaas_tcp_options {
    uint64_t max_payload_bytes; /* larger payloads are refused, both ways */
    /* TCP_USER_TIMEOUT in ms; 0: as the socket has it. Beware: it also ends connections whose peer is alive but reads nothing
     * for that long, as a worker does that computes. */
    uint32_t user_timeout_ms;
    const struct rfaas_secure_ops *secure; /* what encrypts; NULL: nothing does */
    const uint8_t *key;    /* with `secure`: RFAAS_SECURE_KEY_BYTES that both sides have and nobody else; read, not kept */
    bool is_dialer;        /* with `secure`: who speaks first; one side is */
} rfaas_tcp_options;

/* Adopts a connected stream socket, TCP or unix, and makes it non-blocking and close-on-exec; the channel owns `fd`
 * from then on. On UNSUITABLE (no connected stream socket) and NO_MEMORY the caller still owns it. Reads no frame. With
 * `secure` the handshake goes on in poll() and flush(); what is sent before its end is queued, and one that fails is a
 * channel that BROKE. Other options of the socket stay: SO_PRIORITY, SO_BUSY_POLL; with SO_ZEROCOPY, payloads of 64 KiB and
 * more are sent by reference, and stay borrowed until the kernel has given them back. */
rfaas_rc rfaas_tcp_adopt(int fd, const rfaas_tcp_options *options, rfaas_channel **channel);

/* Two ends in this process; each may be used by its own thread. On NO_MEMORY nothing was made. Needs one descriptor
 * an end; UNSUITABLE with errno set if there is none. */
rfaas_rc rfaas_inproc_pair(uint64_t max_payload_bytes, rfaas_channel **left, rfaas_channel **right);

/* A segment for two processes of one node: rings, and `arena_bytes` (a multiple of 4096, at most 1 GiB) each way for
 * large payloads, none of it touched. Returns its sealed memfd, or -1 with errno. */
int rfaas_shm_create(uint64_t arena_bytes);

/* One end over such a segment and a connected unix stream socket whose two ends are held by the two sides and which has
 * nothing in it. Side 0 is the one whose memory it is: it touches first. The channel owns both descriptors from then on.
 * On UNSUITABLE (no unix stream socket; no sealed segment of a right size) and NO_MEMORY the caller still owns them. */
rfaas_rc rfaas_shm_adopt(int fd, int memory_fd, int side, uint64_t max_payload_bytes, rfaas_channel **channel);

/* The two ends may have more in common than the segment: `pool_fd` is what rfaas_array_pool_export() gave on side 0. Side
 * 1 maps it for reading, and what lies in it is then not copied; if it can't be mapped, nothing changes. The descriptor
 * stays the caller's. Before anything is received. */
void rfaas_shm_adopt_pool(rfaas_channel *channel, int pool_fd);

struct rfaas_verbs_ops;

/* One end over RDMA on `device` (see verbs_link.h), set up over a connected stream socket with nothing in it whose other end
 * does the same; the channel owns it from then on. The set-up goes on in poll() and flush(); what is sent before its end is
 * queued, and one that fails is a channel that BROKE. On UNSUITABLE (no stream socket, no device, a limit) the peer has been
 * told, `why`, of 160 bytes, says what is missing, and as on NO_MEMORY the caller still owns the socket. Closing it waits
 * until the peer's device has what was sent, at most half a second. */
rfaas_rc rfaas_verbs_adopt(int fd, const struct rfaas_verbs_ops *ops, const char *device, uint64_t max_payload_bytes,
                           rfaas_channel **channel, char *why);

/* Memory in this side's arena for an array that is to be sent. */
typedef struct rfaas_channel_array {
    void *at; /* a page's beginning */
    uint32_t slot, generation;
    void *owner; /* the taker's to set, before it takes */
} rfaas_channel_array;

/* False if there is none: another medium; the arena is full, or too little of it ready. Whoever takes it gives it back,
 * sent or not; what was sent is the peer's, and giving it back changes nothing. */
bool rfaas_channel_array_take(rfaas_channel *channel, size_t size_bytes, rfaas_channel_array *array);
void rfaas_channel_array_give_back(rfaas_channel *channel, const rfaas_channel_array *array);

/* True if arrays found no room here since rfaas_channel_array_want(), which ends that: `wanted` if room would have spared a
 * copy. Then the peer is asked for it, and makes more of the arena ready when the next large frame comes. */
bool rfaas_channel_array_missed(const rfaas_channel *channel);
void rfaas_channel_array_want(rfaas_channel *channel, bool wanted);

/* `owner` of the array in which these bytes lie, NULL if they lie in none that is still its taker's. */
void *rfaas_channel_array_owner(const rfaas_channel *channel, const void *bytes, size_t size_bytes);

/* From here on, sending bytes of it hands it over instead of copying: nobody here may look at it any more. */
void rfaas_channel_array_hand_over(rfaas_channel *channel, const rfaas_channel_array *array);

/* Replaces what frames that were received still hold of the peer's pool by private copies; before the peer is told that
 * it may write there again. NO_MEMORY: some of it is not. */
rfaas_rc rfaas_channel_detach(rfaas_channel *channel);

/* True if these bytes are the peer's, in its pool. */
bool rfaas_channel_is_borrowed(const rfaas_channel *channel, const void *bytes, size_t size_bytes);

/* Sends one frame; words and in_size of `header` are set here. Never blocks. OK: handed over whole, all buffers are free.
 * QUEUED: the segments' bytes stay borrowed until rfaas_channel_completed() returned `cookie`. NO_CREDIT, TOO_LARGE,
 * NO_MEMORY, CLOSED, BROKEN: this frame is not sent, nothing is borrowed. */
rfaas_rc rfaas_channel_send(rfaas_channel *channel, rfaas_header *header, const struct iovec *segments,
                            size_t n_segments, const void *text, size_t text_bytes, void *cookie);

/* Moves queued frames on, then receives at most about `budget_bytes`. OK: `*frame` is filled in, its buffer belongs to
 * the caller, the rest of it is valid until the next call. AGAIN: nothing more now. MORE: call again. CLOSED, BROKEN:
 * the end, after every frame that had arrived whole; so each time from then on. Never blocks. Frames that this version
 * does not understand are answered and dropped here. */
rfaas_rc rfaas_channel_poll(rfaas_channel *channel, uint64_t budget_bytes, rfaas_frame *frame);

/* In place of an owner that does not poll now: takes up to about `budget_bytes` from the medium, for poll() to return
 * later, in order; once the end has come, nothing is kept. A TAKE_BACK (but of number 0, which is the owner's to answer) is dealt
 * with here: what it names is dropped, and TAKEN said, if it is among what was read ahead. AGAIN: nothing more now. MORE: call
 * again, or as much is kept as may be. CLOSED, BROKEN. Under the owner's lock. */
rfaas_rc rfaas_channel_read_ahead(rfaas_channel *channel, uint64_t budget_bytes);

/* OK: nothing is queued. AGAIN, MORE: something is. CLOSED, BROKEN: what was queued is lost. Never blocks. */
rfaas_rc rfaas_channel_flush(rfaas_channel *channel, uint64_t budget_bytes);

/* Blocks until poll() has something to do, at most `timeout_ns` (negative: for ever): OK, AGAIN, CLOSED. */
rfaas_rc rfaas_channel_wait(rfaas_channel *channel, int64_t timeout_ns);

/* Looks again and again, for up to `spin_ns`, until poll() may have something to do: OK, AGAIN, CLOSED. Gives the CPU up
 * now and then, and early where it was taken away meanwhile: then others want it. The thread that polls, beside another
 * that sends; needs no lock. */
rfaas_rc rfaas_channel_spin(const rfaas_channel *channel, int64_t spin_ns);

/* The beginning of that, without a clock: for as long as a hot peer takes to answer over this medium, 2 us (shm) to 12 us (tcp),
 * which is less than letting go of what others wait for, and having it again, would delay the answer. */
rfaas_rc rfaas_channel_look(const rfaas_channel *channel);

/* For an owner that polls without pause: while `on` the peer makes no system call for it (shm), and more is read at a
 * time (tcp). Turn it off before waiting for the descriptor: true says that poll() has something to do already, and the
 * descriptor may not tell; it does once poll() answered AGAIN. */
bool rfaas_channel_stay_awake(rfaas_channel *channel, bool on);

/* True while something is queued that can go, and the descriptor must be watched for writability too. */
bool rfaas_channel_wants_write(const rfaas_channel *channel);

/* A cookie of a queued frame whose buffers are free again, sent or not; NULL if there is none. */
void *rfaas_channel_completed(rfaas_channel *channel);

/* The descriptor to wait on for poll(), -1 after close. While frames are queued, wait for writability too. */
int rfaas_channel_fd(const rfaas_channel *channel);

uint64_t rfaas_channel_unacknowledged_bytes(const rfaas_channel *channel);

/* Ends the channel at once; repeatable. Ask rfaas_channel_completed() for the borrowed buffers afterwards. */
void rfaas_channel_close(rfaas_channel *channel);

/* Closes and frees. Cookies not asked for are forgotten. NULL is allowed. */
void rfaas_channel_free(rfaas_channel *channel);

/* What ended the channel, for people; valid until it is freed. */
const char *rfaas_channel_why(const rfaas_channel *channel);

/* ---- for media ---- */

/* Sets up and tears down the common part. */
rfaas_rc rfaas_channel_init(rfaas_channel *channel, const rfaas_medium *medium, const char *name,
                            uint64_t max_payload_bytes);
void rfaas_channel_fini(rfaas_channel *channel);

/* True in a forked child, where locks may be held by threads that are not there and the peer is the parent's. */
bool rfaas_channel_is_inherited(const rfaas_channel *channel);

/* Books a frame as queued: NO_MEMORY or OK. Each is later completed exactly once. */
rfaas_rc rfaas_channel_enqueue(rfaas_channel *channel, size_t size_bytes);
void rfaas_channel_complete(rfaas_channel *channel, void *cookie);

/* Keeps the first reason, in words and with `error` (an errno, 0: none), and returns BROKEN. */
rfaas_rc rfaas_channel_broken(rfaas_channel *channel, const char *what, int error);

#endif
