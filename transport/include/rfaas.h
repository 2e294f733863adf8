/* rfaas.h - calling functions on harvested cores from C, C++ and (by rfaas.f90) Fortran.
 *
 * A program connects once, makes functions known, and calls them:
 *
 *     rfaas_error error = RFAAS_ERROR_INIT;
 *     rfaas_client *client;
 *     rfaas_function *f;
 *     if (rfaas_connect(NULL, &client, &error) != RFAAS_SUCCESS ||
 *         rfaas_function_from_library(client, "./libkernel.so", "kernel", NULL, &f, &error) != RFAAS_SUCCESS)
 *         ...
 *     uint64_t out_size = sizeof out;
 *     if (rfaas_invoke(client, f, in, sizeof in, out, &out_size, &error) != RFAAS_SUCCESS)
 *         ...
 *     rfaas_disconnect(client);
 *
 * What a compiled function looks like says rfaas_function.h. docs/c.md is the guide.
 *
 * Every entry that can fail returns RFAAS_SUCCESS (0), RFAAS_PENDING or the code of an error, never aborts, never raises a
 * signal, and goes on when a signal interrupts it. Where it takes a rfaas_error, that one's `code` is what it returns; NULL
 * is allowed, and then nobody says why. Whatever takes a client, function or call answers ARGUMENT or FORKED to one that
 * it can't take, and has changed nothing then. Sizes are bytes, durations are seconds; a negative duration means without limit
 * where nothing else is said.
 *
 * Progress: the library starts no thread. Calls move on while some thread is in one of its entries; what was sent runs
 * meanwhile, whether the program computes or waits. Heartbeats are a helper process's, so a program that computes for an
 * hour between two calls loses nothing, but it hears of notices and losses, and has its waiting calls sent, only at its
 * next entry (rfaas_progress is one that does nothing else).
 *
 * Threads: any thread may use any entry at any time, but for rfaas_disconnect, which must be the last one on its client,
 * and for one call, which one thread at a time may wait for.
 *
 * Fork: a client belongs to the process that connected. In a forked child every entry on it answers RFAAS_ERROR_FORKED,
 * and rfaas_disconnect frees the child's copy without a word to anybody. A child may connect by itself.
 *
 * Ownership: what a caller passes stays the caller's, and is borrowed until the entry returns, but for the buffers of
 * rfaas_submit. Handles are the library's: nobody frees them, rfaas_disconnect ends all that a client has.
 *
 * Which cores: those of the allocator that `rfaas.Executor()` would find, by the same settings, through the same session
 * process. Where a site lends (`site.allocator` is set; docs/site.md) nothing has to be started before and nothing stopped
 * after: the session process starts the user's own allocator where there is none, and asks the site with the user's munge
 * credential while calls wait.
 *
 * Versions: structs that a caller makes begin with their size, which the initializers below fill in. A program that was
 * compiled with an older rfaas.h runs with a newer library. One compiled with a newer rfaas.h finds no entry that the older
 * library lacks (the linker says so), and is refused an option that it does not know; rfaas_api_version tells beforehand.
 */
#ifndef RFAAS_H
#define RFAAS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Of this header; greater wherever an entry or a field was added. 2: rfaas_options.load, rfaas_why_waiting,
 * rfaas_api_version. */
#define RFAAS_API_VERSION 2

#if defined(__GNUC__)
#define RFAAS_API __attribute__((visibility("default")))
#else
#define RFAAS_API
#endif

typedef struct rfaas_client rfaas_client;     /* a connection to the session process, and the workers it brings */
typedef struct rfaas_function rfaas_function; /* a function that the client has made known; lives as long as it */
typedef struct rfaas_call rfaas_call;         /* one invocation that was submitted and not yet waited for */

/* The RFAAS_API_VERSION that the library was built with. */
RFAAS_API int rfaas_api_version(void);

/* ---- errors: those of docs/spec/001-invocation.md section 6, and a few of this library's own ---- */

typedef enum rfaas_code {
    RFAAS_SUCCESS = 0,
    RFAAS_PENDING = 1, /* no error: the call is not done yet */

    RFAAS_ERROR_CONFIG = 10,                /* an option, a setting or a file is wrong */
    RFAAS_ERROR_ALLOCATOR_UNAVAILABLE = 11, /* the session process or the allocator can't be reached or started */
    RFAAS_ERROR_VERSION_MISMATCH = 12,      /* this library and the session process are too far apart */
    RFAAS_ERROR_AUTHENTICATION_FAILED = 13, /* somebody else sits at the session process's address */
    RFAAS_ERROR_ACQUIRE_TIMEOUT = 14,       /* no worker within acquire_timeout_s */
    RFAAS_ERROR_LEASE_DENIED = 15,          /* what was asked for can never be served */
    RFAAS_ERROR_ENVIRONMENT_FAILED = 16,    /* the interpreter that runs workers could not be started there */
    RFAAS_ERROR_RECLAIMED = 17,             /* the cores went back to their owner while the call ran */
    RFAAS_ERROR_WORKER_LOST = 18,           /* the worker crashed, exited or was killed */
    RFAAS_ERROR_FUNCTION_OOM = 19,          /* the worker was killed for the memory that the function used */
    RFAAS_ERROR_AGENT_LOST = 20,            /* the agent died, and its workers with it */
    RFAAS_ERROR_NODE_LOST = 21,             /* the node is down */
    RFAAS_ERROR_CONNECTION_LOST = 22,       /* the channel broke, and nothing is known of the call */
    RFAAS_ERROR_DEADLINE_EXCEEDED = 23,     /* call_timeout_s passed */
    RFAAS_ERROR_POISON_FUNCTION = 24,       /* the call ended three workers */
    RFAAS_ERROR_CANCELLED = 25,             /* rfaas_cancel, or the client was disconnected */
    RFAAS_ERROR_PAYLOAD_TOO_LARGE = 26,     /* input beyond the limit, or output beyond the room for it */
    RFAAS_ERROR_BAD_FUNCTION = 27,          /* the worker can't load the function: library, symbol, instruction set */
    RFAAS_ERROR_REMOTE = 28,                /* the function raised an exception (functions written in Python) */
    RFAAS_ERROR_FUNCTION = 29,              /* the function returned non-zero; `value` says what */
    RFAAS_ERROR_PROTOCOL = 30,              /* the peer broke the specification */
    RFAAS_ERROR_ARGUMENT = 40,              /* an argument of the entry can't be: NULL, a handle of another client, … */
    RFAAS_ERROR_NO_MEMORY = 41,
    RFAAS_ERROR_FORKED = 42, /* the client is another process's */
    RFAAS_ERROR_SYSTEM = 43  /* the operating system refused something; the message says what */
} rfaas_code;

/* How far a call came, when it failed. */
typedef enum rfaas_phase {
    RFAAS_PHASE_NONE = 0, /* the error is not about a call */
    RFAAS_PHASE_QUEUED = 1,
    RFAAS_PHASE_SENT = 2,
    RFAAS_PHASE_STARTED = 4,
    RFAAS_PHASE_DONE = 5
} rfaas_phase;

/* What went wrong. Written whole by an entry that fails (`code` alone by one that does not), never freed by anybody. */
typedef struct rfaas_error {
    uint32_t struct_size;
    int32_t code;         /* rfaas_code */
    int32_t reason;       /* reason code of 001 section 6, 0: none */
    int32_t value;        /* RFAAS_ERROR_FUNCTION: what the function returned */
    int32_t may_have_run; /* 1: the function may have been executed, wholly or in part; 0: it certainly was not */
    int32_t retriable;    /* 1: the same call may well succeed later */
    int32_t phase;        /* rfaas_phase */
    int32_t attempt;      /* how many dispatches went before the one that failed */
    double grace_s;       /* between notice and kill; negative: there was no notice */
    uint64_t needed_size; /* RFAAS_ERROR_PAYLOAD_TOO_LARGE: the room that the output would have needed, 0: unknown */
    uint64_t epoch;
    uint8_t lease_id[16];
    char node[64];
    char message[512]; /* what happened, UTF-8 text of one or more lines */
    char hint[384];    /* what to do about it; may be empty */
} rfaas_error;

#define RFAAS_ERROR_INIT {sizeof(rfaas_error), 0, 0, 0, 0, 0, 0, 0, -1.0, 0, 0, {0}, {0}, {0}, {0}}

/* Makes an error ready to be passed to an entry, as RFAAS_ERROR_INIT does. `struct_size`: sizeof(rfaas_error). */
RFAAS_API void rfaas_error_init(rfaas_error *error, size_t struct_size);

/* The stable text of a code, as in 001 section 6: "worker-lost". Never NULL. */
RFAAS_API const char *rfaas_strerror(int code);

/* One text for people: what happened, where, and the remedy. Returns its length without the zero at its end, as snprintf
 * does, whatever fits into `size` bytes. */
RFAAS_API size_t rfaas_error_text(const rfaas_error *error, char *text, size_t size);

/* ---- connecting ---- */

/* Zero or NULL (and negative, for durations) take what RFAAS_* variables, rfaas.toml or the default say, by the same rules
 * as in Python (docs/configuration.md). Strings are borrowed for the duration of rfaas_connect. */
typedef struct rfaas_options {
    uint32_t struct_size;
    uint32_t max_workers;     /* ceiling of workers at a time */
    uint32_t cores;           /* of each worker */
    int32_t idempotent;       /* 1: calls may run more than once, so those that may have run are sent again; -1: as set */
    uint32_t retries;         /* how often a loss may cost an idempotent call another run; reclaims have 10 of their own */
    int32_t show_output;      /* 1: what functions print goes to this program's standard output and error; 0: nowhere */
    uint64_t memory_bytes;    /* of each worker */
    double call_timeout_s;    /* life of each call, queue included; 0: no limit */
    double acquire_timeout_s; /* how long a call waits while there is no worker at all; 0: no limit */
    double hot_for_s;         /* how long a worker polls after a call before it sleeps */
    double spin_for_s;        /* how long a wait polls before it sleeps; negative: 100 us, less where CPUs are few */
    double connect_timeout_s; /* of rfaas_connect, and of joining again when the session process ended; negative: 120 s */
    const char *allocator;    /* a state directory, or "embedded"; NULL: as `rfaas.Executor()` finds it, the site's included */
    const char *python;       /* interpreter that has rfaas. NULL: $RFAAS_PYTHON, else the one this library belongs to */
    const char *transport;    /* "auto", "shm", "verbs", "tcp" */
    const char *placement;    /* "pack", "spread" */
    const char *load;         /* what the functions mostly use: "compute", "memory", "io", "network", or "unknown". A hint: they
                                 are kept from jobs that functions of this kind have slowed (docs/neighbours.md) */
} rfaas_options;

/* Sets every option to "as set elsewhere". `struct_size`: sizeof(rfaas_options). Never fails. */
RFAAS_API void rfaas_options_init(rfaas_options *options, size_t struct_size);

/* Starts the session process of this program, or joins the one that serves it. Blocks, at most connect_timeout_s.
 * Workers are asked for when there are calls: from the site too, so what it refuses is known then (rfaas_why_waiting).
 * `options` may be NULL. On failure `*client` is NULL and nothing of the client is left behind; an allocator or session
 * process that was started meanwhile leaves by itself:
 *   CONFIG                 an option or a setting is wrong (the message names it), RFAAS_PYTHON is no interpreter
 *   ALLOCATOR_UNAVAILABLE  nothing serves, or the session process could not start; the hint names its log
 *   VERSION_MISMATCH, AUTHENTICATION_FAILED
 *   ARGUMENT               `client` is NULL, or `options` are of no version or say what this library does not know
 *   SYSTEM, NO_MEMORY
 * When the session process ends later, entries join another one by themselves: with an allocator calls go on, embedded
 * those that ran fail as AGENT_LOST. */
RFAAS_API int rfaas_connect(const rfaas_options *options, rfaas_client **client, rfaas_error *error);

/* Gives everything back and frees the client, its functions and its calls. Calls that are not done end: what waits is
 * never run, what runs is killed. Their handles, and those of functions, are void afterwards. Blocks, about a second at
 * most. No other thread may be in an entry on this client. NULL is allowed. */
RFAAS_API void rfaas_disconnect(rfaas_client *client);

/* ---- functions ---- */

/* Makes the function `symbol` of a shared library known. The file is read now, and shipped when a worker first needs it;
 * later changes to it are not seen. `abi`: NULL or "rfaas-1" for the form of rfaas_function.h, "rfaas-0" for
 * uint32_t f(void *in, uint32_t in_size, void *out). Whether it can be loaded there shows the first call (BAD_FUNCTION).
 * The function lives until its client is disconnected. CONFIG: no such file, no shared library, not for this program's
 * instruction set; NO_MEMORY, ARGUMENT, FORKED; `*function` is NULL then. */
RFAAS_API int rfaas_function_from_library(rfaas_client *client, const char *path, const char *symbol, const char *abi,
                                          rfaas_function **function, rfaas_error *error);

/* ---- calls ---- */

/* Calls and waits: the shortest way there is. `*out_size`: the room at `out` before, the bytes written after. Without a
 * free worker it waits for one. The buffers are the library's until it returns; what lies in `out` after an error is
 * undefined. `out_size` may be NULL: there is no room then. Errors: any of a call's; `error->may_have_run` says whether the
 * function can have been executed. The client can be used after all of them. */
RFAAS_API int rfaas_invoke(rfaas_client *client, const rfaas_function *function, const void *in, uint64_t in_size,
                           void *out, uint64_t *out_size, rfaas_error *error);

/* How one call is treated, if not as the client's options say. */
typedef struct rfaas_call_options {
    uint32_t struct_size;
    int32_t idempotent; /* 1, 0 as in rfaas_options; -1: as the client's */
    uint32_t retries;   /* of an idempotent call. 0: none; with idempotent = -1: as the client's */
    double call_timeout_s; /* negative: as the client's; 0: no limit */
} rfaas_call_options;

#define RFAAS_CALL_OPTIONS_INIT {sizeof(rfaas_call_options), -1, 0, -1.0}

/* Submits a call and returns at once; it goes to a worker now or in a later entry. `in` and `out` are the library's until
 * the call is done. `options` may be NULL. On failure (ARGUMENT, PAYLOAD_TOO_LARGE, NO_MEMORY, FORKED) nothing was
 * submitted and `*call` is NULL; every other failure is the call's own, and rfaas_wait tells it. ARGUMENT too: retries of a
 * call that is not idempotent. */
RFAAS_API int rfaas_submit(rfaas_client *client, const rfaas_function *function, const void *in, uint64_t in_size,
                           void *out, uint64_t out_capacity, const rfaas_call_options *options, rfaas_call **call,
                           rfaas_error *error);

/* Waits for a call. RFAAS_PENDING: `timeout_s` passed, the call goes on and `*call` stays, as it does with ARGUMENT and FORKED.
 * Everything else is the call's end: `*call` is NULL then, as in MPI_Wait. `out_size` (NULL is allowed) gets the bytes
 * written to `out`, at the call's end only. */
RFAAS_API int rfaas_wait(rfaas_call **call, double timeout_s, uint64_t *out_size, rfaas_error *error);

/* rfaas_wait that does not wait: makes what progress is possible, and answers. */
RFAAS_API int rfaas_test(rfaas_call **call, uint64_t *out_size, rfaas_error *error);

/* Waits until one of `n` calls is done, any of which may be NULL; all are of one client. `*index` says which; its place is
 * NULL then and the answer is that call's. RFAAS_PENDING: the time is over, `*index` is n. ARGUMENT: all are NULL, or not of one
 * client; ARGUMENT and FORKED leave `*index` as it was. */
RFAAS_API int rfaas_wait_any(rfaas_call **calls, size_t n, double timeout_s, size_t *index, uint64_t *out_size,
                             rfaas_error *error);

/* Asks for the end of a call, which has to be waited for all the same and ends as CANCELLED, unless its result is
 * quicker. A call that waits for a worker is taken back; one that was sent is ended with `interrupt` = 1 only, at the
 * cost of its worker, and `may_have_run` says what became of it. RFAAS_SUCCESS: it will end. RFAAS_PENDING: it goes on,
 * since it was sent and `interrupt` is 0. ARGUMENT, FORKED: nothing was asked. Never blocks. */
RFAAS_API int rfaas_cancel(rfaas_call *call, int interrupt);

/* Makes progress for up to `timeout_s` (0: only what needs no waiting; negative: until no call is outstanding): reads
 * results and notices, sends what waits. RFAAS_PENDING: calls are outstanding; RFAAS_SUCCESS: none is. ARGUMENT, FORKED. How
 * calls ended is for rfaas_wait to say: no call's failure is an answer of this one. */
RFAAS_API int rfaas_progress(rfaas_client *client, double timeout_s);

/* ---- what is going on ---- */

typedef struct rfaas_client_statistics {
    uint32_t struct_size;
    uint32_t workers;       /* that serve this client now */
    uint32_t queued;        /* calls that wait for a worker */
    uint32_t running;       /* calls that were sent and not answered */
    uint64_t submitted;     /* calls, since rfaas_connect, as all that follow */
    uint64_t dispatched;    /* to a worker, dispatches that came to nothing included */
    uint64_t answered;      /* by a result or an error of the function's own */
    uint64_t failed;        /* by a loss, a limit or a refusal */
    uint64_t cancelled;     /* before they ran */
    uint64_t redispatched;  /* because they were proven not started, free of charge */
    uint64_t retried;       /* after a loss, on the budget of `retries` */
    uint64_t reclaimed;     /* after a reclaim, on its own budget */
    uint64_t notices;       /* that cores go back */
    uint64_t late_results;  /* that nobody waited for any more */
    uint64_t sessions_lost; /* session processes that ended */
} rfaas_client_statistics;

#define RFAAS_CLIENT_STATISTICS_INIT {sizeof(rfaas_client_statistics), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

/* Counts so far; makes no progress. ARGUMENT, FORKED: nothing was written. */
RFAAS_API int rfaas_get_statistics(rfaas_client *client, rfaas_client_statistics *statistics);

/* Room that every text of rfaas_why_waiting fits into, the zero at its end included. */
#define RFAAS_WHY_BYTES 520

/* Why there are fewer workers than calls need, as the allocator or the site said last, with the remedy: UTF-8 text for people,
 * cut at `size` bytes, a zero at its end included. Empty: nobody said so, or workers came since. With acquire_timeout_s = 0,
 * where calls wait for ever, this alone tells. Makes no progress: what was said since the last entry is not heard.
 * ARGUMENT (`text` is NULL, `size` 0), FORKED: nothing was written. */
RFAAS_API int rfaas_why_waiting(rfaas_client *client, char *text, size_t size);

#ifdef __cplusplus
}
#endif
#endif
