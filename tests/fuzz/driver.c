/* driver.c - what libFuzzer does, as far as it is needed, for compilers without it: inputs are mutated, and one that
 * reaches code that none reached before is kept and mutated further.
 *
 * Usage: PROGRAM ROUNDS SEED LAST [SEED_FILE...]. The input that is tried is in the file LAST, so that it is there after
 * a crash. Targets are built with -fsanitize-coverage=trace-pc; with clang, -fsanitize=fuzzer takes this file's place.
 */
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { INPUT_MAX_BYTES = 8192, KEPT_MAX = 4096, PLACES = 1 << 14 };

typedef struct input {
    uint8_t *bytes;
    size_t size_bytes;
} input;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
void __sanitizer_cov_trace_pc(void);

static uint64_t state;
static union {
    uint8_t places[PLACES];
    uint64_t words[PLACES / 8];
} reached, known;
static uintptr_t before;
static input kept[KEPT_MAX];
static size_t n_kept, n_known;

/* Which step from one block of code to another was taken; called by the target's code. */
__attribute__((no_sanitize_coverage, no_sanitize("address", "undefined"))) void __sanitizer_cov_trace_pc(void)
{
    uintptr_t here = (uintptr_t)__builtin_return_address(0);
    reached.places[(here ^ before) % PLACES] = 1;
    before = here >> 1;
}

__attribute__((no_sanitize_coverage)) static uint64_t draw(uint64_t below)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state % below;
}

__attribute__((no_sanitize_coverage)) static void keep(const uint8_t *bytes, size_t size_bytes)
{
    if (n_kept == KEPT_MAX)
        return;
    uint8_t *copy = malloc(size_bytes + 1);
    if (copy == NULL)
        exit(2);
    memcpy(copy, bytes, size_bytes);
    kept[n_kept++] = (input){copy, size_bytes};
}

/* True if the last run reached something new. */
__attribute__((no_sanitize_coverage, no_sanitize("address", "undefined"))) static bool is_new(void)
{
    size_t n_before = n_known;
    for (size_t i = 0; i < PLACES / 8; i++) {
        if (reached.words[i] == 0)
            continue;
        uint64_t added = reached.words[i] & ~known.words[i];
        n_known += (size_t)__builtin_popcountll(added);
        known.words[i] |= added;
        reached.words[i] = 0;
    }
    return n_known > n_before;
}

__attribute__((no_sanitize_coverage)) static size_t mutate_once(uint8_t *bytes, size_t size_bytes)
{
    static const uint64_t telling[] = {0, 1, 7, 8, 31, 32, 33, 63, 64, 127, 128, 255, 256, 4096, 65535, 65536, UINT32_MAX,
                                       INT64_MAX, UINT64_MAX};
    uint64_t number = telling[draw(sizeof telling / sizeof *telling)];
    size_t width = (size_t)1 << draw(4), at = size_bytes == 0 ? 0 : draw(size_bytes);
    switch (draw(7)) {
    case 0:
        if (size_bytes > 0)
            bytes[at] ^= (uint8_t)(1u << draw(8));
        return size_bytes;
    case 1:
        if (size_bytes > 0)
            bytes[at] = (uint8_t)draw(256);
        return size_bytes;
    case 2: /* a number that often is a limit */
        if (size_bytes >= width)
            memcpy(bytes + draw(size_bytes - width + 1), &number, width);
        return size_bytes;
    case 3: /* shorter */
        return size_bytes == 0 ? 0 : draw(size_bytes);
    case 4: { /* some bytes out */
        size_t n = size_bytes == 0 ? 0 : draw(size_bytes - at + 1);
        memmove(bytes + at, bytes + at + n, size_bytes - at - n);
        return size_bytes - n;
    }
    case 5: { /* some bytes in */
        size_t n = 1 + draw(16);
        if (size_bytes + n > INPUT_MAX_BYTES)
            return size_bytes;
        memmove(bytes + at + n, bytes + at, size_bytes - at);
        for (size_t i = 0; i < n; i++)
            bytes[at + i] = (uint8_t)draw(256);
        return size_bytes + n;
    }
    default: { /* the rest of another */
        const input *other = &kept[draw(n_kept)];
        size_t from = other->size_bytes == 0 ? 0 : draw(other->size_bytes), n = other->size_bytes - from;
        if (at + n > INPUT_MAX_BYTES)
            return size_bytes;
        memcpy(bytes + at, other->bytes + from, n);
        return at + n > size_bytes ? at + n : size_bytes;
    }
    }
}

__attribute__((no_sanitize_coverage)) static void keep_file(const char *path)
{
    static uint8_t bytes[INPUT_MAX_BYTES];
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        exit(2);
    keep(bytes, fread(bytes, 1, sizeof bytes, file));
    fclose(file);
}

__attribute__((no_sanitize_coverage)) int main(int argc, char **argv)
{
    if (argc < 4)
        return 2;
    uint64_t rounds = strtoull(argv[1], NULL, 10);
    state = strtoull(argv[2], NULL, 10) * 2654435761u + 88172645463325252u;
    int fd = open(argv[3], O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || ftruncate(fd, INPUT_MAX_BYTES + 8) != 0)
        return 2;
    uint8_t *last = mmap(NULL, INPUT_MAX_BYTES + 8, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (last == MAP_FAILED)
        return 2;
    keep((const uint8_t *)"", 0);
    for (int i = 4; i < argc; i++)
        keep_file(argv[i]);
    size_t n_given = n_kept;
    for (uint64_t round = 0; round < rounds; round++) {
        const input *from = &kept[round < n_given ? round : draw(n_kept)];
        uint64_t size_bytes = from->size_bytes;
        memcpy(last + 8, from->bytes, size_bytes);
        for (uint64_t n = round < n_given ? 0 : 1 + draw(6); n > 0; n--)
            size_bytes = mutate_once(last + 8, size_bytes);
        memcpy(last, &size_bytes, sizeof size_bytes);
        LLVMFuzzerTestOneInput(last + 8, size_bytes);
        if (is_new() && round >= n_given)
            keep(last + 8, size_bytes);
    }
    printf("rounds=%llu kept=%zu reached=%zu\n", (unsigned long long)rounds, n_kept, n_known);
    for (size_t i = 0; i < n_kept; i++)
        free(kept[i].bytes);
    munmap(last, INPUT_MAX_BYTES + 8);
    close(fd);
    return 0;
}
