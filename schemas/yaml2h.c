/*
 * yaml2h - turn schemas/messages/<service>.yaml into a C header that holds the same definition as
 * JSON text.
 *
 *   yaml2h FILE NAME > NAME.h      gives: static const char muster_schema_NAME[] = "...";
 *
 * A tool of the build, so that the broker and plugins need no YAML when they run. Only the form is
 * checked here (maps, lists and scalars; no anchors, aliases, tags or second documents); what the
 * definition means is checked by schema_load(), which the build runs on every file when it makes
 * the AsyncAPI document. Errors are one line: file:line:column: what, and what was expected.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "base/buf.h"

enum { MAX_DEPTH = 16, LINE = 100 };

struct convert {
    const char *file;
    yaml_parser_t parser;
    struct buf out;
};

static int refuse(const struct convert *c, const yaml_mark_t *at, const char *what)
{
    fprintf(stderr, "%s:%zu:%zu: %s\n", c->file, at->line + 1, at->column + 1, what);
    return -1;
}

static int next(struct convert *c, yaml_event_t *event)
{
    if (yaml_parser_parse(&c->parser, event))
        return 0;
    return refuse(c, &c->parser.problem_mark, c->parser.problem ? c->parser.problem : "not YAML");
}

static int put_value(struct convert *c, yaml_event_t *event, int depth);

/* Plain true and false are booleans; everything else in a definition is text. */
static void put_scalar(struct convert *c, const yaml_event_t *event, bool is_key)
{
    const char *s = (const char *)event->data.scalar.value;
    bool plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;

    if (plain && !is_key && (strcmp(s, "true") == 0 || strcmp(s, "false") == 0))
        buf_puts(&c->out, s);
    else
        buf_put_json(&c->out, s, event->data.scalar.length);
}

/* One element of a list (end: the event that closes it) or one pair of a map. 1: the container is
 * closed. */
static int put_item(struct convert *c, yaml_event_type_t end, bool first, int depth)
{
    yaml_event_t event;
    int err;

    if (next(c, &event))
        return -1;
    if (event.type == end) {
        yaml_event_delete(&event);
        return 1;
    }
    if (!first)
        buf_putc(&c->out, ',');
    if (end == YAML_SEQUENCE_END_EVENT) {
        err = put_value(c, &event, depth);
        yaml_event_delete(&event);
        return err;
    }
    err = event.type == YAML_SCALAR_EVENT
              ? 0
              : refuse(c, &event.start_mark, "a list or map came, expected a key");
    if (!err)
        put_scalar(c, &event, true);
    yaml_event_delete(&event);
    buf_putc(&c->out, ':');
    if (err || next(c, &event))
        return -1;
    err = put_value(c, &event, depth);
    yaml_event_delete(&event);
    return err;
}

static int put_container(struct convert *c, yaml_event_type_t end, int depth)
{
    bool map = end == YAML_MAPPING_END_EVENT;
    int result = 0;

    buf_putc(&c->out, map ? '{' : '[');
    for (bool first = true; result == 0; first = false)
        result = put_item(c, end, first, depth + 1);
    buf_putc(&c->out, map ? '}' : ']');
    return result == 1 ? 0 : -1;
}

static int put_value(struct convert *c, yaml_event_t *event, int depth)
{
    if (depth > MAX_DEPTH)
        return refuse(c, &event->start_mark, "too deep, expected at most 16 levels");
    switch (event->type) {
    case YAML_SCALAR_EVENT:
        if (event->data.scalar.anchor || event->data.scalar.tag)
            return refuse(c, &event->start_mark,
                          "an anchor or tag came, expected a plain or quoted text");
        put_scalar(c, event, false);
        return 0;
    case YAML_SEQUENCE_START_EVENT:
        if (event->data.sequence_start.anchor)
            return refuse(c, &event->start_mark, "an anchor came, expected a list");
        return put_container(c, YAML_SEQUENCE_END_EVENT, depth);
    case YAML_MAPPING_START_EVENT:
        if (event->data.mapping_start.anchor)
            return refuse(c, &event->start_mark, "an anchor came, expected a map");
        return put_container(c, YAML_MAPPING_END_EVENT, depth);
    default:
        return refuse(c, &event->start_mark,
                      "an alias or nothing came, expected a text, a list or a map");
    }
}

/* Stream start, document start, the value, document end, stream end. */
static int convert(struct convert *c)
{
    static const yaml_event_type_t order[] = {YAML_STREAM_START_EVENT, YAML_DOCUMENT_START_EVENT,
                                              YAML_NO_EVENT, YAML_DOCUMENT_END_EVENT,
                                              YAML_STREAM_END_EVENT};
    int err = 0;

    for (size_t i = 0; !err && i < sizeof order / sizeof *order; i++) {
        yaml_event_t event;

        if (next(c, &event))
            return -1;
        if (order[i] == YAML_NO_EVENT)
            err = put_value(c, &event, 1);
        else if (event.type != order[i])
            err = refuse(c, &event.start_mark, "expected one document");
        yaml_event_delete(&event);
    }
    return err;
}

/* The text as string literals of about LINE characters; long literals are beyond what ISO C
 * promises, so the warning is off. */
static void print_header(const char *file, const char *name, const struct buf *json)
{
    printf("/* Made by yaml2h from %s; edit that. */\n#ifndef MUSTER_SCHEMA_%s_H\n#define "
           "MUSTER_SCHEMA_%s_H\n\n",
           file, name, name);
    printf(
        "#pragma GCC diagnostic push\n#pragma GCC diagnostic ignored \"-Woverlength-strings\"\n");
    printf("static const char muster_schema_%s[] =", name);
    for (size_t i = 0; i < json->len; i++) {
        unsigned char ch = (unsigned char)json->data[i];

        if (i % LINE == 0)
            printf(i ? "\"\n    \"" : "\n    \"");
        if (ch == '"' || ch == '\\')
            printf("\\%c", ch);
        else if (ch < 0x20 || ch >= 0x7f)
            printf("\\%03o", ch);
        else
            putchar(ch);
    }
    printf("\";\n#pragma GCC diagnostic pop\n\n#endif\n");
}

int main(int argc, char **argv)
{
    struct convert c = {.file = argc == 3 ? argv[1] : NULL};
    FILE *in = c.file ? fopen(c.file, "rb") : NULL;
    const char *base;
    int err;

    if (!in || !yaml_parser_initialize(&c.parser)) {
        fprintf(stderr, c.file ? "yaml2h: %s cannot be read\n" : "usage: yaml2h FILE NAME%s\n",
                c.file ? c.file : "");
        return 2;
    }
    yaml_parser_set_input_file(&c.parser, in);
    err = convert(&c);
    base = strrchr(c.file, '/');
    if (!err && buf_failed(&c.out))
        err = refuse(&c, &c.parser.mark, "no memory");
    if (!err)
        print_header(base ? base + 1 : c.file, argv[2], &c.out);
    yaml_parser_delete(&c.parser);
    buf_done(&c.out);
    fclose(in);
    return err ? 1 : 0;
}
