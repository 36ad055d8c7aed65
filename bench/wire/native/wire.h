/* What both ends of the wire need: time, base64, WebSocket frames (RFC 6455), sockets. */
#ifndef WIRE_H
#define WIRE_H

#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define MS 1000000ull /* nanoseconds */
#define HEADER_MAX 14 /* of a frame, bytes */

enum { OP_TEXT = 1, OP_BINARY = 2, OP_CLOSE = 8, OP_PING = 9, OP_PONG = 10 };

/* Bytes that wait to be written, or that were read and not yet understood. */
struct buffer {
    uint8_t *data;
    size_t len, cap;
};

struct frame {
    int opcode;
    uint8_t *payload; /* inside the buffer, unmasked */
    size_t len;
    size_t size; /* of the whole frame, header included */
};

uint64_t now_ns(void); /* monotonic */
/* How long to sleep until shortly before a time; zero if that is past. */
struct timespec sleep_before(uint64_t due);

void buffer_add(struct buffer *b, const void *data, size_t len);
void buffer_drop(struct buffer *b, size_t len); /* from the front */
void buffer_free(struct buffer *b);

/* Room for `len / 3 * 4 + 4` bytes is needed; returns the length of the text. */
size_t base64_encode(const uint8_t *data, size_t len, char *out);
/* In place is allowed; returns the number of bytes, -1 if it is not base64. */
long base64_decode(const char *text, size_t len, uint8_t *out);

/* Appends one whole frame; a client's is masked with `mask`, a server's has none. */
void frame_add(struct buffer *b, int opcode, const void *payload, size_t len, const uint8_t *mask);
/* 1: a frame is at the front of the buffer; 0: not all of it is there; -1: not RFC 6455. */
int frame_read(struct buffer *b, struct frame *frame);

/* The value of a JSON text field: tolerant of spaces, blind to nesting. NULL: not there. */
const char *json_text(const char *json, size_t len, const char *key, size_t *value_len);

/* Reads what is there into `b`. 1: more may come; 0: the far end has closed; -1: error. */
int socket_read(int fd, struct buffer *b);
/* Writes what can be written. 1: all; 0: some is left; -1: error. */
int socket_write(int fd, struct buffer *b);

#endif
