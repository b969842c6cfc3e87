/*
 * The host's option tables and config_load(); see host.h and config.h.
 *
 * The tables say everything about a key once: its type, default and bounds are used for reading, for
 * messages and for printing. struct config is the flat view of it that the rest of the broker sees.
 */
#include "config/host.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "config/source.h"
#include "config/yaml.h"

/* An option of the host, and one of an entry of `plugins`; what they do not set follows in the table. */
#define HOST(kind, name, member, text)                                                                     \
    .key = name, .help = text, .type = MUSTER_T_##kind, .offset = offsetof(struct config_host, member)
#define ENTRY(kind, name, member, text)                                                                    \
    .key = name, .help = text, .type = kind, .offset = offsetof(struct host_plugin, member)

static const struct muster_option plugin_options[] = {
    {ENTRY(MUSTER_T_STRING, "name", name, "A built-in plugin.")},
    {ENTRY(MUSTER_T_STRING, "path", path, "The file of another plugin."), .flags = CONFIG_O_PATH},
    {ENTRY(MUSTER_T_STRING, "instance", instance,
           "What this instance is called; by default like the plugin.")},
    {ENTRY(MUSTER_T_INT, "lanes", lanes, "Instances that share the tenants."), .def = "1", .min = 1,
     .max = 64},
    {ENTRY(MUSTER_T_ENUM, "isolation", isolation,
           "In the broker (none, for a name) or in a child (process, for a path)."),
     .choices = "none|process"},
    {ENTRY(MUSTER_T_BOOL, "required", required, "Whether /readyz waits for it."), .def = "true"},
    {ENTRY(MUSTER_T_LIST, "allow.subscribe", allow.subscribe, "What it may hear beside its own, such as evt.orders.>."),
     .flags = CONFIG_O_CHILD, .max = 64},
    {ENTRY(MUSTER_T_LIST, "allow.publish", allow.publish, "What it may send beside events of its own."), .flags = CONFIG_O_CHILD,
     .max = 64},
    {ENTRY(MUSTER_T_LIST, "allow.capabilities", allow.capabilities, "Of cross_tenant, stream, system."), .flags = CONFIG_O_CHILD,
     .max = 8},
    {ENTRY(MUSTER_T_LIST, "allow.tenants", allow.tenants, "The tenants that it sees; all by default."), .flags = CONFIG_O_CHILD,
     .max = 10000},
    {ENTRY(MUSTER_T_BOOL, "allow.network", allow.network, "Whether it may make connections of its own."), .flags = CONFIG_O_CHILD},
    {ENTRY(MUSTER_T_LIST, "allow.read", allow.read, "Files and folders that it may read."), .flags = CONFIG_O_CHILD | CONFIG_O_PATH,
     .max = 64},
    {ENTRY(MUSTER_T_LIST, "allow.write", allow.write, "Files and folders that it may write."), .flags = CONFIG_O_CHILD | CONFIG_O_PATH,
     .max = 64},
    {ENTRY(MUSTER_T_BYTES, "limits.memory", limits.memory, "Memory that it may take."), .flags = CONFIG_O_CHILD, .def = "256MiB",
     .min = INT64_C(32) << 20, .max = INT64_C(1) << 40},
    {ENTRY(MUSTER_T_INT, "limits.files", limits.files, "Descriptors that it may have open."), .flags = CONFIG_O_CHILD, .def = "256",
     .min = 32, .max = 1 << 20},
    {ENTRY(MUSTER_T_FLOAT, "limits.cpu", limits.cpu, "Cores that it may use."), .flags = CONFIG_O_CHILD, .def = "1", .max = 64},
    {ENTRY(MUSTER_T_INT, "limits.messages", limits.messages, "Messages of 4 KiB that it may send in a second; 0: no limit."),
     .flags = CONFIG_O_CHILD, .def = "10000", .max = 100000000},
    {ENTRY(MUSTER_T_STRING, "user", user, "Whom it runs as, where the broker is root; by default a number of its own."),
     .flags = CONFIG_O_CHILD, .min = 1, .max = 64},
    {ENTRY(MUSTER_T_STRING, "postgres.dsn", postgres.dsn, "Connection string of its own role, for sql and postgres."),
     .flags = CONFIG_O_CHILD},
    {ENTRY(MUSTER_T_STRING, "postgres.dsn_file", postgres.dsn_file, "File with it in its first line, as muster plugin role writes it."),
     .flags = CONFIG_O_CHILD},
    {ENTRY(MUSTER_T_DURATION_NS, "restart.delay", restart.delay_ns, "Before it is started again; doubles with each time."),
     .flags = CONFIG_O_CHILD, .def = "1s", .min = INT64_C(100000000), .max = INT64_C(3600000000000)},
    {ENTRY(MUSTER_T_DURATION_NS, "restart.max_delay", restart.max_delay_ns, "The longest of these."), .flags = CONFIG_O_CHILD, .def = "1m",
     .min = INT64_C(100000000), .max = INT64_C(3600000000000)},
    {ENTRY(CONFIG_T_NODE, "config", config, "The plugin's own settings.")},
};

/* The order is that of --print-config. */
static const struct muster_option host_options[] = {
    {HOST(STRING, "broker.id", broker.id, "Which broker this is, for people; auto: made at start."),
     .def = "auto"},
    {HOST(STRING, "broker.http", broker.http, "Kept for the HTTP gateway, host:port."),
     .def = "127.0.0.1:7422"},
    {HOST(STRING, "broker.admin", broker.admin, "Where health, readiness and metrics are served, host:port."),
     .def = "127.0.0.1:7423"},
    {HOST(STRING, "broker.root", broker.root, "First token of every subject."), .def = "mst"},
    {HOST(STRING, "broker.tls.cert", broker.tls.cert, "Certificate of admin, which then speaks TLS alone."),
     .flags = CONFIG_O_PATH},
    {HOST(STRING, "broker.tls.key", broker.tls.key, "The key of cert."), .flags = CONFIG_O_PATH},
    {HOST(STRING, "broker.tls.client_ca", broker.tls.client_ca, "Whose certificates clients must show; by default none."),
     .flags = CONFIG_O_PATH},
    {HOST(ENUM, "broker.log.format", broker.log.format, "Lines for people or for machines."),
     .choices = "text|json", .def = "text"},
    {HOST(ENUM, "broker.log.level", broker.log.level, "The least that is logged."),
     .choices = "error|warn|info|debug", .def = "info"},
    {HOST(ENUM, "broker.log.audit", broker.log.audit, "Which records of the audit are logged, too; refused: what was not ok."),
     .choices = "all|refused|none", .def = "all"},

    {HOST(LIST, "nats.urls", nats.urls, "Servers, nats://host:port or tls://host:port."),
     .def = "nats://127.0.0.1:4222", .min = 1, .max = 64},
    {HOST(STRING, "nats.creds", nats.creds, "Credentials of the broker (operator mode)."),
     .flags = CONFIG_O_PATH},
    {HOST(STRING, "nats.system_creds", nats.system_creds, "Credentials in the system account."),
     .flags = CONFIG_O_PATH},
    {HOST(STRING, "nats.keys", nats.keys, "Folder of signing keys (operator mode)."),
     .flags = CONFIG_O_PATH},
    {HOST(STRING, "nats.user", nats.user, "User of the broker (static server).")},
    {HOST(STRING, "nats.password_file", nats.password_file, "File with the password of user.")},
    {HOST(STRING, "nats.system_user", nats.system_user, "User in the system account (static server).")},
    {HOST(STRING, "nats.system_password_file", nats.system_password_file, "File with its password.")},
    {HOST(STRING, "nats.callout_creds", nats.callout_creds, "Credentials in the account that is asked who may log in."),
     .flags = CONFIG_O_PATH},
    {HOST(STRING, "nats.callout_user", nats.callout_user, "User in that account (static server).")},
    {HOST(STRING, "nats.callout_password_file", nats.callout_password_file, "File with its password.")},
    {HOST(STRING, "nats.callout_key_file", nats.callout_key_file, "File with the seed that signs who is let in.")},
    {HOST(STRING, "nats.callout_account", nats.callout_account, "The agents' account (static server)."), .def = "MST"},
    {HOST(STRING, "nats.tls.ca", nats.tls.ca, "Certificates to trust."), .flags = CONFIG_O_PATH},
    {HOST(STRING, "nats.tls.cert", nats.tls.cert, "The broker's own certificate."), .flags = CONFIG_O_PATH},
    {HOST(STRING, "nats.tls.key", nats.tls.key, "The key of cert."), .flags = CONFIG_O_PATH},

    {HOST(STRING, "postgres.dsn", postgres.dsn, "Connection string; keep the password in ~/.pgpass."),
     .def = "postgresql://muster_broker@127.0.0.1/muster"},
    {HOST(INT, "postgres.pool", postgres.pool, "Connections for statements, a lane."), .def = "4", .min = 1,
     .max = 64},

#define LIMIT(id, limit, smallest, most, kind, least, standard, text) \
    {HOST(kind, "limits." #limit, limits.limit, text), .def = standard, .min = least, .max = most},
    TENANT_LIMITS(LIMIT)
#undef LIMIT

    {.key = "plugins",
     .help = "What runs in this broker.",
     .type = CONFIG_T_ENTRIES,
     .offset = offsetof(struct config_host, plugins),
     .fields = plugin_options,
     .n_fields = sizeof plugin_options / sizeof *plugin_options,
     .entry_size = sizeof(struct host_plugin)},
};

struct config_table config_host_table(void)
{
    return CONFIG_TABLE(host_options);
}

static struct config_plugin copy_plugin(const struct host_plugin *from, const struct config_node *entry)
{
    return (struct config_plugin){
        .name = from->name,
        .path = from->path,
        .instance = from->instance,
        .lanes = from->lanes,
        .isolation = from->isolation,
        .required = from->required,
        .allow = {.subscribe = from->allow.subscribe,
                  .publish = from->allow.publish,
                  .capabilities = from->allow.capabilities,
                  .tenants = from->allow.tenants,
                  .read = from->allow.read,
                  .write = from->allow.write,
                  .network = from->allow.network},
        .limits = {.memory = from->limits.memory, .files = from->limits.files, .cpu = from->limits.cpu, .messages = from->limits.messages},
        .user = from->user,
        .postgres = {.dsn = from->postgres.dsn, .dsn_file = from->postgres.dsn_file},
        .restart = {.delay_ns = from->restart.delay_ns, .max_delay_ns = from->restart.max_delay_ns},
        .config = from->config,
        .entry = entry,
    };
}

/* Of the instance's name, so that it stays the same; the next one that is free where two come out alike. */
static uint32_t number_of(const struct config_plugin *plugins, size_t i)
{
    uint32_t number = (uint32_t)(hash_bytes(plugins[i].instance, strlen(plugins[i].instance)) % CONFIG_N_NUMBERS);

    for (size_t j = 0; j < i;) {
        bool taken = plugins[j++].number == number;

        if (taken) {
            number = (number + 1) % CONFIG_N_NUMBERS;
            j = 0;
        }
    }
    return number;
}

/* Entries of the table and nodes of the list are in step: the table was bound from that list. */
static int copy_plugins(struct config *c, struct config_tree *tree)
{
    const struct host_plugin *from = tree->host->plugins.entries;
    const struct config_node *list = node_get(tree->root, "plugins");
    const struct config_node *at = list ? list->first : NULL;

    c->n_plugins = tree->host->plugins.n;
    c->plugins = tree_alloc(tree, c->n_plugins, sizeof *c->plugins);
    if (!c->plugins)
        return MUSTER_ENOMEM;
    if (c->n_plugins > CONFIG_N_NUMBERS)
        return MUSTER_ENOMEM;
    for (size_t i = 0; i < c->n_plugins; i++, at = at->next) {
        c->plugins[i] = copy_plugin(&from[i], at);
        c->plugins[i].number = number_of(c->plugins, i);
    }
    return 0;
}

static void copy_values(struct config *c, const struct config_host *h)
{
    c->broker.id = h->broker.id;
    c->broker.http = h->broker.http;
    c->broker.admin = h->broker.admin;
    c->broker.root = h->broker.root;
    c->broker.log_json = h->broker.log.format == 1;
    c->broker.log_level = h->broker.log.level;
    c->broker.tls_cert = h->broker.tls.cert;
    c->broker.tls_key = h->broker.tls.key;
    c->broker.tls_client_ca = h->broker.tls.client_ca;
    c->broker.log_audit = h->broker.log.audit;
    c->nats.urls = h->nats.urls.items;
    c->nats.n_urls = h->nats.urls.n;
    c->nats.creds = h->nats.creds;
    c->nats.system_creds = h->nats.system_creds;
    c->nats.keys = h->nats.keys;
    c->nats.user = h->nats.user;
    c->nats.password_file = h->nats.password_file;
    c->nats.system_user = h->nats.system_user;
    c->nats.system_password_file = h->nats.system_password_file;
    c->nats.callout_creds = h->nats.callout_creds;
    c->nats.callout_user = h->nats.callout_user;
    c->nats.callout_password_file = h->nats.callout_password_file;
    c->nats.callout_key_file = h->nats.callout_key_file;
    c->nats.callout_account = h->nats.callout_account;
    c->nats.tls_ca = h->nats.tls.ca;
    c->nats.tls_cert = h->nats.tls.cert;
    c->nats.tls_key = h->nats.tls.key;
    c->postgres.dsn = h->postgres.dsn;
    c->postgres.pool = h->postgres.pool;
    c->limits = h->limits;
}

/* From here on the tree belongs to the configuration. */
static int make_config(struct config_tree *tree, struct config **ret_config)
{
    struct config *c = calloc(1, sizeof *c);

    if (!c)
        return MUSTER_ENOMEM;
    c->file = tree->file;
    copy_values(c, tree->host);
    if (copy_plugins(c, tree)) {
        free(c);
        return MUSTER_ENOMEM;
    }
    c->tree = tree;
    atomic_store(&tree->refs, 1);
    *ret_config = c;
    return 0;
}

/* From text to a checked struct config_host. */
static int load_host(struct config_tree *tree, const char *data, size_t len, struct config_error *err)
{
    struct host_load l = {.scope = {.tree = tree, .prefix = "", .err = err}};
    struct config_table table = config_host_table();
    int failed;

    l.host = tree_alloc(tree, 1, sizeof *l.host);
    if (!l.host)
        return config_no_memory(err);
    failed = yaml_read(&l.scope, data ? data : "", len);
    if (!failed)
        failed = config_bind_table(&l.scope, &table, tree->root, l.host);
    if (!failed)
        failed = environment_apply(&l);
    if (!failed)
        failed = config_host_check(&l);
    tree->host = l.host; /* kept for config_print() */
    return failed;
}

int config_load_text(const char *file, const char *data, size_t len, struct config **ret_config,
                     struct config_error *err)
{
    struct config_tree *tree = tree_new(file);
    int failed;

    if (!tree)
        return config_no_memory(err);
    failed = load_host(tree, data, len, err);
    if (!failed && make_config(tree, ret_config))
        failed = config_no_memory(err);
    if (failed)
        tree_free(tree);
    return failed;
}

/* Reading comes before there is a tree: the place is only for messages. */
int config_load(const char *file, struct config **ret_config, struct config_error *err)
{
    struct config_tree place = {.file = (char *)file};
    struct config_scope scope = {.tree = &place, .prefix = "", .err = err};
    struct buf text = {0};
    int failed = file ? source_read(&scope, &text) : 0;

    if (!failed)
        failed = config_load_text(file, text.data, text.len, ret_config, err);
    buf_done(&text);
    return failed;
}

void config_ref(const struct config *config)
{
    atomic_fetch_add(&config->tree->refs, 1);
}

void config_free(const struct config *config)
{
    if (!config || atomic_fetch_sub(&config->tree->refs, 1) > 1)
        return;
    tree_free(config->tree);
    free((void *)config);
}
