/*
 * agents.conf; see static_users.h.
 *
 * Every line is a whole user and begins the same way, so that one can be replaced without a parser
 * of the server's configuration language; a file that looks different is left alone and told.
 */
#include "cli/static_users.h"

#include <muster/plugin.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <string.h>

#include "base/base32.h"
#include "base/map.h"
#include "base/name.h"
#include "auth/jwt.h"

enum { FILE_MAX = 256 << 20, PASSWORD_BYTES = 20 };

#define HEADER                                                                                     \
    "# Written by `muster nats-config` and `muster agent`: a line a user, passwords included. "    \
    "Change it with them only.\n"                                                                  \
    "users: [\n"
#define FOOTER "]\n"
#define LINE_BEGIN "  {user: \""

bool static_password(char out[STATIC_PASSWORD_SIZE])
{
    uint8_t bytes[PASSWORD_BYTES];
    bool ok = RAND_priv_bytes(bytes, sizeof bytes) == 1 &&
              base32_encode(bytes, sizeof bytes, out, STATIC_PASSWORD_SIZE, BASE32_LOWER) > 0;

    OPENSSL_cleanse(bytes, sizeof bytes);
    return ok;
}

static void put_line(struct buf *out, const struct static_user *u)
{
    char alias[sizeof ROLE_ALIAS_PREFIX + NAME_MAX_LEN];

    buf_printf(out, LINE_BEGIN "%s\", password: \"%s\"", u->user, u->password);
    if (u->role >= 0) {
        (void)snprintf(alias, sizeof alias, ROLE_ALIAS_PREFIX "%s",
                       u->agent); /* names are bounded */
        const struct role_names names = {u->root, u->tenant, u->agent, alias};
        buf_put_lit(out, ", permissions: {publish: ");
        role_put_narrowed(out, u->role, ROLE_PUB, &names, u->narrowing);
        buf_put_lit(out, ", subscribe: ");
        role_put_narrowed(out, u->role, ROLE_SUB, &names, u->narrowing);
        buf_putc(out, '}');
    }
    buf_put_lit(out, "}\n");
}

/* Copy the lines of users that do not change. False when the file is not one of ours. */
static bool copy_others(const char *text, const struct map *changed, struct buf *out)
{
    const char *line = strstr(text, HEADER) == text ? text + strlen(HEADER) : NULL;

    while (line && strncmp(line, LINE_BEGIN, strlen(LINE_BEGIN)) == 0) {
        const char *user = line + strlen(LINE_BEGIN);
        const char *end = strchr(line, '\n');

        if (!end)
            return false;
        if (!map_get(changed, user, strcspn(user, "\"")))
            buf_put(out, line, (size_t)(end - line) + 1);
        line = end + 1;
    }
    return line && strcmp(line, FOOTER) == 0;
}

static int build(const char *path, const char *old, const struct static_user *users, size_t n,
                 struct buf *out, struct file_error *err)
{
    struct map changed = {0};
    int code = 0;

    for (size_t i = 0; i < n && !code; i++)
        if (!map_put(&changed, users[i].user, strlen(users[i].user), (void *)&users[i]))
            code = MUSTER_ENOMEM;
    buf_put_lit(out, HEADER);
    if (!code && !copy_others(old, &changed, out)) {
        (void)snprintf(
            err->text, sizeof err->text,
            "%s: changed by hand, so its users cannot be told apart; restore it, or remove it "
            "and run `muster nats-config`, then `muster agent rotate` for every agent",
            path);
        code = MUSTER_EINVAL;
    }
    for (size_t i = 0; i < n && !code; i++)
        if (!users[i].remove)
            put_line(out, &users[i]);
    buf_put_lit(out, FOOTER);
    map_done(&changed);
    return code;
}

int static_users_edit(const char *path, const struct static_user *users, size_t n,
                      struct file_error *err)
{
    struct buf old = {0}, text = {0};
    int code = file_read(path, FILE_MAX, &old, err);

    if (code == MUSTER_ENOTFOUND) {
        buf_put_lit(&old, HEADER FOOTER);
        code = 0;
    }
    if (!code)
        code = buf_failed(&old) ? MUSTER_ENOMEM : build(path, old.data, users, n, &text, err);
    if (!code)
        code = file_write(path, FILE_SECRET, &text, err);
    jwt_wipe(&old);
    jwt_wipe(&text);
    return code;
}

/* ---- auth_users.conf ---- */

#define BYPASS_HEADER                                                                            \
    "# Written by `muster nats-config` and `muster agent`: who logs in with a password though the brokers are asked. "   \
    "A change needs a restart of nats-server.\n"                                                 \
    "auth_users: [\n"

static void bypass_add(struct buf *text, const char *user, size_t len)
{
    char line[STATIC_USER_SIZE + 8];

    (void)snprintf(line, sizeof line, "  \"%.*s\"\n", (int)len, user);
    if (!text->data || !strstr(text->data, line))
        buf_put(text, line, strlen(line));
}

static int bypass_add_agents(struct buf *text, const char *agents, struct file_error *err)
{
    struct buf users = {0};
    int code = file_read(agents, FILE_MAX, &users, err);

    for (const char *at = code ? NULL : strstr(users.data, LINE_BEGIN); at; at = strstr(at, LINE_BEGIN)) {
        at += strlen(LINE_BEGIN);
        bypass_add(text, at, strcspn(at, "\""));
    }
    jwt_wipe(&users);
    return code;
}

int static_bypass_add(const char *path, const char *const *users, size_t n, const char *agents, bool *ret_grew, struct file_error *err)
{
    struct buf text = {0};
    int code = file_read(path, FILE_MAX, &text, err);

    *ret_grew = false;
    if (code == MUSTER_ENOTFOUND)
        buf_put_lit(&text, BYPASS_HEADER FOOTER);
    else if (code)
        return code;
    if (text.len < strlen(FOOTER) || strcmp(text.data + text.len - strlen(FOOTER), FOOTER) != 0) {
        (void)snprintf(err->text, sizeof err->text, "%s: changed by hand; restore it, or remove it and run `muster nats-config`", path);
        buf_done(&text);
        return MUSTER_EINVAL;
    }
    const size_t before = text.len -= strlen(FOOTER);
    text.data[before] = '\0';
    for (size_t i = 0; i < n; i++)
        bypass_add(&text, users[i], strlen(users[i]));
    code = agents ? bypass_add_agents(&text, agents, err) : 0;
    *ret_grew = text.len > before;
    buf_put_lit(&text, FOOTER);
    if (!code && *ret_grew)
        code = buf_failed(&text) ? MUSTER_ENOMEM : file_write(path, FILE_PUBLIC, &text, err);
    buf_done(&text);
    return code;
}
