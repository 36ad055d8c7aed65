#include "wire.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define READ_BYTES 65536
#define FRAME_MOST (1u << 20)

static const char ALPHABET[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

#define SPIN (60 * 1000ull) /* nanoseconds: so close to what is due nobody sleeps */

uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

struct timespec sleep_before(uint64_t due)
{
    uint64_t now = now_ns();
    struct timespec wait = {0};
    if (due > now + SPIN) {
        uint64_t left = due - SPIN - now;
        wait.tv_sec = (time_t)(left / 1000000000ull);
        wait.tv_nsec = (long)(left % 1000000000ull);
    }
    return wait;
}

static void buffer_reserve(struct buffer *b, size_t len)
{
    if (b->len + len <= b->cap)
        return;
    b->cap = (b->len + len) * 2;
    b->data = realloc(b->data, b->cap);
    if (!b->data) {
        fputs("out of memory\n", stderr);
        exit(1);
    }
}

void buffer_add(struct buffer *b, const void *data, size_t len)
{
    buffer_reserve(b, len);
    memcpy(b->data + b->len, data, len);
    b->len += len;
}

void buffer_drop(struct buffer *b, size_t len)
{
    if (!len)
        return;
    b->len -= len;
    if (b->len)
        memmove(b->data, b->data + len, b->len);
}

void buffer_free(struct buffer *b)
{
    free(b->data);
    *b = (struct buffer){0};
}

size_t base64_encode(const uint8_t *data, size_t len, char *out)
{
    char *to = out;
    for (size_t i = 0; i < len; i += 3) {
        size_t left = len - i;
        uint32_t v = (uint32_t)data[i] << 16;
        if (left > 1)
            v |= (uint32_t)data[i + 1] << 8;
        if (left > 2)
            v |= data[i + 2];
        *to++ = ALPHABET[v >> 18];
        *to++ = ALPHABET[v >> 12 & 63];
        *to++ = left > 1 ? ALPHABET[v >> 6 & 63] : '=';
        *to++ = left > 2 ? ALPHABET[v & 63] : '=';
    }
    return (size_t)(to - out);
}

long base64_decode(const char *text, size_t len, uint8_t *out)
{
    static int8_t values[256];
    static int ready;
    if (!ready) {
        memset(values, -1, sizeof values);
        for (int i = 0; i < 64; i++)
            values[(uint8_t)ALPHABET[i]] = (int8_t)i;
        ready = 1;
    }
    if (len % 4)
        return -1;
    while (len && text[len - 1] == '=')
        len--;
    uint8_t *to = out;
    uint32_t v = 0;
    for (size_t i = 0; i < len; i++) {
        int digit = values[(uint8_t)text[i]];
        if (digit < 0)
            return -1;
        v = v << 6 | (uint32_t)digit;
        if (i % 4 == 3) {
            *to++ = (uint8_t)(v >> 16);
            *to++ = (uint8_t)(v >> 8);
            *to++ = (uint8_t)v;
            v = 0;
        }
    }
    if (len % 4 == 2) {
        *to++ = (uint8_t)(v >> 4);
    } else if (len % 4 == 3) {
        *to++ = (uint8_t)(v >> 10);
        *to++ = (uint8_t)(v >> 2);
    }
    return to - out;
}

void frame_add(struct buffer *b, int opcode, const void *payload, size_t len, const uint8_t *mask)
{
    uint8_t head[HEADER_MAX];
    size_t size = 2;
    head[0] = (uint8_t)(0x80 | opcode);
    if (len < 126) {
        head[1] = (uint8_t)len;
    } else if (len < 65536) {
        head[1] = 126;
        head[2] = (uint8_t)(len >> 8);
        head[3] = (uint8_t)len;
        size = 4;
    } else {
        head[1] = 127;
        for (int i = 0; i < 8; i++)
            head[2 + i] = (uint8_t)((uint64_t)len >> (56 - 8 * i));
        size = 10;
    }
    if (mask) {
        head[1] |= 0x80;
        memcpy(head + size, mask, 4);
        size += 4;
    }
    buffer_reserve(b, size + len);
    buffer_add(b, head, size);
    uint8_t *to = b->data + b->len;
    memcpy(to, payload, len);
    if (mask)
        for (size_t i = 0; i < len; i++)
            to[i] ^= mask[i & 3];
    b->len += len;
}

int frame_read(struct buffer *b, struct frame *frame)
{
    if (b->len < 2)
        return 0;
    uint8_t *head = b->data;
    int masked = head[1] >> 7;
    uint64_t len = head[1] & 127;
    size_t size = 2;
    if (head[0] & 0x70 || !(head[0] & 0x80))
        return -1; /* extensions and fragments: nobody here has asked for them */
    if (len == 126) {
        if (b->len < 4)
            return 0;
        len = (uint64_t)head[2] << 8 | head[3];
        size = 4;
    } else if (len == 127) {
        if (b->len < 10)
            return 0;
        len = 0;
        for (int i = 2; i < 10; i++)
            len = len << 8 | head[i];
        size = 10;
    }
    if (len > FRAME_MOST)
        return -1;
    uint8_t *mask = head + size;
    size += masked ? 4 : 0;
    if (b->len < size + len)
        return 0;
    frame->opcode = head[0] & 15;
    frame->payload = head + size;
    frame->len = (size_t)len;
    frame->size = size + (size_t)len;
    if (masked)
        for (size_t i = 0; i < frame->len; i++)
            frame->payload[i] ^= mask[i & 3];
    return 1;
}

const char *json_text(const char *json, size_t len, const char *key, size_t *value_len)
{
    char quoted[64];
    int size = snprintf(quoted, sizeof quoted, "\"%s\"", key);
    const char *end = json + len, *at = json;
    while ((at = memmem(at, (size_t)(end - at), quoted, (size_t)size))) {
        at += size;
        const char *from = at;
        while (from < end && (*from == ' ' || *from == ':'))
            from++;
        if (from == at || from >= end || *from != '"')
            continue; /* the word stood there as a value, or its value is no text */
        from++;
        const char *close = memchr(from, '"', (size_t)(end - from));
        if (!close)
            return NULL;
        *value_len = (size_t)(close - from);
        return from;
    }
    return NULL;
}

int socket_read(int fd, struct buffer *b)
{
    for (;;) {
        buffer_reserve(b, READ_BYTES);
        size_t room = b->cap - b->len;
        ssize_t got = read(fd, b->data + b->len, room);
        if (got > 0) {
            b->len += (size_t)got;
            if ((size_t)got < room)
                return 1;
            continue;
        }
        if (got == 0)
            return 0;
        if (errno == EINTR)
            continue;
        return errno == EAGAIN || errno == EWOULDBLOCK ? 1 : -1;
    }
}

int socket_write(int fd, struct buffer *b)
{
    while (b->len) {
        ssize_t put = write(fd, b->data, b->len);
        if (put > 0) {
            buffer_drop(b, (size_t)put);
            continue;
        }
        if (errno == EINTR)
            continue;
        return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -1;
    }
    return 1;
}
