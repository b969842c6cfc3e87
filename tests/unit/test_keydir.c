/*
 * The folder of keys in a private temporary folder: made once and kept, its revocations, what it
 * refuses; and the users of the static form.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <ftw.h>
#include <muster/plugin.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cli/keydir.h"
#include "cli/static_users.h"

static const struct settings settings = {
    .root = "mst", .subscriptions = 500, .listen = "127.0.0.1:4222", .store = "/var/lib/x y"};

struct place {
    char dir[64], keys[80];
};

static int set_up(void **state)
{
    struct place *p = calloc(1, sizeof *p);

    if (!p)
        return -1;
    (void)snprintf(p->dir, sizeof p->dir, "/tmp/muster-keydir-XXXXXX");
    if (!mkdtemp(p->dir))
        return -1;
    (void)snprintf(p->keys, sizeof p->keys, "%s/keys", p->dir);
    *state = p;
    return 0;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static int tear_down(void **state)
{
    struct place *p = *state;

    (void)nftw(p->dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
    free(p);
    return 0;
}

/* The text of a file of the place; the caller frees it. */
static char *slurp(const struct place *p, const char *name)
{
    struct buf path = {0}, text = {0};
    struct file_error err;

    file_join(&path, p->dir, name);
    if (file_read(path.data, 1 << 20, &text, &err))
        fail_msg("%s", err.text);
    buf_done(&path);
    return buf_take(&text);
}

static void spill(const struct place *p, const char *name, const char *text)
{
    struct buf path = {0}, data = {0};
    struct file_error err;

    file_join(&path, p->dir, name);
    buf_puts(&data, text);
    assert_int_equal(file_write(path.data, FILE_SECRET, &data, &err), 0);
    buf_done(&path);
    buf_done(&data);
}

static struct keydir *create(const struct place *p)
{
    struct keydir *dir = NULL;
    struct file_error err = {""};

    if (keydir_create(p->keys, &settings, &dir, &err))
        fail_msg("%s", err.text);
    return dir;
}

/* The claims of the first account in accounts.conf: the agents' one. */
static char *account_jwt(const struct place *p)
{
    char *text = slurp(p, "accounts.conf");
    char *at = strstr(text, "resolver_preload: {\n  ");

    assert_non_null(at);
    at = strstr(at + 22, ": ") + 2;
    at[strcspn(at, "\n")] = '\0';
    char *jwt = strdup(at);
    free(text);
    return jwt;
}

static void test_made_once(void **state)
{
    const struct place *p = *state;
    struct keydir *dir = create(p);
    char op[NKEY_TEXT_SIZE], agent[NKEY_TEXT_SIZE];
    struct file_error err;
    struct stat st;

    assert_int_equal(stat(p->keys, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    memcpy(op, dir->op.text, sizeof op);
    memcpy(agent, dir->roles[ROLE_AGENT].text, sizeof agent);
    keydir_close(dir);

    dir = create(p);
    assert_string_equal(dir->op.text, op);
    keydir_close(dir);
    assert_int_equal(keydir_open(p->keys, &dir, &err), 0);
    assert_string_equal(dir->roles[ROLE_AGENT].text, agent);
    assert_string_equal(dir->settings.store, "/var/lib/x y");
    assert_string_equal(dir->settings.http, "");
    assert_int_equal(dir->settings.subscriptions, 500);
    keydir_close(dir);
}

static void test_foreign_seed_is_refused(void **state)
{
    const struct place *p = *state;
    struct keydir *dir = create(p);
    struct file_error err;
    char *operator_seed = slurp(p, "keys/operator.nk");

    keydir_close(dir);
    spill(p, "keys/role-agent.nk", operator_seed);
    assert_int_equal(keydir_open(p->keys, &dir, &err), MUSTER_EINVAL);
    assert_non_null(strstr(err.text, "role-agent.nk"));
    assert_int_equal(keydir_create(p->keys, &settings, &dir, &err), MUSTER_EINVAL);
    char *kept = slurp(p, "keys/role-agent.nk"); /* never overwritten */
    assert_string_equal(kept, operator_seed);
    free(kept);
    free(operator_seed);
}

static void test_no_folder(void **state)
{
    const struct place *p = *state;
    struct keydir *dir;
    struct file_error err;

    assert_int_equal(keydir_open(p->keys, &dir, &err), MUSTER_ENOTFOUND);
    assert_non_null(strstr(err.text, "nats-config"));
    assert_int_equal(keydir_open(p->dir, &dir, &err), MUSTER_ENOTFOUND);
    assert_non_null(strstr(err.text, "holds no keys"));
}

static void test_mint(void **state)
{
    const struct place *p = *state;
    struct keydir *dir = create(p);
    struct jwt_user user = {.name = "a1", .tenant = "acme", .role = ROLE_OBSERVER};
    struct buf creds = {0};
    char text[NKEY_TEXT_SIZE];
    const char *jwt;
    struct nkey key;
    struct jwt_claims c;
    size_t len;

    assert_int_equal(keydir_mint(dir, &user, &creds, text), 0);
    assert_int_equal(jwt_read_creds(creds.data, &jwt, &len, &key), 0);
    assert_string_equal(key.text, text);
    assert_int_equal(jwt_decode(jwt, len, &c), 0);
    assert_string_equal(c.issuer, dir->roles[ROLE_OBSERVER].text);
    assert_string_equal(c.account, dir->account.text);
    assert_string_equal(c.subject, text);
    jwt_wipe(&creds);
    keydir_close(dir);
}

static void test_revocations_are_kept_until_they_end(void **state)
{
    const struct place *p = *state;
    struct keydir *dir = create(p);
    struct nkey keys[3];
    struct jwt_revocation more[3] = {
        {.expires = 0}, {.expires = time(NULL) + 3600}, {.expires = time(NULL) - 1}};
    struct file_error err;

    for (int i = 0; i < 3; i++) {
        assert_int_equal(nkey_generate(NKEY_USER, &keys[i]), 0);
        memcpy(more[i].key, keys[i].text, sizeof more[i].key);
        more[i].at = 1800000000;
    }
    assert_int_equal(keydir_revoke(dir, more, 3, &err), 0);
    assert_int_equal(keydir_revoke(dir, more, 1, &err),
                     0); /* again: no second entry, and the ended one goes */
    keydir_close(dir);
    assert_int_equal(keydir_open(p->keys, &dir, &err), 0);
    assert_int_equal(dir->n_revoked, 2);
    assert_string_equal(dir->revoked[0].key, keys[0].text);
    assert_int_equal(dir->revoked[0].at, 1800000000);
    keydir_close(dir);

    char *jwt = account_jwt(p);
    struct jwt_claims c;
    assert_int_equal(jwt_decode(jwt, strlen(jwt), &c), 0);
    assert_string_equal(c.name, "MST");
    free(jwt);
}

static void test_broken_files(void **state)
{
    const struct place *p = *state;
    struct keydir *dir = create(p);
    struct file_error err;

    keydir_close(dir);
    spill(p, "keys/revoked", "UABC 1 2\n");
    assert_int_equal(keydir_open(p->keys, &dir, &err), MUSTER_EINVAL);
    assert_non_null(strstr(err.text, "revoked:1:"));
    spill(p, "keys/revoked", "");
    spill(p, "keys/settings", "form operator\nroot mst\n");
    assert_int_equal(keydir_open(p->keys, &dir, &err), MUSTER_EINVAL);
    assert_non_null(strstr(err.text, "settings"));
}

/* ---- the static form ---- */

static struct static_user user(const char *name, int role, const char *password)
{
    struct static_user u = {.role = role, .root = "mst", .tenant = "acme", .agent = name};

    (void)snprintf(u.user, sizeof u.user, "acme.%s", name);
    (void)snprintf(u.password, sizeof u.password, "%s", password);
    return u;
}

static void test_static_users(void **state)
{
    const struct place *p = *state;
    struct static_user two[] = {user("a1", ROLE_USER, "one"), user("a10", ROLE_USER, "ten")};
    struct static_user changed = user("a1", ROLE_USER, "new"),
                       gone = {.user = "acme.a10", .remove = true};
    struct file_error err;
    char path[96];

    (void)snprintf(path, sizeof path, "%s/agents.conf", p->dir);
    assert_int_equal(static_users_edit(path, two, 2, &err), 0);
    assert_int_equal(static_users_edit(path, &changed, 1, &err), 0);
    char *text = slurp(p, "agents.conf");
    assert_null(strstr(text, "\"one\""));
    assert_non_null(strstr(text, "\"ten\""));
    assert_non_null(strstr(text, "{user: \"acme.a1\", password: \"new\", permissions: {publish: "
                                 "{\"allow\":[\"mst.acme.rpc.a1.>\"]}"));
    free(text);

    assert_int_equal(static_users_edit(path, &gone, 1, &err), 0);
    text = slurp(p, "agents.conf");
    assert_null(strstr(text, "a10"));
    assert_non_null(strstr(text, "acme.a1\""));
    free(text);

    spill(p, "agents.conf", "users: []\n");
    assert_int_equal(static_users_edit(path, two, 2, &err), MUSTER_EINVAL);
    text = slurp(p, "agents.conf");
    assert_string_equal(text, "users: []\n");
    free(text);
}

static void test_passwords(void **state)
{
    char a[STATIC_PASSWORD_SIZE], b[STATIC_PASSWORD_SIZE];

    (void)state;
    assert_true(static_password(a));
    assert_true(static_password(b));
    assert_int_equal(strlen(a), STATIC_PASSWORD_SIZE - 1);
    assert_string_not_equal(a, b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_made_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_foreign_seed_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_folder, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_mint, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_revocations_are_kept_until_they_end, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_broken_files, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_static_users, set_up, tear_down),
        cmocka_unit_test(test_passwords),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
