/*
 * cli/service.h - a command asks a service of the brokers, with their credentials and as `_p_muster`: what asks as a plugin of theirs
 * needs no admission.
 *
 * Threads  The owner's of the session; an answer is awaited.
 * Errors   CLI_DONE or CLI_FAILED; whoever returns CLI_FAILED has told the reason on stderr.
 */
#ifndef MUSTER_CLI_SERVICE_H
#define MUSTER_CLI_SERVICE_H

#include "base/buf.h"
#include "cli/cli.h"
#include "cli/session.h"
#include "wire/value.h"

enum { SERVICE_SUBJECT_SIZE = 160 };

/* Whose answers a session may get that is used here; for session_options. */
void service_answers(const struct config *config, char out[SERVICE_SUBJECT_SIZE]);

struct service_question {
    const char *command;                  /* who speaks on stderr */
    const char *tenant, *plugin, *service, *verb; /* the plugin that serves it, as people configure it */
    const struct buf *body;
    bool may_miss; /* the answer not_found is no failure: there is no document then */
};

/* Ask, again where nobody answers, because what moves from one broker to another is not answered for a while. *ret_doc is what was
 * answered; release it with value_free(); NULL where it may be missing. */
int service_ask(struct session *s, const struct config *config, const struct service_question *q, struct muster_value **ret_doc);

#endif
