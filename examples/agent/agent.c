/*
 * agent - an agent in plain C on the stock NATS library: it says hello, beats, prints what the others of its tenant say, answers what wants
 * an answer, and says bye when it is told to end. Nothing here is of Muster: any NATS client in any language does the same.
 *
 *   agent URL CREDS TENANT NAME [CAPABILITY…]
 */
#include <nats/nats.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SUBJECT_SIZE = 256, BODY_SIZE = 2048, TRIES = 20 };
static const int64_t answer_ms = 1000;

static const char *tenant, *name;
static volatile sig_atomic_t ending;

static void on_signal(int number)
{
    (void)number;
    ending = 1;
}

static int die(const char *what, natsStatus s)
{
    fprintf(stderr, "agent: %s: %s\n", what, natsStatus_GetText(s));
    return 1;
}

/* "mst.acme.rpc.ann.presence.hello": the third name is who asks, and the server lets nobody ask under another. */
static natsStatus ask(natsConnection *nc, const char *verb, const char *body, natsMsg **ret_answer)
{
    char subject[SUBJECT_SIZE];

    snprintf(subject, sizeof subject, "mst.%s.rpc.%s.presence.%s", tenant, name, verb);
    return natsConnection_RequestString(ret_answer, nc, subject, body, answer_ms);
}

static void beat(natsConnection *nc)
{
    char subject[SUBJECT_SIZE];

    snprintf(subject, sizeof subject, "mst.%s.rpc.%s.presence.beat", tenant, name);
    natsConnection_PublishString(nc, subject, "{}");
}

/* When a NATS server was lost, a broker asks everybody for a sign of life. */
static bool is_roll_call(const char *subject)
{
    const char *last = strrchr(subject, '.');

    return strstr(subject, ".all._muster.") && strcmp(last, ".roll_call") == 0;
}

static void on_message(natsConnection *nc, natsSubscription *sub, natsMsg *msg, void *arg)
{
    (void)sub;
    (void)arg;
    if (is_roll_call(natsMsg_GetSubject(msg)))
        beat(nc);
    printf("%s %.*s\n", natsMsg_GetSubject(msg), natsMsg_GetDataLength(msg), natsMsg_GetData(msg));
    fflush(stdout);
    if (natsMsg_GetReply(msg))
        natsConnection_PublishString(nc, natsMsg_GetReply(msg), "{}"); /* a receipt */
    natsMsg_Destroy(msg);
}

/* Names are made of letters, digits, _ and -: they need no escapes. */
static void write_hello(char body[BODY_SIZE], int n, char **capabilities)
{
    size_t at = (size_t)snprintf(body, BODY_SIZE, "{\"capabilities\":[");

    for (int i = 0; i < n && at < BODY_SIZE; i++)
        at += (size_t)snprintf(body + at, BODY_SIZE - at, "%s\"%s\"", i ? "," : "", capabilities[i]);
    if (at < BODY_SIZE)
        snprintf(body + at, BODY_SIZE - at, "]}");
}

/* Whoever moves a tenant from one broker to another takes a moment, in which nobody answers: an agent asks again. */
static bool say_hello(natsConnection *nc, const char *body)
{
    for (int i = 0; i < TRIES && !ending; i++) {
        natsMsg *answer = NULL;
        natsStatus s = ask(nc, "hello", body, &answer);
        bool refused = s == NATS_OK && strstr(natsMsg_GetData(answer), "\"error\"");

        if (s == NATS_OK) {
            fprintf(refused ? stderr : stdout, "hello: %.*s\n", natsMsg_GetDataLength(answer), natsMsg_GetData(answer));
            fflush(stdout);
            natsMsg_Destroy(answer);
            return !refused;
        }
        if (s != NATS_TIMEOUT && s != NATS_NO_RESPONDERS)
            die("hello", s);
        nats_Sleep(200);
    }
    return false;
}

/* Libraries before 3.9 lose one login in 256 (their change #705). */
static natsStatus connect_with(natsOptions *options, natsConnection **ret_nc)
{
    natsStatus s = natsConnection_Connect(ret_nc, options);

    for (int i = 0; i < 2 && s == NATS_CONNECTION_AUTH_FAILED; i++)
        s = natsConnection_Connect(ret_nc, options);
    return s;
}

static natsStatus connect_agent(const char *url, const char *creds, natsConnection **ret_nc)
{
    natsOptions *options = NULL;
    char box[SUBJECT_SIZE];
    natsStatus s = natsOptions_Create(&options);

    snprintf(box, sizeof box, "mst.%s.box.%s", tenant, name); /* where it may hear answers */
    if (s == NATS_OK)
        s = natsOptions_SetURL(options, url);
    if (s == NATS_OK)
        s = natsOptions_SetUserCredentialsFromFiles(options, creds, NULL);
    if (s == NATS_OK)
        s = natsOptions_SetCustomInboxPrefix(options, box);
    if (s == NATS_OK)
        s = natsOptions_SetName(options, name); /* for people: nobody is known by it */
    if (s == NATS_OK)
        s = connect_with(options, ret_nc);
    natsOptions_Destroy(options);
    return s;
}

static natsStatus listen_to(natsConnection *nc, const char *pattern)
{
    natsSubscription *sub;
    char subject[SUBJECT_SIZE];

    snprintf(subject, sizeof subject, pattern, tenant, name);
    return natsConnection_Subscribe(&sub, nc, subject, on_message, NULL);
}

static void beat_until_told(natsConnection *nc)
{
    struct timespec second = {.tv_sec = 1};

    for (int i = 1; !ending; i++) {
        if (i % 5 == 0) /* heartbeat_ms of the answer to hello, as it is by default */
            beat(nc);
        nanosleep(&second, NULL); /* a signal ends it */
    }
}

int main(int argc, char **argv)
{
    natsConnection *nc = NULL;
    natsMsg *answer = NULL;
    char body[BODY_SIZE];
    natsStatus s;

    if (argc < 5) {
        fprintf(stderr, "usage: agent URL CREDS TENANT NAME [CAPABILITY...]\n");
        return 2;
    }
    tenant = argv[3];
    name = argv[4];
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    s = connect_agent(argv[1], argv[2], &nc);
    if (s == NATS_OK)
        s = listen_to(nc, "mst.%s.to.%s.>");
    if (s == NATS_OK)
        s = listen_to(nc, "mst.%s.all.>");
    if (s != NATS_OK)
        return die(argv[1], s);
    write_hello(body, argc - 5, argv + 5);
    if (!say_hello(nc, body))
        return 1;
    beat_until_told(nc);
    if (ask(nc, "bye", "{}", &answer) == NATS_OK)
        natsMsg_Destroy(answer);
    natsConnection_Destroy(nc);
    nats_Close();
    return 0;
}
