/*
 * doctor: the walls, tried. A user of each role is made in memory, for a minute and in a tenant that cannot be anybody's, and does what it
 * must not be able to do; what the server or a broker lets through is said, a line each.
 *
 * Nothing that is tried could do harm where it gets through: no stream captures the subjects, and no request asks for more than an answer.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "bus/attempt.h"
#include "cli/body.h"
#include "cli/doctor.h"
#include "cli/keydir.h"
#include "cli/session.h"

enum { VALID_S = 60, ANSWER_MS = 2000, TRACE_MS = 300, SUBJECT_SIZE = 256 };
static const char area[] = "walls";

/* Tenants whose names are reserved (INTERFACE 1), so that nobody has them. R stands for the root token. */
#define HOME "_doctor1"
#define OTHER "_doctor2"
#define ME "probe"

struct trial {
    const char *subject, *queue; /* queue "": a plain subscription; NULL: published */
    bool not_operator;           /* an operator may: it reads what is told to agents, in every tenant */
};

static const struct trial trials[] = {
    {"R." OTHER ".all." ME ".x", NULL, false},
    {"R." OTHER ".to.somebody." ME ".x", NULL, false},
    {"R." OTHER ".grp.some." ME ".x", NULL, false},
    {"R." OTHER ".rpc." ME ".no.such", NULL, false},
    {"R." OTHER ".box.somebody.x", NULL, false},
    {"R." HOME ".all.somebody.x", NULL, false},
    {"R." HOME ".all._muster.x", NULL, false},
    {"R." HOME ".to.somebody.other.x", NULL, false},
    {"R." HOME ".rpc.somebody.no.such", NULL, false},
    {"R." HOME ".evt.some.event.x", NULL, false},
    {"R." HOME ".cdc.main.public.some.insert._", NULL, false},
    {"R." HOME ".msg.somebody", NULL, false},
    {"R." HOME ".audit.some.verb.somebody", NULL, false},
    {"R." HOME ".log.all.somebody.x", NULL, false},
    {"R._in." HOME ".doctor.x", NULL, false},
    {"$JS.API.INFO", NULL, false},
    {"$KV.muster_doctor.x", NULL, false},
    {"$SYS.REQ.SERVER.PING", NULL, false},
    {"$SRV.PING.doctor", NULL, false},
    {"_INBOX.doctor.x", NULL, false},
    {">", "", false},
    {"R.>", "", false},
    {"R.*.all.>", "", true},
    {"R.*.rpc.>", "muster", false},
    {"R." OTHER ".>", "", false},
    {"R." OTHER ".all.>", "", true},
    {"R." OTHER ".all.>", "some", true},
    {"R." OTHER ".evt.>", "", true},
    {"R." OTHER ".msg." ME, "", true},
    {"R." OTHER ".box." ME ".>", "", false},
    {"R." HOME ".box.somebody.>", "", false},
    {"R." HOME ".rpc.>", "muster", false},
    {"R._in.>", "", false},
    {"$JS.>", "", false},
    {"$KV.>", "", false},
    {"$SYS.>", "", false},
    {"$SRV.>", "", false},
    {"_INBOX.>", "", false},
};
enum { N_TRIALS = sizeof trials / sizeof *trials };

struct walls {
    struct doctor *d;
    struct keydir *keys;
    const struct bus_options *options; /* of the attempts */
    const char *root;
    struct bus *bus; /* of the brokers' own session */
    size_t n_tried, n_through;
    atomic_uint n_traced;
    char nobody[32]; /* a tenant that brokers could know, and do not */
};

/* ---- a user for a minute ---- */

struct probe_user {
    struct buf creds;
    struct buf jwt;
    struct nkey key;
};

static void user_done(struct probe_user *u)
{
    jwt_wipe(&u->creds);
    jwt_wipe(&u->jwt);
    nkey_wipe(&u->key);
}

static int make_user(const struct walls *w, const char *tenant, int role, struct probe_user *out)
{
    struct jwt_user user = {.name = ME, .tenant = tenant, .role = role, .expires = clock_wall_ns() / CLOCK_S + VALID_S};
    char public_key[NKEY_TEXT_SIZE];
    const char *jwt = NULL;
    size_t len = 0;
    int err = keydir_mint(w->keys, &user, &out->creds, public_key);

    if (!err)
        err = jwt_read_creds(out->creds.data, &jwt, &len, &out->key);
    if (!err)
        buf_put(&out->jwt, jwt, len);
    return err ? err : buf_failed(&out->jwt) ? MUSTER_ENOMEM : 0;
}

static int sign(const void *arg, const void *data, size_t len, uint8_t ret_sig[ATTEMPT_SIG_LEN])
{
    return nkey_sign(arg, data, len, ret_sig);
}

/* ---- what is tried ---- */

/* The root token in place of R. */
static void expand(const struct walls *w, const char *pattern, char out[SUBJECT_SIZE])
{
    bool rooted = strncmp(pattern, "R.", 2) == 0;

    (void)snprintf(out, SUBJECT_SIZE, "%s%s", rooted ? w->root : "", rooted ? pattern + 1 : pattern);
}

static void say_through(struct walls *w, int role, const struct trial *t, const char *subject)
{
    w->n_through++;
    doctor_say(w->d, DOCTOR_BROKEN, area, "got_through", "a user of role %s in one tenant may %s %s%s%s: run `muster nats-config` again and reload nats-server",
               role_name(role), t->queue ? "subscribe to" : "publish to", subject, t->queue && *t->queue ? " in queue group " : "",
               t->queue ? t->queue : "");
}

static int try_one(struct walls *w, struct attempt *a, int role, const struct trial *t)
{
    char subject[SUBJECT_SIZE];
    int code;

    if (t->not_operator && role == ROLE_OPERATOR)
        return 0;
    expand(w, t->subject, subject);
    if (t->queue)
        code = attempt_subscribe(a, subject, *t->queue ? t->queue : NULL);
    else
        code = attempt_publish(a, &(struct bus_out){.subject = subject, .fence = -1});
    w->n_tried++;
    if (code == 0)
        say_through(w, role, t, subject);
    return code == MUSTER_EACCES ? 0 : code;
}

/* What the header asks the server to write is not subject to the user's permissions on some (CVE-2026-33249). */
static int try_trace(struct walls *w, struct attempt *a, int role)
{
    char own[SUBJECT_SIZE], foreign[SUBJECT_SIZE];
    const struct muster_header header = {"Nats-Trace-Dest", foreign};

    expand(w, "R." HOME ".rpc." ME ".no.such", own);
    expand(w, "R." OTHER ".all.somebody.traced", foreign);
    if (attempt_publish(a, &(struct bus_out){.subject = own, .headers = &header, .n_headers = 1, .fence = -1}) == MUSTER_ELINK)
        return MUSTER_ELINK;
    w->n_tried++;
    for (int ms = 0; ms < TRACE_MS && !atomic_load(&w->n_traced); ms += 10)
        (void)usleep(10000);
    if (!atomic_load(&w->n_traced))
        return 0;
    w->n_through++;
    doctor_say(w->d, DOCTOR_BROKEN, area, "got_through",
               "a user of role %s in one tenant may have the server write to another's with the header Nats-Trace-Dest (CVE-2026-33249): "
               "upgrade nats-server", role_name(role));
    return 0;
}

static int try_all(struct walls *w, struct attempt *a, int role)
{
    int code = 0;

    for (size_t i = 0; i < N_TRIALS && !code; i++)
        code = try_one(w, a, role, &trials[i]);
    if (!code && role == ROLE_AGENT)
        code = try_trace(w, a, role);
    return code;
}

/* Have a user of this role in that tenant try something. False: nothing more can be tried. */
static bool with_user(struct walls *w, const char *tenant, int role, int (*try)(struct walls *w, struct attempt *a, int role))
{
    struct probe_user user = {0};
    struct attempt_login login = {.sign = sign, .arg = &user.key};
    struct attempt *a = NULL;
    char why[BUS_WHY_SIZE] = "no memory";
    int code = make_user(w, tenant, role, &user);

    login.jwt = user.jwt.data;
    if (!code)
        code = attempt_open(w->options, &login, &a, why);
    if (code)
        doctor_say(w->d, DOCTOR_BROKEN, area, "authentication",
                   "a user of role %s made with %s is refused: %s; does the server run with the accounts.conf beside it?", role_name(role),
                   w->d->cli->config->nats.keys, why);
    else if ((code = try(w, a, role)) != 0)
        doctor_say(w->d, DOCTOR_HINT, area, NULL, "the connection went while role %s was tried (error %d)", role_name(role), code);
    attempt_close(a);
    user_done(&user);
    return code == 0;
}

/* ---- the brokers ---- */

/* What a broker answers a name that nobody has registered: an error, and this one. */
static void judge_answer(struct walls *w, struct buf *answer)
{
    w->n_tried++;
    buf_putc(answer, '\0');
    if (buf_failed(answer) || strstr(answer->data, "\"unauthenticated\""))
        return;
    w->n_through++;
    doctor_say(w->d, DOCTOR_BROKEN, area, "got_through", "a broker answers a name that nobody has registered: %.200s", answer->data);
}

static int try_request(struct walls *w, struct attempt *a, int role)
{
    char own[SUBJECT_SIZE], box[SUBJECT_SIZE];
    struct buf answer = {0};
    int code;

    (void)role;
    (void)snprintf(own, sizeof own, "%s.%s.rpc." ME ".no.such", w->root, w->nobody);
    (void)snprintf(box, sizeof box, "%s.%s.box." ME ".answer", w->root, w->nobody);
    code = attempt_ask(a, &(struct bus_out){.subject = own, .reply = box, .fence = -1}, ANSWER_MS, &answer);
    if (!code)
        judge_answer(w, &answer);
    else if (code == MUSTER_ETIME)
        doctor_say(w->d, DOCTOR_HINT, area, NULL, "no broker answers, so that only nats-server was tried");
    buf_done(&answer);
    return code == MUSTER_ETIME ? 0 : code;
}

/* ---- the brokers' ear ---- */

static void on_traced(void *arg, struct bus_msg *msg)
{
    struct walls *w = arg;

    atomic_fetch_add(&w->n_traced, 1);
    bus_msg_free(msg);
}

static void try_roles(struct walls *w)
{
    char subject[SUBJECT_SIZE];
    uint64_t id;
    bool on = true;

    expand(w, "R." OTHER ".all.somebody.traced", subject);
    if (bus_subscribe(w->bus, &(struct bus_sub){.subject = subject, .fn = on_traced, .arg = w}, &id) != 0)
        return;
    for (int role = 0; role < ROLES_N && on; role++)
        on = with_user(w, HOME, role, try_all);
    if (on) {
        (void)snprintf(w->nobody, sizeof w->nobody, "doctor-%016llx", (unsigned long long)clock_random());
        on = with_user(w, w->nobody, ROLE_AGENT, try_request);
    }
    bus_unsubscribe(w->bus, id);
    if (on && !w->n_through)
        doctor_say(w->d, DOCTOR_OK, area, NULL, "%d roles have tried %zu things that must be refused, and all were", ROLES_N, w->n_tried);
}

static void with_session(struct walls *w)
{
    const struct config *c = w->d->cli->config;
    const struct session_options options = {.config = c, .name = "doctor", .who = SESSION_BROKER};
    const struct bus_options attempts = {.urls = c->nats.urls, .n_urls = c->nats.n_urls, .name = "muster doctor: a probe",
                                         .tls_ca = c->nats.tls_ca, .tls_cert = c->nats.tls_cert, .tls_key = c->nats.tls_key};
    const int64_t login_ns = 5 * CLOCK_S;
    char why[SESSION_WHY_SIZE];
    struct session *s = NULL;

    w->options = &attempts;
    if (session_open(&options, &s, why) == CLI_DONE && session_wait(s, login_ns, why) == CLI_DONE) {
        w->bus = session_bus(s);
        try_roles(w);
    }
    session_close(s); /* that the login failed, doctor_nats() has said */
}

void doctor_walls(struct doctor *d)
{
    const struct config *config = d->cli->config;
    struct walls w = {.d = d, .root = config->broker.root};
    struct file_error err;

    if (!d->nats_up)
        return;
    if (config->nats.user) {
        doctor_say(d, DOCTOR_HINT, area, NULL, "not tried: in the static form a user cannot be made for a minute");
    } else if (!config->nats.keys || !*config->nats.keys) {
        doctor_say(d, DOCTOR_HINT, area, NULL,
                   "not tried: set nats.keys or MUSTER_NATS_KEYS where the keys are, and what agents must not be able to do is tried");
    } else if (keydir_open(config->nats.keys, &w.keys, &err) != 0) {
        doctor_say(d, DOCTOR_HINT, area, NULL, "not tried: %s", err.text);
    } else {
        with_session(&w);
        keydir_close(w.keys);
    }
}
