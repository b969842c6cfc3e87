/* Conditions on the columns of a change: what they say of a row. They are read in filter_parse.c. */
#include "fanout/filter.h"

#include <stdlib.h>

void filter_free(struct filter *filter)
{
    if (!filter)
        return;
    for (size_t i = 0; i < filter->n_conds; i++)
        free(filter->conds[i].values);
    free(filter->conds);
    buf_done(&filter->text);
    free(filter);
}

/* ---- like ---------------------------------------------------------------------------------------------------------------------- */

static bool same(char a, char b, bool fold)
{
    if (fold && a >= 'A' && a <= 'Z')
        a = (char)(a | 32);
    if (fold && b >= 'A' && b <= 'Z')
        b = (char)(b | 32);
    return a == b;
}

/* The bytes of the character at the beginning. */
static size_t character(struct span s)
{
    size_t n = 1;

    while (n < s.len && ((unsigned char)s.s[n] & 0xC0) == 0x80)
        n++;
    return n;
}

static struct span from(struct span s, size_t n)
{
    return (struct span){s.s + n, s.len - n};
}

/* Match one element of the pattern, which is not %: 0 where it does not, else how much of text it takes; *ret_used of the pattern. */
static size_t element(struct span text, struct span pattern, bool fold, size_t *ret_used)
{
    bool escaped = pattern.s[0] == '\\' && pattern.len > 1;

    *ret_used = escaped ? 2 : 1;
    if (!text.len)
        return 0;
    if (pattern.s[0] == '_')
        return character(text);
    return same(text.s[0], pattern.s[escaped ? 1 : 0], fold) ? 1 : 0;
}

/* The last % alone need ever be tried again: what an earlier one could give, it can give as well. */
bool filter_like(struct span text, struct span pattern, bool fold)
{
    struct span again_text = {NULL, 0}, again_pattern = {NULL, 0};

    for (;;) {
        size_t used, n = 0;

        if (pattern.len && pattern.s[0] == '%') {
            pattern = from(pattern, 1);
            again_pattern = pattern;
            again_text = text;
            continue;
        }
        if (!pattern.len && !text.len)
            return true;
        if (pattern.len)
            n = element(text, pattern, fold, &used);
        if (n) {
            text = from(text, n);
            pattern = from(pattern, used);
            continue;
        }
        if (!again_pattern.s || !again_text.len)
            return false;
        again_text = from(again_text, character(again_text));
        text = again_text;
        pattern = again_pattern;
    }
}

/* ---- a row --------------------------------------------------------------------------------------------------------------------- */

enum { FALSE_, TRUE_, UNKNOWN }; /* as SQL has them */

static int truth(bool is)
{
    return is ? TRUE_ : FALSE_;
}

static bool is_in(const struct filter_cond *c, const struct datum *d)
{
    for (size_t i = 0; i < c->n_values; i++)
        if (datum_compare(d, &c->values[i]) == 0)
            return true;
    return false;
}

static int is_word(const struct filter_cond *c, const struct datum *d)
{
    if (c->values[0].kind == DATUM_NULL || d->kind == DATUM_NULL)
        return truth(c->values[0].kind == d->kind);
    return truth(datum_compare(d, &c->values[0]) == 0);
}

static int compared(const struct filter_cond *c, const struct datum *d)
{
    int order = datum_compare(d, &c->values[0]);

    switch (c->op) {
    case FILTER_EQ:
        return truth(order == 0);
    case FILTER_LT:
        return truth(order < 0);
    case FILTER_LTE:
        return truth(order <= 0);
    case FILTER_GT:
        return truth(order > 0);
    case FILTER_GTE:
        return truth(order >= 0);
    default:
        return truth(order != 0);
    }
}

static int says(const struct filter_cond *c, const struct datum *d)
{
    if (c->op == FILTER_IS)
        return is_word(c, d);
    if (d->kind == DATUM_NULL)
        return c->op == FILTER_ISDISTINCT ? TRUE_ : UNKNOWN;
    if (c->op == FILTER_IN)
        return truth(is_in(c, d));
    if (c->op == FILTER_LIKE || c->op == FILTER_ILIKE)
        return truth(filter_like(d->text, c->values[0].text, c->op == FILTER_ILIKE));
    return compared(c, d);
}

static int test_cond(const struct filter_cond *c, struct row *row, int side)
{
    struct datum d;
    int is;

    if (!row_datum(row, side, c->column, c->class, &d))
        return c->strict ? FILTER_WITHHELD : FILTER_MAYBE;
    is = says(c, &d);
    return is == (c->negated ? FALSE_ : TRUE_) ? FILTER_YES : FILTER_NO;
}

int filter_test(const struct filter *filter, struct row *row, int side)
{
    int outcome = FILTER_YES;

    for (size_t i = 0; i < filter->n_conds; i++) {
        int is = test_cond(&filter->conds[i], row, side);

        if (is == FILTER_NO)
            return FILTER_NO;
        if (is > outcome)
            outcome = is;
    }
    return outcome;
}

/* ---- its columns --------------------------------------------------------------------------------------------------------------- */

/* Of a type that only the catalog knows more of, the list tells no more than that it is none of the others. */
static bool is_of_class(struct span type, uint32_t class)
{
    char name[64] = "";
    bool array = type.len > 2 && memcmp(type.s + type.len - 2, "[]", 2) == 0;
    uint32_t is;

    if (type.len < sizeof name)
        memcpy(name, type.s, type.len);
    is = array ? CLASS_OPAQUE : datum_class(name, 'b', 'X');
    return is == class || (is == CLASS_OTHER && (class == CLASS_LABEL || class == CLASS_OPAQUE));
}

static bool describes(struct row *row, struct span element, struct span column, uint32_t class)
{
    struct scan scan;
    struct span key, value, name = {"", 0}, type = {"", 0};

    if (!scan_map(&scan, row->encoding, element))
        return false;
    while (scan_member(&scan, &row->text, &key, &value)) {
        if (SPAN_IS(key, "name"))
            name = scan_cell(row->encoding, value, &row->text).text;
        else if (SPAN_IS(key, "type"))
            type = scan_cell(row->encoding, value, &row->text).text;
    }
    return span_is(name, column.s, column.len) && is_of_class(type, class);
}

bool filter_fits(const struct filter *filter, struct row *row)
{
    for (size_t i = 0; row->members[ROW_M_COLUMNS].len && i < filter->n_conds; i++) {
        const struct filter_cond *c = &filter->conds[i];
        struct scan list;
        struct span element;
        bool found = false;

        if (!scan_array(&list, row->encoding, row->members[ROW_M_COLUMNS]))
            return true;
        while (!found && scan_element(&list, &element))
            found = describes(row, element, c->column, c->class);
        if (!found)
            return false;
    }
    return true;
}
