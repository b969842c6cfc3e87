/* The database's sweep; see sweep.h. */
#include "core/sweep.h"

#include <stdlib.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "core/broker.h"
#include "sql/sql.h"

enum { PERIOD_MS = 10 * 60 * 1000, AGAIN_MS = 1000 };
static const char statement[] = "SELECT muster.purge_requests()";

struct sweep {
    struct sql *sql;
    uint64_t stmt;
    uv_timer_t timer;
};

static void free_sweep(uv_handle_t *handle)
{
    free(handle->data);
}

static void on_timer(uv_timer_t *timer);

/* A full batch means that there is more; a failure waits for the next period. */
static void on_swept(void *arg, const struct muster_sql_result *r)
{
    struct sweep *s = arg;
    const char *n = !r->code && r->n_rows ? r->get(r, 0, 0) : NULL;

    if (r->code)
        log_debug("sweep", "request ids were not swept: %s", r->error);
    if (n && strtol(n, NULL, 10) > 0 && !uv_is_closing((uv_handle_t *)&s->timer))
        (void)uv_timer_start(&s->timer, on_timer, AGAIN_MS, PERIOD_MS); /* fails only for a closing handle */
}

static void on_timer(uv_timer_t *timer)
{
    struct sweep *s = timer->data;

    /* A full queue or a lost link: the next period tries again. */
    (void)sql_exec(s->sql, &(struct sql_call){.stmt = s->stmt, .fn = on_swept, .arg = s});
}

int sweep_new(struct broker *broker, struct sweep **ret_sweep)
{
    struct sweep *s = calloc(1, sizeof *s);
    struct sql_options options = {.loop = lane_loop(broker_lane(broker)),
                                  .dsn = broker_config(broker)->postgres.dsn,
                                  .broker_id = broker_id(broker),
                                  .area = "sweep",
                                  .pool = 1,
                                  .max_items = 4,
                                  .max_bytes = 65536};
    int err = s ? sql_new(&options, &s->sql) : MUSTER_ENOMEM;

    if (!err)
        err = sql_prepare(s->sql, "purge_requests", SQL_WRITE, statement, &s->stmt);
    if (err) {
        if (s)
            sql_free(s->sql);
        free(s);
        return err;
    }
    s->timer.data = s;
    ASSERT(uv_timer_init(options.loop, &s->timer) == 0);
    ASSERT(uv_timer_start(&s->timer, on_timer, PERIOD_MS, PERIOD_MS) == 0);
    *ret_sweep = s;
    return 0;
}

void sweep_free(struct sweep *s)
{
    if (!s)
        return;
    sql_free(s->sql);
    uv_close((uv_handle_t *)&s->timer, free_sweep);
}
