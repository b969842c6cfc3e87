/* The last event of a service; see position.h. */
#include "common/work/position.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct look {
    position_fn fn;
    void *arg;
};

static uint64_t number(const struct muster_msg *msg, const char *name)
{
    for (uint32_t i = 0; i < msg->n_headers; i++)
        if (strcmp(msg->headers[i].name, name) == 0)
            return strtoull(msg->headers[i].value, NULL, 10);
    return 0;
}

static void on_last(void *arg, int code, const struct muster_msg *msg)
{
    struct look *look = arg;

    if (code == MUSTER_ENOTFOUND)
        look->fn(look->arg, 0, 0, 0);
    else if (code)
        look->fn(look->arg, code, 0, 0);
    else
        look->fn(look->arg, 0, number(msg, "Muster-Epoch"), number(msg, "Muster-Seq"));
    free(look);
}

/* Whether the stream is there is told by each look. */
static void on_stream(void *arg, int code, const struct muster_stream_info *info)
{
    (void)arg;
    (void)code;
    (void)info;
}

static int attach(struct work *w)
{
    return w->events ? 0 : w->stream->attach(w->host, "EVT", NULL, on_stream, w, &w->events);
}

int position_read(struct work *w, const struct muster_tenant *tenant, position_fn fn, void *arg)
{
    struct look *look = malloc(sizeof *look);
    char subject[80];
    int err = look ? attach(w) : MUSTER_ENOMEM;

    (void)snprintf(subject, sizeof subject, "evt.%s.>", w->service);
    if (!err) {
        *look = (struct look){fn, arg};
        err = w->stream->last(w->host, w->events, tenant, subject, on_last, look);
    }
    if (err)
        free(look);
    return err;
}
