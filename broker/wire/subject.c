/* Subjects; see subject.h. */
#include "wire/subject.h"

#include <string.h>

#include "base/name.h"

enum { KEY_TOKEN_LEN = 17 }; /* '~' and base32 of 80 bits */

/* What is still to be read. done: the last token was taken. */
struct cursor {
    const char *p, *end;
    bool done;
};

/* In the order of SUBJECT_*. */
static const char *const kind_names[] = {"rpc", "box", "all",   "to",  "grp", "msg",
                                         "evt", "cdc", "audit", "log", "sub", "_in"};

const char *subject_kind_name(int kind)
{
    return kind_names[kind];
}

/* False at the end and for an empty token. */
static bool next(struct cursor *c, struct text *ret_token)
{
    const char *dot;

    if (c->done)
        return false;
    dot = memchr(c->p, '.', (size_t)(c->end - c->p));
    *ret_token = (struct text){c->p, (size_t)((dot ? dot : c->end) - c->p)};
    c->done = !dot;
    c->p = dot ? dot + 1 : c->end;
    return ret_token->len > 0;
}

/* A name that users choose. */
static bool next_name(struct cursor *c, struct text *ret_token)
{
    return next(c, ret_token) && name_is_public(ret_token->s, ret_token->len);
}

/* Who sent: an agent, or the broker itself. */
static bool next_sender(struct cursor *c, struct text *ret_token)
{
    return next(c, ret_token) &&
           (name_is_public(ret_token->s, ret_token->len) || text_is(*ret_token, "_muster"));
}

static bool has_prefix(struct text token, const char *prefix)
{
    size_t len = strlen(prefix);

    return token.s && token.len > len && memcmp(token.s, prefix, len) == 0;
}

bool subject_is_plugin(struct text asker)
{
    return has_prefix(asker, SUBJECT_PLUGIN_PREFIX);
}

bool subject_is_operator(struct text asker)
{
    return has_prefix(asker, SUBJECT_OPERATOR_PREFIX);
}

/* Who asks a service and is answered: an agent, a plugin of a broker, or an operator outside its own tenant. */
static bool next_asker(struct cursor *c, struct text *ret_token)
{
    size_t skip = 0;

    if (!next(c, ret_token) || !name_is_legal(ret_token->s, ret_token->len))
        return false;
    if (subject_is_plugin(*ret_token))
        skip = sizeof SUBJECT_PLUGIN_PREFIX - 1;
    else if (subject_is_operator(*ret_token))
        skip = sizeof SUBJECT_OPERATOR_PREFIX - 1;
    return name_is_public(ret_token->s + skip, ret_token->len - skip);
}

/* The token that stands for an id: the id where it is a name (also one that begins with '_'), or
 * its hash. */
static bool next_key(struct cursor *c, struct text *ret_token)
{
    if (!next(c, ret_token))
        return false;
    if (ret_token->s[0] != '~')
        return name_is_legal(ret_token->s, ret_token->len);
    if (ret_token->len != KEY_TOKEN_LEN)
        return false;
    for (size_t i = 1; i < ret_token->len; i++) {
        char ch = ret_token->s[i];

        if (!((ch >= 'a' && ch <= 'z') || (ch >= '2' && ch <= '7')))
            return false;
    }
    return true;
}

/* All that is left: one token at least. */
static bool take_rest(struct cursor *c, struct text *ret_rest)
{
    if (c->done)
        return false;
    *ret_rest = (struct text){c->p, (size_t)(c->end - c->p)};
    c->done = true;
    return subject_is_literal(ret_rest->s, ret_rest->len);
}

/* Below: one function a row of the table; each takes what stands behind the kind's token. */
static bool parse_rpc(struct cursor *c, struct subject *s)
{
    if (!next_asker(c, &s->agent) || !next_name(c, &s->service) || !next_name(c, &s->verb))
        return false;
    return c->done || next_key(c, &s->ref);
}

static bool parse_box(struct cursor *c, struct subject *s)
{
    return next_asker(c, &s->agent) && take_rest(c, &s->rest);
}

static bool parse_all(struct cursor *c, struct subject *s)
{
    return next_sender(c, &s->agent) && next_name(c, &s->verb);
}

static bool parse_to(struct cursor *c, struct subject *s)
{
    return next_name(c, &s->target) && parse_all(c, s);
}

static bool parse_msg(struct cursor *c, struct subject *s)
{
    return next_name(c, &s->target);
}

static bool parse_evt(struct cursor *c, struct subject *s)
{
    if (!next(c, &s->service))
        return false;
    if (text_is(s->service, "_")) /* the broker's own notices concern no single key */
        return next_name(c, &s->verb) && c->done;
    return name_is_public(s->service.s, s->service.len) && next_name(c, &s->verb) &&
           next_key(c, &s->ref);
}

static bool is_operation(struct text op)
{
    return text_is(op, "insert") || text_is(op, "update") || text_is(op, "delete") ||
           text_is(op, "truncate");
}

static bool parse_cdc(struct cursor *c, struct subject *s)
{
    return next_name(c, &s->service) && next_key(c, &s->schema) && next_key(c, &s->table) &&
           next(c, &s->verb) && is_operation(s->verb) && next_key(c, &s->ref);
}

static bool parse_audit(struct cursor *c, struct subject *s)
{
    return next_name(c, &s->service) && next_name(c, &s->verb) && next_sender(c, &s->agent);
}

static bool parse_sub(struct cursor *c, struct subject *s)
{
    return next_name(c, &s->target) && next_name(c, &s->ref);
}

/* The stored form of all, to and grp; nothing else is logged. */
static bool parse_log(struct cursor *c, struct subject *s)
{
    struct text kind;

    if (!next(c, &kind))
        return false;
    s->inner = text_is(kind, "all")   ? SUBJECT_ALL
               : text_is(kind, "to")  ? SUBJECT_TO
               : text_is(kind, "grp") ? SUBJECT_GRP
                                      : SUBJECT_LOG;
    if (s->inner == SUBJECT_ALL)
        return parse_all(c, s);
    return s->inner != SUBJECT_LOG && parse_to(c, s);
}

static bool parse_in(struct cursor *c, struct subject *s)
{
    return next_name(c, &s->tenant) && take_rest(c, &s->rest);
}

/* A kind that does not end where its row ends is malformed, hence c->done. */
static bool parse_kind(struct cursor *c, struct subject *s)
{
    static bool (*const parsers[])(struct cursor *, struct subject *) = {
        parse_rpc, parse_box, parse_all,   parse_to,  parse_to, parse_msg,
        parse_evt, parse_cdc, parse_audit, parse_log, parse_sub};
    struct text kind;

    if (!next(c, &kind))
        return false;
    for (s->kind = SUBJECT_RPC; s->kind < SUBJECT_IN; s->kind++)
        if (text_is(kind, kind_names[s->kind]))
            return parsers[s->kind](c, s) && c->done;
    return false;
}

static bool parse_tenant(struct cursor *c, struct subject *s)
{
    if (!next(c, &s->tenant))
        return false;
    if (text_is(s->tenant, "_in")) {
        s->kind = SUBJECT_IN;
        return parse_in(c, s) && c->done;
    }
    return name_is_public(s->tenant.s, s->tenant.len) && parse_kind(c, s);
}

int subject_parse(const char *root, const char *text, size_t len, struct subject *ret_subject)
{
    struct cursor c = {.p = text, .end = text + len};
    struct subject s = {0};
    struct text first;

    if (!next(&c, &first) || !text_is(first, root))
        return MUSTER_ENOTFOUND;
    if (len > SUBJECT_MAX || !parse_tenant(&c, &s))
        return MUSTER_EINVAL;
    *ret_subject = s;
    return 0;
}

int subject_parse_asker(const char *root, const char *text, size_t len, struct subject *ret_subject)
{
    struct cursor c = {.p = text, .end = text + len};
    struct subject s = {.kind = SUBJECT_RPC};
    struct text first, kind;

    if (!next(&c, &first) || !text_is(first, root) || !next_name(&c, &s.tenant) ||
        !next(&c, &kind) || !text_is(kind, kind_names[SUBJECT_RPC]) || !next_asker(&c, &s.agent))
        return MUSTER_EINVAL;
    *ret_subject = s;
    return 0;
}

/* Parsing first: what is malformed, or has a wildcard or blank, is nobody's box. */
bool subject_reply_is_own(const char *reply, const char *root, const char *tenant,
                          const char *agent)
{
    struct subject s;

    if (subject_parse(root, reply, strlen(reply), &s) || !text_is(s.tenant, tenant))
        return false;
    if (s.kind == SUBJECT_BOX)
        return text_is(s.agent, agent);
    return s.kind == SUBJECT_TO && text_is(s.target, agent) && text_is(s.agent, "_muster") &&
           text_is(s.verb, "reply");
}

/* "to.B.<from>.<type>", where a plugin may also be the one who sends. */
static bool parse_message(struct cursor *c, struct subject *s)
{
    struct text kind;

    if (!next(c, &kind) || !text_is(kind, kind_names[SUBJECT_TO]) || !next_name(c, &s->target))
        return false;
    if (!next(c, &s->agent) || !name_is_legal(s->agent.s, s->agent.len))
        return false;
    return next_name(c, &s->verb) && c->done;
}

bool subject_responds(const char *message, const char *reply, struct text *ret_service)
{
    struct cursor m = {.p = message, .end = message + strlen(message)}, r = {.p = reply, .end = reply + strlen(reply)};
    struct subject to = {0}, rpc = {0};

    if (!parse_message(&m, &to) || !parse_kind(&r, &rpc) || rpc.kind != SUBJECT_RPC || !rpc.ref.s)
        return false;
    *ret_service = rpc.service;
    return rpc.agent.len == to.target.len && memcmp(rpc.agent.s, to.target.s, to.target.len) == 0;
}

/* One token of a pattern or subject: no blank, no control character, a wildcard only alone and
 * where it is allowed. */
static bool token_is_clean(struct text token, bool last, bool wildcards)
{
    if (token.len == 1 && token.s[0] == '*')
        return wildcards;
    if (token.len == 1 && token.s[0] == '>')
        return wildcards && last;
    for (size_t i = 0; i < token.len; i++) {
        unsigned char ch = (unsigned char)token.s[i];

        if (ch <= ' ' || ch == 0x7f || ch == '*' || ch == '>')
            return false;
    }
    return token.len > 0;
}

static bool tokens_are_clean(const char *s, size_t len, bool wildcards)
{
    struct cursor c = {.p = s, .end = s + len};
    struct text token;

    if (len > SUBJECT_MAX)
        return false;
    while (!c.done)
        if (!next(&c, &token) || !token_is_clean(token, c.done, wildcards))
            return false;
    return true;
}

bool subject_is_literal(const char *s, size_t len)
{
    return tokens_are_clean(s, len, false);
}

bool subject_is_pattern(const char *s, size_t len)
{
    return tokens_are_clean(s, len, true);
}

/* Matching works on C strings: subjects of the NATS library and of the configuration are. */
static struct cursor whole(const char *s)
{
    return (struct cursor){.p = s, .end = s + strlen(s)};
}

static bool is_wild(struct text token, char ch)
{
    return token.len == 1 && token.s[0] == ch;
}

static bool same(struct text a, struct text b)
{
    return a.len == b.len && memcmp(a.s, b.s, a.len) == 0;
}

bool subject_covers(const char *pattern, const char *covered)
{
    struct cursor p = whole(pattern), s = whole(covered);
    struct text a, b;

    while (!p.done && !s.done) {
        if (!next(&p, &a) || !next(&s, &b))
            return false;
        if (is_wild(a, '>'))
            return p.done;
        if (is_wild(b, '>') || (!is_wild(a, '*') && !same(a, b)))
            return false;
    }
    return p.done && s.done;
}

bool subject_match(const char *pattern, const char *subject)
{
    struct cursor p = whole(pattern), s = whole(subject);
    struct text a, b;

    while (!p.done && !s.done) {
        if (!next(&p, &a) || !next(&s, &b))
            return false;
        if (is_wild(a, '>'))
            return p.done;
        if (!is_wild(a, '*') && !same(a, b))
            return false;
    }
    return p.done && s.done;
}

bool subject_overlap(const char *left, const char *right)
{
    struct cursor l = whole(left), r = whole(right);
    struct text a, b;

    while (!l.done && !r.done) {
        if (!next(&l, &a) || !next(&r, &b))
            return false;
        if (is_wild(a, '>') || is_wild(b, '>'))
            return true;
        if (!is_wild(a, '*') && !is_wild(b, '*') && !same(a, b))
            return false;
    }
    return l.done && r.done;
}
