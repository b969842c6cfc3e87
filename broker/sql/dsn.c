/* Connection strings taken apart by libpq; see dsn.h. */
#include "sql/dsn.h"

#include <arpa/inet.h>
#include <libpq-fe.h>
#include <muster/plugin.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_PORT = 5432 };

/* One entry of a list with commas, which may be empty; *list is NULL behind the last. False at the end. */
static bool next_of(const char **list, char *out, size_t size)
{
    size_t len = *list ? strcspn(*list, ",") : 0;
    bool more = *list && (*list)[len];

    if (!*list)
        return false;
    (void)snprintf(out, size, "%.*s", (int)len, *list); /* no address and no port is longer */
    *list = more ? *list + len + 1 : NULL;
    return true;
}

static bool is_folder(const char *host)
{
    return !*host || *host == '/' || *host == '@';
}

static bool is_looked_up(const char *host)
{
    unsigned char address[sizeof(struct in6_addr)];

    return !is_folder(host) && strcmp(host, "localhost") != 0 && inet_pton(AF_INET, host, address) != 1 &&
           inet_pton(AF_INET6, host, address) != 1;
}

static int take_ports(struct dsn_needs *n, const char *list)
{
    char port[16];

    while (next_of(&list, port, sizeof port)) {
        if (n->n_ports == DSN_MAX_PORTS)
            return MUSTER_EINVAL;
        n->ports[n->n_ports++] = *port ? (uint32_t)strtoul(port, NULL, 10) : DEFAULT_PORT;
    }
    return 0;
}

static void take_hosts(struct dsn_needs *n, const char *list)
{
    char host[256];

    while (next_of(&list, host, sizeof host)) {
        n->by_name |= is_looked_up(host);
        n->local |= is_folder(host);
    }
}

static int take_file(struct dsn_needs *n, const char *path)
{
    if (*path != '/') /* "system", or nothing */
        return 0;
    if (n->n_files == DSN_MAX_FILES || strlen(path) >= DSN_FILE_SIZE)
        return MUSTER_EINVAL;
    memcpy(n->files[n->n_files++], path, strlen(path) + 1);
    return 0;
}

/* hostaddr makes host a word for certificates. */
static int take_all(struct dsn_needs *n, const PQconninfoOption *options)
{
    static const char *const files[] = {"sslcert", "sslkey", "sslrootcert", "sslcrl", "passfile"};
    const char *hosts = NULL, *addresses = NULL;
    int err = 0;

    for (const PQconninfoOption *o = options; o->keyword && !err; o++) {
        if (!o->val)
            continue;
        if (strcmp(o->keyword, "host") == 0)
            hosts = o->val;
        else if (strcmp(o->keyword, "hostaddr") == 0)
            addresses = o->val;
        else if (strcmp(o->keyword, "port") == 0)
            err = take_ports(n, o->val);
        else if (strcmp(o->keyword, "service") == 0)
            err = MUSTER_EINVAL;
        for (size_t i = 0; i < sizeof files / sizeof *files && !err; i++)
            if (strcmp(o->keyword, files[i]) == 0)
                err = take_file(n, o->val);
    }
    if (hosts && !addresses)
        take_hosts(n, hosts);
    n->local |= !addresses && !hosts;
    return err;
}

int dsn_needs(const char *dsn, struct dsn_needs *n)
{
    PQconninfoOption *options = PQconninfoParse(dsn, NULL); /* NULL: its text would quote a password */
    int err = options ? 0 : MUSTER_EINVAL;

    *n = (struct dsn_needs){0};
    if (!err)
        err = take_all(n, options);
    if (!n->n_ports)
        n->ports[n->n_ports++] = DEFAULT_PORT;
    PQconninfoFree(options);
    return err;
}

static void take_certificate(struct dsn_certificates *c, const PQconninfoOption *o)
{
    char *to = strcmp(o->keyword, "sslcert") == 0       ? c->cert
               : strcmp(o->keyword, "sslkey") == 0      ? c->key
               : strcmp(o->keyword, "sslrootcert") == 0 ? c->ca
                                                        : NULL;

    if (to && o->val && strcmp(o->val, "system") != 0 && strlen(o->val) < DSN_FILE_SIZE)
        memcpy(to, o->val, strlen(o->val) + 1);
}

void dsn_certificates(const char *dsn, struct dsn_certificates *ret)
{
    PQconninfoOption *options = PQconninfoParse(dsn, NULL);

    *ret = (struct dsn_certificates){0};
    for (const PQconninfoOption *o = options; o && o->keyword; o++)
        take_certificate(ret, o);
    PQconninfoFree(options);
}
