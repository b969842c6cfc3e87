/* Requests on their way through the database; see ask.h. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "common/work/ask.h"
#include "common/work/position.h"
#include "wire/digest.h"
#include "wire/writer.h"

static void put_rest(const struct ask *a, struct buf *out)
{
    struct muster_writer w;
    struct buf packed = {0};
    const char *text = a->msg->payload.data;
    size_t len = a->msg->payload.len;

    if (a->msg->encoding != MUSTER_JSON) {
        writer_init(&w, MUSTER_JSON, &packed);
        writer_value(&w, a->args);
        if (writer_finish(&w, NULL) != 0)
            out->failed = true;
        text = packed.data;
        len = packed.len;
    }
    while (len && *text != '{') { /* blanks */
        text++;
        len--;
    }
    if (len)
        buf_put(out, text + 1, len - 1);
    buf_done(&packed);
}

/* As it came, with what is ours in front: none of these is a field of a request with such a verb, so no key comes twice. */
void ask_args(const struct ask *a, struct buf *out)
{
    uint32_t flags = a->verb ? a->verb->flags : 0;
    size_t n = value_count(a->args);
    bool limited = !(flags & WORK_PAGED) || value_get(a->args, "limit");

    buf_putc(out, '{');
    if (flags & WORK_ROLE)
        buf_printf(out, "\"role\":\"%s\"%s", work_role(a->msg), n || !limited ? "," : "");
    if (!limited)
        buf_printf(out, "\"limit\":100%s", n ? "," : "");
    put_rest(a, out);
}

static bool digest_hex(const struct ask *a, char out[2 * DIGEST_SIZE + 3])
{
    static const char hex[] = "0123456789abcdef";
    uint8_t digest[DIGEST_SIZE];

    if (digest_of(a->args, digest) != 0)
        return false;
    *out++ = '\\';
    *out++ = 'x';
    for (size_t i = 0; i < DIGEST_SIZE; i++) {
        *out++ = hex[digest[i] >> 4];
        *out++ = hex[digest[i] & 15];
    }
    *out = '\0';
    return true;
}

enum { TRIES_MAX = 5 };
static const int64_t pause_ns = 100 * CLOCK_MS;

static void on_outcome(void *arg, const struct muster_sql_result *result);

static int run_once(struct ask *a, const char *request_id)
{
    struct work *w = a->w;
    char digest[2 * DIGEST_SIZE + 3], verb[2 * 64 + 2];

    if (!digest_hex(a, digest))
        return MUSTER_ENOMEM;
    (void)snprintf(verb, sizeof verb, "%s.%s", w->service, a->verb->verb);
    return w->sql->exec(w->host, w->once, a->msg->tenant, a->verb->key ? ask_str(a, a->verb->key) : NULL, 7,
                        (struct muster_bytes[]){ask_param(ask_tenant(a)), ask_param(a->msg->agent), ask_param(verb), ask_param(request_id),
                                                ask_param(digest), ask_param(a->verb->function), {a->sent.data, a->sent.len}},
                        on_outcome, a);
}

static int exec(struct ask *a)
{
    struct work *w = a->w;
    const char *request_id = a->verb->flags & WORK_READS ? NULL : ask_str(a, "request_id");

    a->tries++;
    if (request_id)
        return run_once(a, request_id);
    return w->sql->exec(w->host, w->stmts[a->verb - w->verbs], a->msg->tenant, a->verb->key ? ask_str(a, a->verb->key) : NULL, 3,
                        (struct muster_bytes[]){ask_param(ask_tenant(a)), ask_param(a->msg->agent), {a->sent.data, a->sent.len}}, on_outcome, a);
}

/* lock_not_available, deadlock_detected: somebody else changes the same. Or the function says so, as muster.once() of a request that another broker
 * works on. */
static bool met_another(const struct muster_sql_result *result)
{
    static const char passing[] = "{\"error\": {\"code\": \"unavailable\"";

    if (result->code)
        return strcmp(result->sqlstate, "55P03") == 0 || strcmp(result->sqlstate, "40P01") == 0;
    return result->n_rows && result->get(result, 0, 0) && strncmp(result->get(result, 0, 0), passing, sizeof passing - 1) == 0;
}

static void run(struct ask *a)
{
    int err = buf_failed(&a->sent) ? MUSTER_ENOMEM : exec(a);

    if (err)
        ask_failed(a, err, "the database could not be asked");
}

static void run_all_again(struct work *w)
{
    struct ask *a = w->again, *next;

    w->again = NULL;
    w->again_end = &w->again;
    for (; a; a = next) {
        next = a->next;
        run(a);
    }
}

/* The instance begins with its struct work. */
static void on_again(void *self, int64_t now_ns)
{
    (void)now_ns;
    for (struct work *w = self; w; w = w->also)
        run_all_again(w);
}

/* Not at once: it holds up all that are in the same commit. */
static bool try_again(struct ask *a)
{
    struct work *w = a->w;
    uint64_t id;

    if (a->tries == TRIES_MAX || (!w->again && w->timer->once(w->host, pause_ns, on_again, &id) != 0))
        return false;
    a->next = NULL; /* they came in this order */
    *w->again_end = a;
    w->again_end = &a->next;
    return true;
}

static void on_outcome(void *arg, const struct muster_sql_result *result)
{
    struct ask *a = arg;

    if (met_another(result) && try_again(a))
        return;
    if (result->code && met_another(result))
        ask_error(a, "unavailable", NULL, "somebody else changes the same at the moment; try again");
    else
        ask_outcome(a, result);
}

void ask_run_with(struct ask *a, const char *args_json)
{
    buf_clear(&a->sent);
    buf_puts(&a->sent, args_json);
    run(a);
}

static void run_now(struct ask *a)
{
    ask_args(a, &a->sent);
    run(a);
}

/* What is listed afterwards has all that was told up to there. */
static void on_position(void *arg, int code, uint64_t epoch, uint64_t seq)
{
    struct ask *a = arg;

    if (code) {
        ask_failed(a, code, "the position of the events could not be read");
        return;
    }
    a->epoch = epoch;
    a->seq = seq;
    run_now(a);
}

void ask_run(struct ask *a)
{
    int err;

    if (!(a->verb->flags & WORK_PAGED)) {
        run_now(a);
        return;
    }
    err = position_read(a->w, a->msg->tenant, on_position, a);
    if (err)
        ask_failed(a, err, "the position of the events could not be read");
}
