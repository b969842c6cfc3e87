/* The walls of an entry; see walls.h. */
#include "core/walls.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/options.h"
#include "sql/dsn.h"

enum { THREADS = 128, PATHS = SANDBOX_MAX_PATHS, NAME_BUFFER = 16384, DSN_SIZE = 4096 };

/* What goes into the lists. */
struct listing {
    struct arena *memory;
    const char **paths; /* PATHS of them */
    size_t n;
    int err;
};

static int why_not(char why[WALLS_WHY_SIZE], int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

static int why_not(char why[WALLS_WHY_SIZE], int code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(why, WALLS_WHY_SIZE, fmt, ap);
    va_end(ap);
    return code;
}

/* ---- users ---------------------------------------------------------------------------------------------------------------------- */

static int named_user(const char *name, struct sandbox *s, char why[WALLS_WHY_SIZE])
{
    char buffer[NAME_BUFFER];
    struct passwd user, *found = NULL;

    if (getpwnam_r(name, &user, buffer, sizeof buffer, &found) != 0 || !found)
        return why_not(why, MUSTER_EINVAL, "user: %s came, expected a user of this system", name);
    if (!user.pw_uid || !user.pw_gid)
        return why_not(why, MUSTER_EINVAL, "user: %s came, which is root; expected another user", name);
    s->uid = user.pw_uid;
    s->gid = user.pw_gid;
    s->must_become = 1;
    return 0;
}

static bool is_known(uid_t uid)
{
    char buffer[NAME_BUFFER];
    struct passwd user, *found = NULL;
    struct group group, *found_group = NULL;

    return (getpwuid_r(uid, &user, buffer, sizeof buffer, &found) == 0 && found) ||
           (getgrgid_r(uid, &group, buffer, sizeof buffer, &found_group) == 0 && found_group);
}

/* Numbers that are known are those of services that systemd runs just so. */
static int own_user(const struct config_plugin *how, struct sandbox *s, char why[WALLS_WHY_SIZE])
{
    uint32_t uid = WALLS_FIRST_UID + how->number;

    if (is_known(uid))
        return why_not(why, MUSTER_EINVAL, "user: is missing, and the number %u that the instance would run as is somebody's; expected a user", uid);
    s->uid = s->gid = uid;
    s->threads = THREADS * how->lanes; /* the processes of all its lanes count together */
    return 0;
}

static int set_user(const struct config_plugin *how, struct sandbox *s, char why[WALLS_WHY_SIZE])
{
    if (geteuid() == 0)
        return how->user ? named_user(how->user, s, why) : own_user(how, s, why);
    if (how->user)
        return why_not(why, MUSTER_EINVAL, "user: %s came, but only a broker that root runs can start a plugin as another user", how->user);
    return 0;
}

/* ---- files ---------------------------------------------------------------------------------------------------------------------- */

static void list_path(struct listing *l, const char *path)
{
    if (l->n == PATHS)
        l->err = MUSTER_EINVAL;
    else
        l->paths[l->n++] = path;
}

static void list_table(struct listing *l, const struct config_table *t, const void *values);

static void list_map(struct listing *l, const struct config_table *t, const struct muster_option *o, const struct muster_map *map)
{
    struct config_table fields = table_fields(t, o);

    for (size_t i = 0; i < map->n; i++)
        list_table(l, &fields, (const char *)map->entries + i * o->entry_size);
}

/* A file that is not there is the plugin's to tell. */
static void list_table(struct listing *l, const struct config_table *t, const void *values)
{
    for (uint32_t i = 0; i < t->n; i++) {
        struct muster_option o = table_at(t, i);
        const void *at = (const char *)values + o.offset;
        const char *path = option_is_path(&o) ? *(const char *const *)at : NULL;

        if (o.type == MUSTER_T_MAP)
            list_map(l, t, &o, at);
        else if (path && access(path, F_OK) == 0)
            list_path(l, path);
    }
}

/* What the operator names is to be there: a slip in it would show as a puzzle in the plugin. */
static int check_paths(const char *key, const struct muster_list *paths, char why[WALLS_WHY_SIZE])
{
    for (size_t i = 0; i < paths->n; i++)
        if (access(paths->items[i], F_OK) != 0)
            return why_not(why, MUSTER_EINVAL, "%s: %s: %s", key, paths->items[i], strerror(errno));
    return 0;
}

static int set_sockets(const struct config_plugin *how, struct listing *l, struct sandbox *s, char why[WALLS_WHY_SIZE])
{
    struct dsn_needs needs;
    const char *dsn;
    int err = walls_dsn(how, l->memory, &dsn, why);

    s->sockets = how->allow.network ? SANDBOX_ALL_SOCKETS : SANDBOX_NO_SOCKETS;
    if (err || !dsn)
        return err;
    if (dsn_needs(dsn, &needs) != 0)
        return why_not(why, MUSTER_EINVAL, "postgres: its connection string cannot be used; expected host, port, user and database in it");
    s->local = needs.local;
    if (!how->allow.network)
        s->sockets = needs.by_name ? SANDBOX_POSTGRES_BY_NAME : SANDBOX_POSTGRES;
    s->n_ports = needs.n_ports;
    memcpy(s->ports, needs.ports, sizeof s->ports);
    for (size_t i = 0; i < needs.n_files; i++) {
        const char *file = arena_strdup(l->memory, needs.files[i]);

        if (file && access(file, F_OK) == 0)
            list_path(l, file);
    }
    return 0;
}

int walls_of(const struct config_plugin *how, const struct muster_plugin *plugin, const void *values, struct arena *memory,
             struct sandbox *s, char why[WALLS_WHY_SIZE])
{
    struct listing l = {.memory = memory, .paths = arena_alloc(memory, PATHS, sizeof *l.paths)};
    int err;

    if (!l.paths)
        return why_not(why, MUSTER_ENOMEM, "no memory");
    *s = (struct sandbox){.parent = (uint32_t)getpid(), .memory = how->limits.memory, .files = how->limits.files, .write = how->allow.write};
    err = set_user(how, s, why);
    if (!err)
        err = check_paths("allow.read", &how->allow.read, why);
    if (!err)
        err = check_paths("allow.write", &how->allow.write, why);
    for (size_t i = 0; i < how->allow.read.n; i++)
        list_path(&l, how->allow.read.items[i]);
    if (!err)
        err = set_sockets(how, &l, s, why);
    if (plugin && values) {
        struct config_table table = {plugin->options, plugin->n_options, plugin->option_size};

        list_table(&l, &table, values);
    }
    if (!err && l.err)
        err = why_not(why, l.err, "config: names more than %d files", PATHS);
    s->read = (struct muster_list){l.paths, l.n};
    return err;
}

int walls_to_ask(const struct config_plugin *how, const struct muster_plugin *plugin, const void *values, struct arena *memory,
                 struct sandbox *s, char why[WALLS_WHY_SIZE])
{
    struct config_plugin as_we_are = *how;

    if (geteuid() != 0)
        as_we_are.user = NULL;
    return walls_of(&as_we_are, plugin, values, memory, s, why);
}

/* ---- PostgreSQL ----------------------------------------------------------------------------------------------------------------- */

int walls_dsn(const struct config_plugin *how, struct arena *memory, const char **ret_dsn, char why[WALLS_WHY_SIZE])
{
    char line[DSN_SIZE];
    FILE *file;
    bool read;

    *ret_dsn = how->postgres.dsn;
    if (!how->postgres.dsn_file)
        return 0;
    file = fopen(how->postgres.dsn_file, "re");
    if (!file)
        return why_not(why, MUSTER_EINVAL, "postgres.dsn_file: %s: %s", how->postgres.dsn_file, strerror(errno));
    read = fgets(line, sizeof line, file) && strlen(line) + 1 < sizeof line;
    (void)fclose(file);
    line[read ? strcspn(line, "\r\n") : 0] = '\0';
    if (!*line)
        return why_not(why, MUSTER_EINVAL, "postgres.dsn_file: %s: expected a connection string in its first line", how->postgres.dsn_file);
    *ret_dsn = arena_strdup(memory, line);
    explicit_bzero(line, sizeof line);
    return *ret_dsn ? 0 : why_not(why, MUSTER_ENOMEM, "no memory");
}
