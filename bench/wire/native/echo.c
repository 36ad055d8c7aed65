/* The floor: a media socket that sends each caller's payload back as it came, and nothing else.
 *
 *     echo PORT [ADDRESS]
 *
 * One thread, epoll. Messages are cut, not parsed; base64 is passed on undecoded. */
#include "wire.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS 256
#define REQUEST_MOST 16384
#define ID_MOST 128
#define MESSAGE_MOST 65536

struct peer {
    int fd;
    int open;
    int waits; /* for room in the socket */
    char id[ID_MOST];
    size_t id_len;
    struct buffer in, out;
};

static int poller;

/* --- SHA-1 (FIPS 180-4), for the handshake only ------------------------------------------------ */

static uint32_t turn(uint32_t v, int by)
{
    return v << by | v >> (32 - by);
}

static void sha1(const uint8_t *data, size_t len, uint8_t out[20])
{
    uint32_t h[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    uint8_t block[128] = {0};
    size_t blocks = (len + 9 + 63) / 64;
    memcpy(block, data, len); /* a key and its suffix: 60 bytes */
    block[len] = 0x80;
    uint64_t bits = (uint64_t)len * 8;
    for (int i = 0; i < 8; i++)
        block[blocks * 64 - 1 - (size_t)i] = (uint8_t)(bits >> (8 * i));
    for (size_t n = 0; n < blocks; n++) {
        uint32_t w[80];
        for (int i = 0; i < 16; i++) {
            const uint8_t *p = block + n * 64 + i * 4;
            w[i] = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
        }
        for (int i = 16; i < 80; i++)
            w[i] = turn(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
        uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
        for (int i = 0; i < 80; i++) {
            uint32_t f, k;
            if (i < 20) {
                f = (b & c) | (~b & d), k = 0x5a827999;
            } else if (i < 40) {
                f = b ^ c ^ d, k = 0x6ed9eba1;
            } else if (i < 60) {
                f = (b & c) | (b & d) | (c & d), k = 0x8f1bbcdc;
            } else {
                f = b ^ c ^ d, k = 0xca62c1d6;
            }
            uint32_t next = turn(a, 5) + f + e + k + w[i];
            e = d, d = c, c = turn(b, 30), b = a, a = next;
        }
        h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e;
    }
    for (int i = 0; i < 20; i++)
        out[i] = (uint8_t)(h[i / 4] >> (24 - 8 * (i % 4)));
}

/* --- a peer ---------------------------------------------------------------------------------- */

static void leave(struct peer *p)
{
    close(p->fd);
    buffer_free(&p->in);
    buffer_free(&p->out);
    free(p);
}

/* 0: the peer has to go. */
static int upgrade(struct peer *p)
{
    char *end = memmem(p->in.data, p->in.len, "\r\n\r\n", 4);
    if (!end)
        return p->in.len < REQUEST_MOST;
    size_t head = (size_t)(end - (char *)p->in.data) + 4;
    char *text = (char *)p->in.data;
    text[head - 1] = 0;
    char *key = strcasestr(text, "\r\nSec-WebSocket-Key:");
    if (!key)
        return 0;
    key += 20;
    key += strspn(key, " ");
    char joined[64];
    size_t key_len = strcspn(key, " \r\n");
    if (key_len > 24)
        return 0;
    int len = snprintf(joined, sizeof joined, "%.*s258EAFA5-E914-47DA-95CA-C5AB0DC85B11",
                       (int)key_len, key);
    uint8_t digest[20];
    char accept[32] = {0}, answer[256];
    sha1((uint8_t *)joined, (size_t)len, digest);
    base64_encode(digest, sizeof digest, accept);
    len = snprintf(answer, sizeof answer,
                   "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                   "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
                   accept);
    buffer_add(&p->out, answer, (size_t)len);
    buffer_drop(&p->in, head);
    p->open = 1;
    return 1;
}

static void hear(struct peer *p, const struct frame *f)
{
    const char *json = (const char *)f->payload;
    size_t event_len, len;
    const char *event = json_text(json, f->len, "event", &event_len);
    if (!event)
        return;
    if (event_len == 5 && !memcmp(event, "start", 5)) {
        const char *id = json_text(json, f->len, "streamSid", &len);
        if (id && len < ID_MOST) {
            memcpy(p->id, id, len);
            p->id_len = len;
        }
    } else if (event_len == 5 && !memcmp(event, "media", 5)) {
        char out[MESSAGE_MOST];
        const char *payload = json_text(json, f->len, "payload", &len);
        if (!payload || len > MESSAGE_MOST - 256)
            return;
        int size = snprintf(
            out, sizeof out,
            "{\"event\":\"media\",\"streamSid\":\"%.*s\",\"media\":{\"payload\":\"%.*s\"}}",
            (int)p->id_len, p->id, (int)len, payload);
        frame_add(&p->out, OP_TEXT, out, (size_t)size, NULL);
    }
}

/* 0: the peer has to go. */
static int serve(struct peer *p)
{
    if (socket_read(p->fd, &p->in) <= 0)
        return 0;
    if (!p->open && !upgrade(p))
        return 0;
    size_t used = 0;
    while (p->open) {
        struct frame f;
        struct buffer rest = {p->in.data + used, p->in.len - used, p->in.len - used};
        int got = frame_read(&rest, &f);
        if (got < 0 || (got && f.opcode == OP_CLOSE))
            return 0;
        if (!got)
            break;
        if (f.opcode == OP_TEXT)
            hear(p, &f);
        used += f.size;
    }
    buffer_drop(&p->in, used);
    return 1;
}

/* 0: the peer has to go. */
static int flush(struct peer *p)
{
    int all = socket_write(p->fd, &p->out);
    if (all < 0)
        return 0;
    if (p->waits == all) {
        struct epoll_event event = {.events = EPOLLIN | (all ? 0u : (uint32_t)EPOLLOUT),
                                    .data.ptr = p};
        epoll_ctl(poller, EPOLL_CTL_MOD, p->fd, &event);
        p->waits = !all;
    }
    return 1;
}

static void greet(int listener)
{
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    if (fd < 0)
        return;
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct peer *p = calloc(1, sizeof *p);
    if (!p) {
        close(fd);
        return;
    }
    p->fd = fd;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = p};
    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fputs("usage: echo PORT [ADDRESS]\n", stderr);
        return 2;
    }
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    signal(SIGPIPE, SIG_IGN);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1]))};
    inet_pton(AF_INET, argc > 2 ? argv[2] : "127.0.0.1", &address.sin_addr);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1024)) {
        perror("echo");
        return 1;
    }
    poller = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[EVENTS];
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int count = epoll_wait(poller, events, EVENTS, -1);
        if (count < 0 && errno != EINTR)
            return 1;
        for (int i = 0; i < count; i++) {
            struct peer *p = events[i].data.ptr;
            if (!p)
                greet(listener);
            else if ((events[i].events & ~(uint32_t)EPOLLOUT && !serve(p)) || !flush(p))
                leave(p);
        }
    }
}
