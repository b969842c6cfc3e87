/* JetStream by its JSON API; see js.h. */
#include "bus/js.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/assert.h"
#include "base/buf.h"
#include "base/clock.h"
#include "bus/js_api.h"

enum { ERR_WRONG_LAST_SEQUENCE = 10071, ERR_WRONG_LAST_MSG = 10164, ERR_DUPLICATE_IN_PROCESS = 10158, MAX_STREAMS = 16384 };
enum { ERR_NO_PEERS = 10005, ERR_NO_CLUSTER = 10074 }; /* for so many replicas */

enum kind { OP_INFO, OP_ENSURE, OP_MSG, OP_ACK, OP_LIST, OP_PURGE };

/* One operation, perhaps of several requests. Freed when its function has run. */
struct op {
    enum kind kind;
    struct js_target t;
    union {
        js_info_fn info;
        js_msg_fn msg;
        js_ack_fn ack;
        js_list_fn list;
        js_done_fn done;
    } fn;
    void *arg;
    char *stream;
    char *wanted;   /* OP_ENSURE: the configuration as JSON */
    bool asked_all; /* OP_ENSURE: create or update was sent; its answer is final */
    cJSON *pages;   /* OP_LIST: the streams so far */
};

static void op_free(struct op *op)
{
    free(op->stream);
    free(op->wanted);
    cJSON_Delete(op->pages);
    free(op);
}

static struct op *op_new(enum kind kind, const struct js_target *t, const char *stream, void *arg)
{
    struct op *op = calloc(1, sizeof *op);

    if (!op)
        return NULL;
    *op = (struct op){.kind = kind, .t = *t, .arg = arg, .stream = stream ? strdup(stream) : NULL};
    if (stream && !op->stream) {
        free(op);
        return NULL;
    }
    return op;
}

static int ask(struct op *op, const char *api, const char *body, bus_reply_fn fn)
{
    char subject[192];
    struct bus_out out = {.subject = subject, .payload = {body, strlen(body)}, .fence = -1};
    struct bus_call call = {.lane = op->t.lane, .owner = op->t.owner, .timeout_ns = op->t.timeout_ns, .fn = fn, .arg = op};

    (void)snprintf(subject, sizeof subject, "$JS.API.%s%s%s", api, op->stream ? "." : "", op->stream ? op->stream : "");
    return bus_request(op->t.bus, BUS_LIVE, &out, &call);
}

/* ---- answers ------------------------------------------------------------------------------------------------------- */

uint64_t js_api_number(const cJSON *parent, const char *key)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(parent, key);

    return cJSON_IsNumber(v) && v->valuedouble > 0 ? (uint64_t)v->valuedouble : 0;
}

const char *js_api_text(const cJSON *parent, const char *key)
{
    const char *s = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(parent, key));

    return s ? s : "";
}

static int error_code(const cJSON *error, uint64_t *ret_seq)
{
    unsigned int code = (unsigned int)js_api_number(error, "code");
    unsigned int err_code = (unsigned int)js_api_number(error, "err_code");
    const char *colon = strrchr(js_api_text(error, "description"), ':');

    if (err_code == ERR_WRONG_LAST_SEQUENCE || err_code == ERR_WRONG_LAST_MSG) {
        *ret_seq = colon ? strtoull(colon + 1, NULL, 10) : 0;
        return MUSTER_ESTALE;
    }
    if (code == 404)
        return MUSTER_ENOTFOUND;
    if (err_code == 10023 || err_code == 10047 || err_code == 10028 || err_code == 10077)
        return MUSTER_ENOMEM; /* insufficient resources, storage exceeded, memory exceeded, stream limits */
    return code == 503 || err_code == ERR_DUPLICATE_IN_PROCESS ? MUSTER_ELINK : MUSTER_EINVAL;
}

int js_api_parse(int code, const struct bus_msg *msg, cJSON **ret_root, const char **ret_text)
{
    struct muster_bytes data;
    const cJSON *error;
    uint64_t seq;

    *ret_text = code == MUSTER_ENOTFOUND ? "JetStream does not answer: is it enabled for this account?"
                : code == MUSTER_ETIME   ? "JetStream did not answer in time"
                                         : "NATS is away";
    *ret_root = NULL;
    if (code)
        return code == MUSTER_ENOTFOUND ? MUSTER_ELINK : code;
    data = bus_msg_data(msg);
    *ret_root = cJSON_ParseWithLength(data.data, data.len);
    *ret_text = "JetStream answered something that is not JSON";
    if (!*ret_root)
        return MUSTER_EINVAL;
    error = cJSON_GetObjectItemCaseSensitive(*ret_root, "error");
    *ret_text = error ? js_api_text(error, "description") : "";
    return error ? error_code(error, &seq) : 0;
}

static void read_info(const cJSON *root, struct js_info *out)
{
    const cJSON *state = cJSON_GetObjectItemCaseSensitive(root, "state");

    out->state = (struct muster_stream_info){.size = sizeof out->state,
                                             .first_seq = js_api_number(state, "first_seq"),
                                             .last_seq = js_api_number(state, "last_seq"),
                                             .n_msgs = js_api_number(state, "messages"),
                                             .n_bytes = js_api_number(state, "bytes"),
                                             .created_wall_ns = clock_parse_rfc3339(js_api_text(root, "created"))};
}

static bool says_few(const cJSON *root)
{
    uint64_t err_code = js_api_number(cJSON_GetObjectItemCaseSensitive(root, "error"), "err_code");

    return err_code == ERR_NO_PEERS || err_code == ERR_NO_CLUSTER;
}

static void finish_info(struct op *op, int code, const cJSON *root, const char *text)
{
    struct js_info info = {.stream = op->stream, .text = text, .few = code && says_few(root), .state.size = sizeof info.state};

    if (!code)
        read_info(root, &info);
    op->fn.info(op->arg, code, &info);
    op_free(op);
}

static void on_info(void *arg, int code, const struct bus_msg *msg)
{
    const char *text;
    cJSON *root;

    code = js_api_parse(code, msg, &root, &text);
    finish_info(arg, code, root, text);
    cJSON_Delete(root);
}

int js_get_info(const struct js_target *t, const char *stream, js_info_fn fn, void *arg)
{
    struct op *op = op_new(OP_INFO, t, stream, arg);
    int err;

    if (!op)
        return MUSTER_ENOMEM;
    op->fn.info = fn;
    err = ask(op, "STREAM.INFO", "", on_info);
    if (err)
        op_free(op);
    return err;
}

/* ---- making streams ------------------------------------------------------------------------------------------------ */

static int64_t or_unlimited(int64_t v)
{
    return v > 0 ? v : -1;
}

static void put_string_list(struct buf *b, const char *const *items, size_t n)
{
    buf_putc(b, '[');
    for (size_t i = 0; i < n; i++) {
        if (i)
            buf_putc(b, ',');
        buf_put_json(b, items[i], strlen(items[i]));
    }
    buf_putc(b, ']');
}

static void put_config(struct buf *b, const struct js_config *c)
{
    buf_put_lit(b, "{\"name\":");
    buf_put_json(b, c->name, strlen(c->name));
    buf_put_lit(b, ",\"subjects\":");
    put_string_list(b, c->subjects, c->n_subjects);
    buf_printf(b,
               ",\"retention\":\"limits\",\"storage\":\"file\",\"max_consumers\":-1,\"max_msgs\":%lld,\"max_bytes\":%lld,"
               "\"max_age\":%lld,\"max_msgs_per_subject\":%lld,\"max_msg_size\":%lld,\"num_replicas\":%u,\"no_ack\":%s",
               (long long)or_unlimited(c->max_msgs), (long long)or_unlimited(c->max_bytes), (long long)c->max_age_ns,
               (long long)or_unlimited(c->max_msgs_per_subject), (long long)or_unlimited(c->max_value),
               c->replicas ? c->replicas : 1, c->no_ack ? "true" : "false");
    if (c->republish_src) {
        buf_put_lit(b, ",\"republish\":{\"src\":");
        buf_put_json(b, c->republish_src, strlen(c->republish_src));
        buf_put_lit(b, ",\"dest\":");
        buf_put_json(b, c->republish_dest, strlen(c->republish_dest));
        buf_putc(b, '}');
    }
    buf_puts(b, c->is_kv ? ",\"discard\":\"new\",\"allow_rollup_hdrs\":true,\"deny_delete\":true,\"allow_direct\":false}"
                         : ",\"discard\":\"old\",\"allow_direct\":false}");
}

static bool same(const cJSON *a, const cJSON *b, const char *key)
{
    const cJSON *x = cJSON_GetObjectItemCaseSensitive(a, key), *y = cJSON_GetObjectItemCaseSensitive(b, key);
    bool absent_x = !x || cJSON_IsFalse(x), absent_y = !y || cJSON_IsFalse(y);

    return absent_x || absent_y ? absent_x == absent_y : cJSON_Compare(x, y, true);
}

/* What may not differ, because somebody else's stream of that name would be taken over. NULL when all is alike. */
static const char *first_conflict(const cJSON *have, const cJSON *want)
{
    static const char *const keys[] = {"subjects", "republish", "no_ack", "retention", "storage"};

    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (!same(have, want, keys[i]))
            return keys[i];
    return NULL;
}

static bool differs(const cJSON *have, const cJSON *want)
{
    static const char *const keys[] = {"max_age", "max_bytes", "max_msgs", "max_msgs_per_subject"};

    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (!same(have, want, keys[i]))
            return true;
    /* More copies than asked for are the operator's wish. */
    return js_api_number(have, "num_replicas") < js_api_number(want, "num_replicas");
}

static void on_ensure(void *arg, int code, const struct bus_msg *msg);

/* Send create or update; the answer has the form of an info. */
static void ensure_again(struct op *op, const char *api)
{
    int err;

    op->asked_all = true;
    err = ask(op, api, op->wanted, on_ensure);
    if (err)
        finish_info(op, err, NULL, "NATS is away");
}

static void check_existing(struct op *op, const cJSON *root)
{
    const cJSON *have = cJSON_GetObjectItemCaseSensitive(root, "config");
    cJSON *want = cJSON_Parse(op->wanted);
    const char *conflict = first_conflict(have, want);
    bool update = differs(have, want);
    char text[160];

    cJSON_Delete(want);
    if (conflict) {
        (void)snprintf(text, sizeof text, "stream %s is there with another setting of \"%s\"; rename or remove it", op->stream,
                       conflict);
        finish_info(op, MUSTER_EEXIST, NULL, text);
    } else if (update) {
        ensure_again(op, "STREAM.UPDATE");
    } else {
        finish_info(op, 0, root, "");
    }
}

static void on_ensure(void *arg, int code, const struct bus_msg *msg)
{
    struct op *op = arg;
    const char *text;
    cJSON *root;

    code = js_api_parse(code, msg, &root, &text);
    if (op->asked_all || (code && code != MUSTER_ENOTFOUND))
        finish_info(op, code, root, text);
    else if (code == MUSTER_ENOTFOUND)
        ensure_again(op, "STREAM.CREATE");
    else
        check_existing(op, root);
    cJSON_Delete(root);
}

int js_ensure(const struct js_target *t, const struct js_config *config, js_info_fn fn, void *arg)
{
    struct op *op = op_new(OP_ENSURE, t, config->name, arg);
    struct buf b = {0};
    int err;

    if (!op)
        return MUSTER_ENOMEM;
    op->fn.info = fn;
    put_config(&b, config);
    op->wanted = buf_take(&b);
    err = op->wanted ? ask(op, "STREAM.INFO", "", on_ensure) : MUSTER_ENOMEM;
    if (err)
        op_free(op);
    return err;
}

/* ---- reading messages ------------------------------------------------------------------------------------------------ */

enum { MAX_HEADERS = 64 };

static int8_t base64_value(char c)
{
    if (c >= 'A' && c <= 'Z')
        return (int8_t)(c - 'A');
    if (c >= 'a' && c <= 'z')
        return (int8_t)(c - 'a' + 26);
    if (c >= '0' && c <= '9')
        return (int8_t)(c - '0' + 52);
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Decode in place; base64 is longer than what it says. */
static size_t base64_decode(char *s)
{
    uint32_t acc = 0;
    int bits = 0;
    size_t n = 0;

    for (const char *p = s; *p && *p != '='; p++) {
        acc = acc << 6 | (uint32_t)(base64_value(*p) & 63);
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            s[n++] = (char)(acc >> bits);
        }
    }
    s[n] = '\0';
    return n;
}

/* Split "NATS/1.0\r\nName: value\r\n…" in place. */
static uint32_t split_headers(char *s, struct muster_header *out)
{
    uint32_t n = 0;
    char *line = strstr(s, "\r\n");

    while (line && n < MAX_HEADERS) {
        char *name = line + 2, *end = strstr(name, "\r\n"), *colon = strchr(name, ':');

        if (!end || end == name || !colon || colon > end)
            break;
        *colon = *end = '\0';
        out[n++] = (struct muster_header){name, colon + 1 + strspn(colon + 1, " ")};
        line = end;
    }
    return n;
}

static void give_msg(struct op *op, cJSON *root)
{
    cJSON *m = cJSON_GetObjectItemCaseSensitive(root, "message");
    char *hdrs = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(m, "hdrs"));
    char *data = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(m, "data"));
    struct muster_header headers[MAX_HEADERS];
    struct js_msg msg = {.subject = js_api_text(m, "subject"),
                         .seq = js_api_number(m, "seq"),
                         .headers = headers,
                         .stored_wall_ns = clock_parse_rfc3339(js_api_text(m, "time"))};

    if (hdrs && base64_decode(hdrs))
        msg.n_headers = split_headers(hdrs, headers);
    if (data)
        msg.data = (struct muster_bytes){data, base64_decode(data)};
    op->fn.msg(op->arg, 0, &msg);
}

const char *js_msg_header(const struct js_msg *msg, const char *name)
{
    for (uint32_t i = 0; i < msg->n_headers; i++)
        if (strcasecmp(msg->headers[i].name, name) == 0)
            return msg->headers[i].value;
    return NULL;
}

static void on_msg(void *arg, int code, const struct bus_msg *msg)
{
    struct op *op = arg;
    const char *text;
    cJSON *root;

    code = js_api_parse(code, msg, &root, &text);
    if (code)
        op->fn.msg(op->arg, code, NULL);
    else
        give_msg(op, root);
    cJSON_Delete(root);
    op_free(op);
}

/* body: what is asked for. */
static int get_msg(const struct js_target *t, const char *stream, const struct buf *body, js_msg_fn fn, void *arg)
{
    struct op *op = buf_failed(body) ? NULL : op_new(OP_MSG, t, stream, arg);
    int err;

    if (!op)
        return MUSTER_ENOMEM;
    op->fn.msg = fn;
    err = ask(op, "STREAM.MSG.GET", body->data, on_msg);
    if (err)
        op_free(op);
    return err;
}

int js_last(const struct js_target *t, const char *stream, const char *subject, js_msg_fn fn, void *arg)
{
    struct buf b = {0};
    int err;

    buf_put_lit(&b, "{\"last_by_subj\":");
    buf_put_json(&b, subject, strlen(subject));
    buf_putc(&b, '}');
    err = get_msg(t, stream, &b, fn, arg);
    buf_done(&b);
    return err;
}

int js_next(const struct js_target *t, const char *stream, const char *subject, uint64_t seq, js_msg_fn fn, void *arg)
{
    struct buf b = {0};
    int err;

    buf_printf(&b, "{\"seq\":%llu,\"next_by_subj\":", (unsigned long long)seq);
    buf_put_json(&b, subject, strlen(subject));
    buf_putc(&b, '}');
    err = get_msg(t, stream, &b, fn, arg);
    buf_done(&b);
    return err;
}

/* ---- removing messages ----------------------------------------------------------------------------------------------- */

static void on_purged(void *arg, int code, const struct bus_msg *msg)
{
    struct op *op = arg;
    const char *text;
    cJSON *root;

    code = js_api_parse(code, msg, &root, &text);
    cJSON_Delete(root);
    if (op->fn.done)
        op->fn.done(op->arg, code);
    op_free(op);
}

int js_purge(const struct js_target *t, const char *stream, const char *subject, uint64_t below, js_done_fn fn, void *arg)
{
    struct op *op = op_new(OP_PURGE, t, stream, arg);
    struct buf b = {0};
    int err;

    if (!op)
        return MUSTER_ENOMEM;
    op->fn.done = fn;
    buf_put_lit(&b, "{\"filter\":");
    buf_put_json(&b, subject, strlen(subject));
    buf_printf(&b, ",\"seq\":%llu}", (unsigned long long)below);
    err = buf_failed(&b) ? MUSTER_ENOMEM : ask(op, "STREAM.PURGE", b.data, on_purged);
    buf_done(&b);
    if (err)
        op_free(op);
    return err;
}

/* ---- appends --------------------------------------------------------------------------------------------------------- */

int js_parse_ack(struct muster_bytes data, uint64_t *ret_seq)
{
    /* The usual answer, {"stream":"X", "seq":N}, without a tree; an error or anything odd takes the slow way. */
    const char *seq = data.len ? memmem(data.data, data.len, "\"seq\":", 6) : NULL;
    cJSON *root;
    const cJSON *error;
    int code;

    if (seq && !memmem(data.data, data.len, "\"error\"", 7)) {
        uint64_t v = 0;

        for (const char *p = seq + 6, *end = (const char *)data.data + data.len; p < end && *p >= '0' && *p <= '9'; p++)
            v = v * 10 + (uint64_t)(*p - '0');
        *ret_seq = v;
        if (!v && memmem(data.data, data.len, "\"duplicate\"", 11))
            return MUSTER_ELINK; /* the first one with its Nats-Msg-Id is being stored, and may fail yet */
        return v ? 0 : MUSTER_EINVAL;
    }
    root = cJSON_ParseWithLength(data.data, data.len);
    error = cJSON_GetObjectItemCaseSensitive(root, "error");
    *ret_seq = 0;
    code = error ? error_code(error, ret_seq) : MUSTER_EINVAL;
    cJSON_Delete(root);
    return code;
}

static void on_ack(void *arg, int code, const struct bus_msg *msg)
{
    struct op *op = arg;
    uint64_t seq = 0;

    if (!code)
        code = js_parse_ack(bus_msg_data(msg), &seq);
    op->fn.ack(op->arg, code, seq);
    op_free(op);
}

int js_append(const struct js_target *t, int link, const struct bus_out *out, js_ack_fn fn, void *arg)
{
    struct op *op = op_new(OP_ACK, t, NULL, arg);
    struct bus_call call = {.lane = t->lane, .owner = t->owner, .timeout_ns = t->timeout_ns, .fn = on_ack, .arg = op};
    int err;

    if (!op)
        return MUSTER_ENOMEM;
    op->fn.ack = fn;
    err = bus_request(t->bus, link, out, &call);
    if (err)
        op_free(op);
    return err;
}

/* ---- the list of streams ----------------------------------------------------------------------------------------------- */

static void on_list(void *arg, int code, const struct bus_msg *msg);

static int ask_page(struct op *op)
{
    char body[48];

    (void)snprintf(body, sizeof body, "{\"offset\":%d}", op->pages ? cJSON_GetArraySize(op->pages) : 0);
    return ask(op, "STREAM.LIST", body, on_list);
}

static void read_listed(const cJSON *stream, struct js_listed *out)
{
    const cJSON *config = cJSON_GetObjectItemCaseSensitive(stream, "config");
    const cJSON *subjects = cJSON_GetObjectItemCaseSensitive(config, "subjects"), *s;
    const char **list = calloc((size_t)cJSON_GetArraySize(subjects) + 1, sizeof(char *));

    *out = (struct js_listed){.name = js_api_text(config, "name"),
                              .no_ack = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(config, "no_ack")),
                              .subjects = list};
    if (list)
        cJSON_ArrayForEach(s, subjects) list[out->n_subjects++] = cJSON_GetStringValue(s) ? s->valuestring : "";
}

static void give_list(struct op *op, int code)
{
    size_t n = op->pages ? (size_t)cJSON_GetArraySize(op->pages) : 0, i = 0;
    struct js_listed *list = calloc(n + 1, sizeof *list);
    const cJSON *stream;

    if (!list)
        code = MUSTER_ENOMEM;
    else if (op->pages)
        cJSON_ArrayForEach(stream, op->pages) read_listed(stream, &list[i++]);
    op->fn.list(op->arg, code, list, i);
    while (i > 0)
        free((void *)list[--i].subjects);
    free(list);
    op_free(op);
}

/* Move the streams of a page to what was gathered. True when there are more pages. */
static bool gather(struct op *op, cJSON *root)
{
    cJSON *streams = cJSON_GetObjectItemCaseSensitive(root, "streams"), *s;
    int before;

    if (!op->pages)
        op->pages = cJSON_CreateArray();
    if (!op->pages)
        return false;
    before = cJSON_GetArraySize(op->pages);
    while ((s = cJSON_DetachItemFromArray(streams, 0)) != NULL)
        cJSON_AddItemToArray(op->pages, s);
    return cJSON_GetArraySize(op->pages) > before && cJSON_GetArraySize(op->pages) < MAX_STREAMS &&
           (uint64_t)cJSON_GetArraySize(op->pages) < js_api_number(root, "total");
}

static void on_list(void *arg, int code, const struct bus_msg *msg)
{
    struct op *op = arg;
    const char *text;
    cJSON *root;
    bool more;

    code = js_api_parse(code, msg, &root, &text);
    more = !code && gather(op, root);
    cJSON_Delete(root);
    if (more)
        code = ask_page(op);
    if (!more || code)
        give_list(op, code);
}

int js_list(const struct js_target *t, js_list_fn fn, void *arg)
{
    struct op *op = op_new(OP_LIST, t, NULL, arg);
    int err;

    if (!op)
        return MUSTER_ENOMEM;
    op->fn.list = fn;
    err = ask_page(op);
    if (err)
        op_free(op);
    return err;
}
