/* Connections, names and servers; see contacts.h. */
#include "presence/contacts.h"

#include <stdlib.h>
#include <string.h>

#include "base/name.h"

struct connection_key {
    const struct server *server;
    uint64_t client;
};

struct contact_key {
    const struct muster_tenant *tenant;
    char name[NAME_MAX_LEN];
};

static size_t contact_key(struct contact_key *key, const struct muster_tenant *tenant, const char *name)
{
    size_t len = strnlen(name, NAME_MAX_LEN);

    key->tenant = tenant;
    memcpy(key->name, name, len);
    return offsetof(struct contact_key, name) + len;
}

void contacts_init(struct contacts *contacts, size_t max)
{
    memset(contacts, 0, sizeof *contacts);
    contacts->servers.next = contacts->servers.prev = &contacts->servers;
    contacts->max = max;
}

void contacts_done(struct contacts *contacts)
{
    void *item;

    for (size_t at = 0; map_next(&contacts->by_id, &at, NULL, &item);)
        free(item);
    map_done(&contacts->by_id);
    for (size_t at = 0; map_next(&contacts->by_name, &at, NULL, &item);)
        free(item);
    map_done(&contacts->by_name);
    while (contacts->servers.next && contacts->servers.next != &contacts->servers) {
        struct server *server = contacts->servers.next;

        contacts->servers.next = server->next;
        free(server);
    }
}

/* ---- names ------------------------------------------------------------------------------------------------------------------- */

struct contact *contacts_of(struct contacts *contacts, const struct muster_tenant *tenant, const char *name)
{
    struct contact_key key;
    size_t len = contact_key(&key, tenant, name), name_len = len - offsetof(struct contact_key, name);
    struct contact *contact = map_get(&contacts->by_name, &key, len);

    if (contact)
        return contact;
    contact = calloc(1, sizeof *contact + name_len + 1);
    if (!contact)
        return NULL;
    contact->tenant = tenant;
    memcpy(contact->name, name, name_len);
    if (!map_put(&contacts->by_name, &key, len, contact)) {
        free(contact);
        return NULL;
    }
    return contact;
}

void contacts_release(struct contacts *contacts, struct contact *contact)
{
    struct contact_key key;

    if (!contact || contact->first || contact->agent)
        return;
    (void)map_take(&contacts->by_name, &key, contact_key(&key, contact->tenant, contact->name));
    free(contact);
}

static void set_stale(struct contact *contact, bool stale)
{
    for (struct connection *c = contact->first; c; c = c->next)
        c->stale = stale;
}

void contact_went(struct contact *contact)
{
    set_stale(contact, true);
}

bool contact_is_connected(const struct contact *contact)
{
    for (const struct connection *c = contact->first; c; c = c->next)
        if (!c->stale)
            return true;
    return false;
}

void contact_came(struct contact *contact)
{
    if (!contact_is_connected(contact))
        set_stale(contact, false);
}

bool contact_is_out_of_sight(const struct contact *contact)
{
    for (const struct connection *c = contact->first; c; c = c->next)
        if (!c->stale && !c->server->lost_ns)
            return false;
    return contact_is_connected(contact);
}

/* ---- servers ----------------------------------------------------------------------------------------------------------------- */

struct server *contacts_server(struct contacts *contacts, const char *id)
{
    for (struct server *s = contacts->servers.next; s != &contacts->servers; s = s->next)
        if (strcmp(s->id, id) == 0)
            return s;
    return NULL;
}

static struct server *server_of(struct contacts *contacts, const char *id)
{
    struct server *server = contacts_server(contacts, id), *head = &contacts->servers;

    if (server)
        return server;
    server = calloc(1, sizeof *server);
    if (!server)
        return NULL;
    memcpy(server->id, id, strlen(id));
    server->next = head;
    server->prev = head->prev;
    server->prev->next = head->prev = server;
    return server;
}

static void forget_unused(struct server *server)
{
    if (server->n_connections || server->n_agents || !server->next)
        return;
    server->prev->next = server->next;
    server->next->prev = server->prev;
    free(server);
}

void server_hold(struct server *server)
{
    server->n_agents++;
}

void server_release(struct server *server)
{
    server->n_agents--;
    forget_unused(server);
}

/* ---- connections ------------------------------------------------------------------------------------------------------------- */

struct connection *contacts_find(struct contacts *contacts, const char *server, uint64_t client)
{
    const struct connection_key key = {contacts_server(contacts, server), client};

    return key.server ? map_get(&contacts->by_id, &key, sizeof key) : NULL;
}

static struct connection *connection_new(struct contacts *contacts, struct server *server, const struct muster_connection *told)
{
    const struct connection_key key = {server, told->client};
    struct contact *contact = contacts_of(contacts, told->tenant, told->agent);
    struct connection *c = contact ? calloc(1, sizeof *c) : NULL;

    if (!c || !map_put(&contacts->by_id, &key, sizeof key, c)) {
        free(c);
        contacts_release(contacts, contact);
        return NULL;
    }
    *c = (struct connection){.next = contact->first, .contact = contact, .server = server, .client = told->client, .round = contacts->round};
    contact->first = c;
    server->n_connections++;
    server->round = contacts->round;
    contacts->n++;
    return c;
}

static int refuse(struct contacts *contacts, int code)
{
    contacts->refused++;
    return code;
}

int contacts_open(struct contacts *contacts, const struct muster_connection *told, struct connection **ret_connection)
{
    struct connection *c;
    struct server *server;

    if (!*told->server || strlen(told->server) > SERVER_ID_MAX)
        return refuse(contacts, MUSTER_EINVAL);
    c = contacts_find(contacts, told->server, told->client);
    if (c) {
        c->round = c->server->round = contacts->round;
        *ret_connection = c;
        return MUSTER_EEXIST;
    }
    if (contacts->n >= contacts->max)
        return refuse(contacts, MUSTER_EAGAIN);
    server = server_of(contacts, told->server);
    c = server ? connection_new(contacts, server, told) : NULL;
    if (!c) {
        if (server)
            forget_unused(server);
        return refuse(contacts, MUSTER_ENOMEM);
    }
    *ret_connection = c;
    return 0;
}

void contacts_close(struct contacts *contacts, struct connection *connection)
{
    const struct connection_key key = {connection->server, connection->client};
    struct connection **at = &connection->contact->first;

    while (*at != connection)
        at = &(*at)->next;
    *at = connection->next;
    (void)map_take(&contacts->by_id, &key, sizeof key);
    connection->server->n_connections--;
    forget_unused(connection->server);
    contacts->n--;
    free(connection);
}

bool contacts_next(const struct contacts *contacts, size_t *at, struct connection **ret_connection)
{
    void *item;

    if (!map_next(&contacts->by_id, at, NULL, &item))
        return false;
    *ret_connection = item;
    return true;
}
