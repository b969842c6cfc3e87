/* Error answers; see error.h. */
#include "wire/error.h"

#include <string.h>

#include "base/assert.h"
#include "wire/text.h"
#include "wire/writer.h"

/* Numbers as HTTP gateways map gRPC's codes, except 412, which clients can tell from a lost race.
 */
static const struct {
    const char *name;
    int number;
} codes[N_ERRORS] = {
    [ERROR_INVALID_ARGUMENT] = {"invalid_argument", 400},
    [ERROR_NOT_FOUND] = {"not_found", 404},
    [ERROR_ALREADY_EXISTS] = {"already_exists", 409},
    [ERROR_PERMISSION_DENIED] = {"permission_denied", 403},
    [ERROR_FAILED_PRECONDITION] = {"failed_precondition", 412},
    [ERROR_ABORTED] = {"aborted", 409},
    [ERROR_RESOURCE_EXHAUSTED] = {"resource_exhausted", 429},
    [ERROR_UNAVAILABLE] = {"unavailable", 503},
    [ERROR_DEADLINE_EXCEEDED] = {"deadline_exceeded", 504},
    [ERROR_UNAUTHENTICATED] = {"unauthenticated", 401},
    [ERROR_INTERNAL] = {"internal", 500},
};

const char *error_name(int code)
{
    ASSERT(code >= 0 && code < N_ERRORS);
    return codes[code].name;
}

int error_number(int code)
{
    ASSERT(code >= 0 && code < N_ERRORS);
    return codes[code].number;
}

int error_find(const char *name)
{
    for (int i = 0; i < N_ERRORS; i++)
        if (strcmp(codes[i].name, name) == 0)
            return i;
    return MUSTER_ENOTFOUND;
}

/* ENOMEM as EAGAIN: asking again later may succeed. */
int error_of_result(int muster_e)
{
    switch (muster_e) {
    case MUSTER_EINVAL:
        return ERROR_INVALID_ARGUMENT;
    case MUSTER_EAGAIN:
    case MUSTER_ENOMEM:
        return ERROR_RESOURCE_EXHAUSTED;
    case MUSTER_EACCES:
        return ERROR_PERMISSION_DENIED;
    case MUSTER_ETIME:
        return ERROR_DEADLINE_EXCEEDED;
    case MUSTER_ESTALE:
        return ERROR_ABORTED;
    case MUSTER_ENOTFOUND:
        return ERROR_NOT_FOUND;
    case MUSTER_EEXIST:
        return ERROR_ALREADY_EXISTS;
    case MUSTER_ELINK:
        return ERROR_UNAVAILABLE;
    default:
        return ERROR_INTERNAL;
    }
}

/* Cleaning makes the writer's checks pass, so an error answer can always be written. */
static void put_clean(struct muster_writer *w, const char *key, const char *text)
{
    char clean[ERROR_TEXT_SIZE];
    size_t len = text_clean(text, strlen(text), clean, sizeof clean);

    writer_text(w, key);
    writer_str(w, clean, len);
}

/* Keys are counted first: MessagePack has the count in front of a map. */
void error_write(const struct error_answer *answer, uint32_t encoding, struct buf *out)
{
    bool has_field = answer->field && answer->field[0], has_retry = answer->retry_after_ms > 0;
    struct muster_writer w;

    writer_init(&w, encoding, out);
    writer_map(&w, 1);
    writer_text(&w, "error");
    writer_map(&w, 2u + has_field + has_retry);
    put_clean(&w, "code", error_name(answer->code));
    put_clean(&w, "message", answer->message);
    if (has_field)
        put_clean(&w, "field", answer->field);
    if (has_retry) {
        writer_text(&w, "retry_after_ms");
        writer_int(&w, answer->retry_after_ms);
    }
    /* No memory is the caller's to see; a breach would be ours. */
    ASSERT(writer_finish(&w, NULL) != MUSTER_EINVAL);
}

const char *error_header(const char *message, char out[ERROR_TEXT_SIZE])
{
    (void)text_clean(message, strlen(message), out, ERROR_TEXT_SIZE);
    return out;
}
