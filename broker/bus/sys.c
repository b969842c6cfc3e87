/* What nats-server says in its system account; see sys.h. */
#include "bus/sys.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/utf8.h"

/* ---- members ------------------------------------------------------------------------------------------------------- */

static const cJSON *member(const cJSON *parent, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(parent, key);
}

static const char *string_of(const cJSON *parent, const char *key)
{
    const char *s = cJSON_GetStringValue(member(parent, key));

    return s ? s : "";
}

/* A double holds every id that a server will ever give out exactly. */
static uint64_t id_of(const cJSON *parent, const char *key)
{
    const cJSON *v = member(parent, key);

    return cJSON_IsNumber(v) && v->valuedouble >= 1 && v->valuedouble < 9e15 ? (uint64_t)v->valuedouble : 0;
}

/* Copy what fits, cut between characters. */
static void copy(char *out, size_t size, const char *s)
{
    size_t len = strlen(s);

    if (len >= size)
        len = size - 1;
    len = utf8_prefix(s, len);
    memcpy(out, s, len);
    out[len] = '\0';
}

/* ---- who a client is ----------------------------------------------------------------------------------------------- */

/* What follows the prefix in the one tag that has it; NULL: there is none, or several. */
static const char *tag_of(const cJSON *client, const char *prefix)
{
    const char *found = NULL;
    size_t skip = strlen(prefix);
    const cJSON *tag;

    cJSON_ArrayForEach(tag, member(client, "tags"))
    {
        if (!cJSON_IsString(tag) || strncmp(tag->valuestring, prefix, skip) != 0)
            continue;
        if (found)
            return NULL;
        found = tag->valuestring + skip;
    }
    return found;
}

static void set_who(struct sys_client *out, const char *tenant, size_t tenant_len, const char *agent)
{
    size_t agent_len = strlen(agent);

    if (!name_is_public(tenant, tenant_len) || !name_is_public(agent, agent_len))
        return; /* a broker, or somebody who is none of ours */
    memcpy(out->tenant, tenant, tenant_len);
    out->tenant[tenant_len] = '\0';
    memcpy(out->agent, agent, agent_len + 1);
}

/* The claims of a JWT, which the server has verified; NULL when it is none. */
static cJSON *claims_of(const char *jwt)
{
    const char *body = strchr(jwt, '.'), *end = body ? strchr(++body, '.') : NULL;
    struct buf json = {0};
    cJSON *claims = NULL;

    if (end && buf_put_decoded(&json, body, (size_t)(end - body)))
        claims = cJSON_ParseWithLength(json.data, json.len);
    buf_done(&json);
    return claims;
}

/* The server fills "tags" from the JWT that it let in, and clients can write nothing there; of a client with such a tag the JWT
 * beside it is that one. */
static void read_jwt(const cJSON *client, const char *jwt, struct sys_client *out)
{
    const char *tenant = tag_of(client, "tenant:"), *role = tag_of(client, "role:");
    cJSON *claims;

    if (!tenant)
        return;
    claims = claims_of(jwt);
    out->is_operator = role && strcmp(role, "operator") == 0;
    set_who(out, tenant, strlen(tenant), string_of(claims, "name"));
    cJSON_Delete(claims);
}

/* A user "<T>.<A>". Who has a JWT is never taken for one: where JWTs let in, "user" may be text of the client's choice. */
static void read_who(const cJSON *client, const char *user_key, struct sys_client *out)
{
    const char *jwt = string_of(client, "jwt"), *user = string_of(client, user_key), *dot = strchr(user, '.');

    if (*jwt)
        read_jwt(client, jwt, out);
    else if (dot)
        set_who(out, user, (size_t)(dot - user), dot + 1);
}

/* ---- events -------------------------------------------------------------------------------------------------------- */

/* How events and pages call the same things. */
struct keys {
    const char *id, *account, *user, *at;
};

static bool is_client(const cJSON *client)
{
    const char *kind = string_of(client, "kind");

    return !*kind || strcmp(kind, "Client") == 0; /* not a leaf node or a route */
}

/* It becomes a token of subjects. */
static bool copy_server(const char *id, char out[SYS_SERVER_SIZE])
{
    size_t len = strlen(id);

    if (len >= SYS_SERVER_SIZE || !name_is_legal(id, len))
        return false;
    memcpy(out, id, len + 1);
    return true;
}

/* False: it lacks what names it. */
static bool read_client(const cJSON *client, const char *server, const struct keys *keys, struct sys_client *out)
{
    *out = (struct sys_client){.id = id_of(client, keys->id),
                               .account = string_of(client, keys->account),
                               .at_wall_ns = clock_parse_rfc3339(string_of(client, keys->at))};
    if (!out->id || !copy_server(server, out->server))
        return false;
    copy(out->name, sizeof out->name, string_of(client, "name"));
    if (is_client(client))
        read_who(client, keys->user, out);
    return true;
}

static int kind_of(const cJSON *root)
{
    const char *type = string_of(root, "type");

    if (strcmp(type, "io.nats.server.advisory.v1.client_connect") == 0)
        return MUSTER_SYS_CONNECT;
    return strcmp(type, "io.nats.server.advisory.v1.client_disconnect") == 0 ? MUSTER_SYS_DISCONNECT : 0;
}

int sys_read_event(struct muster_bytes data, int *ret_kind, sys_client_fn fn, void *arg)
{
    cJSON *root = cJSON_ParseWithLength(data.data, data.len);
    int kind = kind_of(root);
    const struct keys keys = {"id", "acc", "user", kind == MUSTER_SYS_DISCONNECT ? "stop" : "start"};
    struct sys_client client;
    bool good = kind && read_client(member(root, "client"), string_of(member(root, "server"), "id"), &keys, &client);

    if (good) {
        copy(client.reason, sizeof client.reason, string_of(root, "reason"));
        client.out_bytes = id_of(member(root, "received"), "bytes"); /* as the client sees it */
        *ret_kind = kind;
        fn(arg, &client);
    }
    cJSON_Delete(root);
    return good ? 0 : MUSTER_EINVAL;
}

/* ---- servers ------------------------------------------------------------------------------------------------------- */

static int read_server(const cJSON *root, struct sys_server *out)
{
    const cJSON *server = member(root, "server");
    unsigned int major = 0, minor = 0;
    uint64_t n_active;

    *out = (struct sys_server){0};
    if (!copy_server(string_of(server, "id"), out->id))
        return MUSTER_EINVAL;
    if (sscanf(string_of(server, "ver"), "%5u.%5u", &major, &minor) == 2)
        out->can_kick = major > 2 || (major == 2 && minor >= 10);
    n_active = id_of(member(root, "statsz"), "active_servers");
    out->n_active = n_active < UINT32_MAX ? (uint32_t)n_active : UINT32_MAX;
    return 0;
}

int sys_read_stopped(const char *subject, char ret_server[SYS_SERVER_SIZE])
{
    static const char before[] = "$SYS.SERVER.", after[] = ".SHUTDOWN";
    const char *id = subject + sizeof before - 1;
    size_t len;

    if (strncmp(subject, before, sizeof before - 1) != 0)
        return MUSTER_EINVAL;
    len = strcspn(id, ".");
    if (len == 0 || len >= SYS_SERVER_SIZE || strcmp(id + len, after) != 0)
        return MUSTER_EINVAL;
    memcpy(ret_server, id, len);
    ret_server[len] = '\0';
    return 0;
}

int sys_read_server(struct muster_bytes data, struct sys_server *ret_server)
{
    cJSON *root = cJSON_ParseWithLength(data.data, data.len);
    int err = read_server(root, ret_server);

    cJSON_Delete(root);
    return err;
}

/* False when a row has no id: then the pages cannot be put together. */
static bool read_row(const cJSON *row, struct sys_page *page, sys_client_fn fn, void *arg)
{
    static const struct keys keys = {"cid", "account", "authorized_user", "start"};
    struct sys_client client;

    if (!read_client(row, page->server.id, &keys, &client))
        return false;
    client.out_bytes = id_of(row, "out_bytes");
    client.n_subscriptions = id_of(row, "subscriptions");
    page->first = page->n_rows++ ? page->first : client.id;
    page->last = client.id;
    fn(arg, &client);
    return true;
}

int sys_read_page(struct muster_bytes data, struct sys_page *ret_page, sys_client_fn fn, void *arg)
{
    cJSON *root = cJSON_ParseWithLength(data.data, data.len);
    const cJSON *body = member(root, "data"), *row;
    int err;

    *ret_page = (struct sys_page){.total = id_of(body, "total")};
    err = read_server(root, &ret_page->server);
    if (!err && !cJSON_IsObject(body))
        err = MUSTER_EINVAL;
    if (!err)
        cJSON_ArrayForEach(row, member(body, "connections"))
        {
            if (!read_row(row, ret_page, fn, arg))
                err = MUSTER_EINVAL;
        }
    cJSON_Delete(root);
    return err;
}

static void read_peer(const cJSON *peer, struct sys_peer *out)
{
    *out = (struct sys_peer){.is_offline = cJSON_IsTrue(member(peer, "offline")),
                             .heard_ns = (int64_t)id_of(peer, "active"),
                             .n_behind = id_of(peer, "lag")};
    copy(out->name, sizeof out->name, string_of(peer, "name"));
}

static int read_meta(const cJSON *root, struct sys_meta *out, sys_peer_fn fn, void *arg)
{
    const cJSON *server = member(root, "server"), *body = member(root, "data"), *meta = member(body, "meta_cluster"), *peer;
    uint64_t n_servers = id_of(meta, "cluster_size");
    struct sys_peer one;

    *out = (struct sys_meta){.has_jetstream = !cJSON_IsTrue(member(body, "disabled")), .is_clustered = cJSON_IsObject(meta)};
    copy(out->name, sizeof out->name, string_of(server, "name"));
    if (!*out->name || !cJSON_IsObject(body))
        return MUSTER_EINVAL;
    out->n_servers = n_servers < UINT32_MAX ? (uint32_t)n_servers : UINT32_MAX;
    copy(out->domain, sizeof out->domain, string_of(server, "domain"));
    copy(out->leader, sizeof out->leader, string_of(meta, "leader"));
    cJSON_ArrayForEach(peer, member(meta, "replicas"))
    {
        read_peer(peer, &one);
        fn(arg, &one);
    }
    return 0;
}

int sys_read_meta(struct muster_bytes data, struct sys_meta *ret_meta, sys_peer_fn fn, void *arg)
{
    cJSON *root = cJSON_ParseWithLength(data.data, data.len);
    int err = read_meta(root, ret_meta, fn, arg);

    cJSON_Delete(root);
    return err;
}

int sys_read_kick(struct muster_bytes data)
{
    cJSON *root = cJSON_ParseWithLength(data.data, data.len);
    const cJSON *error = member(root, "error");
    int code = !cJSON_IsObject(root) ? MUSTER_EINVAL : error ? MUSTER_ENOTFOUND : 0;

    if (error && !strstr(string_of(error, "description"), "no such client"))
        code = MUSTER_EINVAL;
    cJSON_Delete(root);
    return code;
}
