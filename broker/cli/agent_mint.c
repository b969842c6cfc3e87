/* The secrets of `muster agent`, made and put in force; see agent_job.h. */
#include "cli/agent_job.h"

#include <muster/plugin.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "auth/token.h"
#include "base/clock.h"
#include "cli/static_users.h"

static const char command[] = "agent";

/* As far as NATS has to know it. What add was given is the same for all names. */
static const struct role_narrowing *narrowing_of(const struct job *job, size_t i)
{
    return narrowing_of_role(job->is_add ? (struct narrowing *)&job->given : &job->narrowings[i]);
}

/* A scoped key's limits are those of all tenants: with one of its own the permissions are written out, narrowed or not. */
static int mint_creds(struct job *job, size_t i)
{
    static const struct role_narrowing whole = {0};
    const struct role_narrowing *narrowing = narrowing_of(job, i);
    struct jwt_user user = {.name = job->rows[i].agent,
                            .tenant = job->tenant,
                            .role = job->rows[i].role,
                            .expires = job->expires,
                            .narrowing = narrowing || !job->subscriptions ? narrowing : &whole,
                            .subscriptions = job->subscriptions};
    int err = keydir_mint(job->keys, &user, &job->minted[i].secret, job->rows[i].key);

    return err ? cli_fail(CLI_FAILED, command, "no memory, or OpenSSL could not make a key")
               : CLI_DONE;
}

static int mint_password(struct job *job, size_t i)
{
    char password[STATIC_PASSWORD_SIZE];

    if (!static_password(password))
        return cli_fail(CLI_FAILED, command, "the system has no random numbers");
    buf_printf(&job->minted[i].secret, "%s\n", password);
    OPENSSL_cleanse(password, sizeof password);
    job->rows[i].key[0] = '\0';
    return buf_failed(&job->minted[i].secret) ? cli_fail(CLI_FAILED, command, "out of memory")
                                              : CLI_DONE;
}

static int mint_token(struct job *job, size_t i)
{
    struct token token;
    char text[TOKEN_TEXT_SIZE];
    int err = token_generate(&token);

    if (!err)
        err = token_hash(&token, job->rows[i].secret_hash);
    if (err)
        return cli_fail(CLI_FAILED, command, "the system has no random numbers");
    token_text(&token, text);
    memcpy(job->rows[i].token_id, token.id, sizeof token.id);
    buf_printf(&job->minted[i].secret, "%s\n", text);
    token_wipe(&token);
    OPENSSL_cleanse(text, sizeof text);
    return buf_failed(&job->minted[i].secret) ? cli_fail(CLI_FAILED, command, "out of memory")
                                              : CLI_DONE;
}

int job_mint(struct job *job)
{
    int (*mint)(struct job *job, size_t i) = job->tokens                      ? mint_token
                                             : job->keys->settings.is_static ? mint_password
                                                                             : mint_creds;
    int code = CLI_DONE;

    if (mint == mint_password && job->keys->settings.callout && job->is_add && job->role != ROLE_OPERATOR && job->role != ROLE_PLUGIN)
        return cli_fail(CLI_USAGE, command,
                        "with a callout the server of the static form asks the brokers, and they know tokens: give --token; only "
                        "operators and plugins, whom tokens are not for, get passwords");
    for (size_t i = 0; i < job->n && code == CLI_DONE; i++) {
        job->rows[i].expires = job->expires;
        code = mint(job, i);
    }
    return code;
}

/* ---- in force ---- */

int job_edit_static_users(const struct job *job, bool remove)
{
    struct static_user *users = calloc(job->n, sizeof *users);
    size_t n = 0;
    struct buf path = {0};
    struct file_error err = {"out of memory"};
    int code = users ? 0 : MUSTER_ENOMEM;

    for (size_t i = 0; i < job->n && users; i++) {
        struct static_user *u = &users[n];
        const struct agent_row *row = &job->rows[i];

        if (row->token_id[0])
            continue;
        n++;

        *u = (struct static_user){.remove = remove,
                                  .role = row->role,
                                  .root = job->keys->settings.root,
                                  .tenant = job->tenant,
                                  .agent = row->agent,
                                  .narrowing = narrowing_of(job, i)};
        (void)snprintf(u->user, sizeof u->user, "%s.%s", job->tenant,
                       row->agent); /* names are bounded */
        if (!remove)
            memcpy(u->password, job->minted[i].secret.data, STATIC_PASSWORD_SIZE - 1);
    }
    keydir_beside(job->keys, "agents.conf", &path);
    if (!code)
        code =
            buf_failed(&path) ? MUSTER_ENOMEM : static_users_edit(path.data, users, n, &err);
    if (users)
        OPENSSL_cleanse(users, job->n * sizeof *users);
    free(users);
    buf_done(&path);
    return code ? cli_fail(CLI_FAILED, command, "%s", err.text) : CLI_DONE;
}

/* Revoke the keys that were in use until now. A day is added to the time: the clock of the machine
 * that minted a JWT may be ahead of ours, and the key is never used again. */
int job_revoke_old_keys(struct job *job)
{
    struct file_error err = {"out of memory"};
    size_t n = 0;

    for (size_t i = 0; i < job->n; i++)
        if (job->old[i].key[0]) {
            job->old[n] = job->old[i];
            job->old[n++].at = clock_wall_ns() / CLOCK_S + 86400;
        }
    if (keydir_revoke(job->keys, job->old, n, &err))
        return cli_fail(CLI_FAILED, command,
                        "%s; the rows are written, NATS still lets the old creds in", err.text);
    return CLI_DONE;
}

void job_keep_old_keys(struct job *job)
{
    for (size_t i = 0; i < job->n; i++) {
        memcpy(job->old[i].key, job->rows[i].key, sizeof job->old[i].key);
        job->old[i].expires = job->rows[i].expires;
    }
}

int job_bypass_callout(struct job *job)
{
    struct file_error err = {"out of memory"};
    struct buf path = {0};
    int code = CLI_DONE;

    keydir_beside(job->keys, "auth_users.conf", &path);
    for (size_t i = 0; i < job->n && code == CLI_DONE; i++) {
        char user[STATIC_USER_SIZE];
        const char *const users[] = {user};
        bool grew;

        (void)snprintf(user, sizeof user, "%s.%s", job->tenant, job->rows[i].agent); /* names are bounded */
        if (buf_failed(&path) || static_bypass_add(path.data, users, 1, NULL, &grew, &err) != 0)
            code = cli_fail(CLI_FAILED, command, "%s", err.text);
        else
            job->needs_restart |= grew;
    }
    buf_done(&path);
    if (job->needs_restart)
        fprintf(stderr, "muster %s: restart nats-server: with a callout it takes up a new password at its start only, and no other change "
                        "before\n", command);
    return code;
}
