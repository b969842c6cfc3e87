/*
 * The folder of keys; see keydir.h.
 *
 * A role's signing key can make users of that role only, and the account's own key users without
 * limits: so agents are signed with the former, brokers alone with the latter. All keys are loaded
 * together; a folder that lacks one was not made by nats-config or has been damaged, and is
 * refused.
 */
#include "cli/keydir.h"

#include <errno.h>
#include <inttypes.h>
#include <muster/plugin.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

enum { SEED_FILE_MAX = 4096, CREDS_FILE_MAX = 64 << 10, REVOKED_FILE_MAX = 2 << 20 };

/* ---- keys ---- */

static int write_seed(const char *path, const struct nkey *key, struct file_error *err)
{
    struct buf text = {0};
    char seed[NKEY_SEED_SIZE];
    int code;

    nkey_seed_text(key, seed);
    buf_printf(&text, "%s\n", seed);
    code = file_write(path, FILE_SECRET, &text, err);
    OPENSSL_cleanse(seed, sizeof seed);
    jwt_wipe(&text);
    return code;
}

/* On disk before it is used: creds signed by a key that a crash then loses could not be revoked. */
static int generate(const char *path, int kind, struct nkey *ret_key, struct file_error *err)
{
    struct nkey key;
    int code = nkey_generate(kind, &key);

    if (code) {
        (void)snprintf(err->text, sizeof err->text, "%s: OpenSSL could not make an Ed25519 key",
                       path);
        return code;
    }
    code = write_seed(path, &key, err);
    if (!code)
        *ret_key = key;
    nkey_wipe(&key);
    return code;
}

/* A file that is there and is no seed of the kind is an error: never replaced, it may be the only
 * copy of something. */
static int read_seed(const char *path, int kind, struct nkey *ret_key, struct file_error *err)
{
    struct buf text = {0};
    struct nkey key = {0};
    int code = file_read(path, SEED_FILE_MAX, &text, err);

    if (!code &&
        (nkey_from_seed(text.data, strcspn(text.data, "\r\n"), &key) || key.kind != kind)) {
        (void)snprintf(err->text, sizeof err->text,
                       "%s: not the seed of an %s key; restore it from a backup", path,
                       kind == NKEY_OPERATOR ? "operator" : "account");
        code = MUSTER_EINVAL;
    }
    if (!code)
        *ret_key = key;
    nkey_wipe(&key);
    jwt_wipe(&text);
    return code;
}

static int load_seed(const struct buf *path, int kind, bool make, struct nkey *ret_key,
                     struct file_error *err)
{
    int code = buf_failed(path) ? MUSTER_ENOMEM : read_seed(path->data, kind, ret_key, err);

    if (code == MUSTER_ENOTFOUND && make)
        code = generate(path->data, kind, ret_key, err);
    return code;
}

static int load_key(const struct keydir *dir, const char *name, int kind, bool make,
                    struct nkey *ret_key, struct file_error *err)
{
    struct buf path = {0};
    int code;

    buf_printf(&path, "%s/%s.nk", dir->path, name);
    code = load_seed(&path, kind, make, ret_key, err);
    buf_done(&path);
    return code;
}

static int load_keys(struct keydir *dir, bool make, struct file_error *err)
{
    char name[32];
    int code = load_key(dir, "operator", NKEY_OPERATOR, make, &dir->op, err);

    if (!code)
        code = load_key(dir, "account", NKEY_ACCOUNT, make, &dir->account, err);
    if (!code)
        code = load_key(dir, "system", NKEY_ACCOUNT, make, &dir->system, err);
    for (int role = 0; role < ROLES_N && !code; role++) {
        (void)snprintf(name, sizeof name, "role-%s", role_name(role)); /* role names are short */
        code = load_key(dir, name, NKEY_ACCOUNT, make, &dir->roles[role], err);
    }
    return code;
}

/* ---- the callout ---- */

int keydir_set_callout_user(struct keydir *dir, struct file_error *err)
{
    struct buf path = {0}, text = {0};
    struct nkey key = {0};
    const char *jwt;
    size_t len;
    int code;

    keydir_beside(dir, "callout.creds", &path);
    code = buf_failed(&path) ? MUSTER_ENOMEM : file_read(path.data, CREDS_FILE_MAX, &text, err);
    if (!code && jwt_read_creds(text.data, &jwt, &len, &key) != 0) {
        (void)snprintf(err->text, sizeof err->text,
                       "%s: not creds; remove it and run `muster nats-config` again", path.data);
        code = MUSTER_EINVAL;
    }
    memcpy(dir->callout_user, key.text, sizeof key.text);
    nkey_wipe(&key);
    buf_done(&path);
    jwt_wipe(&text);
    return code;
}

static int load_callout(struct keydir *dir, bool make, struct file_error *err)
{
    struct buf path = {0};
    int code;

    keydir_beside(dir, "callout.nk", &path);
    code = load_seed(&path, NKEY_ACCOUNT, make, &dir->callout, err);
    buf_done(&path);
    if (!code && !dir->settings.is_static)
        code = load_key(dir, "auth", NKEY_ACCOUNT, make, &dir->auth, err);
    if (!code && !dir->settings.is_static && !make)
        code = keydir_set_callout_user(dir, err);
    return code;
}

/* ---- revocations: `key at expires` a line ---- */

static bool parse_revocation(const char *line, struct jwt_revocation *r)
{
    uint8_t raw[NKEY_RAW_LEN];
    int kind;

    return sscanf(line, "%56s %" SCNd64 " %" SCNd64, r->key, &r->at, &r->expires) == 3 &&
           nkey_public_decode(r->key, strlen(r->key), &kind, raw) == 0 && kind == NKEY_USER;
}

static int parse_revoked(struct keydir *dir, const char *path, const char *text,
                         struct file_error *err)
{
    unsigned line_no = 1;

    for (const char *line = text; *line; line += strcspn(line, "\n") + 1, line_no++) {
        if (dir->n_revoked < KEYDIR_REVOKED_MAX &&
            parse_revocation(line, &dir->revoked[dir->n_revoked])) {
            dir->n_revoked++;
            if (line[strcspn(line, "\n")])
                continue;
        }
        (void)snprintf(err->text, sizeof err->text,
                       "%s:%u: not `key revoked-at expires-at`, or more than %d lines", path,
                       line_no, KEYDIR_REVOKED_MAX);
        return MUSTER_EINVAL;
    }
    return 0;
}

/* The whole bound at once (0.8 MB), so that adding needs no second look at memory. */
static int load_revoked(struct keydir *dir, struct file_error *err)
{
    struct buf path = {0}, text = {0};
    int code;

    file_join(&path, dir->path, "revoked");
    dir->revoked = calloc(KEYDIR_REVOKED_MAX, sizeof *dir->revoked);
    code = buf_failed(&path) || !dir->revoked ? MUSTER_ENOMEM
                                              : file_read(path.data, REVOKED_FILE_MAX, &text, err);
    if (!code)
        code = parse_revoked(dir, path.data, text.data, err);
    buf_done(&path);
    buf_done(&text);
    return code == MUSTER_ENOTFOUND ? 0 : code;
}

static int save_revoked(const struct keydir *dir, struct file_error *err)
{
    struct buf path = {0}, text = {0};
    int code;

    file_join(&path, dir->path, "revoked");
    for (size_t i = 0; i < dir->n_revoked; i++)
        buf_printf(&text, "%s %" PRId64 " %" PRId64 "\n", dir->revoked[i].key, dir->revoked[i].at,
                   dir->revoked[i].expires);
    code = buf_failed(&path) ? MUSTER_ENOMEM : file_write(path.data, FILE_SECRET, &text, err);
    buf_done(&path);
    buf_done(&text);
    return code;
}

/* ---- the folder ---- */

void keydir_close(struct keydir *dir)
{
    if (!dir)
        return;
    nkey_wipe(&dir->op);
    nkey_wipe(&dir->account);
    nkey_wipe(&dir->system);
    nkey_wipe(&dir->callout);
    nkey_wipe(&dir->auth);
    for (int role = 0; role < ROLES_N; role++)
        nkey_wipe(&dir->roles[role]);
    if (dir->lock_fd >= 0)
        close(dir->lock_fd);
    free(dir->revoked);
    free(dir->path);
    free(dir);
}

static int begin(const char *path, struct keydir **ret_dir, struct file_error *err)
{
    struct keydir *dir = calloc(1, sizeof *dir);
    int code = 0;

    if (dir) {
        dir->lock_fd = -1;
        dir->path = realpath(path, NULL); /* accounts.conf is found from it */
    }
    if (!dir || !dir->path) {
        (void)snprintf(err->text, sizeof err->text,
                       "%s: %s; `muster nats-config --dir DIR` makes it as DIR/keys", path,
                       strerror(errno));
        code = errno == ENOENT ? MUSTER_ENOTFOUND : MUSTER_EINVAL;
    }
    if (!code)
        code = file_lock(path, &dir->lock_fd, err);
    if (code) {
        keydir_close(dir);
        return code;
    }
    *ret_dir = dir;
    return 0;
}

/* The static form has no keys but the callout's: passwords are in the server's configuration. */
static int load(struct keydir *dir, bool make, struct file_error *err)
{
    int code = 0;

    if (!dir->settings.is_static) {
        code = load_keys(dir, make, err);
        if (!code)
            code = load_revoked(dir, err);
    }
    if (!code && dir->settings.callout)
        code = load_callout(dir, make, err);
    return code;
}

int keydir_open(const char *path, struct keydir **ret_dir, struct file_error *err)
{
    struct keydir *dir;
    int code = begin(path, &dir, err);

    if (code)
        return code;
    code = settings_read(path, &dir->settings, err);
    if (code == MUSTER_ENOTFOUND)
        (void)snprintf(err->text, sizeof err->text,
                       "%s: holds no keys; `muster nats-config --dir DIR` makes them in DIR/keys",
                       path);
    if (!code)
        code = load(dir, false, err);
    if (code) {
        keydir_close(dir);
        return code;
    }
    *ret_dir = dir;
    return 0;
}

/* Settings go last: a folder with settings has all its keys. */
int keydir_create(const char *path, const struct settings *settings, struct keydir **ret_dir,
                  struct file_error *err)
{
    struct keydir *dir;
    int code = file_make_folder(path, 0700, err);

    if (!code)
        code = begin(path, &dir, err);
    if (code)
        return code;
    dir->settings = *settings;
    code = load(dir, true, err);
    if (!code)
        code = settings_write(path, settings, err);
    if (code) {
        keydir_close(dir);
        return code;
    }
    *ret_dir = dir;
    return 0;
}

void keydir_beside(const struct keydir *dir, const char *name, struct buf *out)
{
    const char *slash = strrchr(dir->path, '/');

    if (slash)
        buf_put(out, dir->path, (size_t)(slash - dir->path) + 1);
    buf_puts(out, name);
}

/* ---- accounts.conf ---- */

int keydir_account(const struct keydir *dir, struct buf *out)
{
    const struct jwt_account account = {.name = "MST",
                                        .key = dir->account.text,
                                        .root = dir->settings.root,
                                        .subscriptions = dir->settings.subscriptions,
                                        .role_keys = dir->roles,
                                        .callout_key = dir->settings.callout ? dir->callout.text : NULL,
                                        .revoked = dir->revoked,
                                        .n_revoked = dir->n_revoked};

    return jwt_account(&dir->op, &account, out);
}

static int put_accounts(const struct keydir *dir, struct buf *out)
{
    const struct jwt_account system = {.name = "SYS", .key = dir->system.text};
    const struct jwt_callout_account callout = {.name = "AUTH",
                                                .key = dir->auth.text,
                                                .callout_key = dir->callout.text,
                                                .user = dir->callout_user,
                                                .target = dir->account.text};
    int err;

    buf_put_lit(
        out,
        "# Written by `muster nats-config` and `muster agent`; included by nats-server.conf. "
        "Nothing secret is in it.\n"
        "# The memory resolver, because a reload of this file then is the whole update: the full "
        "resolver keeps the old\n"
        "# account in force on SIGHUP, and a restart could bring back what its folder remembers.\n"
        "operator: ");
    err = jwt_operator(&dir->op, "muster", dir->system.text, out);
    buf_printf(out, "\nsystem_account: %s\nresolver: MEMORY\nresolver_preload: {\n  %s: ",
               dir->system.text, dir->account.text);
    if (!err)
        err = keydir_account(dir, out);
    buf_printf(out, "\n  %s: ", dir->system.text);
    if (!err)
        err = jwt_account(&dir->op, &system, out);
    if (!err && dir->settings.callout) {
        buf_printf(out, "\n  %s: ", dir->auth.text);
        err = jwt_callout_account(&dir->op, &callout, out);
    }
    buf_put_lit(out, "\n}\n");
    return err ? err : buf_failed(out) ? MUSTER_ENOMEM : 0;
}

int keydir_write_accounts(const struct keydir *dir, struct file_error *err)
{
    struct buf path = {0}, text = {0};
    int code;

    keydir_beside(dir, "accounts.conf", &path);
    code = put_accounts(dir, &text);
    if (code || buf_failed(&path))
        (void)snprintf(err->text, sizeof err->text,
                       "accounts.conf: no memory, or OpenSSL could not sign");
    else
        code = file_write(path.data, FILE_PUBLIC, &text, err);
    buf_done(&path);
    buf_done(&text);
    return code;
}

/* A revocation of a JWT that has ended is of no use any more; without this the list would only ever
 * grow. */
static void drop_ended(struct keydir *dir, int64_t now)
{
    size_t kept = 0;

    for (size_t i = 0; i < dir->n_revoked; i++)
        if (!dir->revoked[i].expires || dir->revoked[i].expires > now)
            dir->revoked[kept++] = dir->revoked[i];
    dir->n_revoked = kept;
}

static bool is_revoked(const struct keydir *dir, const char *key)
{
    for (size_t i = 0; i < dir->n_revoked; i++)
        if (strcmp(dir->revoked[i].key, key) == 0)
            return true;
    return false;
}

int keydir_revoke(struct keydir *dir, const struct jwt_revocation *more, size_t n,
                  struct file_error *err)
{
    int code;

    drop_ended(dir, clock_wall_ns() / CLOCK_S);
    for (size_t i = 0; i < n; i++) {
        if (is_revoked(dir, more[i].key))
            continue;
        if (dir->n_revoked == KEYDIR_REVOKED_MAX) {
            (void)snprintf(err->text, sizeof err->text,
                           "%s/revoked: full, with %d keys whose creds have not ended by "
                           "themselves; mint with --expires, so that "
                           "entries can go",
                           dir->path, KEYDIR_REVOKED_MAX);
            return MUSTER_EAGAIN;
        }
        dir->revoked[dir->n_revoked++] = more[i];
    }
    code = save_revoked(dir, err);
    return code ? code : keydir_write_accounts(dir, err);
}

int keydir_mint(const struct keydir *dir, struct jwt_user *user, struct buf *creds,
                char ret_key[NKEY_TEXT_SIZE])
{
    struct buf jwt = {0};
    struct nkey key;
    int err = nkey_generate(NKEY_USER, &key);

    if (err)
        return err;
    user->key = key.text;
    user->account = dir->account.text;
    user->root = dir->settings.root;
    if (!user->subscriptions)
        user->subscriptions = dir->settings.subscriptions;
    err = jwt_user(user->narrowing ? &dir->account : &dir->roles[user->role], user, &jwt);
    if (!err) {
        jwt_put_creds(creds, jwt.data, &key);
        memcpy(ret_key, key.text, sizeof key.text);
        err = buf_failed(creds) ? MUSTER_ENOMEM : 0;
    }
    user->key = NULL; /* it points into this frame */
    nkey_wipe(&key);
    buf_done(&jwt);
    return err;
}
