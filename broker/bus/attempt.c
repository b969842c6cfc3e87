/* A connection that tries what should be refused; see attempt.h. */
#include "bus/attempt.h"

#include <nats/nats.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bus/tls.h"

enum { CONNECT_MS = 3000, ANSWER_MS = 3000, SUBJECT_MAX = 512 };

struct attempt {
    struct attempt_login login;
    natsOptions *opts;
    natsConnection *nc;
};

/* ---- the login, as the library asks for it; it frees what it is given ---- */

static natsStatus give_jwt(char **ret_jwt, char **ret_error, void *arg)
{
    const struct attempt *a = arg;

    (void)ret_error;
    *ret_jwt = strdup(a->login.jwt);
    return *ret_jwt ? NATS_OK : NATS_NO_MEMORY;
}

static natsStatus give_signature(char **ret_error, unsigned char **ret_sig, int *ret_len, const char *nonce, void *arg)
{
    const struct attempt *a = arg;
    unsigned char *sig = malloc(ATTEMPT_SIG_LEN);

    (void)ret_error;
    if (!sig || a->login.sign(a->login.arg, nonce, strlen(nonce), sig) != 0) {
        free(sig);
        return NATS_ERR;
    }
    *ret_sig = sig;
    *ret_len = ATTEMPT_SIG_LEN;
    return NATS_OK;
}

/* The refusals that are asked for are no news. */
static void on_error(natsConnection *nc, natsSubscription *sub, natsStatus err, void *arg)
{
    (void)nc, (void)sub, (void)err, (void)arg;
}

static natsStatus make_options(struct attempt *a, const struct bus_options *o)
{
    const char *key;
    natsStatus s = natsOptions_Create(&a->opts);

    if (s == NATS_OK)
        s = natsOptions_SetServers(a->opts, (const char **)o->urls, (int)o->n_urls);
    if (s == NATS_OK)
        s = natsOptions_SetName(a->opts, o->name);
    if (s == NATS_OK)
        s = natsOptions_SetAllowReconnect(a->opts, false);
    if (s == NATS_OK)
        s = natsOptions_SetTimeout(a->opts, CONNECT_MS);
    if (s == NATS_OK)
        s = natsOptions_SetErrorHandler(a->opts, on_error, NULL);
    if (s == NATS_OK)
        s = natsOptions_SetUserCredentialsCallbacks(a->opts, give_jwt, a, give_signature, a);
    return s == NATS_OK ? tls_load(a->opts, o, &key) : s;
}

int attempt_open(const struct bus_options *options, const struct attempt_login *login, struct attempt **ret_attempt, char why[BUS_WHY_SIZE])
{
    struct attempt *a = calloc(1, sizeof *a);
    natsStatus s = NATS_NO_MEMORY;

    if (a) {
        a->login = *login;
        s = make_options(a, options);
    }
    if (s == NATS_OK)
        s = natsConnection_Connect(&a->nc, a->opts);
    if (s == NATS_CONNECTION_AUTH_FAILED) /* perhaps the library's own fault: see link.c */
        s = natsConnection_Connect(&a->nc, a->opts);
    if (s == NATS_OK) {
        *ret_attempt = a;
        return 0;
    }
    (void)snprintf(why, BUS_WHY_SIZE, "%s", natsStatus_GetText(s));
    attempt_close(a);
    return s == NATS_CONNECTION_AUTH_FAILED ? MUSTER_EACCES : MUSTER_ELINK;
}

void attempt_close(struct attempt *a)
{
    if (!a)
        return;
    natsConnection_Destroy(a->nc);
    natsOptions_Destroy(a->opts);
    free(a);
}

/* ---- attempts ---- */

/* The server answers the ping behind an attempt after its refusal, which names the subject in quotes. */
static int verdict(struct attempt *a, natsStatus sent, const char *subject)
{
    char quoted[SUBJECT_MAX + 3];
    const char *text = NULL;

    if (sent != NATS_OK || natsConnection_FlushTimeout(a->nc, ANSWER_MS) != NATS_OK)
        return MUSTER_ELINK;
    (void)snprintf(quoted, sizeof quoted, "\"%.*s\"", SUBJECT_MAX, subject);
    if (natsConnection_GetLastError(a->nc, &text) == NATS_NOT_PERMITTED && text && strstr(text, quoted))
        return MUSTER_EACCES;
    return 0;
}

static natsStatus send_out(struct attempt *a, const struct bus_out *out)
{
    natsMsg *msg = NULL;
    natsStatus s = natsMsg_Create(&msg, out->subject, out->reply, out->payload.data, (int)out->payload.len);

    for (uint32_t i = 0; s == NATS_OK && i < out->n_headers; i++)
        s = natsMsgHeader_Set(msg, out->headers[i].name, out->headers[i].value);
    if (s == NATS_OK)
        s = natsConnection_PublishMsg(a->nc, msg);
    natsMsg_Destroy(msg);
    return s;
}

int attempt_publish(struct attempt *a, const struct bus_out *out)
{
    return verdict(a, send_out(a, out), out->subject);
}

int attempt_subscribe(struct attempt *a, const char *subject, const char *queue)
{
    natsSubscription *sub = NULL;
    natsStatus s = queue ? natsConnection_QueueSubscribeSync(&sub, a->nc, subject, queue) : natsConnection_SubscribeSync(&sub, a->nc, subject);
    int code = verdict(a, s, subject);

    natsSubscription_Destroy(sub);
    return code;
}

int attempt_ask(struct attempt *a, const struct bus_out *out, int timeout_ms, struct buf *answer)
{
    natsSubscription *sub = NULL;
    natsMsg *msg = NULL;
    int code = verdict(a, natsConnection_SubscribeSync(&sub, a->nc, out->reply), out->reply);

    if (!code)
        code = attempt_publish(a, out);
    if (!code && natsSubscription_NextMsg(&msg, sub, timeout_ms) != NATS_OK)
        code = MUSTER_ETIME;
    if (!code)
        buf_put(answer, natsMsg_GetData(msg), (size_t)natsMsg_GetDataLength(msg));
    natsMsg_Destroy(msg);
    natsSubscription_Destroy(sub);
    return code;
}
