/*
 * The reader of URLs and files; see fetch.h.
 *
 * Shared: the queue, its count and the flag to stop, under the lock. Everything else belongs to the thread.
 */
#include "auth/fetch.h"

#include <ctype.h>
#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <muster/plugin.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"

enum { POLL_MS = 1000, READ_STEP = 16 << 10 };

struct job {
    struct job *next;
    struct fetch_request request; /* its strings are owned */
    CURL *easy;
    struct buf body;
    bool too_large;
    char why[FETCH_WHY_SIZE];
};

struct fetch {
    pthread_t thread;
    pthread_mutex_t lock;
    struct job *queue;   /* [lock] */
    size_t n_open;       /* [lock] queued or under way */
    bool stop;           /* [lock] */
    CURLM *multi;        /* curl_multi_wakeup() is the one call from other threads */
    struct job *running; /* thread only */
};

/* ---- URLs and headers ---- */

static bool is_this_machine(const char *host)
{
    return strcmp(host, "localhost") == 0 || strcmp(host, "127.0.0.1") == 0 || strcmp(host, "[::1]") == 0;
}

static const char *parts_fault(CURLU *u)
{
    char *scheme = NULL, *host = NULL, *password = NULL;
    const char *fault = NULL;

    if (curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) || curl_url_get(u, CURLUPART_HOST, &host, 0))
        fault = "a URL with a host was expected";
    else if (curl_url_get(u, CURLUPART_PASSWORD, &password, 0) == CURLUE_OK)
        fault = "a URL without a password was expected";
    else if (strcmp(scheme, "https") != 0 && (strcmp(scheme, "http") != 0 || !is_this_machine(host)))
        fault = "https:// was expected; http:// is for this machine only, because who answers there decides who may log in";
    curl_free(scheme);
    curl_free(host);
    curl_free(password);
    return fault;
}

const char *fetch_url_fault(const char *url)
{
    CURLU *u = curl_url();
    const char *fault = "a URL was expected";

    if (u && curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK)
        fault = parts_fault(u);
    curl_url_cleanup(u);
    return fault;
}

static bool directive_is(const char *at, size_t len, const char *name)
{
    return len == strlen(name) && strncasecmp(at, name, len) == 0;
}

/* Digits only, and no more than a count of seconds needs. */
static int64_t read_seconds(const char *at)
{
    int64_t s = 0;

    if (!isdigit((unsigned char)*at))
        return -1;
    for (; isdigit((unsigned char)*at); at++)
        s = s < INT64_C(1000000000) ? s * 10 + (*at - '0') : s;
    return s;
}

int64_t fetch_max_age(const char *cache_control)
{
    int64_t age = -1;

    for (const char *at = cache_control; *(at += strspn(at, " \t,"));) {
        size_t len = strcspn(at, " \t,="), whole = strcspn(at, ",");

        if (directive_is(at, len, "no-store") || directive_is(at, len, "no-cache"))
            return 0;
        if (directive_is(at, len, "max-age") && at[len] == '=')
            age = read_seconds(at + len + 1 + (at[len + 1] == '"'));
        at += whole;
    }
    return age;
}

/* ---- jobs ---- */

static void job_free(struct job *j)
{
    if (!j)
        return;
    curl_easy_cleanup(j->easy);
    free((char *)j->request.url);
    free((char *)j->request.path);
    free((char *)j->request.ca_file);
    buf_done(&j->body);
    free(j);
}

static bool copy(const char **to, const char *from)
{
    *to = from ? strdup(from) : NULL;
    return *to || !from;
}

static struct job *job_new(const struct fetch_request *r)
{
    struct job *j = calloc(1, sizeof *j);
    bool ok = j != NULL;

    if (!j)
        return NULL;
    j->request = (struct fetch_request){.max_bytes = r->max_bytes, .timeout_ns = r->timeout_ns, .done = r->done, .arg = r->arg};
    ok = copy(&j->request.url, r->url) && copy(&j->request.path, r->path) && copy(&j->request.ca_file, r->ca_file);
    if (!ok) {
        job_free(j);
        return NULL;
    }
    return j;
}

static void job_end(struct fetch *f, struct job *j, struct fetch_answer *answer)
{
    answer->data = j->body.data;
    answer->len = answer->code ? 0 : j->body.len;
    answer->why = answer->code ? j->why : "";
    pthread_mutex_lock(&f->lock); /* first: who is told may ask again at once */
    f->n_open--;
    pthread_mutex_unlock(&f->lock);
    j->request.done(j->request.arg, answer);
    job_free(j);
}

/* ---- files ---- */

static int read_all(int fd, struct job *j)
{
    for (;;) {
        if (!buf_reserve(&j->body, READ_STEP))
            return MUSTER_ENOMEM;
        ssize_t n = read(fd, j->body.data + j->body.len, READ_STEP);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            (void)snprintf(j->why, sizeof j->why, "%s: %s", j->request.path, strerror(errno));
            return MUSTER_ELINK;
        }
        if (n == 0)
            return 0;
        j->body.len += (size_t)n;
        if (j->body.len > j->request.max_bytes) {
            (void)snprintf(j->why, sizeof j->why, "%s: larger than %zu bytes", j->request.path, j->request.max_bytes);
            return MUSTER_EINVAL;
        }
    }
}

/* A plain file only: a pipe would hold the thread for ever. */
static void read_file(struct fetch *f, struct job *j)
{
    struct fetch_answer answer = {.code = MUSTER_ELINK, .max_age_s = -1};
    struct stat st;
    int fd = open(j->request.path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0 || fstat(fd, &st) != 0)
        (void)snprintf(j->why, sizeof j->why, "%s: %s", j->request.path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        (void)snprintf(j->why, sizeof j->why, "%s: no plain file", j->request.path);
    else
        answer.code = read_all(fd, j);
    if (fd >= 0)
        (void)close(fd); /* read only: nothing can be lost */
    job_end(f, j, &answer);
}

/* ---- HTTP ---- */

static size_t on_data(char *data, size_t size, size_t n, void *arg)
{
    struct job *j = arg;
    size_t len = size * n;

    if (len > j->request.max_bytes - j->body.len) {
        j->too_large = true;
        return 0; /* ends the transfer */
    }
    buf_put(&j->body, data, len);
    return buf_failed(&j->body) ? 0 : len;
}

static bool prepare(struct job *j)
{
    CURL *e = j->easy = curl_easy_init();

    if (!e)
        return false;
    curl_easy_setopt(e, CURLOPT_PRIVATE, j);
    curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, (long)(j->request.timeout_ns / CLOCK_MS));
    curl_easy_setopt(e, CURLOPT_USERAGENT, "muster/" MUSTER_VERSION);
    curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(e, CURLOPT_WRITEDATA, j);
    if (j->request.ca_file)
        curl_easy_setopt(e, CURLOPT_CAINFO, j->request.ca_file);
    return curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "https,http") == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_URL, j->request.url) == CURLE_OK;
}

static void begin(struct fetch *f, struct job *j)
{
    struct fetch_answer answer = {.code = MUSTER_ENOMEM, .max_age_s = -1};

    if (j->request.path) {
        read_file(f, j);
        return;
    }
    if (!prepare(j) || curl_multi_add_handle(f->multi, j->easy) != CURLM_OK) {
        (void)snprintf(j->why, sizeof j->why, "no memory for a request");
        job_end(f, j, &answer);
        return;
    }
    j->next = f->running;
    f->running = j;
}

/* What curl says of a transfer that did not happen, without the URL: the caller knows it. */
static int transfer_fault(struct job *j, CURLcode code)
{
    if (j->too_large) {
        (void)snprintf(j->why, sizeof j->why, "the answer is larger than %zu bytes", j->request.max_bytes);
        return MUSTER_EINVAL;
    }
    (void)snprintf(j->why, sizeof j->why, "%s", curl_easy_strerror(code));
    return code == CURLE_OPERATION_TIMEDOUT ? MUSTER_ETIME : code == CURLE_WRITE_ERROR ? MUSTER_ENOMEM : MUSTER_ELINK;
}

static void read_answer(struct job *j, struct fetch_answer *answer)
{
    struct curl_header *header;
    long status = 0;

    curl_easy_getinfo(j->easy, CURLINFO_RESPONSE_CODE, &status);
    if (status != 200) {
        answer->code = MUSTER_EINVAL;
        (void)snprintf(j->why, sizeof j->why, "status %ld came, 200 was expected", status);
        return;
    }
    if (curl_easy_header(j->easy, "Cache-Control", 0, CURLH_HEADER, -1, &header) == CURLHE_OK)
        answer->max_age_s = fetch_max_age(header->value);
}

static void unlink_running(struct fetch *f, struct job *j)
{
    struct job **at = &f->running;

    while (*at != j)
        at = &(*at)->next;
    *at = j->next;
    curl_multi_remove_handle(f->multi, j->easy);
}

static void end_transfer(struct fetch *f, CURL *easy, CURLcode code)
{
    struct fetch_answer answer = {.max_age_s = -1};
    struct job *j;

    curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **)&j);
    unlink_running(f, j);
    if (code == CURLE_OK)
        read_answer(j, &answer);
    else
        answer.code = transfer_fault(j, code);
    job_end(f, j, &answer);
}

/* ---- the thread ---- */

static void end_done(struct fetch *f)
{
    CURLMsg *msg;
    int left;

    while ((msg = curl_multi_info_read(f->multi, &left)))
        if (msg->msg == CURLMSG_DONE)
            end_transfer(f, msg->easy_handle, msg->data.result);
}

static bool take_queue(struct fetch *f, struct job **ret_jobs)
{
    pthread_mutex_lock(&f->lock);
    bool stop = f->stop;
    *ret_jobs = f->queue;
    f->queue = NULL;
    pthread_mutex_unlock(&f->lock);
    return !stop;
}

static void abandon(struct fetch *f, struct job *jobs)
{
    struct fetch_answer answer = {.code = MUSTER_ELINK, .max_age_s = -1};

    while (jobs) {
        struct job *next = jobs->next;

        (void)snprintf(jobs->why, sizeof jobs->why, "given up: the end has come");
        job_end(f, jobs, &answer);
        jobs = next;
    }
    while (f->running) {
        struct job *j = f->running;

        unlink_running(f, j);
        j->next = NULL;
        abandon(f, j);
    }
}

static void *run(void *arg)
{
    struct fetch *f = arg;
    struct job *jobs;
    int running;

    while (take_queue(f, &jobs)) {
        while (jobs) {
            struct job *j = jobs;

            jobs = j->next;
            begin(f, j);
        }
        (void)curl_multi_perform(f->multi, &running); /* a transfer's failure is told by end_done() */
        end_done(f);
        (void)curl_multi_poll(f->multi, NULL, 0, POLL_MS, NULL); /* a failure to wait is a shorter wait */
    }
    abandon(f, jobs);
    return NULL;
}

/* ---- life ---- */

int fetch_new(struct fetch **ret_fetch)
{
    struct fetch *f = calloc(1, sizeof *f);

    if (!f || curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        free(f);
        return MUSTER_ENOMEM;
    }
    f->multi = curl_multi_init();
    if (!f->multi || pthread_mutex_init(&f->lock, NULL) != 0) {
        curl_multi_cleanup(f->multi);
        free(f);
        return MUSTER_ENOMEM;
    }
    if (pthread_create(&f->thread, NULL, run, f) != 0) {
        pthread_mutex_destroy(&f->lock);
        curl_multi_cleanup(f->multi);
        free(f);
        return MUSTER_ENOMEM;
    }
    (void)pthread_setname_np(f->thread, "muster-fetch"); /* for people only */
    *ret_fetch = f;
    return 0;
}

int fetch_get(struct fetch *f, const struct fetch_request *request)
{
    struct job *j = job_new(request);

    if (!j)
        return MUSTER_ENOMEM;
    pthread_mutex_lock(&f->lock);
    bool room = f->n_open < FETCH_MAX;
    if (room) {
        j->next = f->queue;
        f->queue = j;
        f->n_open++;
    }
    pthread_mutex_unlock(&f->lock);
    if (!room) {
        job_free(j);
        return MUSTER_EAGAIN;
    }
    curl_multi_wakeup(f->multi);
    return 0;
}

void fetch_free(struct fetch *f)
{
    if (!f)
        return;
    pthread_mutex_lock(&f->lock);
    f->stop = true;
    pthread_mutex_unlock(&f->lock);
    curl_multi_wakeup(f->multi);
    pthread_join(f->thread, NULL);
    curl_multi_cleanup(f->multi);
    pthread_mutex_destroy(&f->lock);
    free(f);
}
