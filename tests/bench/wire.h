/*
 * bench/wire.h - connections to nats-server for programs that have tens of thousands of them: the protocol itself, without a library.
 *
 * Threads  One, which calls wire_turn(); every function below is called on it.
 * Errors   die() says what went wrong and ends the program with status 1.
 */
#ifndef MUSTER_BENCH_WIRE_H
#define MUSTER_BENCH_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "auth/jwt.h"
#include "base/buf.h"

struct wire_key { /* of a creds file */
    char *text;
    const char *jwt;
    size_t jwt_len;
    struct nkey key;
};

enum wire_state { WIRE_AWAY, WIRE_ASKED, WIRE_IN };

struct wire;
struct wire_message {
    const char *subject; /* ends in NUL */
    const char *body;    /* not NUL */
    size_t len;
};

struct wire {
    int fd;
    enum wire_state state;
    const struct wire_key *key; /* borrowed */
    int64_t again_ns;           /* while away: when to knock again */
    bool cut;                   /* away for ever */
    bool dirty;                 /* something waits to be written */
    bool waits;                 /* for room in the socket */
    struct buf in, out;
    size_t sent; /* of out */
    int n_subs;
    int n_flushing; /* wire_flush() that the server has not answered */
    void *arg;
};

struct wire_calls {
    void (*on_in)(struct wire *w);  /* the server has let it in; subscribe here */
    void (*on_out)(struct wire *w); /* and has cut it; knock again */
    void (*on_message)(struct wire *w, const struct wire_message *msg);
};

void die(const char *what) __attribute__((noreturn));
void wire_key_load(const char *path, struct wire_key *key);
/* Once, before anything else. */
void wire_open(uint16_t port, const struct wire_calls *calls);
void wire_knock(struct wire *w); /* begin to log in */
void wire_cut(struct wire *w);   /* close it without a word, for ever */
void wire_subscribe(struct wire *w, const char *subject);
void wire_publish(struct wire *w, const char *subject, const char *reply, const char *body);
/* headers: the whole block, from "NATS/1.0" to the empty line. */
void wire_publish_with(struct wire *w, const char *subject, const char *headers, const char *body);
/* n_flushing is 0 again when the server has taken all that was said before. */
void wire_flush(struct wire *w);
/* Send what waits, and hear for at most wait_ms. */
void wire_turn(int wait_ms);
extern uint64_t wire_n_tries;

#endif
