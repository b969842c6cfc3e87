/*
 * Watches whose agents have left end a while later; see watch.h.
 *
 * The roster knows who is present. Who never said hello is not in it and may be there all the same: where the broker sees connections
 * it asks the servers, in one listing for all of them, and only when the time of one of them is up.
 */
#include <stdlib.h>
#include <string.h>

#include "fanout/watch.h"

static int on_present(void *arg, const struct muster_agent *agent)
{
    (void)agent;
    *(bool *)arg = true;
    return 1;
}

bool watch_is_present(const struct watch *w)
{
    struct fanout *f = w->ws->f;
    bool present = false;

    return f->roster && f->roster->get(f->host, w->tenant, w->agent, on_present, &present) == 0 && present;
}

static size_t key_of(const struct muster_tenant *tenant, const char *agent, char key[sizeof tenant + WATCH_ID_SIZE])
{
    size_t len = strnlen(agent, WATCH_ID_SIZE - 1);

    memcpy(key, &tenant, sizeof tenant);
    memcpy(key + sizeof tenant, agent, len);
    return sizeof tenant + len;
}

static bool is_due(const struct watch *w, int64_t now_ns)
{
    return !w->ended && !w->was_present && w->absent_ns && now_ns - w->absent_ns >= w->ws->f->config->watch_linger_ns;
}

/* Of a listing that was not complete nothing is believed but who was seen in it. */
static void judge(struct watches *ws, int code)
{
    int64_t now = ws->f->timer->now(ws->f->host);
    char key[sizeof(void *) + WATCH_ID_SIZE];
    void *value;

    for (size_t at = 0; map_next(&ws->by_id, &at, NULL, &value);) {
        struct watch *w = value;

        if (!is_due(w, now))
            continue;
        if (!map_get(&ws->unseen, key, key_of(w->tenant, w->agent, key)))
            w->absent_ns = 0; /* connected, or due only since; looked at again */
        else if (code)
            w->absent_ns = now;
        else
            watch_end(w, "gone");
    }
}

static void on_connected(void *arg, int code, const struct muster_connection *connection)
{
    struct watches *ws = arg;
    char key[sizeof(void *) + WATCH_ID_SIZE];

    if (connection) {
        (void)map_take(&ws->unseen, key, key_of(connection->tenant, connection->agent, key));
        return;
    }
    judge(ws, code);
    map_done(&ws->unseen);
    ws->unseen = (struct map){0};
    ws->listing = false;
}

static void list_connections(struct watches *ws, int64_t now_ns)
{
    char key[sizeof(void *) + WATCH_ID_SIZE];
    void *value;

    if (ws->listing || !ws->sys)
        return;
    for (size_t at = 0; map_next(&ws->by_id, &at, NULL, &value);) {
        struct watch *w = value;

        if (is_due(w, now_ns))
            (void)map_put(&ws->unseen, key, key_of(w->tenant, w->agent, key), w);
    }
    ws->listing = ws->sys->list(ws->f->host, on_connected, ws) == 0;
}

/* True: it takes a listing to know. */
static bool look(struct watch *w, int64_t now_ns)
{
    if (watch_is_present(w)) {
        w->was_present = true;
        w->absent_ns = 0;
        return false;
    }
    if (!w->absent_ns)
        w->absent_ns = now_ns;
    if (now_ns - w->absent_ns < w->ws->f->config->watch_linger_ns)
        return false;
    if (w->was_present)
        watch_end(w, "gone");
    return !w->was_present;
}

void watches_look(struct watches *ws, int64_t now_ns)
{
    bool due = false;
    void *value;

    for (size_t at = 0; map_next(&ws->by_id, &at, NULL, &value);) {
        struct watch *w = value;

        if (w->ended)
            continue;
        due = look(w, now_ns) || due;
        if (!w->ended && watch_may(w) == MUSTER_EACCES)
            watch_end(w, "permission_denied");
    }
    if (due)
        list_connections(ws, now_ns);
}
