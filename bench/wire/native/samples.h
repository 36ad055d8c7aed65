/* All values of one measure, kept as they are: percentiles are exact. */
#ifndef SAMPLES_H
#define SAMPLES_H

#include <stddef.h>
#include <stdint.h>

struct samples {
    uint32_t *values; /* microseconds */
    size_t count, cap;
};

void samples_add(struct samples *s, uint64_t ns);
/* Prints `"name": {"count": .., "p50": ..}`; sorts the values. */
void samples_print(const char *name, struct samples *s);

#endif
