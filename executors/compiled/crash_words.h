/* Last words of a worker that a compiled function crashes: which function, by which signal, and whether it was the page
 * behind its output. docs/spec/001-invocation.md section 5 (last words), section 11.
 */
#ifndef RFAAS_CRASH_WORDS_H
#define RFAAS_CRASH_WORDS_H

#include <stdint.h>

/* From now on SIGSEGV, SIGBUS, SIGILL, SIGFPE and SIGABRT within a compiled function of this very process leave last words
 * in `words` (u32 size, then so many bytes of text, `room_bytes` in all), and end it; elsewhere they act as they did. Once a
 * process. 0, or -1 with errno. */
int rfaas_crash_watch(void *words, uint32_t room_bytes);

/* A compiled function is about to run, or has returned. `name` stays valid in between. */
void rfaas_crash_enter(const char *name, const void *guard, uint64_t capacity_bytes);
void rfaas_crash_leave(void);

#endif
