#include "book.h"

#include <string.h>

static void free_cpus(const struct book *book, const struct config *config, cpu_set_t *cpus)
{
    cpu_set_t taken;
    *cpus = config->cpus;
    if (book->overflowed || book->unsure)
        CPU_ZERO(cpus);
    for (int i = 0; i < MOST_SLICES; i++)
        if (book->lent[i].used) {
            CPU_AND(&taken, cpus, &book->lent[i].cpus);
            CPU_XOR(cpus, cpus, &taken);
        }
    for (int i = 0; i < MOST_HOLDS; i++)
        if (book->holds[i].used) {
            CPU_AND(&taken, cpus, &book->holds[i].cpus);
            CPU_XOR(cpus, cpus, &taken);
        }
}

static uint64_t free_memory(const struct book *book, const struct config *config)
{
    uint64_t lent = 0;
    for (int i = 0; i < MOST_SLICES; i++)
        if (book->lent[i].used)
            lent += book->lent[i].memory_bytes;
    return lent < config->memory_bytes ? config->memory_bytes - lent : 0;
}

static int free_slot(const struct book *book, uint32_t most)
{
    for (uint32_t i = 0; i < most; i++)
        if (!book->lent[i].used)
            return (int)i;
    return -1;
}

static bool known(const struct book *book, const struct grant *grant)
{
    for (int i = 0; i < MOST_NONCES; i++)
        if (book->nonces[i].use_by_s && memcmp(book->nonces[i].bytes, grant->nonce, NONCE_BYTES) == 0)
            return true;
    for (int i = 0; i < MOST_SLICES; i++)
        if (book->lent[i].used && memcmp(book->lent[i].slice_id, grant->slice_id, SLICE_ID_BYTES) == 0)
            return true;
    return false;
}

static int nonce_slot(const struct book *book, uint64_t now_s)
{
    for (int i = 0; i < MOST_NONCES; i++)
        if (book->nonces[i].use_by_s < now_s)
            return i;
    return -1;
}

static struct verdict of_time(const struct book *book, const struct grant *grant, uint64_t now_s)
{
    if (grant->use_by_s < now_s || grant->ends_s <= now_s)
        return (struct verdict){"expired", "ask the allocator for a new grant; compare the clocks of both hosts"};
    if (grant->issued_s <= book->opened_s)
        return (struct verdict){"expired", "the node agent was started after this grant: ask for a new one"};
    if (grant->use_by_s < grant->issued_s || grant->use_by_s - grant->issued_s > LONGEST_USE_S)
        return (struct verdict){"bad-grant", "a grant is to be used within 600 s"};
    if (grant->ends_s - now_s > LONGEST_SLICE_S)
        return (struct verdict){"bad-grant", "a slice lasts a year at most"};
    return (struct verdict){0};
}

struct verdict book_judge(const struct book *book, const struct config *config, const struct grant *grant, uid_t uid,
                          uint64_t now_s)
{
    cpu_set_t cpus;
    if (uid != grant->uid)
        return (struct verdict){"wrong-user", "the grant is another user's"};
    if (uid < config->min_uid)
        return (struct verdict){"uid-too-low", "users of the system get nothing here (min_uid)"};
    if (strcmp(grant->node, config->node) != 0)
        return (struct verdict){"wrong-node", "the grant is for another node"};
    struct verdict verdict = of_time(book, grant, now_s);
    if (verdict.code)
        return verdict;
    if (known(book, grant))
        return (struct verdict){"replayed", "a grant is good for one time"};
    if (nonce_slot(book, now_s) < 0)
        return (struct verdict){"busy", "too many grants were used lately: try again in a minute"};
    if (book->unsure)
        return (struct verdict){"no-room", "Slurm has not said yet which jobs are on this node: try again"};
    free_cpus(book, config, &cpus);
    if (free_slot(book, config->most_slices) < 0 || grant->cores == 0 || (uint32_t)CPU_COUNT(&cpus) < grant->cores ||
        grant->memory_bytes == 0 || free_memory(book, config) < grant->memory_bytes)
        return (struct verdict){"no-room", "the node's share has not so many cores or so much memory free"};
    return (struct verdict){0};
}

int book_lend(struct book *book, const struct config *config, const struct grant *grant, uint64_t now_s)
{
    int slot = free_slot(book, config->most_slices), nonce = nonce_slot(book, now_s);
    cpu_set_t cpus;
    free_cpus(book, config, &cpus);
    if (slot < 0 || nonce < 0 || (uint32_t)CPU_COUNT(&cpus) < grant->cores)
        return -1;
    struct lent *lent = &book->lent[slot];
    *lent = (struct lent){.used = true, .memory_bytes = grant->memory_bytes};
    memcpy(lent->slice_id, grant->slice_id, SLICE_ID_BYTES);
    for (uint32_t cpu = CPU_SETSIZE, left = grant->cores; cpu-- > 0 && left > 0;) /* jobs are given the first ones */
        if (CPU_ISSET(cpu, &cpus)) {
            CPU_SET(cpu, &lent->cpus);
            left--;
        }
    book->nonces[nonce].use_by_s = grant->use_by_s;
    memcpy(book->nonces[nonce].bytes, grant->nonce, NONCE_BYTES);
    return slot;
}

void book_take_back(struct book *book, int slot)
{
    book->lent[slot].used = false;
}

bool book_hold(struct book *book, uint64_t job, const cpu_set_t *cpus, uint64_t now_ms)
{
    struct hold *hold = NULL;
    for (int i = 0; i < MOST_HOLDS; i++) {
        if (book->holds[i].used && book->holds[i].job == job) {
            CPU_OR(&book->holds[i].cpus, &book->holds[i].cpus, cpus);
            book->holds[i].since_ms = now_ms;
            return true;
        }
        if (!book->holds[i].used && !hold)
            hold = &book->holds[i];
    }
    if (!hold) {
        book->overflowed = true;
        return false;
    }
    *hold = (struct hold){.used = true, .job = job, .since_ms = now_ms, .cpus = *cpus};
    return true;
}

void book_release(struct book *book, uint64_t job)
{
    bool any = false;
    for (int i = 0; i < MOST_HOLDS; i++) {
        if (book->holds[i].job == job)
            book->holds[i].used = false;
        any = any || book->holds[i].used;
    }
    book->overflowed = book->overflowed && any;
}
