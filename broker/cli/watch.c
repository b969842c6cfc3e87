/*
 * muster watch - row changes and events while they happen.
 *
 * Messages arrive on a thread of the NATS library, which puts them on a bounded queue; the main
 * thread alone prints. It sleeps in poll(2) on an eventfd that every message raises, so that a line
 * follows its message at once. A queue that is full drops, and says so in its place: whoever cannot
 * print fast enough must not stop the connection.
 */
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/name.h"
#include "cli/cli.h"
#include "cli/database.h"
#include "cli/session.h"
#include "cli/table_name.h"
#include "cli/term.h"
#include "cli/watch.h"
#include "cli/watch_line.h"
#include "config/config.h"
#include "config/scalar.h"

static const int64_t timeout_max_ns = INT64_C(365) * 86400 * CLOCK_S;

enum {
    TABLES_MAX = 64, /* each is a subscription of its own */
    /* What may wait for a terminal that is slower than the fleet: some seconds of a busy
     * installation. */
    QUEUE_MSGS = 65536,
    QUEUE_BYTES = 64 << 20,
    HEADERS_MAX = 64, /* of a message; the broker's own have a dozen */
    SUBJECT_SIZE = 256,
    REASON_SHOWN = 256,
    ON = -1, /* no exit code yet */
};
enum { WATCH_CDC = 1, WATCH_EVT = 2 };

struct args {
    const char *command; /* as it was called */
    const char *service; /* its events alone; NULL: what kinds says */
    unsigned int kinds;  /* WATCH_... */
    const char *tenant;
    struct table_name tables[TABLES_MAX];
    size_t n_tables;
    bool json;
    int64_t count;       /* 0: no end */
    int64_t timeout_ns;  /* 0: none */
    const char *timeout; /* as it was written */
};

/* One thing to print. */
struct item {
    struct item *next;
    struct bus_msg *msg; /* NULL: the link came up or went away */
    bool up;
    char reason[];
};

struct watch {
    struct args args;
    struct watch_style style;
    struct session *session;
    struct channels channels;
    char subjects[TABLES_MAX + 1][SUBJECT_SIZE];
    size_t n_subjects;
    int64_t printed, deadline_ns;
    bool was_up, is_down; /* what was said of the link */
    int wake_fd, signal_fd;

    pthread_mutex_t lock; /* guards the queue */
    struct item *head, **tail;
    size_t n, n_bytes;
    uint64_t dropped;
    bool closed; /* nobody prints any more */
};

/* ---- arguments ---- */

/* Names are read as `muster publish` reads them, so that what was published by a name is found by
 * it. */
static int take_table(struct args *a, const char *text)
{
    struct table_name *name = &a->tables[a->n_tables];
    const char *expected;

    if (a->n_tables == TABLES_MAX)
        return cli_fail(CLI_USAGE, a->command,
                        "--table came more than %d times; leave it out to watch all", TABLES_MAX);
    expected = table_name_parse(text, name);
    if (expected)
        return cli_fail(CLI_USAGE, a->command, "--table: %s came, %s was expected", text, expected);
    for (size_t i = 0; i < a->n_tables; i++)
        if (strcmp(a->tables[i].schema, name->schema) == 0 &&
            strcmp(a->tables[i].table, name->table) == 0)
            return CLI_DONE; /* named twice: heard once */
    a->n_tables++;
    return CLI_DONE;
}

static int take_option(struct args *a, int option, const char *value)
{
    bool over;

    switch (option) {
    case 't':
        a->tenant = value;
        return name_is_public(value, strlen(value))
                   ? CLI_DONE
                   : cli_fail(CLI_USAGE, a->command,
                              "--tenant: %s came, a name [A-Za-z0-9_-]{1,64} without _ in front "
                              "was expected",
                              value);
    case 'T':
        return take_table(a, value);
    case 'n':
        if (scalar_int(value, &a->count, &over) && a->count > 0)
            return CLI_DONE;
        return cli_fail(CLI_USAGE, a->command, "--count: %s came, a whole number above 0 was expected",
                        value);
    case 'd':
        a->timeout = value;
        if (scalar_duration(value, &a->timeout_ns, &over) && a->timeout_ns > 0 &&
            a->timeout_ns <= timeout_max_ns)
            return CLI_DONE;
        return cli_fail(
            CLI_USAGE, a->command,
            "--timeout: %s came, a time of at most 365d such as 500ms, 5s or 2m was expected",
            value);
    default:
        a->json = true;
        return CLI_DONE;
    }
}

/* Who names tables and nothing else wants to see them alone. */
static int take_kind(struct args *a, const char *kind)
{
    if (a->service)
        return !kind && !a->n_tables ? CLI_DONE
                                     : cli_fail(CLI_USAGE, a->command, "watch: %s came, which it does not take", kind ? kind : "--table");
    if (!kind)
        a->kinds = a->n_tables ? WATCH_CDC : WATCH_CDC | WATCH_EVT;
    else if (strcmp(kind, "cdc") == 0)
        a->kinds = WATCH_CDC;
    else if (strcmp(kind, "evt") == 0)
        a->kinds = WATCH_EVT;
    else if (strcmp(kind, "all") == 0)
        a->kinds = WATCH_CDC | WATCH_EVT;
    else
        return cli_fail(CLI_USAGE, a->command, "%s came, cdc, evt or all was expected", kind);
    if (a->n_tables && !(a->kinds & WATCH_CDC))
        return cli_fail(CLI_USAGE, a->command,
                        "--table came with evt; events have no table, cdc or all was expected");
    return CLI_DONE;
}

static int parse_args(int argc, char **argv, struct args *a)
{
    static const struct option options[] = {
        {"tenant", required_argument, NULL, 't'},  {"table", required_argument, NULL, 'T'},
        {"json", no_argument, NULL, 'j'},          {"count", required_argument, NULL, 'n'},
        {"timeout", required_argument, NULL, 'd'}, {0}};
    int c, code;

    optind = 0; /* as the first call of this process */
    opterr = 0;
    while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
        if (c == '?' || c == ':')
            return cli_fail(CLI_USAGE, a->command, "%s%s; see muster %s --help", argv[optind - 1],
                            c == ':' ? " came without its value" : " came, which it does not take", a->command);
        code = take_option(a, c, optarg);
        if (code != CLI_DONE)
            return code;
    }
    if (argc - optind > 1)
        return cli_fail(CLI_USAGE, a->command,
                        "%s came behind %s, one of cdc, evt and all was expected", argv[optind + 1],
                        argv[optind]);
    return take_kind(a, argv[optind]);
}

/* ---- what to hear ---- */

static void add_subject(struct watch *w, const char *rest)
{
    (void)snprintf(w->subjects[w->n_subjects++], SUBJECT_SIZE, "%s.%s.%s", w->style.root,
                   w->args.tenant ? w->args.tenant : "*",
                   rest); /* fits: names of at most 64 bytes */
}

/* The source is any: two instances of cdc may publish the same table. A name that is no legal token
 * is in the subject in its short form (INTERFACE 1). */
static void make_subjects(struct watch *w)
{
    char schema[NAME_TOKEN_SIZE], table[NAME_TOKEN_SIZE], rest[2 * NAME_TOKEN_SIZE + 16];

    for (size_t i = 0; i < w->args.n_tables; i++) {
        const struct table_name *name = &w->args.tables[i];

        (void)name_token(name->schema, strlen(name->schema), schema);
        (void)name_token(name->table, strlen(name->table), table);
        (void)snprintf(rest, sizeof rest, "cdc.*.%s.%s.>", schema, table);
        add_subject(w, rest);
    }
    if ((w->args.kinds & WATCH_CDC) && !w->args.n_tables)
        add_subject(w, "cdc.>");
    if (w->args.kinds & WATCH_EVT)
        add_subject(w, "evt.>");
    if (w->args.service) {
        (void)snprintf(rest, sizeof rest, "evt.%s.>", w->args.service);
        add_subject(w, rest);
    }
}

/* ---- the queue ---- */

static void free_items(struct item *item)
{
    while (item) {
        struct item *next = item->next;

        if (item->msg)
            bus_msg_free(item->msg);
        free(item);
        item = next;
    }
}

/* Append an item; one that does not fit is freed and counted. Any thread. */
static void push(struct watch *w, struct item *item, size_t n_bytes)
{
    const uint64_t one = 1;

    pthread_mutex_lock(&w->lock);
    if (item && !w->closed && w->n < QUEUE_MSGS && w->n_bytes + n_bytes <= QUEUE_BYTES) {
        *w->tail = item;
        w->tail = &item->next;
        w->n++;
        w->n_bytes += n_bytes;
        item = NULL;
    } else {
        w->dropped++;
    }
    pthread_mutex_unlock(&w->lock);
    free_items(item);
    (void)!write(w->wake_fd, &one,
                 sizeof one); /* non-blocking: fails only when it is raised already */
}

/* On a thread of the NATS library. */
static void on_msg(void *arg, struct bus_msg *msg)
{
    struct item *item = calloc(1, sizeof *item);

    if (item)
        item->msg = msg;
    else
        bus_msg_free(msg);
    push(arg, item, item ? bus_msg_data(msg).len : 0);
}

/* On the link's thread. */
static void on_link(void *arg, bool up, const char *reason)
{
    size_t size = strlen(reason) + 1;
    struct item *item = calloc(1, sizeof *item + size);

    if (item) {
        item->up = up;
        memcpy(item->reason, reason, size);
    }
    push(arg, item, 0);
}

/* The eventfd is lowered first: what is pushed between the two raises it again, at worst for
 * nothing. */
static struct item *take_all(struct watch *w, uint64_t *ret_dropped)
{
    struct item *items;
    uint64_t raised;

    (void)!read(w->wake_fd, &raised, sizeof raised); /* non-blocking; only lowers it */
    pthread_mutex_lock(&w->lock);
    items = w->head;
    w->head = NULL;
    w->tail = &w->head;
    w->n = w->n_bytes = 0;
    *ret_dropped = w->dropped;
    w->dropped = 0;
    pthread_mutex_unlock(&w->lock);
    return items;
}

/* ---- printing ---- */

/* Straight to the descriptor: a line is out when this returns. Who reads no more (head, less) ends
 * the watch in peace. */
static int put_out(const struct watch *w, const struct buf *out)
{
    for (size_t at = 0; at < out->len;) {
        ssize_t n = write(STDOUT_FILENO, out->data + at, out->len - at);

        if (n < 0 && errno == EPIPE)
            return CLI_DONE;
        if (n < 0 && errno != EINTR)
            return cli_fail(CLI_FAILED, w->args.command, "the output could not be written: %s",
                            strerror(errno));
        at += n > 0 ? (size_t)n : 0;
    }
    return ON;
}

/* A notice of a gap and the line behind it go out together. ON, or the exit code. */
static int print_msg(struct watch *w, const struct bus_msg *msg)
{
    struct muster_header headers[HEADERS_MAX];
    struct heard h = {
        .subject = bus_msg_subject(msg), .headers = headers, .data = bus_msg_data(msg)};
    struct buf out = {0};
    int code;

    h.n_headers = bus_msg_headers(msg, headers, HEADERS_MAX);
    if (!heard_is_shown(&w->style, &h))
        return ON;
    channels_check(&w->channels, &w->style, &h, &out);
    heard_print(&out, &w->style, &h);
    code = buf_failed(&out) ? cli_fail(CLI_FAILED, w->args.command, "no memory for a line") : put_out(w, &out);
    buf_done(&out);
    w->printed++;
    return code == ON && w->args.count && w->printed == w->args.count ? CLI_DONE : code;
}

static int print_dropped(const struct watch *w, uint64_t n)
{
    struct buf out = {0};
    int code;

    if (!n)
        return ON;
    notice_dropped(&out, &w->style, n);
    code = put_out(w, &out);
    buf_done(&out);
    return code;
}

/* ---- the link ---- */

/* The server has read everything that was sent before the question: the subscriptions hold. */
static void on_ready(void *arg, int code, const struct bus_msg *msg)
{
    const struct watch *w = arg;
    struct buf line = {0};

    (void)msg;
    if (code == MUSTER_ELINK)
        return; /* the next connection asks again */
    buf_put_lit(&line, "watching");
    for (size_t i = 0; i < w->n_subjects; i++)
        buf_printf(&line, " %s", w->subjects[i]);
    buf_put_lit(&line, "; Ctrl-C ends it\n");
    fputs(line.data ? line.data : "", stderr);
    buf_done(&line);
}

/* "watching" is said only when it is true: scripts wait for it before they write to the database.
 * */
static void ask_ready(struct watch *w)
{
    char subject[SUBJECT_SIZE];
    const struct bus_out out = {.subject = subject, .fence = -1};
    const struct bus_call call = {.lane = session_lane(w->session),
                                  .owner = w,
                                  .timeout_ns = CLOCK_S,
                                  .fn = on_ready,
                                  .arg = w};
    char uuid[CLOCK_UUID_SIZE];

    clock_uuid7(uuid);
    (void)snprintf(subject, sizeof subject, "_INBOX.%s",
                   uuid); /* nobody listens: the server itself answers */
    (void)bus_request(session_bus(w->session), BUS_LIVE, &out,
                      &call); /* fails when the link is down again, which is told */
}

/* On stderr, so that the lines of stdout are messages and notices of their positions alone. */
static void tell_link(struct watch *w, const struct item *item)
{
    struct buf clean = {0};

    if (item->up) {
        if (w->was_up)
            fputs("NATS is back; what was said meanwhile was not heard\n", stderr);
        w->was_up = true;
        w->is_down = false;
        ask_ready(w);
        return;
    }
    if (w->is_down)
        return; /* said once, whatever other reasons follow */
    w->is_down = true;
    term_put(&clean, item->reason, strlen(item->reason), REASON_SHOWN);
    fprintf(stderr, "NATS is away (%s); trying again\n", clean.data ? clean.data : "");
    buf_done(&clean);
}

/* ---- the loop ---- */

/* Everything that has come, in its order; link changes stand between the messages where they
 * happened. */
static int print_queue(struct watch *w)
{
    uint64_t dropped;
    struct item *items = take_all(w, &dropped);
    int code = ON;

    for (struct item *item = items; item && code == ON; item = item->next) {
        if (item->msg)
            code = print_msg(w, item->msg);
        else
            tell_link(w, item);
    }
    free_items(items);
    return code == ON ? print_dropped(w, dropped)
                      : code; /* they came last, when the queue was full */
}

/* Without a count the time itself was what was asked for. */
static int timed_out(const struct watch *w)
{
    if (!w->was_up)
        return cli_fail(CLI_FAILED, w->args.command,
                        "NATS could not be reached within %s; see muster doctor", w->args.timeout);
    if (w->args.count)
        return cli_fail(CLI_FAILED, w->args.command, "%lld of %lld messages came within %s",
                        (long long)w->printed, (long long)w->args.count, w->args.timeout);
    return CLI_DONE;
}

/* A wait is rounded up to the next millisecond: rounded down it would spin through the last one. */
static int loop(struct watch *w)
{
    struct pollfd fds[] = {{.fd = w->signal_fd, .events = POLLIN},
                           {.fd = w->wake_fd, .events = POLLIN}};
    int code = ON;

    while (code == ON) {
        int64_t left_ns = w->deadline_ns - clock_now_ns();
        int wait_ms = left_ns > INT32_MAX * CLOCK_MS ? INT32_MAX : (int)(left_ns / CLOCK_MS) + 1;

        if (w->deadline_ns && left_ns <= 0)
            return timed_out(w);
        (void)poll(fds, 2,
                   w->deadline_ns ? wait_ms
                                  : -1); /* EINTR: no descriptor is marked, and it polls again */
        if (fds[0].revents)
            return CLI_DONE;
        if (fds[1].revents)
            code = print_queue(w);
    }
    return code;
}

/* ---- life ---- */

/* Blocked before any thread starts, so that the signals end in the descriptor. */
static int open_fds(struct watch *w)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    (void)pthread_sigmask(SIG_BLOCK, &set, NULL); /* cannot fail with these arguments */
    w->signal_fd = signalfd(-1, &set, SFD_CLOEXEC);
    w->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (w->signal_fd >= 0 && w->wake_fd >= 0)
        return CLI_DONE;
    return cli_fail(CLI_FAILED, w->args.command, "signals: %s", strerror(errno));
}

/* Before the link is up or after, that is the bus's business; it subscribes again after each loss.
 * */
static int subscribe(struct watch *w)
{
    uint64_t id;

    for (size_t i = 0; i < w->n_subjects; i++) {
        const struct bus_sub how = {.subject = w->subjects[i], .fn = on_msg, .arg = w};

        if (bus_subscribe(session_bus(w->session), &how, &id) != 0)
            return cli_fail(CLI_FAILED, w->args.command, "no memory for a subscription");
    }
    return CLI_DONE;
}

static int run(struct watch *w, const struct config *config)
{
    const struct session_options options = {
        .config = config, .name = w->args.command, .on_link = on_link, .arg = w};
    char why[SESSION_WHY_SIZE];
    int code = open_fds(w);

    if (code != CLI_DONE)
        return code;
    if (session_open(&options, &w->session, why) != CLI_DONE)
        return cli_fail(CLI_FAILED, w->args.command, "%s", why);
    code = subscribe(w);
    return code == CLI_DONE ? loop(w) : code;
}

/* What is queued goes while the library is there whose messages they are; what still comes is freed
 * by push(). */
static void watch_done(struct watch *w)
{
    uint64_t dropped;

    pthread_mutex_lock(&w->lock);
    w->closed = true;
    pthread_mutex_unlock(&w->lock);
    free_items(take_all(w, &dropped));
    session_close(w->session);
    channels_done(&w->channels);
    if (w->wake_fd >= 0)
        (void)close(w->wake_fd);
    if (w->signal_fd >= 0)
        (void)close(w->signal_fd);
    (void)pthread_mutex_destroy(&w->lock);
    free(w);
}

static int watch(const struct cli *cli, const struct args *fixed, int argc, char **argv)
{
    struct watch *w = calloc(1, sizeof *w);
    int code;

    if (!w)
        return cli_fail(CLI_FAILED, fixed->command, "no memory");
    w->args = *fixed;
    ASSERT(pthread_mutex_init(&w->lock, NULL) == 0);
    w->tail = &w->head;
    w->wake_fd = w->signal_fd = -1;
    code = parse_args(argc, argv, &w->args);
    if (code == CLI_DONE && w->args.tenant)
        code = database_check_tenant(cli, w->args.command, w->args.tenant); /* a slip of the finger would wait for ever */
    if (code == CLI_DONE) {
        w->style = (struct watch_style){cli->config->broker.root, w->args.json,
                                        term_has_colours(STDOUT_FILENO)};
        w->deadline_ns = w->args.timeout_ns ? clock_now_ns() + w->args.timeout_ns : 0;
        make_subjects(w);
        code = run(w, cli->config);
    }
    watch_done(w);
    return code;
}

int cmd_watch(const struct cli *cli, int argc, char **argv)
{
    return watch(cli, &(struct args){.command = "watch"}, argc, argv);
}

int watch_service(const struct cli *cli, const char *command, const char *service, int argc, char **argv)
{
    return watch(cli, &(struct args){.command = command, .service = service}, argc, argv);
}
