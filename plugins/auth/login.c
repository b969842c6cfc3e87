/*
 * One login after another: a token of Muster is looked up with one statement, one of an issuer is checked with its keys. A login whose
 * keys are on their way waits for them, in bounds, so that the first token of a new key is not refused.
 *
 * What is refused is told with a word for the counter and a sentence for the log; neither holds any of the token but names that its
 * signature has proven.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "auth/auth.h"
#include "auth/roles.h"
#include "auth/token.h"
#include "base/clock.h"

enum { WAITING_MAX = 1024, WAITING_BYTES_MAX = 4 << 20 };
static const int64_t wait_ns = 3 * CLOCK_S; /* less than the server gives a login */

/* One that has ended meanwhile needs no answer. */
static void refuse(struct auth *a, uint64_t id, const char *code, const char *why)
{
    (void)a->logins->refuse(a->host, id, code, why);
}

static void refuse_of(struct auth *a, uint64_t id, const struct issuer *i, int reason, const char *why)
{
    char text[BEARER_WHY_SIZE + 128];

    (void)snprintf(text, sizeof text, "issuer %s: %s", i->name, why);
    refuse(a, id, bearer_reason(reason), text);
}

static void admit(struct auth *a, uint64_t id, const struct muster_admission *who)
{
    if (a->logins->admit(a->host, id, who) == MUSTER_EINVAL)
        refuse(a, id, "bad_name", "the tenant, the agent or the role is none that Muster has");
}

/* A refusal is told to the client, and many give up after two: what is no fault of the token gets no answer, so that it tries again. */
static void leave_unanswered(struct auth *a, const char *what, const char *why)
{
    a->host->log(a->host, MUSTER_LOG_WARN, "a token of %s cannot be checked, so the client has to try again: %s", what, why);
}

/* ---- Muster's own tokens ---- */

struct lookup {
    struct auth *a;
    uint64_t id;
    struct token token;
};

static void lookup_free(struct lookup *l)
{
    token_wipe(&l->token);
    free(l);
}

/* Columns of the statement. */
enum { ROW_TENANT, ROW_AGENT, ROW_ROLE, ROW_HASH, ROW_EXPIRES, ROW_STATE };

static void take_row(struct lookup *l, const struct muster_sql_result *r)
{
    const char *hash = r->get(r, 0, ROW_HASH), *expires = r->get(r, 0, ROW_EXPIRES), *state = r->get(r, 0, ROW_STATE);
    char why[2 * NAME_MAX_LEN + 64];

    /* First the secret: who does not have it learns nothing, and fills no log with names. */
    if (!hash || token_check(&l->token, hash)) {
        refuse(l->a, l->id, "unknown_token", "no token of Muster has this id and secret");
    } else if (strcmp(state, "live") != 0) {
        (void)snprintf(why, sizeof why, "the token of %s in %s is %s", r->get(r, 0, ROW_AGENT), r->get(r, 0, ROW_TENANT), state);
        refuse(l->a, l->id, state, why);
    } else {
        admit(l->a, l->id,
              &(struct muster_admission){.size = sizeof(struct muster_admission),
                                         .tenant = r->get(r, 0, ROW_TENANT),
                                         .agent = r->get(r, 0, ROW_AGENT),
                                         .role = r->get(r, 0, ROW_ROLE),
                                         .expires_wall_ns = expires ? strtoll(expires, NULL, 10) * CLOCK_S : 0});
    }
}

static void on_row(void *arg, const struct muster_sql_result *r)
{
    struct lookup *l = arg;

    if (r->code)
        leave_unanswered(l->a, "Muster", r->error);
    else if (r->n_rows == 0)
        refuse(l->a, l->id, "unknown_token", "no token of Muster has this id and secret");
    else
        take_row(l, r);
    lookup_free(l);
}

static void look_up(struct auth *a, uint64_t id, const char *text, size_t len)
{
    struct lookup *l = calloc(1, sizeof *l);
    int err = l ? token_read(text, len, &l->token) : MUSTER_ENOMEM;

    if (err) {
        free(l);
        if (err == MUSTER_EINVAL)
            refuse(a, id, "malformed", "mst_<id>_<secret> was expected");
        else
            leave_unanswered(a, "Muster", "no memory");
        return;
    }
    l->a = a;
    l->id = id;
    const struct muster_bytes params[] = {{l->token.id, TOKEN_ID_LEN}};
    if (a->sql->exec(a->host, a->find_token, NULL, l->token.id, 1, params, on_row, l)) {
        leave_unanswered(a, "Muster", "too many statements wait for the database");
        lookup_free(l);
    }
}

/* ---- logins that wait for keys ---- */

struct bearer {
    uint64_t id;
    const char *token;
    size_t len;
    bool may_wait;
};

static void waiting_free(struct auth *a, struct waiting *w)
{
    a->n_waiting--;
    a->waiting_bytes -= w->len;
    explicit_bzero(w->token, w->len);
    free(w);
}

static bool wait_for_keys(struct auth *a, const struct bearer *b, uint64_t serial)
{
    size_t len = b->len;
    struct waiting *w = a->n_waiting < WAITING_MAX && a->waiting_bytes + len <= WAITING_BYTES_MAX ? malloc(sizeof *w + len + 1) : NULL;

    if (!w)
        return false;
    *w = (struct waiting){.id = b->id, .serial = serial, .until_ns = a->timer->now(a->host) + wait_ns, .len = len};
    memcpy(w->token, b->token, len);
    w->token[len] = '\0';
    *a->waiting_end = w;
    a->waiting_end = &w->next;
    a->n_waiting++;
    a->waiting_bytes += len;
    return true;
}

/* Are newer keys on their way, or can they be? */
static bool keys_may_come(struct auth *a, struct issuer *i)
{
    if (i->ring.busy)
        return true;
    return keyring_may_ask(&i->ring, a->timer->now(a->host)) && issuers_fetch(a, i);
}

/* ---- tokens of issuers ---- */

/* Without any key nothing is known against the token, and another broker may have them. */
static void await_or_refuse(struct auth *a, const struct bearer *b, struct issuer *i, const char *why)
{
    if (b->may_wait && keys_may_come(a, i) && wait_for_keys(a, b, i->serial))
        return;
    if (i->ring.keys)
        refuse_of(a, b->id, i, BEARER_UNKNOWN_KEY, why);
    else
        leave_unanswered(a, i->name, why);
}

static void check_claims(struct auth *a, uint64_t id, const struct issuer *i, const struct jose *j)
{
    struct bearer_identity who;
    char why[BEARER_WHY_SIZE];
    int reason = bearer_check(&i->rules, j, a->timer->wall_now(a->host) / CLOCK_S, &who, why);

    if (reason)
        refuse_of(a, id, i, reason, why);
    else
        admit(a, id,
              &(struct muster_admission){.size = sizeof(struct muster_admission),
                                         .tenant = who.tenant,
                                         .agent = who.agent,
                                         .role = role_name(who.role),
                                         .expires_wall_ns = who.expires_s * CLOCK_S});
}

static void check_issuer(struct auth *a, const struct bearer *b, const struct jose *j)
{
    struct issuer *i = issuers_find(a, bearer_issuer(j));
    const char *why = "its keys have not been read yet";
    int err;

    if (!i) {
        refuse(a, b->id, bearer_reason(BEARER_UNKNOWN_ISSUER), "the token's iss is that of no issuer in the configuration");
        return;
    }
    err = i->ring.keys ? jose_verify(j, i->ring.keys, &why) : MUSTER_ENOTFOUND;
    if (err == MUSTER_ENOTFOUND)
        await_or_refuse(a, b, i, why);
    else if (err)
        refuse_of(a, b->id, i, BEARER_BAD_SIGNATURE, why);
    else
        check_claims(a, b->id, i, j);
}

static void judge(struct auth *a, const struct bearer *b)
{
    struct jose j;
    const char *why;

    if (jose_read(b->token, b->len, &j, &why)) {
        refuse(a, b->id, bearer_reason(BEARER_MALFORMED), why);
        return;
    }
    check_issuer(a, b, &j);
    jose_done(&j);
}

/* ---- the door ---- */

void login_on(void *arg, const struct muster_login *login)
{
    struct auth *a = arg;
    size_t len = strlen(login->token);

    if (!len)
        refuse(a, login->id, "no_token", "the client brought neither a token nor a password");
    else if (!token_is_ours(login->token, len))
        judge(a, &(struct bearer){.id = login->id, .token = login->token, .len = len, .may_wait = true});
    else if (a->config->muster_tokens)
        look_up(a, login->id, login->token, len);
    else
        refuse(a, login->id, "tokens_off", "tokens of Muster are off (muster_tokens)");
}

static struct waiting *take_waiting(struct auth *a)
{
    struct waiting *list = a->waiting;

    a->waiting = NULL;
    a->waiting_end = &a->waiting;
    return list;
}

/* Back, in the order of before. */
static void put_back(struct auth *a, struct waiting *w)
{
    w->next = NULL;
    *a->waiting_end = w;
    a->waiting_end = &w->next;
}

void login_again(struct auth *a)
{
    int64_t now = a->timer->now(a->host);
    struct waiting *next;

    for (struct waiting *w = take_waiting(a); w; w = next) {
        next = w->next;
        if (w->until_ns > now && issuers_await(a, w->serial)) {
            put_back(a, w);
            continue;
        }
        judge(a, &(struct bearer){.id = w->id, .token = w->token, .len = w->len});
        waiting_free(a, w);
    }
}

void login_done(struct auth *a)
{
    struct waiting *next;

    for (struct waiting *w = take_waiting(a); w; w = next) {
        next = w->next;
        waiting_free(a, w);
    }
}
