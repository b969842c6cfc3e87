/*
 * keeper - muster.roster/1 behind verbs, also of the kind that keeps it. keeper.put {agent, session?, kind?, status?, suspect?,
 * capabilities[]?, label?}, fill {n}, remove {agent, reason?}, clear {}; find {capabilities[]?, label?, status?, limit?, after?}, get {agent},
 * count {}; watched {} tells the changes so far, one a line, and how many resets there were; sleep {file}:
 * its lane makes that file, and stands still until somebody has removed it.
 */
#include <muster/plugin.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef KEEPER_NAME
#define KEEPER_NAME "keeper"
#define KEEPER_CAPABILITIES "presence"
#endif

enum { MAX_LISTED = 8, SHOWN = 32768, NAPS = 3000 };

/* An answer being written: names with blanks between, or lines. */
struct text {
    char s[SHOWN];
    size_t len;
    uint64_t last;
};

struct keeper {
    const struct muster_host *host;
    const struct muster_bus *bus;
    const struct muster_codec *codec;
    const struct muster_roster *roster;
    char told[SHOWN]; /* the changes, one a line */
    size_t n_told;
    int64_t n_resets;
    struct text text;
};

static void add(struct text *t, const char *s)
{
    t->len += (size_t)snprintf(t->s + t->len, sizeof t->s - t->len, "%s ", s);
    if (t->len >= sizeof t->s)
        t->len = sizeof t->s - 1;
}

static int answer(struct keeper *k, const struct muster_msg *msg, int64_t code, const struct text *t)
{
    struct muster_bytes body;
    struct muster_writer *w;
    int err = k->codec->writer_new(k->host, msg->encoding, &w);

    if (err)
        return err;
    k->codec->put_map(w, 3);
    k->codec->put_str(w, "code", 4);
    k->codec->put_int(w, code);
    k->codec->put_str(w, "text", 4);
    k->codec->put_str(w, t ? t->s : "", t ? t->len : 0);
    k->codec->put_str(w, "last", 4);
    k->codec->put_int(w, t ? (int64_t)t->last : 0);
    err = k->codec->bytes(w, &body);
    if (!err)
        err = k->bus->reply(k->host, msg->request, body);
    k->codec->writer_free(w);
    return err;
}

/* ---- what is asked ---- */

static const char *text_in(const struct keeper *k, const struct muster_value *args, const char *key, const char *otherwise)
{
    const struct muster_value *v = k->codec->get(args, key);

    return v && k->codec->type(v) == MUSTER_STR ? k->codec->as_str(v, NULL) : otherwise;
}

static int64_t int_in(const struct keeper *k, const struct muster_value *args, const char *key, int64_t otherwise)
{
    const struct muster_value *v = k->codec->get(args, key);

    return v ? k->codec->as_int(v) : otherwise;
}

static uint32_t list_in(const struct keeper *k, const struct muster_value *args, const char *out[MAX_LISTED])
{
    const struct muster_value *v = k->codec->get(args, "capabilities");
    uint32_t n = 0;

    for (size_t i = 0; v && i < k->codec->count(v) && n < MAX_LISTED; i++)
        out[n++] = k->codec->as_str(k->codec->at(v, i), NULL);
    return n;
}

static int put(struct keeper *k, const struct muster_msg *msg, const struct muster_value *args)
{
    const char *capabilities[MAX_LISTED], *label = text_in(k, args, "label", NULL);
    const struct muster_header labels[] = {{"zone", label}};
    const struct muster_agent agent = {.size = sizeof agent,
                                       .status = (uint32_t)int_in(k, args, "status", MUSTER_AGENT_ONLINE),
                                       .flags = int_in(k, args, "suspect", 0) ? MUSTER_AGENT_SUSPECT : 0,
                                       .capacity = 1,
                                       .load = NAN,
                                       .agent = text_in(k, args, "agent", NULL),
                                       .session = text_in(k, args, "session", "s1"),
                                       .capabilities = capabilities,
                                       .n_capabilities = list_in(k, args, capabilities),
                                       .labels = labels,
                                       .n_labels = label != NULL};

    return k->roster->put(k->host, msg->tenant, (uint32_t)int_in(k, args, "kind", MUSTER_ROSTER_JOIN), text_in(k, args, "reason", NULL), &agent);
}

static int fill(struct keeper *k, const struct muster_msg *msg, int64_t n)
{
    char name[24];
    const struct muster_agent agent = {.size = sizeof agent, .status = MUSTER_AGENT_ONLINE, .agent = name, .session = "s1"};
    int err = 0;

    for (int64_t i = 0; i < n && !err; i++) {
        (void)snprintf(name, sizeof name, "n%lld", (long long)i);
        err = k->roster->put(k->host, msg->tenant, MUSTER_ROSTER_JOIN, NULL, &agent);
    }
    return err;
}

static int show(void *arg, const struct muster_agent *agent)
{
    struct text *t = arg;

    add(t, agent->agent);
    t->last = agent->serial;
    return 0;
}

static int64_t find(struct keeper *k, const struct muster_msg *msg, const struct muster_value *args, struct text *t)
{
    const char *capabilities[MAX_LISTED], *label = text_in(k, args, "label", NULL);
    const struct muster_header labels[] = {{"zone", label}};
    const struct muster_roster_query query = {.size = sizeof query,
                                              .statuses = (uint32_t)int_in(k, args, "statuses", 0),
                                              .n_capabilities = list_in(k, args, capabilities),
                                              .n_labels = label != NULL,
                                              .limit = (uint32_t)int_in(k, args, "limit", 0),
                                              .capabilities = capabilities,
                                              .labels = labels,
                                              .after = (uint64_t)int_in(k, args, "after", 0)};

    return k->roster->find(k->host, msg->tenant, &query, show, t);
}

static int64_t count(struct keeper *k, const struct muster_msg *msg, struct text *t)
{
    int64_t by[4], n = k->roster->count(k->host, msg->tenant, by);

    t->len = (size_t)snprintf(t->s, sizeof t->s, "%lld suspect, %lld online, %lld busy, %lld away", (long long)by[0], (long long)by[1],
                              (long long)by[2], (long long)by[3]);
    return n;
}

static int64_t stand_still(const char *path)
{
    FILE *file = fopen(path, "w");

    if (!file || fclose(file) != 0)
        return MUSTER_EINVAL;
    for (int left = NAPS; access(path, F_OK) == 0; left--) {
        if (!left)
            return MUSTER_ETIME;
        (void)usleep(10000); /* an early end is no matter */
    }
    return 0;
}

static int on_verb(void *self, const struct muster_msg *msg)
{
    struct keeper *k = self;
    struct text *t = &k->text;
    struct muster_value *args;
    int64_t code = MUSTER_EINVAL;
    int err = k->codec->decode(k->host, msg->encoding, msg->payload, &args);

    if (err)
        return err;
    t->len = 0;
    t->last = 0;
    t->s[0] = '\0';
    if (strcmp(msg->verb, "put") == 0)
        code = put(k, msg, args);
    else if (strcmp(msg->verb, "fill") == 0)
        code = fill(k, msg, int_in(k, args, "n", 0));
    else if (strcmp(msg->verb, "remove") == 0)
        code = k->roster->remove(k->host, msg->tenant, text_in(k, args, "agent", ""), text_in(k, args, "reason", NULL));
    else if (strcmp(msg->verb, "clear") == 0)
        code = k->roster->clear(k->host, msg->tenant);
    else if (strcmp(msg->verb, "find") == 0)
        code = find(k, msg, args, t);
    else if (strcmp(msg->verb, "get") == 0)
        code = k->roster->get(k->host, msg->tenant, text_in(k, args, "agent", ""), show, t);
    else if (strcmp(msg->verb, "count") == 0)
        code = count(k, msg, t);
    else if (strcmp(msg->verb, "sleep") == 0)
        code = stand_still(text_in(k, args, "file", ""));
    k->codec->free_doc(args);
    if (strcmp(msg->verb, "watched") == 0) {
        t->len = (size_t)snprintf(t->s, sizeof t->s, "%s", k->told);
        code = k->n_resets;
    }
    return msg->request ? answer(k, msg, code, t) : 0;
}

/* ---- life ---- */

static void on_change(void *arg, const struct muster_roster_change *c)
{
    static const char *const kinds[] = {"", "join", "leave", "status", "suspect", "replaced", "reset"};
    struct keeper *k = arg;

    k->n_resets += c->kind == MUSTER_ROSTER_RESET;
    k->n_told += (size_t)snprintf(k->told + k->n_told, sizeof k->told - k->n_told, "%s %s %s %s\n", kinds[c->kind], c->agent ? c->agent : "-",
                                  c->session ? c->session : "-", c->reason ? c->reason : "-");
    if (k->n_told >= sizeof k->told)
        k->n_told = 0; /* begins anew: the test asks in time */
}

static void keeper_destroy(void *self)
{
    free(self);
}

static int keeper_create(const struct muster_host *host, const void *config, void **ret_self)
{
    struct keeper *k = calloc(1, sizeof *k);
    int err = k ? host->service(host, MUSTER_BUS, (const void **)&k->bus) : MUSTER_ENOMEM;

    (void)config;
    if (!err)
        err = host->service(host, MUSTER_CODEC, (const void **)&k->codec);
    if (!err)
        err = host->service(host, MUSTER_ROSTER, (const void **)&k->roster);
    if (err) {
        free(k);
        return err;
    }
    k->host = host;
    *ret_self = k;
    return 0;
}

static int keeper_start(void *self)
{
    struct keeper *k = self;
    const struct muster_subscription sub = {.size = sizeof sub, .subject = "rpc.*." KEEPER_NAME ".*", .queue = 1, .max_msgs = 20000,
                                            .max_bytes = 1 << 24, .fn = on_verb};
    uint64_t id;
    int err = k->bus->subscribe(k->host, &sub, &id);

    if (!err)
        err = k->roster->watch(k->host, on_change, k, &id);
    if (!err)
        k->host->health(k->host, MUSTER_HEALTH_OK, "ok", "keeps");
    return err;
}

static const struct muster_service services[] = {
    {.size = sizeof(struct muster_service), .name = KEEPER_NAME, .verbs = "put fill remove clear find get count watched sleep"}};

MUSTER_PLUGIN(.name = KEEPER_NAME, .version = "1.0.0", .capabilities = KEEPER_CAPABILITIES, .services = services, .n_services = 1,
              .create = keeper_create, .start = keeper_start, .destroy = keeper_destroy);
