/* Calls that arrive one after the other: how long until each hears the agent's first words.
 *
 *     start --port P --rate R --seconds S [options]      see `usage`
 *
 * One thread, epoll. Each call is what a carrier does: a connection for the webhook, its answer
 * read for the token, a second connection with a real upgrade, `connected`, `start` with the token,
 * a frame of silence each 20 ms, marks returned when their audio would have been played, and `stop`
 * after a while. Arrivals are evenly spaced, or random (a Poisson process).
 *
 * Prints one JSON object; times in it are microseconds. */
#include "phone.h"
#include "samples.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

#define EVENTS 256
#define TICK (20 * MS)
#define NS_PER_BYTE 125000ull
#define MARKS 16
#define NAME_MOST 64
#define PATIENCE (5000 * MS) /* a call that has heard nothing by then never will */

enum state { WAITING, RINGING, ASKING, CONNECTING, UPGRADING, LIVE, OVER };

static struct {
    const char *host, *carrier;
    int port, seconds, pid, hold_ms, poisson;
    double rate, settle;
} opt = {.host = "127.0.0.1", .carrier = "twilio", .rate = 50, .settle = 4, .hold_ms = 2000};

struct mark {
    char name[NAME_MOST];
    uint64_t due;
};

struct call {
    enum state state;
    int fd, waits;
    char id[40], token[256];
    uint64_t begins, started, next, played; /* `played`: when all audio that came will be over */
    uint32_t seq;
    struct buffer in, out;
    struct mark marks[MARKS];
    int first_mark, mark_count, heard;
};

static struct call *calls;
static int count, first, next, poller, live, most_live; /* live ones lie in first..next */
static uint64_t from, until;
static struct samples answered, upgraded, audio, since_start, late_sends;
static uint64_t begun, refused, closed, silent, unreadable;
static char refusal[128];

static int measured(uint64_t t)
{
    return t >= from && t < until;
}

/* --- sockets --------------------------------------------------------------------------------- */

static void hang(struct call *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    c->in.len = c->out.len = 0;
}

static void over(struct call *c)
{
    if (c->state == LIVE)
        live--;
    hang(c);
    buffer_free(&c->in);
    buffer_free(&c->out);
    c->state = OVER;
}

static void fail(struct call *c, const char *why, uint64_t *counter)
{
    snprintf(refusal, sizeof refusal, "%.*s", (int)strcspn(why, "\r\n\""), why);
    *counter += 1;
    over(c);
}

static void flush(struct call *c)
{
    int all = socket_write(c->fd, &c->out);
    if (all < 0) {
        fail(c, "broken socket", &closed);
    } else if (c->waits == all) {
        struct epoll_event event = {.events = EPOLLIN | (all ? 0u : (uint32_t)EPOLLOUT),
                                    .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
        c->waits = !all;
    }
}

static void connect_as(struct call *c, enum state state)
{
    c->fd = phone_connect(opt.host, opt.port);
    if (c->fd < 0) {
        fail(c, strerror(errno), &refused);
        return;
    }
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
    c->waits = 1;
    c->state = state;
}

/* --- a call's way ---------------------------------------------------------------------------- */

static void ask(struct call *c)
{
    char body[256], request[768];
    int size = snprintf(body, sizeof body,
                        "CallSid=CA%s&AccountSid=AC%032d&From=%%2B4930123456&To=%%2B4930654321"
                        "&CallStatus=ringing&Direction=inbound&ApiVersion=2010-04-01",
                        c->id, 0);
    int len = snprintf(request, sizeof request,
                       "POST /telephony/answer/%s HTTP/1.1\r\nHost: %s:%d\r\n"
                       "Content-Type: application/x-www-form-urlencoded; charset=UTF-8\r\n"
                       "Content-Length: %d\r\nUser-Agent: flowcat-server-bench\r\n"
                       "Connection: close\r\n\r\n%s",
                       opt.carrier, opt.host, opt.port, size, body);
    buffer_add(&c->out, request, (size_t)len);
    c->state = ASKING;
    flush(c);
}

/* The answer has come to its end: the document with the stream's address and token. */
static void answer(struct call *c, uint64_t now)
{
    buffer_add(&c->in, "", 1);
    char *text = (char *)c->in.data, *token = strstr(text, "name=\"token\" value=\"");
    if (strncmp(text, "HTTP/1.1 200", 12) || !token) {
        fail(c, strstr(text, "<Reject") ? "rejected" : text, &refused);
        return;
    }
    token += strlen("name=\"token\" value=\"");
    size_t len = strcspn(token, "\"");
    if (len >= sizeof c->token) {
        fail(c, "token too long", &refused);
        return;
    }
    memcpy(c->token, token, len);
    c->token[len] = 0;
    if (measured(c->begins))
        samples_add(&answered, now - c->begins);
    hang(c);
    connect_as(c, CONNECTING);
}

static void up(struct call *c, uint64_t now)
{
    char *end = memmem(c->in.data, c->in.len, "\r\n\r\n", 4), *text = (char *)c->in.data;
    if (!end)
        return;
    if (strncmp(text, "HTTP/1.1 101", 12)) {
        *end = 0;
        fail(c, text, &refused);
        return;
    }
    buffer_drop(&c->in, (size_t)(end - text) + 4);
    if (measured(c->begins))
        samples_add(&upgraded, now - c->begins);
    c->state = LIVE;
    c->started = c->next = now;
    if (++live > most_live)
        most_live = live;
    phone_start(&c->out, c->id, c->token);
    flush(c);
}

static void hear(struct call *c, const char *json, size_t size, uint64_t now)
{
    static uint8_t heard[1 << 20];
    size_t len;
    const char *event = json_text(json, size, "event", &len);
    if (event && len == 5 && !memcmp(event, "media", 5)) {
        const char *payload = json_text(json, size, "payload", &len);
        long bytes = payload ? base64_decode(payload, len, heard) : -1;
        if (bytes <= 0) {
            unreadable++;
            return;
        }
        if (!c->heard && measured(c->begins)) {
            samples_add(&audio, now - c->begins);
            samples_add(&since_start, now - c->started);
        }
        c->heard = 1;
        c->played = (c->played > now ? c->played : now) + (uint64_t)bytes * NS_PER_BYTE;
    } else if (event && len == 4 && !memcmp(event, "mark", 4) && c->mark_count < MARKS) {
        const char *name = json_text(json, size, "name", &len);
        if (!name || len >= NAME_MOST) {
            unreadable++;
            return;
        }
        struct mark *mark = &c->marks[(c->first_mark + c->mark_count++) % MARKS];
        memcpy(mark->name, name, len);
        mark->name[len] = 0;
        mark->due = c->played > now ? c->played : now;
    } else if (!event) {
        unreadable++;
    }
}

static void receive(struct call *c)
{
    int got = socket_read(c->fd, &c->in);
    uint64_t now = now_ns();
    if (c->state == ASKING) {
        if (got <= 0)
            answer(c, now);
        return;
    }
    if (c->state == UPGRADING && c->in.len)
        up(c, now);
    size_t used = 0;
    struct frame f;
    while (c->state == LIVE) {
        struct buffer rest = {c->in.data + used, c->in.len - used, c->in.len - used};
        int whole = frame_read(&rest, &f);
        if (whole < 0 || (whole && f.opcode == OP_CLOSE)) {
            fail(c, "closed by the server", &closed);
            return;
        }
        if (!whole)
            break;
        if (f.opcode == OP_TEXT)
            hear(c, (const char *)f.payload, f.len, now);
        used += f.size;
    }
    if (c->state == LIVE)
        buffer_drop(&c->in, used);
    if (got <= 0 && c->state != OVER)
        fail(c, "closed by the server", c->state == LIVE ? &closed : &refused);
}

static void handle(struct call *c, uint32_t events)
{
    if (c->state == RINGING || c->state == CONNECTING) {
        int error = phone_error(c->fd);
        if (error) {
            fail(c, strerror(error), &refused);
        } else if (c->state == RINGING) {
            ask(c);
        } else {
            char path[64];
            snprintf(path, sizeof path, "/telephony/ws/%s", opt.carrier);
            phone_upgrade(&c->out, opt.host, opt.port, path);
            c->state = UPGRADING;
            flush(c);
        }
        return;
    }
    if (c->state != OVER && events & ~(uint32_t)EPOLLOUT)
        receive(c);
    if (c->state == ASKING || c->state == UPGRADING || c->state == LIVE)
        flush(c);
}

/* What is due of a live call; a silent frame, marks, the end. */
static void tick(struct call *c, uint64_t now)
{
    static uint8_t silence[FRAME];
    memset(silence, 0xff, sizeof silence);
    while (c->mark_count && c->marks[c->first_mark].due <= now) {
        phone_mark(&c->out, c->id, c->seq, c->marks[c->first_mark].name);
        c->first_mark = (c->first_mark + 1) % MARKS;
        c->mark_count--;
    }
    if (measured(now))
        samples_add(&late_sends, now - c->next);
    phone_media(&c->out, c->id, c->seq++, silence);
    c->next += TICK;
    int had_enough = c->heard && now >= c->started + (uint64_t)opt.hold_ms * MS;
    if (had_enough || now > c->begins + PATIENCE) {
        silent += !c->heard;
        phone_stop(&c->out, c->id, c->seq);
        flush(c);
        if (c->state == LIVE)
            over(c);
        return;
    }
    flush(c);
}

/* --- the clock ------------------------------------------------------------------------------- */

static void poll_until(uint64_t due)
{
    struct epoll_event events[EVENTS];
    struct timespec wait = sleep_before(due);
    int found = epoll_pwait2(poller, events, EVENTS, &wait, NULL);
    for (int i = 0; i < found; i++)
        handle(events[i].data.ptr, events[i].events);
}

static void prepare(void)
{
    double at = 0, end = opt.settle + opt.seconds;
    count = (int)(end * opt.rate * 1.5) + 64;
    calls = calloc((size_t)count, sizeof *calls);
    if (!calls)
        exit(1);
    uint64_t origin = now_ns() + 50 * MS;
    srand(1); /* the same arrivals each time */
    int n = 0;
    for (; n < count && at < end; n++) {
        calls[n].begins = origin + (uint64_t)(at * 1e9);
        calls[n].fd = -1;
        snprintf(calls[n].id, sizeof calls[n].id, "%08x%024x", (unsigned)getpid(), (unsigned)n);
        double even = 1 / opt.rate;
        at += opt.poisson ? -log((rand() + 1.0) / (RAND_MAX + 2.0)) * even : even;
    }
    count = n;
    from = origin + (uint64_t)(opt.settle * 1e9);
    until = from + (uint64_t)opt.seconds * 1000 * MS;
}

static void run(struct usage *before, struct usage *after)
{
    int began = 0, ended = 0;
    for (;;) {
        uint64_t now = now_ns(), due = now + 20 * MS;
        if (!began && now >= from) {
            began = 1;
            *before = usage_of(opt.pid);
        }
        if (!ended && now >= until) {
            ended = 1;
            *after = usage_of(opt.pid);
        }
        while (next < count && calls[next].begins <= now) {
            begun += measured(calls[next].begins);
            connect_as(&calls[next++], RINGING);
        }
        while (first < next && calls[first].state == OVER)
            first++;
        if (ended && (first == count || now > until + PATIENCE + (uint64_t)opt.hold_ms * MS))
            return;
        if (next < count && calls[next].begins < due)
            due = calls[next].begins;
        for (int i = first; i < next; i++) {
            struct call *c = &calls[i];
            if (c->state == LIVE && c->next <= now)
                tick(c, now);
            if (c->state == LIVE && c->next < due)
                due = c->next;
        }
        poll_until(due);
    }
}

static void report(const struct usage *before, const struct usage *after)
{
    printf("{\"rate\": %g, \"seconds\": %d, \"begun\": %lu, \"refused\": %lu, \"refusal\": \"%s\", "
           "\"closed\": %lu, \"silent\": %lu, \"unreadable\": %lu, \"live\": %d, \"cpu_s\": %.2f, "
           "\"rss_kb\": %ld, ",
           opt.rate, opt.seconds, begun, refused, refusal, closed, silent, unreadable, most_live,
           after->cpu_s - before->cpu_s, after->rss_kb);
    samples_print("answered", &answered);
    printf(", ");
    samples_print("upgraded", &upgraded);
    printf(", ");
    samples_print("since_start", &since_start);
    printf(", ");
    samples_print("first_audio", &audio);
    printf(", ");
    samples_print("own_lateness", &late_sends);
    printf("}\n");
}

static void usage(void)
{
    fputs("usage: start --port P --rate R --seconds S\n"
          "  --host ADDRESS  127.0.0.1     --carrier NAME  twilio\n"
          "  --settle S      before        --hold-ms MS    from `start` to `stop`\n"
          "  --pid P         of the server: CPU and memory\n"
          "  --poisson       random arrivals, otherwise evenly spaced\n",
          stderr);
    exit(2);
}

static void options(int argc, char **argv)
{
    enum { HOST, PORT, CARRIER, RATE, SECONDS, SETTLE, HOLD, PID, POISSON };
    static const struct option known[] = {
        {"host", 1, 0, HOST},       {"port", 1, 0, PORT},     {"carrier", 1, 0, CARRIER},
        {"rate", 1, 0, RATE},       {"seconds", 1, 0, SECONDS}, {"settle", 1, 0, SETTLE},
        {"hold-ms", 1, 0, HOLD},    {"pid", 1, 0, PID},       {"poisson", 0, 0, POISSON},
        {0, 0, 0, 0}};
    int found;
    while ((found = getopt_long(argc, argv, "", known, NULL)) != -1) {
        switch (found) {
        case HOST: opt.host = optarg; break;
        case PORT: opt.port = atoi(optarg); break;
        case CARRIER: opt.carrier = optarg; break;
        case RATE: opt.rate = atof(optarg); break;
        case SECONDS: opt.seconds = atoi(optarg); break;
        case SETTLE: opt.settle = atof(optarg); break;
        case HOLD: opt.hold_ms = atoi(optarg); break;
        case PID: opt.pid = atoi(optarg); break;
        case POISSON: opt.poisson = 1; break;
        default: usage();
        }
    }
    struct in_addr address;
    if (optind < argc || opt.port <= 0 || opt.rate <= 0 || opt.seconds <= 0 || opt.settle < 0
        || opt.hold_ms < 0 || inet_pton(AF_INET, opt.host, &address) != 1)
        usage();
}

int main(int argc, char **argv)
{
    options(argc, argv);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    signal(SIGPIPE, SIG_IGN);
    poller = epoll_create1(0);
    prepare();
    struct usage before = {0}, after = {0};
    run(&before, &after);
    report(&before, &after);
    return 0;
}
