/* receiver.h - puts a frame together from bytes as they come: head first, then the payload straight to its destination.
 *
 * Sans-IO: says where the next bytes belong, is told how many came. Must not read ahead of a frame's end, and allocates
 * for a payload only after its head was verified. Spec: docs/spec/001-invocation.md section 1.
 */
#ifndef RFAAS_RECEIVER_H
#define RFAAS_RECEIVER_H

#include "frame.h"

enum {
    RFAAS_SEGMENT_ALIGNMENT = 64, /* every segment begins on a cache line, so that arrays over it are aligned */
    RFAAS_RECEIVER_IOVECS = 32,   /* most pieces asked for at once */
    RFAAS_PLACED_MAX = 8,         /* segments of one frame that a medium need not move */
};

/* A segment that lies where it will be read before its frame begins; or, with `where.iov_base` NULL, for which room is made in the
 * frame's buffer as for any, but whose bytes the medium brings by another way. All of a frame are of one sort. */
typedef struct rfaas_placed {
    uint32_t segment; /* its number in the frame */
    bool read_only;   /* memory that may be read only */
    struct iovec where;
} rfaas_placed;

/* Where payloads go. The default is malloc's memory; a medium with registered memory brings its own. */
typedef struct rfaas_memory {
    void *(*allocate)(void *context, size_t size_bytes); /* aligned to RFAAS_SEGMENT_ALIGNMENT; NULL: none left */
    void (*release)(void *context, void *buffer, size_t size_bytes);
    void *context;
} rfaas_memory;

extern const rfaas_memory rfaas_memory_default;

/* A frame that arrived. `buffer` (NULL if the payload is empty) belongs to whoever took the frame and is given back by
 * `memory.release`, and with it all segments: they lie in it in order, but for those that are `placed`. The other
 * pointers are valid until the next frame is begun. */
typedef struct rfaas_frame {
    rfaas_header header;
    const uint8_t *text;
    uint32_t text_bytes;
    uint16_t unknown_extension;
    bool dropped; /* its payload was read and thrown away: a kind or an extension that is not understood */
    const struct iovec *segments;
    uint32_t n_segments;
    const rfaas_placed *placed; /* by rising number */
    uint32_t n_placed;
    void *buffer;
    size_t buffer_bytes;
    rfaas_memory memory;
} rfaas_frame;

typedef enum rfaas_receiver_state {
    RFAAS_RECEIVER_HEADER,  /* the first 64 bytes */
    RFAAS_RECEIVER_HEAD,    /* the extensions */
    RFAAS_RECEIVER_PAYLOAD, /* into the segments, or away */
    RFAAS_RECEIVER_WHOLE,   /* waits for rfaas_receiver_take() */
    RFAAS_RECEIVER_FAILED,
} rfaas_receiver_state;

typedef struct rfaas_receiver {
    rfaas_receiver_state state;
    uint64_t max_payload_bytes;
    rfaas_memory memory;
    rfaas_placed placed[RFAAS_PLACED_MAX]; /* of the frame that begins next: the medium's to fill in between two */
    uint32_t n_placed;
    uint8_t *head; /* grows to RFAAS_HEAD_BYTES_MAX when extensions need it */
    size_t head_room_bytes, head_bytes, head_got_bytes;
    rfaas_frame frame;
    struct iovec *segments;
    size_t segments_room;
    uint32_t segment; /* the first that is not full */
    uint64_t segment_got_bytes;
    uint64_t payload_left_bytes;
    const char *problem; /* why FAILED */
} rfaas_receiver;

/* False: no memory. */
bool rfaas_receiver_init(rfaas_receiver *receiver, uint64_t max_payload_bytes);

/* Frees all, the buffer of a frame not taken included. */
void rfaas_receiver_fini(rfaas_receiver *receiver);

/* Where the next bytes belong: fills up to RFAAS_RECEIVER_IOVECS pieces, none empty, and returns how many; 0 only when a
 * frame is WHOLE or the receiver FAILED. Together they never reach beyond the frame. */
size_t rfaas_receiver_want(rfaas_receiver *receiver, struct iovec pieces[RFAAS_RECEIVER_IOVECS]);

/* `size_bytes` > 0 of what rfaas_receiver_want() named have been written, in order. */
void rfaas_receiver_got(rfaas_receiver *receiver, size_t size_bytes);

/* Copies from `bytes` what belongs to the present frame, at most `size_bytes`; returns how many those were. */
size_t rfaas_receiver_feed(rfaas_receiver *receiver, const uint8_t *bytes, size_t size_bytes);

/* For a medium that has a whole frame of one segment or none, and has put its header, verified, into `frame`; between two
 * frames. The frame is WHOLE afterwards, but for its payload, which goes to where this says; NULL: nowhere, there is none, it is
 * dropped, or the receiver FAILED. */
void *rfaas_receiver_accept(rfaas_receiver *receiver, uint32_t n_segments);

/* True between two frames: an end of the stream is in order here. */
bool rfaas_receiver_is_between_frames(const rfaas_receiver *receiver);

/* Hands the WHOLE frame over, with its buffer, and begins the next. */
void rfaas_receiver_take(rfaas_receiver *receiver, rfaas_frame *frame);

#endif
