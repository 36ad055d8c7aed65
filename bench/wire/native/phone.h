/* What a carrier says on Twilio's media wire, and the server that hears it. */
#ifndef PHONE_H
#define PHONE_H

#include "wire.h"

#define FRAME 160 /* bytes of 20 ms of mu-law at 8 kHz */

/* A socket that connects, without waiting for it; -1 and errno if it cannot. */
int phone_connect(const char *host, int port);
/* 0 once the socket is connected, else an errno. */
int phone_error(int fd);

/* Appends the request that opens a media socket. */
void phone_upgrade(struct buffer *out, const char *host, int port, const char *path);
/* Appends a text message, masked as a client's is. */
void phone_say(struct buffer *out, const char *text, size_t len);
/* Appends `connected` and `start`; `token` may be empty. `id` is what follows CA and MZ. */
void phone_start(struct buffer *out, const char *id, const char *token);
/* Appends frame number `seq`. */
void phone_media(struct buffer *out, const char *id, uint32_t seq, const uint8_t frame[FRAME]);
void phone_mark(struct buffer *out, const char *id, uint32_t seq, const char *name);
/* Appends `stop` and the end of the socket. */
void phone_stop(struct buffer *out, const char *id, uint32_t seq);

struct usage {
    double cpu_s;
    long rss_kb;
};

/* Of a process and all its threads (proc(5)); zeros for pid 0. */
struct usage usage_of(int pid);

#endif
