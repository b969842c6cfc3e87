/*
 * presence/connections.c - what muster.sys/1 tells: connections that come and end, servers that are lost, and gaps.
 *
 * A connection that ended before our eyes makes an agent without another one gone, after the grace. One that vanished while nobody looked,
 * or with its server, makes it suspect: it may have come back by a way that is not known yet.
 */
#include <string.h>

#include "base/clock.h"
#include "presence/presence.h"

static const int64_t list_again_ns = 5 * CLOCK_S;
static const int64_t list_rest_ns = 30 * CLOCK_S;
static const int64_t lost_within_ns = 10 * CLOCK_S; /* a server is told to be lost when it has been so for 4 to 6 s */

static bool is_any(const char *word, const char *const *words, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (word && strcmp(word, words[i]) == 0)
            return true;
    return false;
}

/* As nats-server words them. Somebody wanted it gone. */
static bool was_kicked(const char *reason)
{
    static const char *const words[] = {"Kicked", "Credentials Revoked", "Authentication Expired"};

    return is_any(reason, words, sizeof words / sizeof *words);
}

/* The client did nothing wrong and goes to another server. */
static bool was_sent_away(const char *reason)
{
    static const char *const words[] = {"Server Shutdown", "Route Removed", "Cluster Name Conflict"};

    return is_any(reason, words, sizeof words / sizeof *words);
}

/* ---- what is told of one connection ------------------------------------------------------------------------------------------- */

static struct agent *agent_of(struct presence *p, struct contact *contact)
{
    struct tenancy *t;

    if (contact->agent)
        return contact->agent;
    t = map_get(&p->by_tenant, p->tenants->name(contact->tenant), strlen(p->tenants->name(contact->tenant)));
    return t ? agent_find(t, contact->name) : NULL;
}

/* Whoever connects anew has come from there; if he has not, the list says so when the server is back. */
static void drop_lost(struct presence *p, struct contact *contact)
{
    for (struct connection *c = contact->first, *next; c; c = next) {
        next = c->next;
        if (c->server->lost_ns)
            contacts_close(&p->death.contacts, c);
    }
}

static void tie(struct agent *a, struct contact *contact)
{
    a->death.contact = contact;
    contact->agent = a;
}

static void meet(struct presence *p, struct connection *c)
{
    struct agent *a = agent_of(p, c->contact);

    drop_lost(p, c->contact);
    if (!a || !a->death.joined)
        return;
    tie(a, c->contact);
    a->death.met_ns = p->timer->now(p->host);
    silence_move(a, c->server);
    silence_met(a);
}

/* Whoever is there will answer. */
static void doubt_shortly(struct agent *a)
{
    struct presence *p = a->tenancy->p;
    int64_t until_ns = suspects_wait(p, p->timer->now(p->host));

    if (!(a->death.flags & DEATH_DOUBT))
        return;
    if (until_ns < a->death.doubt_ns)
        a->death.doubt_ns = until_ns;
    a->tenancy->death.call_due = p->death.calls_due = true;
    silence_look(a);
}

/* Its connections may have come and gone meanwhile. */
static void find_server(struct presence *p, struct server *server)
{
    struct connection *c;

    if (!server || !server->lost_ns)
        return;
    server->lost_ns = 0;
    p->death.list_ns = p->timer->now(p->host);
    for (size_t at = 0; contacts_next(&p->death.contacts, &at, &c);)
        if (c->server == server && c->contact->agent)
            doubt_shortly(c->contact->agent);
}

static void on_there(struct presence *p, const struct muster_connection *told)
{
    struct connection *c;
    int code = contacts_open(&p->death.contacts, told, &c);

    if (code == 0 || code == MUSTER_EEXIST)
        find_server(p, c->server);
    if (code == 0) {
        c->since_ns = p->timer->now(p->host);
        meet(p, c);
    } else if (code != MUSTER_EEXIST) {
        p->metrics->add(p->host, p->death.refused, NULL, 1);
    }
}

static void grace_begins(struct agent *a, const char *reason)
{
    struct agent_death *d = &a->death;

    d->flags |= DEATH_GONE | (was_kicked(reason) ? DEATH_KICKED : 0);
    d->gone_ns = a->tenancy->p->timer->now(a->tenancy->p->host);
    silence_look(a);
    death_hurry(a->tenancy->p, d->gone_ns);
}

static void last_one_ended(struct agent *a, const char *reason)
{
    struct presence *p = a->tenancy->p;

    if (was_sent_away(reason))
        suspects_doubt(a, "node", suspects_wait(p, p->timer->now(p->host)));
    else
        grace_begins(a, reason);
}

static void out_of_sight(struct agent *a)
{
    struct presence *p = a->tenancy->p;

    suspects_doubt(a, "node", p->timer->now(p->host) + p->config->lost_after_ns);
}

static void on_ended(struct presence *p, const struct muster_connection *told)
{
    struct connection *c = contacts_find(&p->death.contacts, told->server, told->client);
    struct contact *contact = c ? c->contact : NULL;
    struct agent *a = contact ? contact->agent : NULL;

    if (!c)
        return;
    contacts_close(&p->death.contacts, c);
    if (a && !contact_is_connected(contact))
        last_one_ended(a, told->reason);
    else if (a && contact_is_out_of_sight(contact))
        out_of_sight(a);
    contacts_release(&p->death.contacts, contact);
}

void conn_join(struct agent *a)
{
    struct presence *p = a->tenancy->p;
    struct contact *contact = a->death.contact ? a->death.contact : contacts_get(&p->death.contacts, a->tenancy->tenant, a->name);

    if (!contact)
        return; /* its beats alone tell, until it connects */
    tie(a, contact);
    contact_came(contact);
    if (contact->first)
        silence_move(a, contact->first->server);
}

/* ---- servers ------------------------------------------------------------------------------------------------------------------ */

/* It is connected elsewhere since about when the server was lost. */
static bool has_moved(const struct contact *contact, int64_t now_ns)
{
    for (const struct connection *c = contact->first; c; c = c->next)
        if (!c->stale && !c->server->lost_ns && now_ns - c->since_ns < lost_within_ns)
            return true;
    return false;
}

static void lose(struct presence *p, struct connection *c)
{
    struct contact *contact = c->contact;

    if (has_moved(contact, c->server->lost_ns))
        contacts_close(&p->death.contacts, c);
    else if (contact->agent && contact_is_out_of_sight(contact))
        out_of_sight(contact->agent);
}

static void lose_server(struct presence *p, struct server *server)
{
    struct connection *c;

    server->lost_ns = p->timer->now(p->host);
    p->metrics->add(p->host, p->death.lost_servers, NULL, 1);
    p->host->log(p->host, MUSTER_LOG_WARN, "NATS server %s is lost: its %u connections are out of sight", server->id, server->n_connections);
    server_hold(server); /* the last of its connections may go */
    for (size_t at = 0; contacts_next(&p->death.contacts, &at, &c);)
        if (c->server == server)
            lose(p, c);
    server_release(server);
}

static void on_server_lost(struct presence *p, const char *id)
{
    struct server *server = contacts_server(&p->death.contacts, id);

    if (server && !server->lost_ns)
        lose_server(p, server);
}

/* One that does not come back is given up after a while. */
static bool is_any_lost(const struct presence *p)
{
    const struct server *head = &p->death.contacts.servers;
    int64_t now_ns = p->timer->now(p->host);

    for (const struct server *s = head->next; s != head; s = s->next)
        if (s->lost_ns && now_ns - s->lost_ns < p->config->lost_after_ns)
            return true;
    return false;
}

/* It may be on a server that is out of sight. */
static int64_t vanished_until_ns(const struct presence *p)
{
    int64_t now_ns = p->timer->now(p->host);

    return is_any_lost(p) ? now_ns + p->config->lost_after_ns : suspects_wait(p, now_ns);
}

/* When nothing was missed since, or all servers have been asked and none is out of sight. */
bool conn_is_sure(const struct agent *a)
{
    const struct death *d = &a->tenancy->p->death;

    return a->death.gone_ns > d->gap_ns || (!d->list_ns && !d->listing && !is_any_lost(a->tenancy->p));
}

bool conn_may_be_hidden(const struct agent *a)
{
    return !(a->death.contact && contact_is_connected(a->death.contact)) && is_any_lost(a->tenancy->p);
}

/* A connection of which nobody told the end. */
static void vanish(struct presence *p, struct connection *c, int64_t until_ns)
{
    struct contact *contact = c->contact;
    struct agent *a = contact->agent;

    p->metrics->add(p->host, p->death.vanished, NULL, 1);
    contacts_close(&p->death.contacts, c);
    if (a && !contact_is_connected(contact) && !(a->death.flags & DEATH_GONE))
        suspects_doubt(a, "silent", until_ns);
    else if (a && contact_is_out_of_sight(contact))
        out_of_sight(a);
    contacts_release(&p->death.contacts, contact);
}

/* A server that does not come back has no connections any more. What is thought of its agents stays: who was heard since is somewhere. */
static void forget_lost(struct presence *p, int64_t now_ns)
{
    struct connection *c;

    for (size_t at = 0; contacts_next(&p->death.contacts, &at, &c);) {
        struct contact *contact = c->contact;

        if (!c->server->lost_ns || now_ns - c->server->lost_ns < p->config->lost_after_ns)
            continue;
        contacts_close(&p->death.contacts, c);
        contacts_release(&p->death.contacts, contact);
    }
}

static bool is_overdue(const struct presence *p, int64_t now_ns)
{
    const struct server *head = &p->death.contacts.servers;

    for (const struct server *s = head->next; s != head; s = s->next)
        if (s->lost_ns && s->n_connections && now_ns - s->lost_ns >= p->config->lost_after_ns)
            return true;
    return false;
}

/* ---- who is connected --------------------------------------------------------------------------------------------------------- */

/* One of which no connection is listed has not answered. */
static void lose_missing(struct presence *p)
{
    struct server *head = &p->death.contacts.servers;

    for (struct server *s = head->next, *next; s != head; s = next) {
        next = s->next;
        if (s->n_connections && !s->lost_ns && s->round != p->death.contacts.round)
            lose_server(p, s);
    }
}

/* Those of a lost server are not in the list, and may be there all the same. */
static void compare(struct presence *p)
{
    int64_t until_ns = vanished_until_ns(p);
    struct connection *c;

    for (size_t at = 0; contacts_next(&p->death.contacts, &at, &c);)
        if (c->round != p->death.contacts.round && !c->server->lost_ns)
            vanish(p, c, until_ns);
}

static void on_listed(void *arg, int code, const struct muster_connection *connection)
{
    struct presence *p = arg;

    if (connection) {
        on_there(p, connection);
        return;
    }
    p->death.listing = false;
    if (!code || code == MUSTER_ETIME)
        lose_missing(p);
    if (code)
        p->death.list_ns = p->timer->now(p->host) + list_again_ns; /* some server has not answered in full: who is missing may be there */
    else
        compare(p);
}

static void ask(struct presence *p, int64_t now_ns)
{
    p->death.contacts.round++;
    if (p->death.sys->list(p->host, on_listed, p)) {
        p->death.list_ns = now_ns + list_again_ns;
        return;
    }
    p->death.listing = true;
    p->death.list_ns = 0;
    p->death.listed_ns = now_ns;
}

static void on_told(void *arg, const struct muster_connection *told)
{
    struct presence *p = arg;

    if (p->death.done)
        return;
    switch (told->kind) {
    case MUSTER_SYS_CONNECT:
        on_there(p, told);
        break;
    case MUSTER_SYS_DISCONNECT:
        on_ended(p, told);
        break;
    case MUSTER_SYS_SERVER_LOST:
        on_server_lost(p, told->server);
        break;
    case MUSTER_SYS_SERVER_BACK:
        find_server(p, contacts_server(&p->death.contacts, told->server));
        break;
    default:
        p->death.list_ns = p->death.gap_ns = p->timer->now(p->host);
    }
}

/* What connected before its tenant was known was shown to nobody. Where tenants are added all the time, the servers are not asked all the time. */
void death_tenants(struct presence *p)
{
    int64_t soon_ns = p->timer->now(p->host) + CLOCK_S, next_ns = p->death.listed_ns + list_rest_ns;

    if (!p->death.list_ns)
        p->death.list_ns = p->death.listed_ns && next_ns > soon_ns ? next_ns : soon_ns;
}

void conn_tick(struct presence *p, int64_t now_ns)
{
    if (p->death.list_ns && now_ns >= p->death.list_ns && !p->death.listing)
        ask(p, now_ns);
    if (is_overdue(p, now_ns))
        forget_lost(p, now_ns);
}

int conn_start(struct presence *p)
{
    uint64_t id;

    return p->death.sys->watch(p->host, on_told, p, &id);
}
