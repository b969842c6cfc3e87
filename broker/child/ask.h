/*
 * child/ask.h - short conversations with a child that lives for them alone: what its file says of itself, and what its check() says of
 * settings. They need no loop, and wait.
 *
 * Trust    A child that crashes, hangs, or says what it may not is an answer too: its words are in why.
 * Threads  Any that lives as long as the call.
 */
#ifndef MUSTER_CHILD_ASK_H
#define MUSTER_CHILD_ASK_H

#include "child/describe.h"
#include "child/sandbox.h"

enum { ASK_WHY_SIZE = 512 };
#define ASK_NS INT64_C(10000000000)

struct ask {
    const char *instance; /* for people */
    const char *file;
    const struct sandbox *walls;
    int64_t patience_ns; /* 0: ASK_NS */
    void (*log)(void *arg, int level, const char *text); /* what check() logs; may be NULL */
    void *arg;
};

/* Load the file. The child's own code with its reason; MUSTER_EAGAIN: no child could be started; MUSTER_EINVAL, MUSTER_ENOMEM. */
int ask_describe(const struct ask *a, struct described **ret_described, char why[ASK_WHY_SIZE]);
/* Run check(); settings holds one whole FRAME_SETTINGS. 0, or the plugin's code with its reason, which may be ""; *ret_asked is false where
 * there was no answer, and the code and why are as above. */
int ask_check(const struct ask *a, struct muster_bytes settings, bool *ret_asked, char why[ASK_WHY_SIZE]);

#endif
