/* What the tests of `muster plugin check` send to a plugin; see plugin_check.h. In the child. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/name.h"
#include "cli/plugin_check.h"
#include "wire/subject.h"

enum { N_STEPS = 24 };
static const int64_t step_ns = 5 * MUSTER_TEST_S;

const char *check_code(int code)
{
    static const char *const words[] = {"0", "MUSTER_EINVAL", "MUSTER_ENOMEM", "MUSTER_EAGAIN", "MUSTER_EACCES", "MUSTER_ETIME",
                                        "MUSTER_EABI", "MUSTER_ESTALE", "MUSTER_ENOTFOUND", "MUSTER_EEXIST", "MUSTER_ELINK"};

    return code <= 0 && -code < (int)(sizeof words / sizeof *words) ? words[-code] : "another code";
}

/* ---- hosts --------------------------------------------------------------------------------------------------------------------- */

static void on_failure(void *arg, const char *text)
{
    (void)arg;
    check_failed("%s", text);
}

struct muster_test *check_new(struct plugin_check *c, const struct check_how *how)
{
    struct muster_test_options options = {.size = sizeof options, .file = c->file, .config = c->config, .tenants = "acme zeta"};
    struct muster_test *t;

    if (how) {
        options.flags = how->flags;
        options.lane = how->lane;
        options.n_lanes = how->n_lanes;
        options.instance = how->instance;
    }
    t = muster_test_new(&options);
    if (!t)
        abort(); /* no memory: the parent sees how it ended */
    c->t = t;
    for (size_t i = 0; i < muster_test_failures(t); i++)
        check_failed("%s", muster_test_failure(t, i));
    muster_test_forgive(t);
    muster_test_on_failure(t, on_failure, NULL);
    return t;
}

/* A question is answered, now one way, now the other. */
static int answer(void *arg, const struct muster_test_sent *asked, const char **ret_json)
{
    static const int codes[] = {0, 0, MUSTER_ENOTFOUND, MUSTER_ETIME};
    static uint32_t n;

    (void)arg;
    (void)asked;
    *ret_json = "{}";
    return codes[n++ % (sizeof codes / sizeof *codes)];
}

struct muster_test *check_begin(struct plugin_check *c)
{
    struct muster_test *t = check_new(c, NULL);
    int err = muster_test_create(t);

    if (!err)
        err = muster_test_start(t);
    if (err) {
        check_failed("it does not start (%d): %s", err, muster_test_reason(t));
        check_end(c, t);
        return NULL;
    }
    muster_test_answer_by(t, ">", answer, NULL);
    (void)muster_test_lease_give(t, NULL); /* MUSTER_ENOTFOUND: it has none */
    return t;
}

void check_end(struct plugin_check *c, struct muster_test *t)
{
    muster_test_destroy(t);
    (void)muster_test_free(t); /* its failures have been told */
    c->t = NULL;
}

void check_settle(struct muster_test *t, const char *when)
{
    size_t open;

    muster_test_no_faults(t);
    muster_test_link(t, 1);
    muster_test_pressure(t, 0);
    muster_test_writable(t);
    for (int i = 0; i < N_STEPS && muster_test_n_open(t); i++) {
        (void)muster_test_wait(t, NULL, NULL, i ? 40 : 0); /* for threads of the plugin */
        (void)muster_test_lease_give(t, NULL);
        muster_test_advance(t, step_ns);
    }
    open = muster_test_n_open(t);
    if (open)
        check_failed("%zu request%s not answered within 2 min %s", open, open > 1 ? "s are" : " is", when);
}

/* ---- what is sent -------------------------------------------------------------------------------------------------------------- */

static size_t next_word(const char **list)
{
    *list += strspn(*list, " ");
    return strcspn(*list, " ");
}

bool check_verb_at(struct muster_test *t, size_t i, struct check_verb *out)
{
    const struct muster_plugin *p = muster_test_plugin(t);
    const char *at = (const char *)p->services;

    for (uint32_t s = 0; s < p->n_services; s++, at += p->service_size) {
        const struct muster_service *service = (const struct muster_service *)(const void *)at;
        const char *list = service->verbs ? service->verbs : "";

        for (size_t len; (len = next_word(&list)); list += len) {
            if (i--)
                continue;
            (void)snprintf(out->service, sizeof out->service, "%s", service->name);
            (void)snprintf(out->verb, sizeof out->verb, "%.*s", (int)len, list);
            out->defined = service->schema;
            return true;
        }
    }
    return false;
}

/* "rpc.*.echo.>" with tokens in the places of wildcards; as many for a '>' as make it a subject of the wire. */
bool check_subject_for(const char *pattern, uint64_t seed, char out[256])
{
    char head[200] = "", full[300];
    bool open = false;

    for (const char *at = pattern; *at && strlen(head) < sizeof head - 70;) {
        size_t len = strcspn(at, "."), n = strlen(head);

        if (len == 1 && *at == '>')
            open = true;
        else if (len == 1 && *at == '*')
            (void)snprintf(head + n, sizeof head - n, "%s%s%llu", n ? "." : "", "a", (unsigned long long)seed % 3);
        else
            (void)snprintf(head + n, sizeof head - n, "%s%.*s", n ? "." : "", (int)len, at);
        at += len + (at[len] == '.');
    }
    for (int tails = 0; tails < 6; tails++) {
        struct subject s;

        (void)snprintf(out, 256, "%s%.*s", head, open ? 2 * tails : 0, ".x.x.x.x.x.x");
        (void)snprintf(full, sizeof full, "mst.acme.%s", out);
        if (subject_match(pattern, out) && subject_parse("mst", full, strlen(full), &s) == 0)
            return true;
        if (!open)
            break;
    }
    return false;
}

static void send(struct muster_test *t, const char *subject, uint32_t encoding, struct muster_bytes body, uint64_t seed)
{
    const struct muster_test_message msg = {.size = sizeof msg,
                                            .encoding = encoding,
                                            .tenant = seed & 4 ? "zeta" : "acme",
                                            .subject = subject,
                                            .role = strncmp(subject, "rpc.", 4) == 0 ? MUSTER_ROLE_OPERATOR : 0, /* who may all */
                                            .asks = (seed & 24) != 0 && strncmp(subject, "rpc.", 4) == 0,
                                            .payload = body};

    (void)muster_test_send(t, &msg);
}

static struct muster_bytes text(const char *s)
{
    return (struct muster_bytes){s, strlen(s)};
}

/* To verbs without a definition, and to subscriptions: any body may come. */
static struct muster_bytes raw_body(uint64_t seed, int broken)
{
    static const char *const good[] = {"{}", "{\"text\": \"hello\", \"n\": 1, \"key\": \"k\", \"list\": [1, 2.5, null, true]}",
                                       "{\"id\": \"6\", \"name\": \"\\u00e9\\ud83d\\ude00\"}"};
    static const char *const bad[] = {"{",    "[]",    "null", "{\"a\": 1, \"a\": 2}",      "\xff\xfe", "{\"a\": 1e999}", "0",
                                      "{\"\":", "\"x\"", "  ",   "{\"a\": [[[[[[[[[[[[[[[[[[]", "\x81\xa1k"};

    return broken ? text(bad[seed % (sizeof bad / sizeof *bad)]) : text(good[seed % (sizeof good / sizeof *good)]);
}

void check_traffic(struct muster_test *t, uint64_t seed, int broken)
{
    uint32_t encoding = seed & 1 ? MUSTER_MSGPACK : MUSTER_JSON;
    struct check_verb v;
    char subject[256];

    for (size_t i = 0; check_verb_at(t, i, &v); i++) {
        struct muster_bytes body = v.defined ? muster_test_body(t, v.service, v.verb, encoding, seed + i, broken) : raw_body(seed + i, broken);

        (void)snprintf(subject, sizeof subject, "rpc.a%llu.%s.%s", (unsigned long long)seed % 3, v.service, v.verb);
        send(t, subject, v.defined ? encoding : MUSTER_JSON, body, seed | 8);
    }
    for (size_t i = 0; muster_test_subscription(t, i); i++)
        if (check_subject_for(muster_test_subscription(t, i), seed + i, subject))
            send(t, subject, MUSTER_JSON, raw_body(seed + i, broken), seed);
}
