/* The last steps of a message: its body is checked, the plugin's function runs, and who waits is answered; see dispatch_deliver() in
 * dispatch.h. On the instance's lane. */
#include "base/clock.h"
#include "core/audit.h"
#include "core/broker.h"
#include "core/dispatch.h"
#include "core/instance.h"
#include "core/services.h"
#include "wire/error.h"
#include "wire/value.h"

/* True when the plugin may see it. Any body accepts, when it answers what the broker pushed. */
static bool check_body(struct instance *in, struct delivery *d)
{
    struct dispatch *dispatch = broker_dispatch(in->broker);
    struct wire_error why;
    int err;

    if (!d->msg.service || d->is_answer)
        return true;
    err = endpoint_check(d->endpoint, &d->msg, d->object, &why);
    if (d->msg.request && *d->object)
        dispatch_note_object(d);
    if (!err)
        return true;
    dispatch_count_refused(dispatch, "body");
    if (d->msg.request)
        dispatch_refuse_field(d, error_of_result(err), why.field, why.text);
    else if (d->endpoint)
        endpoint_count(d->endpoint, clock_now_ns() - d->msg.recv_ns,
                       error_number(error_of_result(err)), why.text);
    audit_delivery(broker_audit(in->broker), d, err);
    return false;
}

static int call_plugin(struct instance *in, struct delivery *d)
{
    int err;

    in->delivering = d;
    instance_enter(in, "message", d->msg.subject);
    err = d->sub->fn(in->self, &d->msg);
    instance_leave(in);
    in->delivering = NULL;
    return err;
}

/* Answer where the plugin did not; nothing happens when it did. What every broker hears (a plain subscription) is left to the one whose
 * plugin answers: the others' silence is none. */
static void settle(struct instance *in, struct delivery *d, int err)
{
    if (err)
        inbox_count_failure(in->inbox);
    if (err && d->sub->queue)
        dispatch_refuse(d, error_of_result(err), "the service failed");
    else if (err || !atomic_load(&d->held))
        dispatch_unanswered(d);
    if (!d->msg.request && d->endpoint)
        endpoint_count(d->endpoint, clock_now_ns() - d->msg.recv_ns,
                       err ? error_number(error_of_result(err)) : 0, "the service failed");
    audit_delivery(broker_audit(in->broker), d, err);
}

void dispatch_deliver(void *arg, struct delivery *d)
{
    struct instance *in = arg;
    int err;

    if (d->sub->dead) {
        dispatch_refuse(d, ERROR_UNAVAILABLE, "the service stops; try again");
    } else if (check_body(in, d)) {
        err = call_plugin(in, d);
        if (err == MUSTER_EAGAIN && inbox_again(in->inbox, d))
            return;
        settle(in, d, err);
    }
    delivery_unref(d);
}
