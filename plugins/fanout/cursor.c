/* How far inboxes were read, many in one statement; see inbox.h. While one is under way the next is gathered. The lane. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/map.h"
#include "base/name.h"
#include "fanout/inbox.h"

enum { LOOKUP_MAX = 500 };

struct wanted {
    struct wanted *next;
    char agent[NAME_MAX_LEN + 1];
    cursor_fn fn;
    void *arg;
};

/* The names of one tenant that go into one statement. */
struct lookup {
    struct lookup *next;
    struct fanout *f;
    const struct muster_tenant *tenant;
    struct wanted *wanted;
    size_t n;
};

static void tell(struct lookup *l, int code, const struct map *found)
{
    while (l->wanted) {
        static const struct cursor nobody = {0};
        struct wanted *w = l->wanted;
        const struct cursor *c = found ? map_get(found, w->agent, strlen(w->agent)) : NULL;

        l->wanted = w->next;
        w->fn(w->arg, code, code ? NULL : c ? c : &nobody);
        free(w);
    }
    free(l);
}

static struct cursor read_row(const struct inbox *in, const struct muster_sql_result *r, uint32_t row)
{
    const char *epoch = r->get(r, row, 1), *acked = r->get(r, row, 2), *since = r->get(r, row, 3);
    struct cursor c = {.known = true, .since_wall_ns = strtoll(since, NULL, 10) * CLOCK_S};

    if (epoch && strtoull(epoch, NULL, 10) == in->epoch)
        c.acked = strtoull(acked, NULL, 10);
    return c;
}

static void look_next(struct fanout *f);

static void on_found(void *arg, const struct muster_sql_result *r)
{
    struct lookup *l = arg;
    struct fanout *f = l->f;
    struct map found = {0};
    struct cursor *rows = r->code ? NULL : calloc(r->n_rows + 1, sizeof *rows);
    int code = r->code ? r->code : rows ? 0 : MUSTER_ENOMEM;

    for (uint32_t i = 0; i < r->n_rows && !code; i++) {
        rows[i] = read_row(f->inbox, r, i);
        if (!map_put(&found, r->get(r, i, 0), strlen(r->get(r, i, 0)), &rows[i]))
            code = MUSTER_ENOMEM;
    }
    f->inbox->looking = false;
    tell(l, code, &found);
    map_done(&found);
    free(rows);
    look_next(f);
}

static int look(struct fanout *f, struct lookup *l)
{
    const char *tenant = f->tenants->name(l->tenant);
    struct buf names = {0};
    struct muster_bytes params[2];
    int err;

    for (const struct wanted *w = l->wanted; w; w = w->next)
        buf_printf(&names, "%s%s", names.len ? "," : "", w->agent);
    params[0] = (struct muster_bytes){tenant, strlen(tenant)};
    params[1] = (struct muster_bytes){names.data, names.len};
    err = buf_failed(&names) ? MUSTER_ENOMEM : f->sql->exec(f->host, f->inbox->cursors, l->tenant, NULL, 2, params, on_found, l);
    buf_done(&names);
    return err;
}

static void look_next(struct fanout *f)
{
    while (f->inbox->gathering && !f->inbox->looking) {
        struct lookup *l = f->inbox->gathering;
        int err;

        err = look(f, l);
        if (err == MUSTER_EAGAIN) /* cursors_resume() asks again */
            return;
        f->inbox->gathering = l->next;
        f->inbox->looking = !err;
        if (err)
            tell(l, err, NULL);
    }
}

void cursors_resume(struct fanout *f)
{
    look_next(f);
}

void cursors_end(struct fanout *f)
{
    while (f->inbox->gathering) {
        struct lookup *l = f->inbox->gathering;

        f->inbox->gathering = l->next;
        tell(l, MUSTER_ELINK, NULL);
    }
}

static struct lookup *lookup_for(struct fanout *f, const struct muster_tenant *tenant)
{
    struct lookup **at = &f->inbox->gathering;

    while (*at && ((*at)->tenant != tenant || (*at)->n >= LOOKUP_MAX))
        at = &(*at)->next;
    if (!*at) {
        *at = calloc(1, sizeof **at);
        if (*at) {
            (*at)->f = f;
            (*at)->tenant = tenant;
        }
    }
    return *at;
}

int cursor_find(struct fanout *f, const struct muster_tenant *tenant, const char *agent, cursor_fn fn, void *arg)
{
    struct wanted *w = calloc(1, sizeof *w);
    struct lookup *l = w ? lookup_for(f, tenant) : NULL;

    if (!l) {
        free(w);
        return MUSTER_ENOMEM;
    }
    (void)snprintf(w->agent, sizeof w->agent, "%s", agent);
    w->fn = fn;
    w->arg = arg;
    w->next = l->wanted;
    l->wanted = w;
    l->n++;
    look_next(f);
    return 0;
}
