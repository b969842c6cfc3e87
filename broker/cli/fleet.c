/*
 * The servers that run; see fleet.h.
 *
 * Three rounds of questions, each over when every server has answered: who is there, the account's JWT, and a reload of those that it was
 * no use to. A server that has not had the account in use answers that it "skipped" the JWT and would load the one of its files later.
 */
#include "cli/fleet.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "base/assert.h"
#include "base/clock.h"
#include "bus/bus.h"
#include "bus/sys.h"
#include "cli/body.h"
#include "cli/session.h"
#include "config/config.h"

enum { SERVER_NAME_SIZE = 80, SAID_SIZE = 160 };
enum { UNTOLD, TAKEN, RELOADED, REFUSED };
static const int64_t login_ns = 3 * CLOCK_S, round_ns = 1500 * CLOCK_MS, reload_ns = FLEET_WAIT_S * CLOCK_S;

struct server {
    char id[SYS_SERVER_SIZE], name[SERVER_NAME_SIZE];
    bool can_reload;
    int state;
    char said[SAID_SIZE]; /* why not */
};

/* What comes late, when the next round may run already, finds its own over. */
struct round {
    struct fleet *fleet;
    size_t n_open; /* answers that are waited for */
    bool over;
};

/* The lane of the session writes while a round runs, the command's thread between rounds. */
struct fleet {
    struct session *session;
    struct server servers[FLEET_MAX];
    size_t n, n_active;
    struct round pings, claims, reloads;
    uv_sem_t done;
};

/* ---- answers ---- */

static void end_round(struct round *r)
{
    if (!r->over)
        uv_sem_post(&r->fleet->done);
    r->over = true;
}

static struct server *find(struct fleet *f, const char *id)
{
    for (size_t i = 0; i < f->n; i++)
        if (strcmp(f->servers[i].id, id) == 0)
            return &f->servers[i];
    return NULL;
}

/* A name that an administrator gave; servers without one are named by their id, of which the beginning is enough for people. */
static void name_server(struct server *s, const char *name)
{
    char id[9];

    (void)snprintf(id, sizeof id, "%.8s", s->id);
    (void)snprintf(s->name, sizeof s->name, "%s", name && *name && strcmp(name, s->id) != 0 ? name : id);
}

static void add_server(struct fleet *f, const struct sys_server *told, struct muster_bytes answer)
{
    struct server *s = &f->servers[f->n++];
    struct muster_value *doc = NULL;
    struct wire_error err;

    *s = (struct server){.can_reload = told->can_kick}; /* both came with 2.10 */
    memcpy(s->id, told->id, sizeof s->id);
    if (value_decode(MUSTER_JSON, answer, &doc, &err) != 0)
        doc = NULL;
    name_server(s, body_text(body_get(doc, "server"), "name"));
    value_free(doc);
}

static void on_ping(void *arg, int code, const struct bus_msg *msg)
{
    struct round *r = arg;
    struct fleet *f = r->fleet;
    struct sys_server told;

    if (code)
        end_round(r);
    if (r->over || sys_read_server(bus_msg_data(msg), &told) != 0)
        return;
    f->n_active = told.n_active > f->n_active ? told.n_active : f->n_active;
    if (f->n < FLEET_MAX && !find(f, told.id))
        add_server(f, &told, bus_msg_data(msg));
    if (f->n_active && f->n >= f->n_active)
        end_round(r);
}

/* {"data": {"code", "message"}} or {"error": {"code", "description"}}, beside "server". */
static void take_answer(struct server *s, const struct muster_value *doc, int done)
{
    const struct muster_value *error = body_get(doc, "error");
    const char *message = body_text(body_get(doc, "data"), "message"), *why = body_text(error, "description");

    s->state = error ? REFUSED : message && strstr(message, "skipped") ? UNTOLD : done;
    (void)snprintf(s->said, sizeof s->said, "%s",
                   why     ? why
                   : error ? "it gives no reason"
                           : "it has not had the account in use, and would take that of its files");
}

static void on_claims(void *arg, int code, const struct bus_msg *msg)
{
    struct round *r = arg;
    struct muster_value *doc;
    struct wire_error err;
    const char *id;
    struct server *s;

    if (code)
        end_round(r);
    if (r->over || value_decode(MUSTER_JSON, bus_msg_data(msg), &doc, &err) != 0)
        return;
    id = body_text(body_get(doc, "server"), "id");
    s = id ? find(r->fleet, id) : NULL;
    if (s) {
        take_answer(s, doc, TAKEN);
        if (--r->n_open == 0)
            end_round(r);
    }
    value_free(doc);
}

/* Of one server; the round is over with the last of them. */
struct reload {
    struct round *round;
    struct server *server;
};

static void on_reload(void *arg, int code, const struct bus_msg *msg)
{
    struct reload *r = arg;
    struct muster_value *doc;
    struct wire_error err;

    if (code)
        (void)snprintf(r->server->said, sizeof r->server->said, "it does not answer");
    else if (value_decode(MUSTER_JSON, bus_msg_data(msg), &doc, &err) == 0) {
        take_answer(r->server, doc, RELOADED);
        value_free(doc);
    }
    if (--r->round->n_open == 0)
        end_round(r->round);
    free(r);
}

/* ---- rounds ---- */

static int ask_all(struct round *r, const char *subject, const struct buf *body, bus_reply_fn fn)
{
    struct fleet *f = r->fleet;
    const struct bus_out out = {.subject = subject, .fence = -1, .payload = {body ? body->data : "", body ? body->len : 0}};
    const struct bus_call call = {
        .lane = session_lane(f->session), .owner = f, .timeout_ns = round_ns, .many = true, .fn = fn, .arg = r};
    int err = bus_request(session_bus(f->session), BUS_LIVE, &out, &call);

    if (!err)
        uv_sem_wait(&f->done);
    return err;
}

static int ask_reload(struct fleet *f, struct server *s)
{
    char subject[SYS_SERVER_SIZE + 32];
    struct reload *r = malloc(sizeof *r);
    const struct bus_out out = {.subject = subject, .fence = -1};
    const struct bus_call call = {
        .lane = session_lane(f->session), .owner = f, .timeout_ns = reload_ns, .fn = on_reload, .arg = r};
    int err;

    if (!r)
        return MUSTER_ENOMEM;
    *r = (struct reload){&f->reloads, s};
    (void)snprintf(subject, sizeof subject, "$SYS.REQ.SERVER.%s.RELOAD", s->id);
    err = bus_request(session_bus(f->session), BUS_LIVE, &out, &call);
    if (err)
        free(r);
    return err;
}

/* On the lane, where the answers are counted too: none of them is before the last question. */
static int begin_reloads(void *arg)
{
    struct fleet *f = arg;

    for (size_t i = 0; i < f->n; i++) {
        struct server *s = &f->servers[i];

        if (s->state == UNTOLD && s->can_reload && ask_reload(f, s) == 0)
            f->reloads.n_open++;
    }
    return f->reloads.n_open > 0;
}

static void reload_untold(struct fleet *f)
{
    if (lane_call(session_lane(f->session), begin_reloads, f) > 0)
        uv_sem_wait(&f->done);
}

static int push_claims(struct fleet *f, const struct keydir *keys)
{
    char subject[NKEY_TEXT_SIZE + 40];
    struct buf jwt = {0};
    int err = keydir_account(keys, &jwt);

    (void)snprintf(subject, sizeof subject, "$SYS.REQ.ACCOUNT.%s.CLAIMS.UPDATE", keys->account.text);
    f->claims.n_open = f->n;
    if (!err)
        err = ask_all(&f->claims, subject, &jwt, on_claims);
    buf_done(&jwt);
    return err;
}

/* ---- what came of it ---- */

static void put_names(const struct fleet *f, int state, struct buf *out)
{
    size_t n = 0;

    for (size_t i = 0; i < f->n; i++)
        if (f->servers[i].state == state)
            buf_printf(out, "%s%s", n++ ? ", " : "", f->servers[i].name);
}

static size_t count(const struct fleet *f, int state)
{
    size_t n = 0;

    for (size_t i = 0; i < f->n; i++)
        n += f->servers[i].state == state;
    return n;
}

static bool report(const struct fleet *f, const char *command)
{
    size_t taken = count(f, TAKEN), reloaded = count(f, RELOADED), all = f->n > f->n_active ? f->n : f->n_active;
    struct buf names = {0};

    if (taken + reloaded) {
        put_names(f, TAKEN, &names);
        if (taken && reloaded)
            buf_put_lit(&names, ", ");
        put_names(f, RELOADED, &names);
        fprintf(stderr, "muster %s: in force on %zu of %zu NATS servers: %s%s\n", command, taken + reloaded, all,
                names.data ? names.data : "", reloaded ? " (read their configuration again)" : "");
    }
    for (size_t i = 0; i < f->n; i++)
        if (f->servers[i].state == UNTOLD || f->servers[i].state == REFUSED)
            fprintf(stderr, "muster %s: NATS server %s has not taken it: %s; reload it (SIGHUP)\n", command,
                    f->servers[i].name, *f->servers[i].said ? f->servers[i].said : "it does not answer");
    buf_done(&names);
    return taken + reloaded == all;
}

static bool say_none(const char *command, const char *why)
{
    fprintf(stderr, "muster %s: no NATS server has taken it: %s; reload nats-server (SIGHUP, or nats-server --signal reload)\n", command,
            why);
    return false;
}

static const char *const static_too_old = "it is older than 2.10 and cannot be told from afar";

static bool tell_all(struct fleet *f, const char *command, const struct keydir *keys)
{
    int err = ask_all(&f->pings, "$SYS.REQ.SERVER.PING", NULL, on_ping);

    if (err || !f->n)
        return say_none(command, "nothing answers in the system account; check nats.system_creds (or nats.system_user)");
    for (size_t i = 0; i < f->n && keys->settings.is_static; i++)
        if (!f->servers[i].can_reload)
            (void)snprintf(f->servers[i].said, SAID_SIZE, "%s", static_too_old);
    if (!keys->settings.is_static && push_claims(f, keys) != 0)
        return say_none(command, "no memory, or the account's JWT is larger than a message may be");
    reload_untold(f);
    return report(f, command);
}

/* Before the session, whose completions name it. */
static void fleet_free(struct fleet *f)
{
    session_close(f->session);
    uv_sem_destroy(&f->done);
    free(f);
}

bool fleet_tell(const struct cli *cli, const char *command, const struct keydir *keys)
{
    const struct session_options options = {.config = cli->config, .name = command, .who = SESSION_SYSTEM};
    struct fleet *f;
    char why[SESSION_WHY_SIZE];
    bool told;

    if (!cli->config->nats.system_creds && !cli->config->nats.system_user)
        return say_none(command, "nats.system_creds (or nats.system_user) is not set");
    f = calloc(1, sizeof *f);
    if (!f)
        return say_none(command, "no memory");
    f->pings.fleet = f->claims.fleet = f->reloads.fleet = f;
    ASSERT(uv_sem_init(&f->done, 0) == 0);
    if (session_open(&options, &f->session, why) != CLI_DONE || session_wait(f->session, login_ns, why) != CLI_DONE)
        told = say_none(command, why);
    else
        told = tell_all(f, command, keys);
    fleet_free(f);
    return told;
}
