/* One call from sql_exec() to its callback; see parts.h. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "sql/parts.h"
#include "sql/result.h"

/* Bytes of the item with all it copies, or 0 when a parameter is not text or the sum does not fit. */
static size_t size_of(const struct sql_call *call, const char *tenant, const char *order_key)
{
    size_t size = sizeof(struct item) + call->n_params * sizeof(char *);

    size += strlen(tenant) + 1 + strlen(order_key) + 1;
    for (uint32_t i = 0; i < call->n_params; i++) {
        const struct muster_bytes *p = &call->params[i];

        if (p->data && memchr(p->data, '\0', p->len))
            return 0;
        if (__builtin_add_overflow(size, p->len, &size) || __builtin_add_overflow(size, 1, &size))
            return 0;
    }
    return size;
}

static char *put_text(char **at, const void *data, size_t len)
{
    char *text = *at;

    if (len > 0)
        memcpy(text, data, len);
    text[len] = '\0';
    *at += len + 1;
    return text;
}

/* One allocation: the item, its parameters, then all texts. */
int item_new(const struct sql_call *call, struct stmt *stmt, struct item **ret_item)
{
    const char *tenant = call->tenant ? call->tenant : "";
    const char *order_key = call->order_key ? call->order_key : "";
    size_t size = size_of(call, tenant, order_key);
    struct item *item = size > 0 ? malloc(size) : NULL;

    if (!item)
        return size > 0 ? MUSTER_ENOMEM : MUSTER_EINVAL;
    *item = (struct item){.stmt = stmt, .n_values = call->n_params, .bytes = size, .fn = call->fn, .arg = call->arg};
    item->values = (const char **)(item + 1);

    char *at = (char *)(item->values + call->n_params);

    item->tenant = put_text(&at, tenant, strlen(tenant));
    item->order_key = put_text(&at, order_key, strlen(order_key));
    for (uint32_t i = 0; i < call->n_params; i++) {
        const struct muster_bytes *p = &call->params[i];

        item->values[i] = p->data ? put_text(&at, p->data, p->len) : NULL;
    }
    *ret_item = item;
    return 0;
}

/* The first error is the cause; what follows in an aborted transaction is its echo. */
void item_answer(struct item *item, PGresult *answer)
{
    if (item_failed(item)) {
        PQclear(answer);
        return;
    }
    PQclear(item->answer);
    item->answer = answer;
}

bool item_failed(const struct item *item)
{
    return item->answer && result_is_error(item->answer);
}

void item_reset(struct item *item)
{
    PQclear(item->answer);
    item->answer = NULL;
}

/* The one way out: whoever held the item has let go of it, so fn runs once. */
static void finish(struct sql *sql, struct item *item, const struct sql_result *result)
{
    if (result->pub.code != 0)
        sql->stats.failures++;
    if (item->line) { /* it was sent */
        sql->stats.in_flight--;
        line_end(item);
    }
    sql->in_callback = true;
    item->fn(item->arg, &result->pub);
    sql->in_callback = false;
    PQclear(item->answer);
    free(item);
}

/* "prepared statement does not exist" is only the echo of what the server said when it was asked to prepare it. */
static const PGresult *reason_of(const struct item *item)
{
    if (item->stmt->refused && strcmp(result_sqlstate(item->answer), "26000") == 0)
        return item->stmt->refused;
    return item->answer;
}

void item_finish(struct sql *sql, struct item *item)
{
    struct sql_result result;

    ASSERT(item->answer);
    result_show(&result, reason_of(item));
    finish(sql, item, &result);
}

void item_finish_error(struct sql *sql, struct item *item, int code, const char *text)
{
    struct sql_result result;

    result_show_error(&result, code, text);
    finish(sql, item, &result);
}
