/* What waits for a watcher; see batch.h. */
#include "fanout/batch.h"

#include <stdlib.h>
#include <string.h>

const char *const dropped_words[DROPPED_REASONS] = {"drop_old", "conflated", "cut", "too_large"};

void batch_init(struct batch *b, const struct batch_rules *rules)
{
    *b = (struct batch){.rules = *rules, .conflating = rules->conflates};
}

struct note_text *note_text_new(size_t len)
{
    struct note_text *text = malloc(sizeof *text + len);

    if (text)
        *text = (struct note_text){.refs = 1, .len = len};
    return text;
}

void note_text_drop(struct note_text *text)
{
    if (text && --text->refs == 0)
        free(text);
}

struct note *note_new(struct note_text *text)
{
    struct note *note = malloc(sizeof *note);

    if (!note)
        return NULL;
    *note = (struct note){.text = text, .len = text->len};
    text->refs++;
    return note;
}

void note_free(struct note *note)
{
    note_text_drop(note->text);
    free(note);
}

static void forget_key(struct batch *b, const struct note *note)
{
    if (b->conflating && map_get(&b->by_key, note->text->data, note->text->key_len) == note)
        (void)map_take(&b->by_key, note->text->data, note->text->key_len);
}

static void unlink_note(struct batch *b, struct note *note)
{
    forget_key(b, note);
    *(note->prev ? &note->prev->next : &b->first) = note->next;
    *(note->next ? &note->next->prev : &b->last) = note->prev;
    b->n--;
    b->bytes -= note->len;
    note_free(note);
}

static void drop(struct batch *b, struct note *note, int reason)
{
    unlink_note(b, note);
    b->dropped[reason]++;
    b->untold[reason]++;
}

void batch_done(struct batch *b)
{
    while (b->first)
        unlink_note(b, b->first);
    map_done(&b->by_key);
}

void batch_drop_first(struct batch *b, int reason)
{
    if (b->first)
        drop(b, b->first, reason);
    if (batch_has_room(b))
        b->full = false;
}

/* ---- in ------------------------------------------------------------------------------------------------------------------------ */

static void link_note(struct batch *b, struct note *note)
{
    note->prev = b->last;
    note->next = NULL;
    *(b->last ? &b->last->next : &b->first) = note;
    b->last = note;
    b->n++;
    b->bytes += note->len;
}

/* The latest of a key stays. Without memory for the key both do. */
static void supersede(struct batch *b, struct note *note)
{
    const struct note_text *text = note->text;
    struct note *before = map_get(&b->by_key, text->data, text->key_len);

    if (before && before != note)
        drop(b, before, DROPPED_CONFLATED);
    (void)map_put(&b->by_key, text->data, text->key_len, note);
}

static void begin_conflating(struct batch *b)
{
    if (b->conflating)
        return;
    b->conflating = true;
    for (struct note *note = b->first; note; note = note->next)
        supersede(b, note);
}

static bool is_over(const struct batch *b)
{
    return b->bytes > b->rules.max_bytes && b->n > 1;
}

static int cut(struct batch *b)
{
    while (b->first)
        drop(b, b->first, DROPPED_CUT);
    return BATCH_CUT;
}

/* With pause nothing is lost: a note is taken where it fits, also in place of the one that it supersedes. */
static bool must_wait(const struct batch *b, const struct note *note)
{
    const struct note *before = b->conflating ? map_get(&b->by_key, note->text->data, note->text->key_len) : NULL;
    size_t bytes = b->bytes + note->len - (before ? before->len : 0);

    return b->rules.slow == SLOW_PAUSE && (b->full || (bytes > b->rules.max_bytes && b->n > (before ? 1 : 0)));
}

int batch_push(struct batch *b, struct note *note, int64_t now_ns)
{
    if (must_wait(b, note)) {
        b->full = true;
        return BATCH_FULL;
    }
    if (!b->first && b->next_ns < now_ns + b->rules.interval_ns)
        b->next_ns = now_ns + b->rules.interval_ns;
    b->sent++;
    link_note(b, note);
    if (is_over(b) && b->rules.slow == SLOW_CONFLATE)
        begin_conflating(b);
    if (b->conflating)
        supersede(b, note);
    if (is_over(b) && b->rules.slow == SLOW_CUT)
        return cut(b);
    while (is_over(b))
        drop(b, b->first, DROPPED_OLD);
    return BATCH_TAKEN;
}

bool batch_has_room(const struct batch *b)
{
    return b->bytes <= b->rules.max_bytes / 2;
}

/* ---- out ----------------------------------------------------------------------------------------------------------------------- */

bool batch_is_due(const struct batch *b, int64_t now_ns)
{
    return b->first && now_ns >= b->next_ns;
}

const struct note *batch_end(const struct batch *b)
{
    const struct note *note = b->first;
    size_t bytes = 0;

    if (b->bytes <= b->rules.max_bytes) /* all of them */
        return NULL;
    while (note && (bytes == 0 || bytes + note->len <= b->rules.max_bytes)) {
        bytes += note->len;
        note = note->next;
    }
    return note;
}

void batch_delivered(struct batch *b, const struct note *end, int64_t now_ns)
{
    while (b->first != end) {
        unlink_note(b, b->first);
        b->delivered++;
    }
    memset(b->untold, 0, sizeof b->untold);
    b->next_ns = now_ns + b->rules.interval_ns;
    if (batch_has_room(b))
        b->full = false;
    if (!b->first && b->conflating && !b->rules.conflates) {
        b->conflating = false;
        map_done(&b->by_key);
        b->by_key = (struct map){0};
    }
}
