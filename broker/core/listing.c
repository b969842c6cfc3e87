/*
 * All connections; see listing.h.
 *
 * The servers are asked who they are, then each for its clients, sorted by id. A page begins a little before the end of the last
 * one: when connections went meanwhile, and rows moved up, the two still touch, and no row is missed.
 */
#include "core/listing.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/clock.h"

enum { MAX_SERVERS = 256, MAX_ASKED = 4, MAX_PAGES = 4096, OVERLAP = SYS_PAGE / 4, MAX_SUBJECT = 128 };
static const int64_t answer_ns = 2 * CLOCK_S;

struct listed {
    struct listing *l;
    struct sys_server server;
    uint64_t offset, last; /* of the page that is asked for; the last id that was shown */
    uint32_t n_pages;
    bool fresh, torn; /* no row of the page was read yet; it does not touch the one before */
};

/* Ends when nothing is open any more. */
struct listing {
    struct listing_how how;
    struct listed servers[MAX_SERVERS];
    uint32_t n_servers, n_active, n_begun, n_open;
    bool pinging; /* its address is the owner of that question */
    int code;
};

static void finish(struct listing *l)
{
    if (l->pinging || l->n_open)
        return;
    l->how.end(l->how.arg, l->code);
    free(l);
}

/* The first fault is told, and a server that is late is not waited for. */
void listing_fail(struct listing *l, int code)
{
    if (!l->code)
        l->code = code == MUSTER_ENOTFOUND || code == MUSTER_EINVAL ? MUSTER_ETIME : code;
}

/* ---- pages ------------------------------------------------------------------------------------------------------------------ */

static void on_page(void *arg, int code, const struct bus_msg *msg);

static int ask_page(struct listed *s)
{
    struct listing *l = s->l;
    const struct bus_call call = {.lane = l->how.lane, .owner = l, .timeout_ns = answer_ns, .fn = on_page, .arg = s};
    char subject[MAX_SUBJECT];
    struct buf body = {0};
    int err;

    (void)snprintf(subject, sizeof subject, "$SYS.REQ.SERVER.%s.CONNZ", s->server.id); /* ids are bounded */
    buf_printf(&body, "{\"auth\":true,\"sort\":\"cid\",\"limit\":%d,\"offset\":%llu,\"acc\":", SYS_PAGE,
               (unsigned long long)s->offset);
    buf_put_json(&body, l->how.account, strlen(l->how.account));
    buf_putc(&body, '}');
    s->torn = false;
    s->fresh = true;
    err = buf_failed(&body) ? MUSTER_ENOMEM
                            : l->how.ask(l->how.arg, &(struct bus_out){.subject = subject, .payload = {body.data, body.len}, .fence = -1},
                                         &call);
    buf_done(&body);
    return err;
}

static void begin_more(struct listing *l)
{
    while (l->n_begun < l->n_servers && l->n_open < MAX_ASKED) {
        int err = ask_page(&l->servers[l->n_begun++]);

        if (err)
            listing_fail(l, err);
        else
            l->n_open++;
    }
}

static void show_row(void *arg, const struct sys_client *client)
{
    struct listed *s = arg;

    if (s->fresh)
        s->torn = s->offset && client->id > s->last;
    s->fresh = false;
    if (s->torn || client->id <= s->last)
        return;
    s->last = client->id;
    if (strcmp(client->account, s->l->how.account) == 0)
        s->l->how.row(s->l->how.arg, client, &s->server);
}

/* Where the next page begins; false: this was the last. */
static bool turn_page(struct listed *s, uint32_t n_rows)
{
    if (s->torn || (!n_rows && s->offset))
        s->offset -= s->offset < SYS_PAGE / 2 ? s->offset : SYS_PAGE / 2;
    else if (n_rows >= SYS_PAGE)
        s->offset += n_rows - OVERLAP;
    else
        return false;
    return true;
}

static void on_page(void *arg, int code, const struct bus_msg *msg)
{
    struct listed *s = arg;
    struct listing *l = s->l;
    struct sys_page page;
    bool more;

    if (!code)
        code = sys_read_page(bus_msg_data(msg), &page, show_row, s);
    more = !code && turn_page(s, page.n_rows);
    if (more)
        code = ++s->n_pages < MAX_PAGES ? ask_page(s) : MUSTER_EAGAIN; /* connections come and go faster than they are read */
    if (code)
        listing_fail(l, code);
    if (!more || code)
        l->n_open--;
    begin_more(l);
    finish(l);
}

/* ---- servers ---------------------------------------------------------------------------------------------------------------- */

static void add_server(struct listing *l, const struct sys_server *server)
{
    l->n_active = server->n_active > l->n_active ? server->n_active : l->n_active;
    for (uint32_t i = 0; i < l->n_servers; i++)
        if (strcmp(l->servers[i].server.id, server->id) == 0)
            return;
    if (l->n_servers == MAX_SERVERS)
        listing_fail(l, MUSTER_EAGAIN);
    else
        l->servers[l->n_servers++] = (struct listed){.l = l, .server = *server};
}

/* Servers know how many they are: with the last of them there is nothing more to wait for. */
static void on_server(void *arg, int code, const struct bus_msg *msg)
{
    struct listing *l = arg;
    struct sys_server server;

    if (!code && sys_read_server(bus_msg_data(msg), &server) == 0)
        add_server(l, &server);
    if (!code && l->n_active && l->n_servers >= l->n_active)
        bus_cancel(l->how.bus, &l->pinging);
    if (code) {
        l->pinging = false;
        if (!l->n_servers || l->n_servers < l->n_active)
            listing_fail(l, code);
    }
    begin_more(l);
    finish(l);
}

int listing_begin(const struct listing_how *how, struct listing **ret_listing)
{
    struct listing *l = calloc(1, sizeof *l);
    struct bus_call call = {.lane = how->lane, .owner = l ? &l->pinging : NULL, .timeout_ns = answer_ns, .many = true, .fn = on_server, .arg = l};
    int err;

    if (!l)
        return MUSTER_ENOMEM;
    l->how = *how;
    l->pinging = true;
    err = how->ask(how->arg, &(struct bus_out){.subject = "$SYS.REQ.SERVER.PING", .fence = -1}, &call);
    if (err) {
        free(l);
        return err;
    }
    *ret_listing = l;
    return 0;
}

void listing_cancel(struct listing *l)
{
    bus_cancel(l->how.bus, &l->pinging);
    bus_cancel(l->how.bus, l);
}
