/* Settings; see settings.h. */
#include "settings.h"

#include "pattern.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

enum { HOOK_OPTIONS = 11, HOST_SIZE = 256 };

static const struct muster_option hook_options[HOOK_OPTIONS] = {
    {.key = "subjects", .help = "What is sent: subjects after the tenant, with * and >.", .type = MUSTER_T_LIST, .flags = MUSTER_O_REQUIRED,
     .min = 1, .max = MAX_SUBJECTS, .offset = offsetof(struct hook_config, subjects)},
    {.key = "url", .help = "Where to: https://…, or http://… to a host of private_hosts.", .type = MUSTER_T_STRING,
     .flags = MUSTER_O_REQUIRED, .min = 8, .max = 2000, .offset = offsetof(struct hook_config, url)},
    {.key = "secret_file", .help = "The file of the secret: whsec_ and 24 to 64 random bytes in base64.", .type = MUSTER_T_STRING,
     .flags = MUSTER_O_REQUIRED, .min = 1, .max = 4000, .offset = offsetof(struct hook_config, secret_file)},
    {.key = "old_secret_file", .help = "The secret before, while receivers change over: both sign.", .type = MUSTER_T_STRING, .max = 4000,
     .offset = offsetof(struct hook_config, old_secret_file)},
    {.key = "ca_file", .help = "Certificates to trust instead of the system's.", .type = MUSTER_T_STRING, .max = 4000,
     .offset = offsetof(struct hook_config, ca_file)},
    {.key = "tenants", .help = "Whose messages; of all tenants when it is missing.", .type = MUSTER_T_LIST, .max = 10000,
     .offset = offsetof(struct hook_config, tenants)},
    {.key = "timeout", .help = "How long one attempt may take.", .type = MUSTER_T_DURATION_NS, .def = "20s", .min = 100000000,
     .max = INT64_C(300000000000), .offset = offsetof(struct hook_config, timeout_ns)},
    {.key = "deadline", .help = "How long attempts go on; then the message is dead.", .type = MUSTER_T_DURATION_NS, .def = "1d",
     .min = 1000000, .max = INT64_C(2592000000000000), .offset = offsetof(struct hook_config, deadline_ns)},
    {.key = "backoff", .help = "The wait after the first failure, doubled with each up to an hour; a half of it is left to chance.",
     .type = MUSTER_T_DURATION_NS, .def = "5s", .min = 1000000, .max = INT64_C(3600000000000),
     .offset = offsetof(struct hook_config, backoff_ns)},
    {.key = "concurrency", .help = "Requests at a time. With 1 messages arrive in order, and one that fails holds those behind it.",
     .type = MUSTER_T_INT, .def = "1", .min = 1, .max = 100, .offset = offsetof(struct hook_config, concurrency)},
    {.key = "max_queued", .help = "Messages that may wait, 64 MiB at most; what comes then is dropped and counted.", .type = MUSTER_T_INT,
     .def = "10000", .min = 1, .max = 1000000, .offset = offsetof(struct hook_config, max_queued)},
};

const struct muster_option webhook_options[WEBHOOK_OPTIONS] = {
    {.key = "hooks", .help = "Who is told of what.", .type = MUSTER_T_MAP, .flags = MUSTER_O_RELOADABLE, .max = MAX_HOOKS,
     .offset = offsetof(struct webhook_config, hooks), .fields = hook_options, .n_fields = HOOK_OPTIONS,
     .entry_size = sizeof(struct hook_config)},
    {.key = "allow_hosts", .help = "The hosts that a url may name, \".example.com\" for all below it; any when it is missing.",
     .type = MUSTER_T_LIST, .flags = MUSTER_O_RELOADABLE, .max = 1000, .offset = offsetof(struct webhook_config, allow_hosts)},
    {.key = "private_hosts", .help = "Hosts that may have addresses of a private network or of this machine, and may be spoken to without TLS.",
     .type = MUSTER_T_LIST, .flags = MUSTER_O_RELOADABLE, .max = 1000, .offset = offsetof(struct webhook_config, private_hosts)},
};

const struct hook_config *settings_hook(const struct webhook_config *config, size_t i)
{
    return (const struct hook_config *)config->hooks.entries + i;
}

/* ---- hosts ---- */

/* The host as libcurl will understand it, whatever a URL looks like to people; false: it is none. */
static bool read_url(const char *url, char host[HOST_SIZE], bool *ret_tls)
{
    CURLU *u = curl_url();
    char *scheme = NULL, *name = NULL, *user = NULL;
    bool ok = u && curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK && curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK &&
              curl_url_get(u, CURLUPART_HOST, &name, 0) == CURLUE_OK;

    ok = ok && (strcmp(scheme, "https") == 0 || strcmp(scheme, "http") == 0) && strlen(name) < HOST_SIZE;
    ok = ok && curl_url_get(u, CURLUPART_USER, &user, 0) == CURLUE_NO_USER;
    if (ok) {
        *ret_tls = strcmp(scheme, "https") == 0;
        memcpy(host, name, strlen(name) + 1);
    }
    curl_free(scheme);
    curl_free(name);
    curl_free(user);
    curl_url_cleanup(u);
    return ok;
}

static bool names(const struct muster_list *hosts, const char *host)
{
    size_t len = strlen(host);

    for (size_t i = 0; i < hosts->n; i++) {
        const char *item = hosts->items[i];
        size_t n = strlen(item);

        if (strcasecmp(item, host) == 0 || (*item == '.' && len > n && strcasecmp(host + len - n, item) == 0))
            return true;
    }
    return false;
}

bool settings_may_go_anywhere(const struct webhook_config *config, const char *url)
{
    char host[HOST_SIZE];
    bool tls;

    return read_url(url, host, &tls) && names(&config->private_hosts, host);
}

static int check_url(const struct muster_host *host, const struct webhook_config *config, const char *name, const char *url)
{
    char to[HOST_SIZE];
    bool tls;

    if (!read_url(url, to, &tls))
        return host->fail(host, MUSTER_EINVAL, "hooks.%s.url: https://host/… without a user was expected", name);
    if (config->allow_hosts.n && !names(&config->allow_hosts, to))
        return host->fail(host, MUSTER_EINVAL, "hooks.%s.url: allow_hosts does not name %s", name, to);
    if (!tls && !names(&config->private_hosts, to))
        return host->fail(host, MUSTER_EINVAL, "hooks.%s.url: http came, https was expected: private_hosts does not name %s", name, to);
    return 0;
}

/* ---- secrets ---- */

static int read_key(const struct muster_host *host, const char *where[2], const char *path, struct sign_key *ret)
{
    char text[512];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text);
    int err = errno;
    const char *why = n < 0 ? strerror(err) : sign_read_key(text, (size_t)n, ret);

    if (fd >= 0)
        (void)close(fd); /* it was only read */
    explicit_bzero(text, sizeof text);
    return why ? host->fail(host, MUSTER_EINVAL, "hooks.%s.%s: %s: %s", where[0], where[1], path, why) : 0;
}

int settings_keys(const struct muster_host *host, const char *name, const struct hook_config *c, struct sign_key ret[2])
{
    int err = read_key(host, (const char *[]){name, "secret_file"}, c->secret_file, &ret[0]);

    ret[1].len = 0;
    if (!err && c->old_secret_file && *c->old_secret_file)
        err = read_key(host, (const char *[]){name, "old_secret_file"}, c->old_secret_file, &ret[1]);
    return err;
}

/* ---- subjects ---- */

size_t settings_subjects(const struct webhook_config *config, const char *ret[MAX_HOOKS * MAX_SUBJECTS])
{
    size_t n = 0;

    for (size_t i = 0; i < config->hooks.n; i++) {
        const struct muster_list *subjects = &settings_hook(config, i)->subjects;

        for (size_t k = 0; k < subjects->n; k++) {
            const char *subject = subjects->items[k];
            size_t kept = 0, covered = 0;

            for (size_t m = 0; m < n && !covered; m++)
                covered = pattern_covers(ret[m], subject);
            if (covered)
                continue;
            for (size_t m = 0; m < n; m++)
                if (!pattern_covers(subject, ret[m]))
                    ret[kept++] = ret[m];
            ret[kept++] = subject;
            n = kept;
        }
    }
    return n;
}

/* A message comes once for each subscription that it matches: those left must not meet, or it would be sent twice. */
static int check_subjects(const struct muster_host *host, const struct webhook_config *config)
{
    const char *subjects[MAX_HOOKS * MAX_SUBJECTS];
    size_t n = settings_subjects(config, subjects);

    for (size_t i = 0; i < n; i++) {
        if (strncmp(subjects[i], "rpc.", 4) == 0)
            return host->fail(host, MUSTER_EINVAL, "hooks: %s came: requests are for who answers them", subjects[i]);
        for (size_t k = i + 1; k < n; k++)
            if (pattern_overlaps(subjects[i], subjects[k]))
                return host->fail(host, MUSTER_EINVAL, "hooks: the subjects %s and %s overlap, neither within the other: one that covers both "
                                  "was expected in one of the hooks", subjects[i], subjects[k]);
    }
    return 0;
}

int settings_check(const struct muster_host *host, const void *config)
{
    const struct webhook_config *c = config;
    struct sign_key keys[2];
    int err = 0;

    if (host->n_lanes > 1)
        return host->fail(host, MUSTER_EINVAL, "lanes: %u came, 1 was expected: a hook's order is kept on one lane", host->n_lanes);
    for (size_t i = 0; i < c->hooks.n && !err; i++) {
        err = check_url(host, c, c->hooks.keys[i], settings_hook(c, i)->url);
        if (!err)
            err = settings_keys(host, c->hooks.keys[i], settings_hook(c, i), keys);
    }
    explicit_bzero(keys, sizeof keys);
    return err ? err : check_subjects(host, c);
}
