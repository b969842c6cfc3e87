/*
 * logins - lets in whoever brings a token that says who he is, so that tests can try muster.login/1.
 *
 * tokens   <tenant>.<agent>[.<role>[.<ms>]]   let in, until ms from now
 *          refuse.<code>                      refused for that reason
 *          late.<ms>.<tenant>.<agent>         let in after so long
 *          never                              not answered
 *          short                              let in by an admission that is its size alone, at the end of what can be read
 */
#include <muster/plugin.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { LATE_MAX = 64, TOKEN_MAX = 256 };

struct late {
    uint64_t id;
    int64_t at_ns; /* 0: free */
    char token[TOKEN_MAX];
};

struct logins {
    const struct muster_host *host;
    const struct muster_logins *logins;
    const struct muster_timer *timer;
    struct late late[LATE_MAX];
};

/* The next part of a token, or "". */
static const char *part(char **rest)
{
    const char *word = *rest ? strsep(rest, ".") : NULL;

    return word ? word : "";
}

static void tell(struct logins *l, const char *call, int err)
{
    l->host->log(l->host, MUSTER_LOG_INFO, "%s gave %d", call, err);
}

static void admit(struct logins *l, uint64_t id, char *token)
{
    const char *tenant = part(&token), *agent = part(&token), *role = part(&token), *ms = part(&token);
    const struct muster_admission admission = {
        .size = sizeof admission,
        .tenant = tenant,
        .agent = agent,
        .role = *role ? role : "agent",
        .expires_wall_ns = *ms ? l->timer->wall_now(l->host) + strtoll(ms, NULL, 10) * 1000000 : 0};
    int err = l->logins->admit(l->host, id, &admission);

    if (!err)
        return;
    tell(l, "admit", err);
    (void)l->logins->refuse(l->host, id, "bad_token", "the token says what nobody can be");
}

/* Reading on ends the broker. */
static void admit_short(struct logins *l, uint64_t id)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *at = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    const uint32_t size = sizeof size;

    if (at == MAP_FAILED || mprotect(at + page, page, PROT_NONE) != 0)
        return;
    void *admission = at + page - sizeof(void *);
    memcpy(admission, &size, sizeof size);
    tell(l, "a short admit", l->logins->admit(l->host, id, admission));
    (void)munmap(at, 2 * page);
    (void)l->logins->refuse(l->host, id, "bad_token", "an admission was too short");
}

static void keep(struct logins *l, uint64_t id, char *token)
{
    int64_t ms = strtoll(part(&token), NULL, 10);

    for (int i = 0; i < LATE_MAX; i++) {
        if (l->late[i].at_ns)
            continue;
        l->late[i] = (struct late){.id = id, .at_ns = l->timer->now(l->host) + ms * 1000000};
        (void)snprintf(l->late[i].token, TOKEN_MAX, "%s", token ? token : "");
        return;
    }
}

static void on_login(void *arg, const struct muster_login *login)
{
    struct logins *l = arg;
    char token[TOKEN_MAX], *rest = token, *first;

    (void)snprintf(token, sizeof token, "%s", login->token);
    l->host->log(l->host, MUSTER_LOG_DEBUG, "user \"%s\", name \"%s\" from %s", login->user, login->client_name, login->host);
    if (strcmp(token, "never") == 0)
        return;
    if (strcmp(token, "short") == 0) {
        admit_short(l, login->id);
        return;
    }
    if (strncmp(token, "refuse.", 7) == 0 || !strchr(token, '.')) {
        first = strchr(token, '.');
        int err = l->logins->refuse(l->host, login->id, first ? first + 1 : "no_token", "the test said so");
        if (err) {
            tell(l, "refuse", err);
            (void)l->logins->refuse(l->host, login->id, "bad_code", "the test said so, in words that are none");
        }
        tell(l, "another refuse", l->logins->refuse(l->host, login->id, "twice", "once is enough"));
        return;
    }
    if (strncmp(token, "late.", 5) == 0) {
        (void)part(&rest);
        keep(l, login->id, rest);
    } else {
        admit(l, login->id, rest);
    }
}

static void on_tick(void *self, int64_t now_ns)
{
    struct logins *l = self;

    for (int i = 0; i < LATE_MAX; i++) {
        if (!l->late[i].at_ns || l->late[i].at_ns > now_ns)
            continue;
        l->late[i].at_ns = 0;
        admit(l, l->late[i].id, l->late[i].token);
    }
}

static void logins_destroy(void *self)
{
    free(self);
}

static int logins_create(const struct muster_host *host, const void *config, void **ret_self)
{
    struct logins *l = calloc(1, sizeof *l);
    int err = l ? 0 : MUSTER_ENOMEM;

    (void)config;
    if (err)
        return err;
    l->host = host;
    err = host->service(host, MUSTER_LOGIN, (const void **)&l->logins);
    if (!err)
        err = host->service(host, MUSTER_TIMER, (const void **)&l->timer);
    if (err) {
        free(l);
        return err;
    }
    *ret_self = l;
    return 0;
}

static int logins_start(void *self)
{
    struct logins *l = self;
    uint64_t id;
    int err = l->logins->serve(l->host, on_login, l);

    if (!err && l->logins->serve(l->host, on_login, l) != MUSTER_EEXIST)
        return l->host->fail(l->host, MUSTER_EINVAL, "serve() took a second function");
    if (!err)
        err = l->timer->every(l->host, 10000000, on_tick, &id);
    if (!err)
        l->host->health(l->host, MUSTER_HEALTH_OK, "ok", "lets in who says who he is");
    return err;
}

MUSTER_PLUGIN(.name = "logins", .version = "1.0.0", .capabilities = "login", .create = logins_create, .start = logins_start,
              .destroy = logins_destroy);
