/*
 * The only file that speaks libyaml; see yaml.h.
 *
 * Events are taken one by one and each is judged at once, so that a hostile file costs no more than the
 * bounds allow: a level that is too deep or a value too many ends the reading there. Aliases are refused,
 * so a file cannot grow in memory.
 */
#include "config/yaml.h"

#include <stdbool.h>
#include <string.h>
#include <yaml.h>

#include "base/map.h"
#include "config/options.h"
#include "config/source.h"

/* A list or map that is open. */
struct level {
    struct config_node *node;
    struct config_node *pending; /* MAP: has a key, waits for its value */
    struct map keys;             /* MAP: what was given, to its node */
};

struct reader {
    const struct config_scope *scope;
    yaml_parser_t yaml;
    const char *data;
    size_t len;
    size_t at_byte, at_char; /* how far start_char() has walked */
    bool had_document;
    size_t depth; /* levels in use */
    struct level levels[CONFIG_MAX_DEPTH];
};

static int refuse(const struct reader *r, yaml_mark_t at, const char *what)
{
    return config_refuse_place(r->scope, (uint32_t)at.line + 1, (uint32_t)at.column + 1, "%s", what);
}

/* libyaml's words, with the beginning of what it was reading where that is on another line. */
static int refuse_syntax(const struct reader *r)
{
    const yaml_parser_t *y = &r->yaml;
    uint32_t line = (uint32_t)y->problem_mark.line + 1, column = (uint32_t)y->problem_mark.column + 1;
    const char *problem = y->problem ? y->problem : "it cannot be read";

    if (y->error == YAML_MEMORY_ERROR)
        return config_no_memory(r->scope->err);
    if (y->context && y->context_mark.line != y->problem_mark.line)
        return config_refuse_place(r->scope, line, column, "not YAML: %s, %s that begins at line %zu",
                                   problem, y->context, y->context_mark.line + 1);
    return config_refuse_place(r->scope, line, column, "not YAML: %s", problem);
}

/* The character where an event begins. Marks count characters, so the walk to its byte goes on from the one
 * before. */
static char start_char(struct reader *r, yaml_mark_t at)
{
    while (r->at_char < at.index && r->at_byte < r->len) {
        r->at_byte++;
        while (r->at_byte < r->len && ((unsigned char)r->data[r->at_byte] & 0xc0) == 0x80)
            r->at_byte++;
        r->at_char++;
    }
    return r->at_byte < r->len ? r->data[r->at_byte] : '\0';
}

/* Properties are told by their first character: libyaml does not hand out the tag "!". */
static int check_properties(struct reader *r, yaml_mark_t at)
{
    switch (start_char(r, at)) {
    case '&':
        return refuse(r, at, "an anchor (&name); write the value out where it is needed");
    case '*':
        return refuse(r, at,
                      "an alias (*name); write the value out, or put text that begins with * in quotes");
    case '!':
        return refuse(r, at,
                      "a tag (!name); types follow from the key, put text that begins with ! in quotes");
    default:
        return 0;
    }
}

static int new_node(struct reader *r, struct config_node *parent, struct config_node **ret_node,
                    yaml_mark_t at)
{
    struct config_tree *tree = r->scope->tree;

    if (tree->n_nodes >= CONFIG_MAX_NODES)
        return refuse(r, at, "more than 65536 values");
    *ret_node = tree_add(tree, parent);
    return *ret_node ? 0 : config_no_memory(r->scope->err);
}

/* The node that the next value fills: the one whose key was read, an item of the list, or the root. */
static int node_for_value(struct reader *r, yaml_mark_t at, struct config_node **ret_node)
{
    struct level *level = r->depth ? &r->levels[r->depth - 1] : NULL;
    int err = 0;

    if (level && level->pending) {
        *ret_node = level->pending;
        level->pending = NULL;
    } else {
        err = new_node(r, level ? level->node : NULL, ret_node, at);
    }
    if (err)
        return err;
    (*ret_node)->line = (uint32_t)at.line + 1;
    (*ret_node)->column = (uint32_t)at.column + 1;
    return 0;
}

/* True when the next value is a key. */
static bool at_key(const struct reader *r)
{
    const struct level *level = r->depth ? &r->levels[r->depth - 1] : NULL;

    return level && level->node->kind == CONFIG_MAP && !level->pending;
}

/* The node of a key is made before its value is read: a duplicate is told with its whole path. */
static int on_key(struct reader *r, const yaml_event_t *e)
{
    struct level *level = &r->levels[r->depth - 1];
    const char *text = (const char *)e->data.scalar.value;
    size_t len = e->data.scalar.length;
    const struct config_node *first = map_get(&level->keys, text, len);
    struct config_node *node;
    int err;

    if (len == 0)
        return refuse(r, e->start_mark, "a key is missing before the colon");
    if (len > CONFIG_MAX_KEY) /* YAML's own limit is 1024, and --print-config may need four for one */
        return refuse(r, e->start_mark, "a key longer than 200 bytes");
    err = new_node(r, level->node, &node, e->start_mark);
    if (err)
        return err;
    node->key = tree_strdup(r->scope->tree, text, len);
    if (!node->key || !map_put(&level->keys, text, len, node))
        return config_no_memory(r->scope->err);
    node->key_line = (uint32_t)e->start_mark.line + 1;
    node->key_column = (uint32_t)e->start_mark.column + 1;
    if (first)
        return config_refuse_key(r->scope, node, "given twice; the first is at line %u", first->key_line);
    level->pending = node;
    return 0;
}

/* Scalars are C strings from here on; a NUL would cut one short without a word. */
static int on_scalar(struct reader *r, const yaml_event_t *e)
{
    const char *text = (const char *)e->data.scalar.value;
    size_t len = e->data.scalar.length;
    struct config_node *node;
    int err = check_properties(r, e->start_mark);

    if (err)
        return err;
    if (memchr(text, '\0', len))
        return refuse(r, e->start_mark, "a text that holds the character NUL");
    if (at_key(r))
        return on_key(r, e);
    err = node_for_value(r, e->start_mark, &node);
    if (err)
        return err;
    node->kind = CONFIG_SCALAR;
    node->plain = e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    node->text = tree_strdup(r->scope->tree, text, len);
    return node->text ? 0 : config_no_memory(r->scope->err);
}

/* A list or a map begins. */
static int on_open(struct reader *r, const yaml_event_t *e)
{
    struct config_node *node;
    int err = check_properties(r, e->start_mark);

    if (err)
        return err;
    if (at_key(r))
        return refuse(r, e->start_mark, "a key that is a list or a map; keys are text");
    if (r->depth == CONFIG_MAX_DEPTH)
        return refuse(r, e->start_mark, "nested deeper than 16 levels");
    err = node_for_value(r, e->start_mark, &node);
    if (err)
        return err;
    node->kind = e->type == YAML_MAPPING_START_EVENT ? CONFIG_MAP : CONFIG_LIST;
    r->levels[r->depth++] = (struct level){.node = node};
    return 0;
}

static int on_document(struct reader *r, const yaml_event_t *e)
{
    if (r->had_document)
        return refuse(r, e->start_mark, "a second document; a configuration is one");
    if (e->data.document_start.tag_directives.start != e->data.document_start.tag_directives.end)
        return refuse(r, e->start_mark, "a %TAG directive; tags are not used here");
    r->had_document = true;
    return 0;
}

/* Ends of maps and lists come in pairs with their beginnings: libyaml's parser sees to that. */
static int on_event(struct reader *r, const yaml_event_t *e)
{
    switch (e->type) {
    case YAML_DOCUMENT_START_EVENT:
        return on_document(r, e);
    case YAML_ALIAS_EVENT:
        return check_properties(r, e->start_mark);
    case YAML_SCALAR_EVENT:
        return on_scalar(r, e);
    case YAML_SEQUENCE_START_EVENT:
    case YAML_MAPPING_START_EVENT:
        return on_open(r, e);
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        map_done(&r->levels[--r->depth].keys);
        return 0;
    default:
        return 0;
    }
}

/* Until the end of the stream or the first refusal. */
static int read_events(struct reader *r)
{
    bool end = false;
    int err = 0;

    while (!err && !end) {
        yaml_event_t event;

        if (!yaml_parser_parse(&r->yaml, &event))
            return refuse_syntax(r);
        end = event.type == YAML_STREAM_END_EVENT;
        err = on_event(r, &event);
        yaml_event_delete(&event);
    }
    return err;
}

/* A file without any value: what is missing in it is told at its first character. */
static int add_nothing(const struct config_scope *s)
{
    struct config_node *node = tree_add(s->tree, NULL);

    if (!node)
        return config_no_memory(s->err);
    *node = (struct config_node){.plain = true, .text = "", .line = 1, .column = 1};
    return 0;
}

int yaml_read(const struct config_scope *s, const char *data, size_t len)
{
    struct reader r = {.scope = s, .data = data, .len = len};
    struct source_fault fault;
    int err;

    if (len >= 3 && memcmp(data, "\xef\xbb\xbf", 3) == 0) {
        r.data += 3; /* a byte order mark at the start is what some editors write */
        r.len -= 3;
    }
    if (!source_check(r.data, r.len, &fault))
        return config_refuse_place(s, fault.line, fault.column, "%s", fault.why);
    if (!yaml_parser_initialize(&r.yaml))
        return config_no_memory(s->err);
    yaml_parser_set_encoding(&r.yaml, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r.yaml, (const unsigned char *)r.data, r.len);
    err = read_events(&r);
    yaml_parser_delete(&r.yaml);
    while (r.depth)
        map_done(&r.levels[--r.depth].keys);
    if (err)
        return err;
    return s->tree->root ? 0 : add_nothing(s);
}
