/*
 * bus_check - drives the NATS links and JetStream against a real nats-server, for test_bus.py, which starts, stops and pauses the server.
 *
 * bus_check CHECK URL; exit code 0 when all held, otherwise a line on stderr says what did not. Where a check needs the server
 * to change, it says so in a line on stdout and goes on when it sees the change.
 */
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "bus/bus.h"
#include "bus/js.h"

#define CHECK(cond, ...)                                                                           \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #cond);                             \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fputc('\n', stderr);                                                                   \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

enum { OUTBOX = 200, FLOOD_OUTBOX = 4096 };

static struct bus *bus;
static struct lane *lane;
static const char *url;
static uint32_t outbox = OUTBOX;
static atomic_int up[BUS_N_LINKS], n_writable, n_heard, n_gone;

static void on_link(void *arg, int link, bool is_up, const char *reason)
{
    (void)arg;
    CHECK(is_up || *reason, "a link that is down has a reason");
    atomic_store(&up[link], is_up);
}

static void on_writable(void *arg, int link)
{
    (void)arg;
    (void)link;
    atomic_fetch_add(&n_writable, 1);
}

static void nap(void)
{
    (void)nanosleep(&(struct timespec){.tv_nsec = CLOCK_MS}, NULL);
}

/* Wait up to 60 s for a condition. */
#define AWAIT(cond)                                                                                \
    do {                                                                                           \
        int64_t until = clock_now_ns() + 60 * CLOCK_S;                                             \
        while (!(cond)) {                                                                          \
            CHECK(clock_now_ns() < until, "not within 60 s");                                      \
            nap();                                                                                 \
        }                                                                                          \
    } while (0)

static void tell(const char *what)
{
    puts(what);
    (void)fflush(stdout);
}

static void start(void)
{
    struct bus_options options = {.urls = &url,
                                  .n_urls = 1,
                                  .name = "bus_check",
                                  .answers = {"mst.*.to._muster.*"},
                                  .max_out_msgs = outbox,
                                  .max_out_bytes = 64u << 20,
                                  .on_link = on_link,
                                  .on_writable = on_writable};

    CHECK(lane_new("check", &lane) == 0 && lane_start(lane) == 0, "no lane");
    CHECK(bus_open(&options, &bus) == 0, "no bus");
    AWAIT(atomic_load(&up[BUS_BULK]) && atomic_load(&up[BUS_LIVE]));
}

static void end(void)
{
    lane_stop(lane);
    bus_close(bus, CLOCK_S);
    lane_free(lane);
}

static struct bus_out out_of(const char *subject, const char *text)
{
    return (struct bus_out){.subject = subject, .payload = {text, strlen(text)}, .fence = -1};
}

static void send_text(const char *subject, const char *text)
{
    struct bus_out out = out_of(subject, text);

    CHECK(bus_send(bus, BUS_LIVE, &out) == 0, "%s", subject);
}

/* ---- requests ------------------------------------------------------------------------------------------------------- */

struct answer {
    atomic_int n; /* must end as 1 */
    int code;
    bool on_lane;
    char text[64], header[64];
};

static void on_answer(void *arg, int code, const struct bus_msg *msg)
{
    struct answer *a = arg;

    a->code = code;
    a->on_lane = lane_here(lane);
    if (msg) {
        struct muster_bytes data = bus_msg_data(msg);
        const char *header = bus_msg_header(msg, "X-Check");

        (void)snprintf(a->text, sizeof a->text, "%.*s", (int)data.len, (const char *)data.data);
        (void)snprintf(a->header, sizeof a->header, "%s", header ? header : "");
    }
    atomic_fetch_add(&a->n, 1);
}

static void ask(const char *subject, const char *text, struct bus_call how, struct answer *a)
{
    struct bus_out out = out_of(subject, text);

    how.lane = lane;
    how.fn = on_answer;
    how.arg = a;
    CHECK(bus_request(bus, BUS_LIVE, &out, &how) == 0, "%s", subject);
}

static void check_code(struct answer *a, int code)
{
    AWAIT(atomic_load(&a->n) > 0);
    CHECK(a->code == code, "code %d, expected %d", a->code, code);
    CHECK(a->on_lane, "a completion ran elsewhere than on its lane");
}

/* Answers with what it was sent, and a header. */
static void on_echo(void *arg, struct bus_msg *msg)
{
    struct muster_header header = {"X-Check", "yes"};
    struct bus_out out = {.subject = bus_msg_reply(msg),
                          .headers = &header,
                          .n_headers = 1,
                          .payload = bus_msg_data(msg),
                          .fence = -1};

    (void)arg;
    if (out.subject)
        CHECK(bus_send(bus, BUS_LIVE, &out) == 0, "no answer");
    atomic_fetch_add(&n_heard, 1);
    bus_msg_free(msg);
}

static void on_silent(void *arg, struct bus_msg *msg)
{
    (void)arg;
    atomic_fetch_add(&n_heard, 1);
    bus_msg_free(msg);
}

static void on_gone(void *arg)
{
    (void)arg;
    atomic_fetch_add(&n_gone, 1);
}

static uint64_t subscribe(const char *subject, bus_msg_fn fn)
{
    uint64_t id;

    CHECK(bus_subscribe(bus, &(struct bus_sub){.subject = subject, .fn = fn, .gone = on_gone},
                        &id) == 0,
          "%s", subject);
    return id;
}

static void check_requests(void)
{
    struct bus_call second = {.timeout_ns = CLOCK_S}, soon = {.timeout_ns = 200 * CLOCK_MS};
    struct answer ok = {0}, nobody = {0}, late = {0};
    int64_t began = clock_now_ns();

    (void)subscribe("check.echo", on_echo);
    (void)subscribe("check.silent", on_silent);
    ask("check.echo", "hello", second, &ok);
    ask("check.nobody", "", second, &nobody);
    ask("check.silent", "", soon, &late);
    check_code(&ok, 0);
    CHECK(strcmp(ok.text, "hello") == 0 && strcmp(ok.header, "yes") == 0, "%s %s", ok.text,
          ok.header);
    check_code(&nobody, MUSTER_ENOTFOUND);
    check_code(&late, MUSTER_ETIME);
    CHECK(clock_now_ns() - began >= 200 * CLOCK_MS, "the deadline came early");
}

static void check_many(void)
{
    enum { N = 3000 }; /* more than the first table of calls */
    static struct answer answers[N];

    (void)subscribe("check.echo", on_echo);
    for (int i = 0; i < N; i++) {
        char text[16];

        (void)snprintf(text, sizeof text, "%d", i);
        AWAIT(!bus_is_starved(bus, BUS_LIVE));
        ask("check.echo", text, (struct bus_call){.timeout_ns = 20 * CLOCK_S}, &answers[i]);
        if (i % (OUTBOX / 4) == 0)
            AWAIT(
                atomic_load(&answers[i].n)); /* the outbox is small, and carries the answers too */
    }
    for (int i = 0; i < N; i++) {
        check_code(&answers[i], 0);
        CHECK(atoi(answers[i].text) == i && answers[i].n == 1, "%d got %s, %d times", i,
              answers[i].text, answers[i].n);
    }
}

static struct answer cancelled[3], kept;

static int cancel_all(void *arg)
{
    bus_cancel(bus, arg);
    for (int i = 0; i < 3; i++)
        CHECK(cancelled[i].n == 0, "a completion ran inside bus_cancel()");
    return 0;
}

static int look_at_all(void *arg)
{
    (void)arg;
    for (int i = 0; i < 3; i++)
        CHECK(cancelled[i].n == 1 && cancelled[i].code == MUSTER_ELINK,
              "not completed by bus_cancel()");
    return 0;
}

static void check_cancel(void)
{
    int owner, other;

    (void)subscribe("check.silent", on_silent);
    for (int i = 0; i < 3; i++)
        ask("check.silent", "", (struct bus_call){.owner = &owner, .timeout_ns = 10 * CLOCK_S},
            &cancelled[i]);
    ask("check.silent", "", (struct bus_call){.owner = &other, .timeout_ns = 500 * CLOCK_MS},
        &kept);
    AWAIT(atomic_load(&n_heard) == 4);
    (void)lane_call(lane, cancel_all, &owner);
    (void)lane_call(lane, look_at_all, NULL); /* the completions were queued before this */
    check_code(&kept, MUSTER_ETIME);
    bus_cancel(bus, &owner);
    bus_cancel(NULL, &owner);
}

/* ---- answers of agents ---------------------------------------------------------------------------------------------- */

static char reply_to[256];

static void on_asked(void *arg, struct bus_msg *msg)
{
    (void)arg;
    (void)snprintf(reply_to, sizeof reply_to, "%s", bus_msg_reply(msg));
    atomic_fetch_add(&n_heard, 1);
    bus_msg_free(msg);
}

/* Another agent that has guessed the number writes under its own name, as the server makes it, and is not believed. */
static void check_forged(void)
{
    struct bus_call how = {.answers = "mst.acme.to._muster.b1", .timeout_ns = 5 * CLOCK_S};
    struct answer a = {0};
    char forged[300];

    (void)subscribe("mst.acme.to.b1._muster.ask", on_asked);
    ask("mst.acme.to.b1._muster.ask", "", how, &a);
    AWAIT(atomic_load(&n_heard) == 1);
    CHECK(strncmp(reply_to, "mst.acme.to._muster.b1.", 23) == 0, "%s", reply_to);
    (void)snprintf(forged, sizeof forged, "mst.acme.to._muster.c1.%s", reply_to + 23);
    send_text(forged, "forged");
    (void)snprintf(forged, sizeof forged, "mst.zeta.to._muster.b1.%s", reply_to + 23);
    send_text(forged, "forged");
    (void)snprintf(forged, sizeof forged, "_INBOX.%s", reply_to + 23);
    send_text(forged, "forged");
    send_text(reply_to, "true");
    send_text(reply_to, "again");
    check_code(&a, 0);
    CHECK(strcmp(a.text, "true") == 0, "%s", a.text);
}

/* ---- links ---------------------------------------------------------------------------------------------------------- */

static void on_count(void *arg, struct bus_msg *msg)
{
    atomic_fetch_add((atomic_int *)arg, 1);
    bus_msg_free(msg);
}

static void check_link(void)
{
    static atomic_int before, meanwhile;
    struct bus_out out = out_of("check.before", "x");
    struct answer open = {0};
    uint64_t id;

    CHECK(bus_subscribe(
              bus, &(struct bus_sub){.subject = "check.before", .fn = on_count, .arg = &before},
              &id) == 0,
          "before");
    (void)subscribe("check.silent", on_silent);
    send_text("check.before", "x");
    AWAIT(atomic_load(&before) == 1);
    ask("check.silent", "", (struct bus_call){.timeout_ns = 60 * CLOCK_S}, &open);
    tell("stop the server");
    AWAIT(!atomic_load(&up[BUS_LIVE]) && !atomic_load(&up[BUS_BULK]));
    check_code(&open, MUSTER_ELINK); /* long before its deadline */
    CHECK(bus_send(bus, BUS_LIVE, &out) == MUSTER_ELINK, "sent into nothing");
    CHECK(bus_send(bus, BUS_BULK, &out) == MUSTER_ELINK, "sent into nothing");
    CHECK(bus_subscribe(
              bus,
              &(struct bus_sub){.subject = "check.meanwhile", .fn = on_count, .arg = &meanwhile},
              &id) == 0,
          "away");
    tell("start the server");
    AWAIT(atomic_load(&up[BUS_LIVE]) && atomic_load(&up[BUS_BULK]));
    send_text("check.before", "x");
    send_text("check.meanwhile", "x");
    AWAIT(atomic_load(&before) == 2 && atomic_load(&meanwhile) == 1);
}

/* A server that stands still: the outbox fills, and who was refused is told of room. */
static void check_full(void)
{
    static char body[10000];
    static atomic_int arrived;
    struct bus_out out = {.subject = "check.full", .payload = {body, sizeof body}, .fence = -1};
    struct bus_counters counters;
    uint64_t id;
    int64_t full_since = 0;
    int n = 0;

    CHECK(bus_subscribe(bus,
                        &(struct bus_sub){.subject = "check.full", .fn = on_count, .arg = &arrived},
                        &id) == 0,
          "full");
    send_text(
        "check.full",
        "x"); /* on the subscription's own link: when it comes, the other link's will come too */
    AWAIT(atomic_load(&arrived) == 1);
    tell("pause the server");
    (void)getchar();
    while (!full_since || clock_now_ns() - full_since <
                              300 * CLOCK_MS) { /* the socket and the library take some first */
        int err = bus_send(bus, BUS_BULK, &out);

        bus_counters(bus, BUS_BULK, &counters);
        CHECK(counters.waiting_msgs <= OUTBOX, "%llu wait",
              (unsigned long long)counters.waiting_msgs);
        CHECK(err == 0 || err == MUSTER_EAGAIN, "code %d", err);
        n += err == 0;
        CHECK(n < 100000, "the outbox has no bound");
        if (!err)
            full_since = 0;
        else if (!full_since)
            full_since = clock_now_ns();
        else
            nap();
    }
    CHECK(bus_is_starved(bus, BUS_BULK), "nobody will be told");
    CHECK(counters.refused_full > 0, "not counted");
    atomic_store(&n_writable, 0);
    tell("resume the server");
    AWAIT(atomic_load(&n_writable) > 0);
    AWAIT(!bus_is_starved(bus, BUS_BULK));
    AWAIT(atomic_load(&arrived) == n + 1); /* what was taken was sent, once */
}

static void check_bounds(void)
{
    static char large[BUS_MAX_BYTES + 1];
    struct muster_header bad = {"X-Bad\r\nOther", "v"}, good = {"X-Check", "a\r\nInjected: b"};
    struct bus_out too_large = {
        .subject = "check.x", .payload = {large, sizeof large}, .fence = -1};
    struct bus_out bad_header = {
        .subject = "check.x", .headers = &bad, .n_headers = 1, .fence = -1};
    struct bus_out odd_value = {
        .subject = "check.asked", .reply = "r", .headers = &good, .n_headers = 1, .fence = -1};

    CHECK(bus_send(bus, BUS_LIVE, &too_large) == MUSTER_EINVAL, "too large");
    CHECK(bus_send(bus, BUS_LIVE, &bad_header) == MUSTER_EINVAL, "header name");
    (void)subscribe("check.asked", on_asked);
    CHECK(bus_send(bus, BUS_LIVE, &odd_value) == 0, "header value");
    AWAIT(atomic_load(&n_heard) == 1);
    CHECK(atomic_load(&up[BUS_LIVE]), "the link is gone");
}

/* Subscriptions that come and go: the last word comes once each, and the next of that subject works. */
static void check_unsubscribe(void)
{
    enum { ROUNDS = 40 };

    for (int i = 0; i < ROUNDS; i++) {
        uint64_t id = subscribe("check.silent", on_silent);
        int heard = atomic_load(&n_heard);

        send_text("check.silent", "x");
        AWAIT(atomic_load(&n_heard) > heard);
        bus_unsubscribe(bus, id);
        bus_unsubscribe(bus, id);
    }
    AWAIT(atomic_load(&n_gone) == ROUNDS);
    (void)subscribe("check.silent", on_silent);
    end();
    CHECK(n_gone == ROUNDS + 1, "%d", n_gone);
    CHECK(n_heard == ROUNDS, "heard %d times: a subscription that was gone still heard", n_heard);
}

/* ---- direct ones ---------------------------------------------------------------------------------------------------- */

enum { FLOOD = 50000 };
static atomic_int n_plain, n_queued, n_elsewhere;

/* On the link's thread: long enough for thousands to come meanwhile, so that those after it are read by the buffer. */
static void hold_up(void)
{
    (void)nanosleep(&(struct timespec){.tv_nsec = 300 * CLOCK_MS}, NULL);
}

static void on_flood(void *arg, struct bus_msg *msg)
{
    struct bus_out out = out_of("check.refusal", "x");

    (void)arg;
    if (atomic_load(&n_heard) == 0)
        hold_up();
    out.answer = true;
    (void)bus_send(bus, BUS_LIVE, &out); /* the counter tells */
    bus_msg_free(msg);
    atomic_fetch_add(&n_heard, 1);
}

static void flood(const char *subject, int n)
{
    char body[100] = "";
    struct bus_out out = {.subject = subject, .payload = {body, sizeof body}, .fence = -1};

    for (int i = 0; i < n; i++)
        while (bus_send(bus, BUS_BULK, &out) != 0)
            nap();
}

static uint64_t subscribe_direct(const char *subject, const char *queue, bus_msg_fn fn, void *arg)
{
    uint64_t id;

    CHECK(bus_subscribe(bus, &(struct bus_sub){.subject = subject, .queue = queue, .direct = true, .fn = fn, .gone = on_gone, .arg = arg}, &id) == 0,
          "%s", subject);
    return id;
}

static void await_subscribed(const char *subject)
{
    atomic_int heard = 0;
    uint64_t id;

    CHECK(bus_subscribe(bus, &(struct bus_sub){.subject = subject, .fn = on_count, .arg = &heard}, &id) == 0, "%s", subject);
    send_text(subject, "x");
    AWAIT(atomic_load(&heard) == 1);
    bus_unsubscribe(bus, id);
}

/* Each message of a flood is answered where it is read, and the answers do not find the outbox full: but few, where the machine is so busy that who
 * empties it gets no turn for long. */
static void check_flood(void)
{
    struct bus_counters counters;

    (void)subscribe_direct("check.flood", NULL, on_flood, NULL);
    await_subscribed("check.ready");
    flood("check.flood", FLOOD);
    AWAIT(atomic_load(&n_heard) == FLOOD);
    bus_counters(bus, BUS_LIVE, &counters);
    CHECK(counters.refused_full < FLOOD / 20, "%llu answers found no room", (unsigned long long)counters.refused_full);
}

static atomic_bool hurries;

static void on_slow(void *arg, struct bus_msg *msg)
{
    (void)arg;
    if (!atomic_load(&hurries))
        (void)nanosleep(&(struct timespec){.tv_nsec = CLOCK_MS / 20}, NULL);
    bus_msg_free(msg);
    atomic_fetch_add(&n_heard, 1);
}

/* More comes than can be heard, for seconds: what else is on the link does not wait for the end of it. */
static void check_behind(void)
{
    static atomic_int other;
    struct bus_counters counters;
    uint64_t id;

    (void)subscribe_direct("check.slow", NULL, on_slow, NULL);
    CHECK(bus_subscribe(bus, &(struct bus_sub){.subject = "check.other", .fn = on_count, .arg = &other}, &id) == 0, "other");
    await_subscribed("check.ready");
    flood("check.slow", 3 * FLOOD);
    flood("check.other", 1);
    AWAIT(atomic_load(&other) == 1);
    CHECK(atomic_load(&n_heard) < 2 * FLOOD, "it came behind %d of the flood", atomic_load(&n_heard));
    bus_counters(bus, BUS_LIVE, &counters);
    CHECK(counters.slow > 0, "what was dropped is not counted");
    CHECK(counters.connects == 1, "the link was given up");
    atomic_store(&hurries, true); /* to the end */
}

static void on_queued(void *arg, struct bus_msg *msg)
{
    (void)arg;
    if (atomic_fetch_add(&n_queued, 1) == 0)
        hold_up();
    if (atomic_load(&n_plain) < atomic_load(&n_queued))
        atomic_fetch_add(&n_elsewhere, 1);
    bus_msg_free(msg);
}

/* The plain one hears a message before that of a group does, whichever was there first; after the last word nothing comes. */
static void check_direct(void)
{
    enum { N = 3000 };
    uint64_t group = subscribe_direct("check.direct", "g", on_queued, NULL), plain = subscribe_direct("check.direct", NULL, on_count, &n_plain);

    await_subscribed("check.ready");
    flood("check.direct", N);
    AWAIT(atomic_load(&n_plain) == N && atomic_load(&n_queued) == N);
    CHECK(atomic_load(&n_elsewhere) == 0, "%d came to the group first", atomic_load(&n_elsewhere));
    bus_unsubscribe(bus, group);
    bus_unsubscribe(bus, plain);
    AWAIT(atomic_load(&n_gone) == 2);
    await_subscribed("check.ready");
    flood("check.direct", 1);
    await_subscribed("check.ready");
    CHECK(atomic_load(&n_plain) == N && atomic_load(&n_queued) == N, "one that was gone still heard");
}

/* ---- JetStream ------------------------------------------------------------------------------------------------------ */

struct result {
    atomic_int n;
    int code;
    struct muster_stream_info info;
    uint64_t seq;
    size_t n_listed;
    char text[200], subject[100], data[64], header[64];
};

static struct js_target target(void)
{
    return (struct js_target){.bus = bus, .lane = lane, .timeout_ns = 5 * CLOCK_S};
}

static void on_info(void *arg, int code, const struct js_info *info)
{
    struct result *r = arg;

    r->code = code;
    r->info = info->state;
    (void)snprintf(r->text, sizeof r->text, "%s", info->text);
    CHECK((code == 0) == (*info->text == '\0'), "code %d with text '%s'", code, info->text);
    atomic_fetch_add(&r->n, 1);
}

static void on_ack(void *arg, int code, uint64_t seq)
{
    struct result *r = arg;

    r->code = code;
    r->seq = seq;
    atomic_fetch_add(&r->n, 1);
}

static void on_msg(void *arg, int code, const struct js_msg *msg)
{
    struct result *r = arg;

    r->code = code;
    CHECK((code == 0) == (msg != NULL), "code %d", code);
    if (msg) {
        r->seq = msg->seq;
        (void)snprintf(r->subject, sizeof r->subject, "%s", msg->subject);
        (void)snprintf(r->data, sizeof r->data, "%.*s", (int)msg->data.len,
                       (const char *)msg->data.data);
        for (uint32_t i = 0; i < msg->n_headers; i++)
            if (strcmp(msg->headers[i].name, "Muster-Lsn") == 0)
                (void)snprintf(r->header, sizeof r->header, "%s", msg->headers[i].value);
    }
    atomic_fetch_add(&r->n, 1);
}

static struct result *wait_for(struct result *r, int code)
{
    AWAIT(atomic_load(&r->n) > 0);
    CHECK(r->code == code, "code %d, expected %d: %s", r->code, code, r->text);
    return r;
}

static const char *const subjects[] = {"mst._in.*.cdc.main.>"};

static struct js_config config_of(const char *name)
{
    return (struct js_config){.name = name,
                              .subjects = subjects,
                              .n_subjects = 1,
                              .republish_src = subjects[0],
                              .republish_dest = "mst.{{wildcard(1)}}.cdc.main.>",
                              .max_age_ns = 3600 * CLOCK_S};
}

static struct result ensure(const struct js_config *config, int code)
{
    struct js_target t = target();
    struct result r = {0};

    CHECK(js_ensure(&t, config, on_info, &r) == 0, "%s", config->name);
    return *wait_for(&r, code);
}

static struct result append(const char *subject, const char *text, int64_t fence, int code)
{
    struct js_target t = target();
    struct muster_header header = {"Muster-Lsn", "0/1/0"};
    struct bus_out out = {.subject = subject,
                          .headers = &header,
                          .n_headers = 1,
                          .payload = {text, strlen(text)},
                          .fence = fence};
    struct result r = {0};

    CHECK(js_append(&t, BUS_BULK, &out, on_ack, &r) == 0, "%s", subject);
    return *wait_for(&r, code);
}

static struct result last(const char *stream, const char *subject, int code)
{
    struct js_target t = target();
    struct result r = {0};

    CHECK(js_last(&t, stream, subject, on_msg, &r) == 0, "%s", subject);
    return *wait_for(&r, code);
}

static struct result info_of(const char *stream, int code)
{
    struct js_target t = target();
    struct result r = {0};

    CHECK(js_get_info(&t, stream, on_info, &r) == 0, "%s", stream);
    return *wait_for(&r, code);
}

static void check_ensure(void)
{
    struct js_config config = config_of("CDC_main"), other = config;
    static const char *const others[] = {"mst._in.*.cdc.other.>"},
                             *const overlapping[] = {"mst._in.*.cdc.main.public.>"};
    struct result r = ensure(&config, 0);
    int64_t created = r.info.created_wall_ns;

    CHECK(r.info.last_seq == 0 && llabs((long long)(clock_wall_ns() - created)) < 60 * CLOCK_S,
          "not new");
    CHECK(ensure(&config, 0).info.created_wall_ns == created, "made twice");
    config.max_age_ns = 7200 * CLOCK_S;
    config.max_msgs_per_subject = 10;
    CHECK(ensure(&config, 0).info.created_wall_ns == created, "an update is no new stream");
    other.subjects = others;
    r = ensure(&other, MUSTER_EEXIST);
    CHECK(strstr(r.text, "CDC_main") && strstr(r.text, "subjects"), "%s", r.text);
    other = config;
    other.no_ack = true;
    CHECK(strstr(ensure(&other, MUSTER_EEXIST).text, "no_ack"), "no_ack");
    other = config;
    other.republish_dest = "mst.other.>";
    CHECK(strstr(ensure(&other, MUSTER_EEXIST).text, "republish"), "republish");
    other = config;
    other.republish_src = other.republish_dest = NULL;
    CHECK(strstr(ensure(&other, MUSTER_EEXIST).text, "republish"), "republish missing");
    other = config_of("CDC_again");
    other.subjects = overlapping;
    other.republish_src = other.republish_dest = NULL;
    (void)ensure(&other, MUSTER_EINVAL); /* the server refuses subjects that overlap */
    other = config_of("CDC_three");
    other.replicas = 3;
    (void)ensure(&other, MUSTER_EINVAL); /* this server is alone */
    (void)info_of("CDC_main", 0);
    (void)info_of("CDC_none", MUSTER_ENOTFOUND);
}

static void check_append(void)
{
    static atomic_int republished;
    struct js_config config = config_of("CDC_main");
    struct result r;
    uint64_t id;

    CHECK(bus_subscribe(
              bus,
              &(struct bus_sub){.subject = "mst.acme.cdc.>", .fn = on_count, .arg = &republished},
              &id) == 0,
          "sub");
    (void)ensure(&config,
                 0); /* asks on the same link: the server knows the subscription when it answers */
    CHECK(append("mst._in.acme.cdc.main.public.orders.insert._", "one", 0, 0).seq == 1, "first");
    CHECK(append("mst._in.zeta.cdc.main.public.orders.insert._", "two", 1, 0).seq == 2, "second");
    CHECK(append("mst._in.acme.cdc.main.public.orders.insert._", "late", 1, MUSTER_ESTALE).seq == 2,
          "the fence tells where it is");
    CHECK(append("mst._in.acme.cdc.main.public.orders.insert._", "early", 9, MUSTER_ESTALE).seq ==
              2,
          "the fence tells where it is");
    CHECK(append("mst._in.acme.cdc.main.public.orders.delete._", "three", -1, 0).seq == 3,
          "unfenced");
    (void)append("mst._in.acme.evt.nobody", "x", -1, MUSTER_ENOTFOUND); /* no stream takes it */
    r = last("CDC_main", ">", 0);
    CHECK(r.seq == 3 && strcmp(r.data, "three") == 0, "%s", r.data);
    r = last("CDC_main", "mst._in.*.cdc.main.public.orders.insert._", 0);
    CHECK(r.seq == 2 && strcmp(r.data, "two") == 0, "%s", r.data);
    r = last("CDC_main", "mst._in.acme.cdc.main.*.*.insert._", 0);
    CHECK(r.seq == 1 && strcmp(r.data, "one") == 0 && strcmp(r.header, "0/1/0") == 0, "%s %s",
          r.data, r.header);
    CHECK(strcmp(r.subject, "mst._in.acme.cdc.main.public.orders.insert._") == 0, "%s", r.subject);
    (void)last("CDC_main", "mst._in.acme.cdc.main.other.>", MUSTER_ENOTFOUND);
    (void)last("CDC_none", ">", MUSTER_ENOTFOUND);
    CHECK(info_of("CDC_main", 0).info.last_seq == 3, "info");
    AWAIT(atomic_load(&republished) == 2); /* what was refused was never heard */
}

static void on_list(void *arg, int code, const struct js_listed *streams, size_t n)
{
    struct result *r = arg;

    r->code = code;
    r->n_listed = n;
    for (size_t i = 0; i < n; i++)
        if (strcmp(streams[i].name, "S_7") == 0)
            CHECK(streams[i].no_ack && streams[i].n_subjects == 1 &&
                      strcmp(streams[i].subjects[0], "s.7") == 0,
                  "S_7");
    atomic_fetch_add(&r->n, 1);
}

/* More streams than the server puts on a page. */
static void check_list(void)
{
    enum { N = 270 };
    struct js_target t = target();
    struct result r = {0};

    for (int i = 0; i < N; i++) {
        char name[16], subject[16];
        const char *list[] = {subject};

        (void)snprintf(name, sizeof name, "S_%d", i);
        (void)snprintf(subject, sizeof subject, "s.%d", i);
        (void)ensure(
            &(struct js_config){
                .name = name, .subjects = list, .n_subjects = 1, .no_ack = i % 2 == 1},
            0);
    }
    CHECK(js_list(&t, on_list, &r) == 0, "list");
    CHECK(wait_for(&r, 0)->n_listed == N, "%zu listed", r.n_listed);
}

/* The server's account has no JetStream: told in words, not waited for. */
static void check_no_jetstream(void)
{
    struct js_config config = config_of("CDC_main");
    struct result r = ensure(&config, MUSTER_ELINK);

    CHECK(strstr(r.text, "JetStream"), "%s", r.text);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } checks[] = {{"requests", check_requests}, {"many", check_many},
                  {"cancel", check_cancel},     {"forged", check_forged},
                  {"link", check_link},         {"full", check_full},
                  {"bounds", check_bounds},     {"unsubscribe", check_unsubscribe},
                  {"ensure", check_ensure},     {"append", check_append},
                  {"list", check_list},         {"no_jetstream", check_no_jetstream},
                  {"direct", check_direct},     {"flood", check_flood},
                  {"behind", check_behind}};

    if (argc != 3)
        return 2;
    url = argv[2];
    for (size_t i = 0; i < sizeof checks / sizeof *checks; i++) {
        if (strcmp(checks[i].name, argv[1]) != 0)
            continue;
        if (checks[i].run == check_flood)
            outbox = FLOOD_OUTBOX;
        start();
        checks[i].run();
        if (checks[i].run != check_unsubscribe) /* which ends by itself */
            end();
        return 0;
    }
    return 2;
}
