#include "phone.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int phone_connect(const char *host, int port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    inet_pton(AF_INET, host, &to.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS) {
        int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

int phone_error(int fd)
{
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
    return error;
}

void phone_upgrade(struct buffer *out, const char *host, int port, const char *path)
{
    uint8_t key[16];
    char text[25] = {0}, request[512];
    for (int i = 0; i < 16; i++)
        key[i] = (uint8_t)rand();
    base64_encode(key, sizeof key, text);
    int len = snprintf(request, sizeof request,
                       "GET %s HTTP/1.1\r\nHost: %s:%d\r\nUpgrade: websocket\r\n"
                       "Connection: Upgrade\r\nSec-WebSocket-Key: %s\r\n"
                       "Sec-WebSocket-Version: 13\r\nUser-Agent: flowcat-server-bench\r\n\r\n",
                       path, host, port, text);
    buffer_add(out, request, (size_t)len);
}

void phone_say(struct buffer *out, const char *text, size_t len)
{
    static uint32_t seed = 2463534242u;
    seed ^= seed << 13, seed ^= seed >> 17, seed ^= seed << 5;
    frame_add(out, OP_TEXT, text, len, (uint8_t *)&seed);
}

void phone_start(struct buffer *out, const char *id, const char *token)
{
    static const char connected[] = "{\"event\":\"connected\",\"protocol\":\"Call\",\"version\":\"1.0.0\"}";
    char text[1024], parameters[320] = "";
    if (*token)
        snprintf(parameters, sizeof parameters, "\"token\":\"%s\"", token);
    int len = snprintf(
        text, sizeof text,
        "{\"event\":\"start\",\"sequenceNumber\":\"1\",\"start\":{\"accountSid\":\"AC%032d\","
        "\"streamSid\":\"MZ%s\",\"callSid\":\"CA%s\",\"tracks\":[\"inbound\"],\"mediaFormat\":"
        "{\"encoding\":\"audio/x-mulaw\",\"sampleRate\":8000,\"channels\":1},"
        "\"customParameters\":{%s}},\"streamSid\":\"MZ%s\"}",
        0, id, id, parameters, id);
    phone_say(out, connected, sizeof connected - 1);
    phone_say(out, text, (size_t)len);
}

void phone_media(struct buffer *out, const char *id, uint32_t seq, const uint8_t frame[FRAME])
{
    char text[768];
    int len = snprintf(text, sizeof text,
                       "{\"event\":\"media\",\"sequenceNumber\":\"%u\",\"media\":{\"track\":\"inbound\","
                       "\"chunk\":\"%u\",\"timestamp\":\"%u\",\"payload\":\"",
                       seq + 2, seq + 1, seq * 20);
    len += (int)base64_encode(frame, FRAME, text + len);
    len += snprintf(text + len, sizeof text - (size_t)len, "\"},\"streamSid\":\"MZ%s\"}", id);
    phone_say(out, text, (size_t)len);
}

void phone_mark(struct buffer *out, const char *id, uint32_t seq, const char *name)
{
    char text[256];
    int len = snprintf(text, sizeof text,
                       "{\"event\":\"mark\",\"sequenceNumber\":\"%u\",\"streamSid\":\"MZ%s\","
                       "\"mark\":{\"name\":\"%s\"}}",
                       seq + 2, id, name);
    phone_say(out, text, (size_t)len);
}

void phone_stop(struct buffer *out, const char *id, uint32_t seq)
{
    char text[160];
    int len = snprintf(text, sizeof text,
                       "{\"event\":\"stop\",\"sequenceNumber\":\"%u\",\"streamSid\":\"MZ%s\","
                       "\"stop\":{\"callSid\":\"CA%s\"}}",
                       seq + 2, id, id);
    phone_say(out, text, (size_t)len);
    frame_add(out, OP_CLOSE, "\x03\xe8", 2, (const uint8_t *)"mask");
}

struct usage usage_of(int pid)
{
    struct usage usage = {0};
    char path[64], text[4096];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = pid ? fopen(path, "r") : NULL;
    if (!file)
        return usage;
    size_t len = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[len] = 0;
    const char *rest = strrchr(text, ')');
    unsigned long user, system;
    long pages;
    if (rest
        && sscanf(rest + 1,
                  " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %*d %*d %*d %*d %*d %*d "
                  "%*u %*u %ld",
                  &user, &system, &pages)
               == 3) {
        usage.cpu_s = (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
        usage.rss_kb = pages * (sysconf(_SC_PAGESIZE) / 1024);
    }
    return usage;
}
