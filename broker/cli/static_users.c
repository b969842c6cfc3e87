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
        role_put_allow(out, u->role, ROLE_PUB, &names);
        buf_put_lit(out, ", subscribe: ");
        role_put_allow(out, u->role, ROLE_SUB, &names);
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
