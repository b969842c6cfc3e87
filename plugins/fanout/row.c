/* A change and its columns; see row.h. */
#include "fanout/row.h"

#include <stdlib.h>
#include <string.h>

/* Of each string there may be what its escapes mean, and of a number or a UUID one form of its own. */
enum { ROW_ROOM = 64 };

void row_done(struct row *row)
{
    free(row->sides[ROW_NEW].fields);
    free(row->sides[ROW_OLD].fields);
    buf_done(&row->text);
    *row = (struct row){0};
}

uint32_t row_op(struct span name)
{
    if (SPAN_IS(name, "insert"))
        return ROW_INSERT;
    if (SPAN_IS(name, "update"))
        return ROW_UPDATE;
    if (SPAN_IS(name, "delete"))
        return ROW_DELETE;
    return SPAN_IS(name, "truncate") ? ROW_TRUNCATE : 0;
}

static bool add_field(struct row_side *side, struct span name, struct span value)
{
    if (side->n == side->cap) {
        size_t cap = side->cap ? 2 * side->cap : 32;
        struct row_field *grown = realloc(side->fields, cap * sizeof *grown);

        if (!grown)
            return false;
        side->fields = grown;
        side->cap = cap;
    }
    side->fields[side->n++] = (struct row_field){.name = name, .value = value};
    return true;
}

static bool read_side(struct row *row, int which, struct span value)
{
    struct row_side *side = &row->sides[which];
    struct scan scan;
    struct span name, column;

    side->there = scan_map(&scan, row->encoding, value);
    while (side->there && scan_member(&scan, &row->text, &name, &column))
        if (!add_field(side, name, column))
            return false;
    return true;
}

static int member_of(struct span key)
{
#define NAME(s) {s, sizeof s - 1}
    static const struct span names[] = {NAME("schema"), NAME("table"), NAME("op"), NAME("lsn"), NAME("commit_time"), NAME("xid"), NAME("key"),
                                        NAME("new"), NAME("old"), NAME("unchanged"), NAME("omitted"), NAME("columns")};
#undef NAME

    for (int i = 0; i < (int)(sizeof names / sizeof *names); i++)
        if (key.len == names[i].len && memcmp(key.s, names[i].s, key.len) == 0)
            return i;
    return -1;
}

static void read_members(struct row *row, struct scan *scan)
{
    struct span key, value;

    while (scan_member(scan, &row->text, &key, &value)) {
        int at = member_of(key);

        if (at >= 0)
            row->members[at] = value;
    }
}

static bool is_partial(const struct row *row, int member)
{
    struct scan list;

    return scan_array(&list, row->encoding, row->members[member]) && scan_count(list) > 0;
}

bool row_read(struct row *row, struct span body)
{
    struct scan scan;
    struct cell op;

    row->body = body;
    row->encoding = scan_encoding(body);
    memset(row->members, 0, sizeof row->members);
    row->sides[ROW_NEW].n = row->sides[ROW_OLD].n = 0;
    buf_clear(&row->text);
    if (!buf_reserve(&row->text, 3 * body.len + ROW_ROOM) || !scan_map(&scan, row->encoding, body))
        return false;
    read_members(row, &scan);
    op = scan_cell(row->encoding, row->members[ROW_M_OP], &row->text);
    row->op = op.kind == CELL_TEXT ? row_op(op.text) : 0;
    row->partly = is_partial(row, ROW_M_UNCHANGED) || is_partial(row, ROW_M_OMITTED);
    return row->op && read_side(row, ROW_NEW, row->members[ROW_M_NEW]) && read_side(row, ROW_OLD, row->members[ROW_M_OLD]);
}

bool row_has(const struct row *row, int side)
{
    return side == ROW_NEW ? row->op == ROW_INSERT || row->op == ROW_UPDATE : row->op == ROW_UPDATE || row->op == ROW_DELETE;
}

static struct row_field *find(struct row_side *side, struct span column)
{
    for (size_t i = 0; i < side->n; i++)
        if (span_is(side->fields[i].name, column.s, column.len))
            return &side->fields[i];
    return NULL;
}

static struct row_field *shown(struct row *row, int side, struct span column)
{
    bool as_new = side == ROW_OLD && !row->sides[ROW_OLD].there && row->op == ROW_UPDATE;

    return find(&row->sides[as_new ? ROW_NEW : side], column);
}

static void read_field(struct row *row, struct row_field *field, uint32_t class)
{
    struct cell cell = scan_cell(row->encoding, field->value, &row->text);

    field->read_as = datum_of_cell(class, &cell, &row->text, &field->datum) ? ROW_READ : ROW_ILL;
    field->datum.class = class;
}

bool row_datum(struct row *row, int side, struct span column, uint32_t class, struct datum *ret)
{
    struct row_field *field = shown(row, side, column);

    if (!field)
        return false;
    if (field->read_as == ROW_UNREAD || field->datum.class != class)
        read_field(row, field, class);
    *ret = field->datum;
    return field->read_as == ROW_READ;
}

struct span row_value(struct row *row, int side, struct span column)
{
    struct row_field *field = shown(row, side, column);

    return field ? field->value : (struct span){"", 0};
}
