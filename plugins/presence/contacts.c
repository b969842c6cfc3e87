/* Connections, names and servers; see contacts.h. */
#include "presence/contacts.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

struct connection_key {
    const struct server *server;
    uint64_t client;
};

struct contact_key {
    const struct muster_tenant *tenant;
    const char *name;
};

static uint64_t contact_hash(const struct muster_tenant *tenant, const char *name)
{
    return hash_bytes(name, strlen(name)) ^ hash_bytes(&tenant, sizeof tenant);
}

static bool contact_is(const void *item, const void *key)
{
    const struct contact_key *k = key;
    const struct contact *c = item;

    return c->tenant == k->tenant && strcmp(c->name, k->name) == 0;
}

static uint64_t connection_hash(const struct server *server, uint64_t client)
{
    return hash_bytes(&server, sizeof server) ^ hash_bytes(&client, sizeof client);
}

static bool connection_is(const void *item, const void *key)
{
    const struct connection_key *k = key;
    const struct connection *c = item;

    return c->server == k->server && c->client == k->client;
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

    for (size_t at = 0; table_next(&contacts->by_id, &at, &item);)
        free(item);
    table_done(&contacts->by_id);
    for (size_t at = 0; table_next(&contacts->by_name, &at, &item);)
        free(item);
    table_done(&contacts->by_name);
    while (contacts->servers.next && contacts->servers.next != &contacts->servers) {
        struct server *server = contacts->servers.next;

        contacts->servers.next = server->next;
        free(server);
    }
}

/* ---- names ------------------------------------------------------------------------------------------------------------------- */

struct contact *contacts_get(const struct contacts *contacts, const struct muster_tenant *tenant, const char *name)
{
    return table_get(&contacts->by_name, contact_hash(tenant, name), contact_is, &(struct contact_key){tenant, name});
}

struct contact *contacts_of(struct contacts *contacts, const struct muster_tenant *tenant, const char *name)
{
    struct contact *contact = contacts_get(contacts, tenant, name);
    size_t size = strlen(name) + 1;

    if (contact)
        return contact;
    contact = calloc(1, sizeof *contact + size);
    if (!contact)
        return NULL;
    contact->tenant = tenant;
    memcpy(contact->name, name, size);
    if (!table_put(&contacts->by_name, contact_hash(tenant, name), contact)) {
        free(contact);
        return NULL;
    }
    return contact;
}

void contacts_release(struct contacts *contacts, struct contact *contact)
{
    if (!contact || contact->first || contact->agent)
        return;
    (void)table_take(&contacts->by_name, contact_hash(contact->tenant, contact->name), contact_is,
                     &(struct contact_key){contact->tenant, contact->name});
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

    return key.server ? table_get(&contacts->by_id, connection_hash(key.server, client), connection_is, &key) : NULL;
}

static struct connection *connection_new(struct contacts *contacts, struct server *server, const struct muster_connection *told)
{
    struct contact *contact = contacts_of(contacts, told->tenant, told->agent);
    struct connection *c = contact ? calloc(1, sizeof *c) : NULL;

    if (!c || !table_put(&contacts->by_id, connection_hash(server, told->client), c)) {
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
    (void)table_take(&contacts->by_id, connection_hash(key.server, key.client), connection_is, &key);
    connection->server->n_connections--;
    forget_unused(connection->server);
    contacts->n--;
    free(connection);
}

bool contacts_next(const struct contacts *contacts, size_t *at, struct connection **ret_connection)
{
    void *item;

    if (!table_next(&contacts->by_id, at, &item))
        return false;
    *ret_connection = item;
    return true;
}
