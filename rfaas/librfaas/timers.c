/* timers.c - see timers.h. */
#include "timers.h"

#include <stdlib.h>

bool timers_reserve(timers *all)
{
    if (all->reserved + 2 > all->room) {
        size_t room = 2 * all->room + 64;
        timer **grown = realloc(all->heap, room * sizeof *grown);
        if (grown == NULL)
            return false;
        all->heap = grown;
        all->room = room;
    }
    all->reserved++;
    return true;
}

void timers_free(timers *all)
{
    free(all->heap);
    *all = (timers){0};
}

static void put(timers *all, size_t place, timer *one)
{
    all->heap[place] = one;
    one->place = place;
}

static void rise(timers *all, size_t place, timer *one)
{
    for (; place > 1 && all->heap[place / 2]->due_ns > one->due_ns; place /= 2)
        put(all, place, all->heap[place / 2]);
    put(all, place, one);
}

static void sink(timers *all, size_t place, timer *one)
{
    for (size_t child; (child = 2 * place) <= all->n; place = child) {
        if (child < all->n && all->heap[child + 1]->due_ns < all->heap[child]->due_ns)
            child++;
        if (all->heap[child]->due_ns >= one->due_ns)
            break;
        put(all, place, all->heap[child]);
    }
    put(all, place, one);
}

void timers_set(timers *all, timer *one, int64_t due_ns)
{
    size_t place = one->place != 0 ? one->place : ++all->n;
    one->due_ns = due_ns;
    rise(all, place, one);
    sink(all, one->place, one);
}

void timers_clear(timers *all, timer *one)
{
    if (one->place == 0)
        return;
    size_t place = one->place;
    timer *last = all->heap[all->n--];
    one->place = 0;
    if (last == one)
        return;
    rise(all, place, last);
    sink(all, last->place, last);
}

timer *timers_first(const timers *all)
{
    return all->n == 0 ? NULL : all->heap[1];
}
