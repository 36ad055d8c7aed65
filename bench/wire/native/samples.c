#include "samples.h"

#include <stdio.h>
#include <stdlib.h>

void samples_add(struct samples *s, uint64_t ns)
{
    if (s->count == s->cap) {
        s->cap = s->cap ? s->cap * 2 : 4096;
        s->values = realloc(s->values, s->cap * sizeof *s->values);
        if (!s->values) {
            fputs("out of memory\n", stderr);
            exit(1);
        }
    }
    uint64_t us = ns / 1000;
    s->values[s->count++] = us > UINT32_MAX ? UINT32_MAX : (uint32_t)us;
}

static int ascending(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* The smallest value that so many thousandths of all are not above. */
static uint32_t at(const struct samples *s, size_t per_mille)
{
    size_t rank = (s->count * per_mille + 999) / 1000;
    return s->values[rank ? rank - 1 : 0];
}

void samples_print(const char *name, struct samples *s)
{
    printf("\"%s\": ", name);
    if (!s->count) {
        printf("null");
        return;
    }
    qsort(s->values, s->count, sizeof *s->values, ascending);
    printf("{\"count\": %zu, \"p50\": %u, \"p90\": %u, \"p95\": %u, \"p99\": %u, \"p999\": %u, "
           "\"max\": %u}",
           s->count, at(s, 500), at(s, 900), at(s, 950), at(s, 990), at(s, 999),
           s->values[s->count - 1]);
}
