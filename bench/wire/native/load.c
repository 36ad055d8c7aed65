/* Telephones a server: N calls on Twilio's media wire, each frame of 20 ms at its own absolute time.
 *
 *     load --port P --calls N --seconds S [options]      see `usage`
 *
 * One thread, epoll. Calls have phases spread over the 20 ms; the clock never slips. Each call opens
 * its socket with a real upgrade, sends `connected`, `start`, `media`, returns marks when the audio
 * before them would have been played, forgets audio on `clear`, and ends with `stop`.
 *
 * Mode `echo`: every frame carries its number in bytes that survive mu-law, so that each is accounted
 * for in what comes back, however that is cut: latency, lost, doubled, broken. Mode `agent`: callers
 * speak and fall silent in a cycle and are answered: time to the answer, and how late each 20 ms of
 * it is for a listener who began to play at its first byte. Mode `idle`: calls are open and silent.
 *
 * Prints one JSON object; times in it are microseconds. */
#include "phone.h"
#include "samples.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
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
#define REMEMBERED 4096   /* frames whose sending is remembered: 80 s */
#define MARKS 64          /* under way, per call */
#define NAME_MOST 64
#define TAG 12            /* bytes at the front of a frame that say which it is */
#define GIVE_UP (3000 * MS)
#define DRAIN (1500 * MS)
#define ANSWERED_WITHIN (1500 * MS) /* agents: calls go on so long after the measured time */

enum mode { ECHO, AGENT, IDLE };
enum state { WAITING, CONNECTING, UPGRADING, LIVE, REFUSED, CLOSED };

static struct {
    const char *host, *path, *voice;
    int port, calls, seconds, pid;
    double ramp, settle;
    enum mode mode;
    int talk_ms, cycle_ms, expect_ms, answer_bytes, keep_going;
} opt = {.host = "127.0.0.1", .path = "/telephony/ws/twilio", .ramp = 100, .settle = 2,
         .talk_ms = 1600, .cycle_ms = 6080};

struct mark {
    char name[NAME_MOST];
    uint64_t due;
};

struct call {
    int fd, waits;
    enum state state;
    char id[40];
    uint64_t begins, called, phase;
    uint32_t seq; /* of the next frame */
    uint64_t sent[REMEMBERED];
    struct buffer in, out;
    uint64_t played; /* when all audio that came will have been played */
    struct mark marks[MARKS];
    int first_mark, mark_count;
    int heard_any;
    /* echo */
    uint8_t part[FRAME];
    size_t part_len;
    int in_step;
    uint32_t last; /* number of the last frame that came back, plus one */
    /* agent */
    uint32_t offset; /* where in the cycle the call began, frames */
    uint64_t fell_silent, answer_began;
    size_t answer_len;
    int owed;
};

static struct call *calls;
static int *order; /* calls by phase */
static int poller, live;
static uint64_t origin, from, until; /* the measured time */
static uint8_t *voice;
static size_t voice_len;
static struct samples latency, late_sends, handshake, first_audio, lateness, answer;
static uint64_t frames_sent, frames_back, doubled, broken, refused, closed, marks_back, clears,
    unreadable, questions, answered, incomplete, stray, messages;
static char refusal[128];

static int measured(uint64_t t)
{
    return t >= from && t < until;
}

/* --- frames ---------------------------------------------------------------------------------- */

/* Nibbles as the sixteen quietest values of mu-law above zero (below -48 dBFS); of these only 0x7f
 * would change on the way through linear samples. */
static void tag(uint8_t *to, uint32_t seq)
{
    uint8_t sum = 0xa5;
    for (int i = 0; i < 8; i++) {
        uint8_t nibble = seq >> (28 - 4 * i) & 15;
        to[2 + i] = 0xf0 | nibble;
        sum = (uint8_t)(sum * 31 + nibble);
    }
    to[0] = 0xf1, to[1] = 0xf6;
    to[10] = 0xf0 | sum >> 4;
    to[11] = 0xf0 | (sum & 15);
}

static int tagged(const uint8_t *frame, uint32_t *seq)
{
    uint8_t expected[TAG];
    *seq = 0;
    for (int i = 0; i < 8; i++)
        *seq = *seq << 4 | (frame[2 + i] & 15);
    tag(expected, *seq);
    return !memcmp(frame, expected, TAG);
}

/* Where frame `seq` of a call lies in its cycle of speech and silence. */
static uint32_t in_cycle(const struct call *c, uint32_t seq)
{
    return (seq + c->offset) % (uint32_t)(opt.cycle_ms / 20);
}

static int speaks(const struct call *c, uint32_t seq)
{
    return voice_len && in_cycle(c, seq) < (uint32_t)(opt.talk_ms / 20);
}

static void sound(const struct call *c, uint32_t seq, uint8_t *frame)
{
    memset(frame, 0xff, FRAME);
    if (speaks(c, seq)) {
        size_t frames = voice_len / FRAME;
        memcpy(frame, voice + (seq + (size_t)(c - calls) * 7) % frames * FRAME, FRAME);
    }
    if (opt.mode == ECHO)
        tag(frame, seq);
}

/* --- sending --------------------------------------------------------------------------------- */

static void gone(struct call *c, enum state state)
{
    if (c->state == CLOSED || c->state == REFUSED)
        return;
    if (c->state == LIVE)
        live--;
    c->state = state;
    close(c->fd);
    buffer_free(&c->in);
    buffer_free(&c->out);
    *(state == REFUSED ? &refused : &closed) += 1;
}

static void flush(struct call *c)
{
    int all = socket_write(c->fd, &c->out);
    if (all < 0) {
        gone(c, CLOSED);
    } else if (c->waits == all) {
        struct epoll_event event = {.events = EPOLLIN | (all ? 0u : (uint32_t)EPOLLOUT),
                                    .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
        c->waits = !all;
    }
}

static void send_media(struct call *c, uint64_t due)
{
    uint8_t frame[FRAME];
    sound(c, c->seq, frame);
    uint64_t now = now_ns();
    c->sent[c->seq % REMEMBERED] = now;
    if (measured(now)) {
        frames_sent++;
        samples_add(&late_sends, now - due);
    }
    if (opt.mode == AGENT && speaks(c, c->seq) && !speaks(c, c->seq + 1)) {
        c->fell_silent = now;
        c->answer_len = 0;
        c->owed = 1;
        if (measured(now))
            questions++;
    } else if (opt.mode == AGENT && speaks(c, c->seq) && c->fell_silent) {
        if (measured(c->fell_silent) && !c->owed && opt.answer_bytes
            && c->answer_len < (size_t)opt.answer_bytes)
            incomplete++;
        c->fell_silent = 0;
        c->owed = 0;
    }
    phone_media(&c->out, c->id, c->seq++, frame);
    flush(c);
}

static void return_marks(struct call *c, uint64_t now, int all)
{
    while (c->mark_count && (all || c->marks[c->first_mark].due <= now)) {
        phone_mark(&c->out, c->id, c->seq, c->marks[c->first_mark].name);
        c->first_mark = (c->first_mark + 1) % MARKS;
        c->mark_count--;
        marks_back++;
    }
    flush(c);
}

/* --- hearing --------------------------------------------------------------------------------- */

static void came_back(struct call *c, uint32_t seq, uint64_t now)
{
    if (seq >= c->seq) {
        broken++;
        return;
    }
    uint64_t sent = c->sent[seq % REMEMBERED];
    if (!measured(sent))
        return;
    if (seq < c->last) {
        doubled++;
        return;
    }
    c->last = seq + 1;
    frames_back++;
    samples_add(&latency, now - sent);
}

static void hear_echo(struct call *c, const uint8_t *audio, size_t len, uint64_t now)
{
    while (len) {
        size_t take = FRAME - c->part_len < len ? FRAME - c->part_len : len;
        memcpy(c->part + c->part_len, audio, take);
        c->part_len += take, audio += take, len -= take;
        uint32_t seq;
        while (c->part_len == FRAME) {
            if (tagged(c->part, &seq)) {
                came_back(c, seq, now);
                c->in_step = 1;
                c->part_len = 0;
                break;
            }
            if (c->in_step)
                broken++;
            c->in_step = 0;
            memmove(c->part, c->part + 1, --c->part_len);
        }
    }
}

static void hear_agent(struct call *c, size_t len, uint64_t now)
{
    if (!c->fell_silent || !measured(c->fell_silent)) {
        stray += c->fell_silent == 0 && now >= from;
        return;
    }
    if (c->owed) {
        c->owed = 0;
        c->answer_began = now;
        answered++;
        uint64_t expected = c->fell_silent + (uint64_t)opt.expect_ms * MS;
        samples_add(&answer, now > expected ? now - expected : 0);
    }
    for (size_t at = c->answer_len; at < c->answer_len + len; at += FRAME) {
        uint64_t due = c->answer_began + at * NS_PER_BYTE;
        samples_add(&lateness, now > due ? now - due : 0);
    }
    c->answer_len += len;
}

static void hear_media(struct call *c, const char *json, size_t size, uint64_t now)
{
    static uint8_t audio[1 << 20];
    size_t len;
    const char *payload = json_text(json, size, "payload", &len);
    long bytes = payload ? base64_decode(payload, len, audio) : -1;
    if (bytes < 0) {
        unreadable++;
        return;
    }
    messages++;
    if (!c->heard_any) {
        c->heard_any = 1;
        samples_add(&first_audio, now - c->called);
    }
    c->played = (c->played > now ? c->played : now) + (uint64_t)bytes * NS_PER_BYTE;
    if (opt.mode == ECHO)
        hear_echo(c, audio, (size_t)bytes, now);
    else if (opt.mode == AGENT)
        hear_agent(c, (size_t)bytes, now);
}

static void hear(struct call *c, const char *json, size_t size, uint64_t now)
{
    size_t len;
    const char *event = json_text(json, size, "event", &len);
    if (!event) {
        unreadable++;
    } else if (len == 5 && !memcmp(event, "media", 5)) {
        hear_media(c, json, size, now);
    } else if (len == 5 && !memcmp(event, "clear", 5)) {
        clears++;
        c->played = now;
        return_marks(c, now, 1);
    } else if (len == 4 && !memcmp(event, "mark", 4)) {
        const char *name = json_text(json, size, "name", &len);
        if (!name || len >= NAME_MOST || c->mark_count == MARKS) {
            unreadable++;
            return;
        }
        struct mark *mark = &c->marks[(c->first_mark + c->mark_count++) % MARKS];
        memcpy(mark->name, name, len);
        mark->name[len] = 0;
        mark->due = c->played > now ? c->played : now;
    }
}

/* --- a call's way ---------------------------------------------------------------------------- */

static void dial(struct call *c, uint64_t now)
{
    c->called = now;
    c->state = CONNECTING;
    c->fd = phone_connect(opt.host, opt.port);
    if (c->fd < 0) {
        snprintf(refusal, sizeof refusal, "connect: %s", strerror(errno));
        gone(c, REFUSED);
        return;
    }
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
    c->waits = 1;
}

static void ask_upgrade(struct call *c)
{
    int error = phone_error(c->fd);
    if (error) {
        snprintf(refusal, sizeof refusal, "connect: %s", strerror(error));
        gone(c, REFUSED);
        return;
    }
    phone_upgrade(&c->out, opt.host, opt.port, opt.path);
    c->state = UPGRADING;
    flush(c);
}

static void upgraded(struct call *c, uint64_t now)
{
    char *end = memmem(c->in.data, c->in.len, "\r\n\r\n", 4);
    if (!end)
        return;
    char *text = (char *)c->in.data;
    if (strncmp(text, "HTTP/1.1 101", 12)) {
        snprintf(refusal, sizeof refusal, "%.*s", (int)strcspn(text, "\r\n\""), text);
        gone(c, REFUSED);
        return;
    }
    buffer_drop(&c->in, (size_t)(end - text) + 4);
    c->state = LIVE;
    live++;
    samples_add(&handshake, now - c->called);
    phone_start(&c->out, c->id, "");
    flush(c);
}

static void receive(struct call *c)
{
    int got = socket_read(c->fd, &c->in);
    uint64_t now = now_ns();
    if (c->state == UPGRADING && c->in.len)
        upgraded(c, now);
    size_t used = 0;
    while (c->state == LIVE) {
        struct frame f;
        struct buffer rest = {c->in.data + used, c->in.len - used, c->in.len - used};
        int whole = frame_read(&rest, &f);
        if (whole < 0 || (whole && f.opcode == OP_CLOSE)) {
            gone(c, CLOSED);
            return;
        }
        if (!whole)
            break;
        if (f.opcode == OP_TEXT || f.opcode == OP_BINARY)
            hear(c, (const char *)f.payload, f.len, now);
        else if (f.opcode == OP_PING)
            frame_add(&c->out, OP_PONG, f.payload, f.len, (const uint8_t *)"mask");
        used += f.size;
    }
    if (c->state == LIVE)
        buffer_drop(&c->in, used);
    if (got <= 0)
        gone(c, c->state == LIVE ? CLOSED : REFUSED);
}

static void handle(struct call *c, uint32_t events)
{
    if (c->state == CLOSED || c->state == REFUSED)
        return;
    if (c->state == CONNECTING) {
        ask_upgrade(c);
        return;
    }
    if (events & ~(uint32_t)EPOLLOUT)
        receive(c);
    if (c->state == UPGRADING || c->state == LIVE)
        flush(c);
}

static void tick(struct call *c, uint64_t due)
{
    uint64_t now = now_ns();
    if (c->state == WAITING && now >= c->begins)
        dial(c, now);
    if (c->state != LIVE)
        return;
    if (c->mark_count)
        return_marks(c, now, 0);
    if (opt.mode != IDLE && c->state == LIVE)
        send_media(c, due);
}

/* --- the clock ------------------------------------------------------------------------------- */

static int by_phase(const void *a, const void *b)
{
    uint64_t x = calls[*(const int *)a].phase, y = calls[*(const int *)b].phase;
    return (x > y) - (x < y);
}

/* Handles what has come, and waits for it until a time. */
static void poll_until(uint64_t due)
{
    struct epoll_event events[EVENTS];
    struct timespec wait = sleep_before(due);
    int count = epoll_pwait2(poller, events, EVENTS, &wait, NULL);
    for (int i = 0; i < count; i++)
        handle(events[i].data.ptr, events[i].events);
}

/* Whether the server is hopeless: a call was lost, or an echo is seconds late. */
static int hopeless(uint64_t now)
{
    if (opt.keep_going || opt.mode != ECHO)
        return 0;
    if (closed || refused)
        return 1;
    for (int i = 0; i < opt.calls; i++) {
        const struct call *c = &calls[i];
        uint32_t next = c->last;
        if (c->state == LIVE && next && next < c->seq && now - c->sent[next % REMEMBERED] > GIVE_UP)
            return 1;
    }
    return 0;
}

static void hang_up(void)
{
    for (int i = 0; i < opt.calls; i++) {
        struct call *c = &calls[i];
        if (c->state != LIVE)
            continue;
        phone_stop(&c->out, c->id, c->seq);
        flush(c);
    }
}

static void prepare(void)
{
    calls = calloc((size_t)opt.calls, sizeof *calls);
    order = calloc((size_t)opt.calls, sizeof *order);
    if (!calls || !order)
        exit(1);
    origin = now_ns() + 50 * MS;
    uint32_t cycle = (uint32_t)(opt.cycle_ms / 20);
    for (int i = 0; i < opt.calls; i++) {
        struct call *c = &calls[i];
        double golden = i * 0.6180339887498949; /* spreads evenly, however many there are */
        c->phase = (uint64_t)((golden - (double)(long)golden) * (double)TICK);
        c->begins = origin + (uint64_t)(i / opt.ramp * 1e9);
        snprintf(c->id, sizeof c->id, "%08x%024x", (unsigned)getpid(), (unsigned)i);
        /* In steps of 160 ms: a cycle of a voice detector with chunks of 32 ms begins with it. */
        c->offset = cycle ? (uint32_t)((double)(i * 5) * 7.9) / 8 * 8 % cycle : 0;
        order[i] = i;
    }
    qsort(order, (size_t)opt.calls, sizeof *order, by_phase);
    from = origin + (uint64_t)((opt.calls / opt.ramp + opt.settle) * 1e9);
    until = from + (uint64_t)opt.seconds * 1000 * MS;
}

static int run(struct usage *before, struct usage *after)
{
    int began = 0, ended = 0, hopeless_now = 0;
    uint64_t last = until + (opt.mode == AGENT ? ANSWERED_WITHIN : 0);
    for (uint64_t round = 0; !hopeless_now; round++) {
        for (int k = 0; k < opt.calls; k++) {
            struct call *c = &calls[order[k]];
            uint64_t due = origin + round * TICK + c->phase, now;
            while ((now = now_ns()) < due)
                poll_until(due);
            poll_until(now); /* what has come is never left for long */
            if (!began && now >= from) {
                began = 1;
                *before = usage_of(opt.pid);
            }
            if (!ended && now >= until) {
                ended = 1;
                *after = usage_of(opt.pid);
            }
            if (now >= last)
                goto over;
            tick(c, due);
        }
        if (round % 50 == 0)
            hopeless_now = hopeless(now_ns());
    }
over:;
    uint64_t end = now_ns() + DRAIN;
    while (!hopeless_now && now_ns() < end && (opt.mode != ECHO || frames_back < frames_sent))
        poll_until(now_ns() + 5 * MS);
    return hopeless_now;
}

static void report(const struct usage *before, const struct usage *after, int aborted, int held)
{
    printf("{\"calls\": %d, \"seconds\": %d, \"aborted\": %s, \"live\": %d, \"refused\": %lu, "
           "\"refusal\": \"%s\", \"closed\": %lu, ",
           opt.calls, opt.seconds, aborted ? "true" : "false", held, refused, refusal, closed);
    printf("\"frames_sent\": %lu, \"frames_back\": %lu, \"doubled\": %lu, \"broken\": %lu, "
           "\"unreadable\": %lu, \"messages\": %lu, \"marks\": %lu, \"clears\": %lu, ",
           frames_sent, frames_back, doubled, broken, unreadable, messages, marks_back, clears);
    printf("\"questions\": %lu, \"answered\": %lu, \"incomplete\": %lu, \"stray\": %lu, ", questions,
           answered, incomplete, stray);
    printf("\"cpu_s\": %.2f, \"rss_kb\": %ld, ", after->cpu_s - before->cpu_s, after->rss_kb);
    samples_print("latency", &latency);
    printf(", ");
    samples_print("own_lateness", &late_sends);
    printf(", ");
    samples_print("handshake", &handshake);
    printf(", ");
    samples_print("first_audio", &first_audio);
    printf(", ");
    samples_print("answer", &answer);
    printf(", ");
    samples_print("lateness", &lateness);
    printf("}\n");
}

static void usage(void)
{
    fputs("usage: load --port P --calls N --seconds S\n"
          "  --host ADDRESS  127.0.0.1        --path PATH      of the media socket\n"
          "  --mode MODE     echo|agent|idle  --ramp N         calls begun each second\n"
          "  --settle S      after the ramp   --pid P          of the server: CPU and memory\n"
          "  --voice FILE    raw mu-law       --talk-ms MS     of each --cycle-ms\n"
          "  --cycle-ms MS                    --expect-ms MS   from falling silent to the answer\n"
          "  --answer-bytes N                 --keep-going     also when hopeless\n",
          stderr);
    exit(2);
}

static void read_voice(void)
{
    FILE *file = fopen(opt.voice, "rb");
    if (!file) {
        perror(opt.voice);
        exit(2);
    }
    voice = malloc(1 << 24);
    voice_len = voice ? fread(voice, 1, 1 << 24, file) : 0;
    fclose(file);
    voice_len -= voice_len % FRAME;
    for (size_t i = 0; i < voice_len; i++)
        if (voice[i] == 0x7f)
            voice[i] = 0xff;
}

static void options(int argc, char **argv)
{
    enum { HOST, PORT, PATH, CALLS, SECONDS, MODE, RAMP, SETTLE, PID, VOICE, TALK, CYCLE, EXPECT,
           ANSWER, KEEP };
    static const struct option known[] = {
        {"host", 1, 0, HOST},         {"port", 1, 0, PORT},       {"path", 1, 0, PATH},
        {"calls", 1, 0, CALLS},       {"seconds", 1, 0, SECONDS}, {"mode", 1, 0, MODE},
        {"ramp", 1, 0, RAMP},         {"settle", 1, 0, SETTLE},   {"pid", 1, 0, PID},
        {"voice", 1, 0, VOICE},       {"talk-ms", 1, 0, TALK},    {"cycle-ms", 1, 0, CYCLE},
        {"expect-ms", 1, 0, EXPECT},  {"answer-bytes", 1, 0, ANSWER},
        {"keep-going", 0, 0, KEEP},   {0, 0, 0, 0}};
    int found;
    while ((found = getopt_long(argc, argv, "", known, NULL)) != -1) {
        switch (found) {
        case HOST: opt.host = optarg; break;
        case PORT: opt.port = atoi(optarg); break;
        case PATH: opt.path = optarg; break;
        case CALLS: opt.calls = atoi(optarg); break;
        case SECONDS: opt.seconds = atoi(optarg); break;
        case RAMP: opt.ramp = atof(optarg); break;
        case SETTLE: opt.settle = atof(optarg); break;
        case PID: opt.pid = atoi(optarg); break;
        case VOICE: opt.voice = optarg; break;
        case TALK: opt.talk_ms = atoi(optarg); break;
        case CYCLE: opt.cycle_ms = atoi(optarg); break;
        case EXPECT: opt.expect_ms = atoi(optarg); break;
        case ANSWER: opt.answer_bytes = atoi(optarg); break;
        case KEEP: opt.keep_going = 1; break;
        case MODE:
            if (!strcmp(optarg, "echo"))
                opt.mode = ECHO;
            else if (!strcmp(optarg, "agent"))
                opt.mode = AGENT;
            else if (!strcmp(optarg, "idle"))
                opt.mode = IDLE;
            else
                usage();
            break;
        default: usage();
        }
    }
    struct in_addr address;
    if (optind < argc || opt.port <= 0 || opt.calls <= 0 || opt.seconds <= 0 || opt.ramp <= 0
        || opt.cycle_ms < 20 || inet_pton(AF_INET, opt.host, &address) != 1)
        usage();
}

int main(int argc, char **argv)
{
    options(argc, argv);
    if (opt.voice)
        read_voice();
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    signal(SIGPIPE, SIG_IGN);
    poller = epoll_create1(0);
    prepare();
    struct usage before = {0}, after = {0};
    int aborted = run(&before, &after);
    int held = live;
    uint64_t lost = closed;
    hang_up();
    uint64_t end = now_ns() + 500 * MS;
    while (live && now_ns() < end)
        poll_until(now_ns() + 5 * MS);
    closed = lost; /* those that were closed after `stop` are no loss */
    report(&before, &after, aborted, held);
    return 0;
}
