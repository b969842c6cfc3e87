/*
 * core/answers.h - requests from the moment they are opened to their answer, and the refusal of what never becomes one: tenants and
 * agents over their limits, names that are not known. The part of dispatch that speaks. Private to dispatch.
 *
 * Owns     The requests that are open (core/requests.h) and the counters of what was refused.
 * Threads  Any; new and free on the main thread.
 */
#ifndef MUSTER_CORE_ANSWERS_H
#define MUSTER_CORE_ANSWERS_H

#include "core/arrivals.h"
#include "core/intake.h"
#include "wire/error.h"

struct answers;
struct dispatch;

int answers_new(struct broker *broker, struct answers **ret_answers);
void answers_free(struct answers *a); /* accepts NULL */
/* Those of dispatch, for what dispatch.h promises of answers. */
struct answers *dispatch_answers(const struct dispatch *d);

/* Answer what never became a request. */
void answers_error(struct answers *a, const struct intake *in, const struct error_answer *answer);
/* The same for a name that is out of force, as long as its tenant may get such answers. */
void answers_refuse_name(struct answers *a, const struct intake *in, const struct error_answer *answer);
/* Say no to a message that came in vain. Its reply subject has been checked where there may be an answer. */
void answers_turn_away(struct answers *a, const struct intake *in, const struct arrival *arrival, struct waiting_verdict verdict);
void answers_refuse_for_now(struct answers *a, const struct intake *in, const char *reason, const char *message);
/* Charge a message to its tenant and agent. False: it is over a limit, and was refused. */
bool answers_charge(struct answers *a, const struct intake *in);
/* One more waits for its answer. False: it was refused. */
bool answers_open(struct answers *a, const struct intake *in, struct delivery *delivery);
/* The queue before the plugin is full: by a limit of the tenant's, or by a bound of the broker's (-1). */
void answers_refuse_full(struct answers *a, const struct intake *in, struct delivery *delivery, int limit);

#endif
