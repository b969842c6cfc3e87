/*
 * What a type cannot say about the host's values: names, addresses, URLs, and keys that exclude or need
 * each other.
 *
 * Everything is judged by its form alone. Whether a file can be read, a server answers or a plugin exists
 * is for those who open it: a configuration may be checked on another machine than the one it is for.
 */
#include <stdio.h>
#include <string.h>

#include "base/map.h"
#include "base/name.h"
#include "config/host.h"


static int refuse(struct host_load *l, const char *path, const char *fmt, ...) MUSTER_PRINTF(3, 4);

static int refuse(struct host_load *l, const char *path, const char *fmt, ...)
{
    char text[512];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return host_refuse(&l->scope, path, text);
}

/* "[fe80::1%eth0]" */
static const char *bracket_end(const char *s)
{
    const char *end = s + 1 + strspn(s + 1, "0123456789abcdefABCDEF:.");

    if (*end == '%' && end > s + 1)
        end += 1 + strspn(end + 1, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-");
    return *end == ']' && end > s + 2 ? end + 1 : NULL;
}

/* The end of a host: a name, an address, or an IPv6 address in brackets. NULL when there is none. Nothing that could hold a
 * password: it would be hidden, and what is left of it no host. */
static const char *host_end(const char *s)
{
    size_t len = strcspn(s, ":/?# []@=");

    if (*s == '[')
        return bracket_end(s);
    return len ? s + len : NULL;
}

/* ":0" to ":65535"; 0 lets the system choose. Returns what follows, NULL when it is not a port. */
static const char *port_end(const char *s)
{
    size_t n = *s == ':' ? strspn(s + 1, "0123456789") : 0;
    unsigned port = 0;

    if (n == 0 || n > 5)
        return NULL;
    for (size_t i = 1; i <= n; i++)
        port = port * 10 + (unsigned)(s[i] - '0');
    return port <= 65535 ? s + 1 + n : NULL;
}

/* An address to listen on. Names are not looked up here. */
static int check_listen(struct host_load *l, const char *path, const char *value)
{
    const char *end = host_end(value);
    char shown[CONFIG_SHOW_SIZE];

    end = end ? port_end(end) : NULL;
    if (end && *end == '\0')
        return 0;
    return refuse(l, path, "expected host:port such as 127.0.0.1:7422, got %s",
                  config_show_text(value, shown));
}

/* The port may be left out; nothing but one slash may follow. */
static bool is_nats_url(const char *url)
{
    const char *host, *at;

    if (strncmp(url, "nats://", 7) != 0 && strncmp(url, "tls://", 6) != 0)
        return false;
    host = strstr(url, "://") + 3;
    at = strrchr(host, '@');
    host = host_end(at ? at + 1 : host);
    if (host && *host == ':')
        host = port_end(host);
    return host && (*host == '\0' || strcmp(host, "/") == 0);
}

#define URL_EXPECTED "expected nats://host:port or tls://host:port, got %s"

/* Tell which of the URLs is wrong: its own place in the file, or the variable. */
static int refuse_url(struct host_load *l, size_t i)
{
    const struct config_node *list = node_find(l->scope.tree->root, "nats.urls");
    const struct config_node *at = list ? list->first : NULL;
    char shown[CONFIG_SHOW_SIZE];

    config_show_text(l->host->nats.urls.items[i], shown);
    while (at && at->index != i)
        at = at->next;
    if (environment_of(l->scope.tree, "nats.urls") || !at)
        return refuse(l, "nats.urls", URL_EXPECTED, shown);
    return config_refuse(&l->scope, at, URL_EXPECTED, shown);
}

#define DSN_EXPECTED "expected postgresql://user@host/database, or host=… dbname=… user=…"

static bool is_dsn(const char *dsn)
{
    return strncmp(dsn, "postgresql://", 13) == 0 || strncmp(dsn, "postgres://", 11) == 0 || config_is_keywords(dsn);
}

/* libpq itself judges the rest; nothing of a DSN is ever shown. */
static int check_dsn(struct host_load *l)
{
    return is_dsn(l->host->postgres.dsn) ? 0 : refuse(l, "postgres.dsn", DSN_EXPECTED);
}

/* Two keys of the file; a value is NULL where it was not given. */
struct pair {
    const char *path, *value; /* of the key that was given */
    const char *other, *other_value;
};

/* p.other may have come from the environment while p.path is in the file: then the message names the
 * variable. */
static int check_exclusive(struct host_load *l, struct pair p)
{
    const char *variable = environment_of(l->scope.tree, p.other);

    if (!p.value || !p.other_value)
        return 0;
    return refuse(
        l, p.path,
        "%s is given too; a server takes credentials (operator mode) or a user (static), not both",
        variable ? variable : p.other);
}

/* A user without a password (or a certificate without its key) would fail much later, at the first connect.
 */
static int check_needs(struct host_load *l, struct pair p)
{
    if (!p.value || p.other_value)
        return 0;
    return refuse(l, p.path, "needs %s beside it", p.other);
}

static int check_logins(struct host_load *l)
{
    const struct config_host *h = l->host;
    const struct pair exclusive[] = {
        {"nats.user", h->nats.user, "nats.creds", h->nats.creds},
        {"nats.system_user", h->nats.system_user, "nats.system_creds", h->nats.system_creds},
        {"nats.callout_user", h->nats.callout_user, "nats.callout_creds", h->nats.callout_creds},
    };
    const struct pair needs[] = {
        {"nats.user", h->nats.user, "nats.password_file", h->nats.password_file},
        {"nats.password_file", h->nats.password_file, "nats.user", h->nats.user},
        {"nats.system_user", h->nats.system_user, "nats.system_password_file",
         h->nats.system_password_file},
        {"nats.system_password_file", h->nats.system_password_file, "nats.system_user",
         h->nats.system_user},
        {"nats.callout_user", h->nats.callout_user, "nats.callout_password_file",
         h->nats.callout_password_file},
        {"nats.callout_password_file", h->nats.callout_password_file, "nats.callout_user",
         h->nats.callout_user},
        {"nats.callout_creds", h->nats.callout_creds, "nats.callout_key_file",
         h->nats.callout_key_file},
        {"nats.callout_user", h->nats.callout_user, "nats.callout_key_file",
         h->nats.callout_key_file},
        {"nats.tls.cert", h->nats.tls.cert, "nats.tls.key", h->nats.tls.key},
        {"nats.tls.key", h->nats.tls.key, "nats.tls.cert", h->nats.tls.cert},
        {"broker.tls.cert", h->broker.tls.cert, "broker.tls.key", h->broker.tls.key},
        {"broker.tls.key", h->broker.tls.key, "broker.tls.cert", h->broker.tls.cert},
        {"broker.tls.client_ca", h->broker.tls.client_ca, "broker.tls.cert", h->broker.tls.cert},
    };
    int err = 0;

    for (size_t i = 0; i < sizeof exclusive / sizeof *exclusive && !err; i++)
        err = check_exclusive(l, exclusive[i]);
    for (size_t i = 0; i < sizeof needs / sizeof *needs && !err; i++)
        err = check_needs(l, needs[i]);
    return err;
}

#define NAME_RULE "a name is 1 to 64 of A-Z a-z 0-9 _ - and does not begin with _"

/* Names become tokens of subjects; those that begin with _ are the broker's own (INTERFACE 1). */
static int check_name(struct host_load *l, const char *path, const char *value)
{
    char shown[CONFIG_SHOW_SIZE];

    if (name_is_public(value, strlen(value)))
        return 0;
    return refuse(l, path, "%s is no legal name; " NAME_RULE, config_show_text(value, shown));
}

/* "/opt/acme/audit.so" gives "audit". */
static const char *name_of_file(struct config_tree *tree, const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    size_t len = strlen(name);

    if (len > 3 && strcmp(name + len - 3, ".so") == 0)
        len -= 3;
    return tree_strdup(tree, name, len);
}

/* The value of key in the entry, or the entry itself where it was left out. */
static const struct config_node *spot(const struct config_node *entry, const char *key)
{
    const struct config_node *value = node_get(entry, key);

    return value ? value : entry;
}

/* A name is looked up in the plugin folder, so it must not be able to leave it. */
static int check_plugin_name(struct host_load *l, const struct config_node *entry,
                             const struct host_plugin *p)
{
    char shown[CONFIG_SHOW_SIZE];

    if (p->name && p->path)
        return config_refuse(
            &l->scope, spot(entry, "path"),
            "name is given too; a plugin has a name (a built-in) or a path (a file), not both");
    if (!p->name && !p->path)
        return config_refuse(&l->scope, entry, "a plugin needs a name (a built-in) or a path (a file)");
    if (!p->name || name_is_public(p->name, strlen(p->name)))
        return 0;
    return config_refuse(&l->scope, spot(entry, "name"), "%s is no legal name; a file is given with path",
                         config_show_text(p->name, shown));
}

/* The instance is part of metrics, paths in messages and (for cdc) subjects: a legal name, given or made.
 */
static int check_instance(struct host_load *l, const struct config_node *entry, struct host_plugin *p)
{
    bool given = p->instance;
    char shown[CONFIG_SHOW_SIZE];

    if (!given)
        p->instance = p->name ? p->name : name_of_file(l->scope.tree, p->path);
    if (!p->instance)
        return config_no_memory(l->scope.err);
    if (strcmp(p->instance, "muster") == 0)
        return config_refuse(&l->scope, spot(entry, given ? "instance" : p->name ? "name" : "path"),
                             "muster is what the operator's commands are called; give the plugin another instance");
    if (name_is_public(p->instance, strlen(p->instance)))
        return 0;
    return config_refuse(&l->scope, spot(entry, given ? "instance" : "path"),
                         "%s is no legal name; " NAME_RULE "%s", config_show_text(p->instance, shown),
                         given ? "" : "; give the plugin an instance");
}

/* Keys that would be walls and are none without a child. */
static int refuse_without_child(struct host_load *l, const struct config_node *entry)
{
    static const char *const keys[] = {"allow", "limits", "user", "postgres", "restart"};

    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (node_get(entry, keys[i]))
            return config_refuse_key(&l->scope, node_get(entry, keys[i]),
                                     "is of a plugin in a child; this one runs in the broker (isolation: none), where nothing would hold it");
    return 0;
}

static bool is_capability(const char *word)
{
    return strcmp(word, "cross_tenant") == 0 || strcmp(word, "stream") == 0 || strcmp(word, "system") == 0;
}

/* Tokens of letters, digits, _ and -, "*", and ">" at the end. What of it a plugin may ever name is child/policy.h's. */
static bool is_pattern(const char *s)
{
    for (;; s++) {
        size_t len = strcspn(s, ".");
        bool last = !s[len];

        if (!(len == 1 && (*s == '*' || (*s == '>' && last))) && !name_is_legal(s, len))
            return false;
        if (last)
            return true;
        s += len;
    }
}

/* Refuse item i of a list of the entry where it stands. */
static int refuse_item(struct host_load *l, const struct config_node *entry, const char *key, size_t i, const char *expected)
{
    const struct config_node *list = node_find(entry, key), *at = list ? list->first : NULL;
    char shown[CONFIG_SHOW_SIZE];

    while (at && at->index != i)
        at = at->next;
    return config_refuse(&l->scope, at ? at : entry, "expected %s, got %s", expected, at ? config_show(at, false, shown) : "nothing");
}

static int check_patterns(struct host_load *l, const struct config_node *entry, const char *key, const struct muster_list *list)
{
    for (size_t i = 0; i < list->n; i++)
        if (!is_pattern(list->items[i]))
            return refuse_item(l, entry, key, i, "what follows root and tenant in a subject, such as evt.orders.>");
    return 0;
}

static int check_allow(struct host_load *l, const struct config_node *entry, const struct host_plugin *p)
{
    int err = check_patterns(l, entry, "allow.subscribe", &p->allow.subscribe);

    if (!err)
        err = check_patterns(l, entry, "allow.publish", &p->allow.publish);
    for (size_t i = 0; i < p->allow.capabilities.n && !err; i++)
        if (!is_capability(p->allow.capabilities.items[i]))
            err = refuse_item(l, entry, "allow.capabilities", i, "one of cross_tenant, stream, system");
    for (size_t i = 0; i < p->allow.tenants.n && !err; i++)
        if (!name_is_public(p->allow.tenants.items[i], strlen(p->allow.tenants.items[i])))
            err = refuse_item(l, entry, "allow.tenants", i, "the name of a tenant");
    return err;
}

/* As getpwnam() may know it; it is shown, so nothing that could hold a password. */
static int check_user(struct host_load *l, const struct config_node *entry, const struct host_plugin *p)
{
    char shown[CONFIG_SHOW_SIZE];

    if (!p->user || !strpbrk(p->user, ":/="))
        return 0;
    return config_refuse(&l->scope, spot(entry, "user"), "expected the name of a user, got %s", config_show_text(p->user, shown));
}

static const double min_cpu = 0.05;

static int check_child(struct host_load *l, const struct config_node *entry, struct host_plugin *p)
{
    const struct config_node *dsn = node_find(entry, "postgres.dsn");
    int err;

    if (!node_get(entry, "isolation"))
        p->isolation = p->path ? CONFIG_ISOLATION_PROCESS : CONFIG_ISOLATION_NONE;
    if (p->isolation == CONFIG_ISOLATION_NONE)
        return refuse_without_child(l, entry);
    err = check_allow(l, entry, p);
    if (!err)
        err = check_user(l, entry, p);
    if (err)
        return err;
    if (p->limits.cpu < min_cpu)
        return config_refuse(&l->scope, node_find(entry, "limits.cpu"), "%g is below %g of a core", p->limits.cpu, min_cpu);
    if (p->postgres.dsn && p->postgres.dsn_file)
        return config_refuse(&l->scope, dsn, "dsn_file is given too; expected one of them");
    if (p->postgres.dsn && !is_dsn(p->postgres.dsn))
        return config_refuse(&l->scope, dsn, DSN_EXPECTED);
    if (p->restart.max_delay_ns < p->restart.delay_ns)
        return config_refuse(&l->scope, spot(entry, "restart"), "its max_delay is below its delay");
    return 0;
}

static int check_plugin(struct host_load *l, const struct config_node *entry, struct host_plugin *p)
{
    int err = check_plugin_name(l, entry, p);

    if (!err)
        err = check_instance(l, entry, p);
    if (!err)
        err = check_child(l, entry, p);
    return err;
}

/* The entries one by one; a later one with the name of an earlier one is the mistake. */
static int check_plugins(struct host_load *l)
{
    const struct config_node *list = node_get(l->scope.tree->root, "plugins");
    struct host_plugin *p = (struct host_plugin *)l->host->plugins.entries;
    struct map seen = {0};
    int err = 0;

    for (const struct config_node *at = list ? list->first : NULL; at && !err; at = at->next, p++) {
        const struct config_node *other;

        err = check_plugin(l, at, p);
        if (err)
            break;
        other = map_get(&seen, p->instance, strlen(p->instance));
        if (other)
            err = config_refuse(
                &l->scope, spot(at, p->instance == p->name ? "name" : "instance"),
                "an instance '%s' exists already at line %u; give one of them another instance name",
                p->instance, other->line);
        else if (!map_put(&seen, p->instance, strlen(p->instance), (void *)at))
            err = config_no_memory(l->scope.err);
    }
    map_done(&seen);
    return err;
}

static int check_broker(struct host_load *l)
{
    int err = check_name(l, "broker.root", l->host->broker.root);

    if (!err)
        err = check_name(l, "broker.id", l->host->broker.id);
    if (!err)
        err = check_listen(l, "broker.http", l->host->broker.http);
    if (!err)
        err = check_listen(l, "broker.admin", l->host->broker.admin);
    return err;
}

/* As `muster tenant limits` has it: less would keep single messages out. */
static int check_limits(struct host_load *l)
{
#define VALUE(id, name, ...) l->host->limits.name,
    const int64_t values[] = {TENANT_LIMITS(VALUE)};
#undef VALUE

    if (values[TENANT_BURST] && !values[TENANT_REQUESTS_PER_S])
        return refuse(l, "limits.burst", "needs limits.requests_per_s beside it");
    for (int i = 0; i < TENANT_N_LIMITS; i++) {
        char path[sizeof "limits." + LIMIT_NAME_SIZE];

        if (!values[i] || values[i] >= limit_keys[i].min)
            continue;
        (void)snprintf(path, sizeof path, "limits.%s", limit_keys[i].name);
        if (limit_keys[i].bytes)
            return refuse(l, path, "%lld is below %lldKiB; 0 is no limit", (long long)values[i], (long long)limit_keys[i].min / 1024);
        return refuse(l, path, "%lld is below %lld; 0 is no limit", (long long)values[i], (long long)limit_keys[i].min);
    }
    return 0;
}

int config_host_check(struct host_load *l)
{
    int err = check_broker(l);

    for (size_t i = 0; i < l->host->nats.urls.n && !err; i++)
        if (!is_nats_url(l->host->nats.urls.items[i]))
            err = refuse_url(l, i);
    if (!err)
        err = check_dsn(l);
    if (!err)
        err = check_logins(l);
    if (!err)
        err = check_limits(l);
    return err ? err : check_plugins(l);
}
