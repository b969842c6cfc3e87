/* What the plugin of a child may name; see policy.h. */
#include "child/policy.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/name.h"
#include "wire/reserved.h"
#include "wire/subject.h"
#include "wire/text.h"

enum { NAMED_TOKENS = 3 }; /* kind, agent or service or target, and sender or event: behind them stand keys, which are anybody's */

static int say(char why[POLICY_WHY_SIZE], int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

static int say(char why[POLICY_WHY_SIZE], int code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(why, POLICY_WHY_SIZE, fmt, ap);
    va_end(ap);
    return code;
}

/* ---- tokens --------------------------------------------------------------------------------------------------------------------- */

/* The next token of *s, which moves behind it; NULL is the end. */
static struct text next(const char **s)
{
    struct text t = {*s, strcspn(*s, ".")};

    *s = t.s[t.len] ? t.s + t.len + 1 : NULL;
    return t;
}

/* Token i, from 0; empty where there are fewer. */
static struct text token(const char *s, int i)
{
    struct text t = {"", 0};

    for (; s && i >= 0; i--)
        t = next(&s);
    return i < 0 ? t : (struct text){"", 0};
}

static bool is_own_sender(const struct policy *p, struct text t)
{
    return t.len > 3 && memcmp(t.s, "_p_", 3) == 0 && text_is((struct text){t.s + 3, t.len - 3}, p->plugin);
}

/* A wildcard of an allowed pattern may stand for it. */
static bool is_free(const struct policy *p, struct text t, int at)
{
    return at >= NAMED_TOKENS || !t.len || t.s[0] != '_' || is_own_sender(p, t);
}

/* Every subject that matches `inner` matches `outer`. */
static bool covers(const struct policy *p, const char *outer, const char *inner)
{
    int at = 0;

    while (outer && inner) {
        struct text o = next(&outer), i = next(&inner);

        if (text_is(o, ">")) {
            for (; is_free(p, i, at) && inner; at++)
                i = next(&inner);
            return is_free(p, i, at);
        }
        if (text_is(i, ">") || (text_is(o, "*") ? !is_free(p, i, at) : o.len != i.len || memcmp(o.s, i.s, o.len) != 0))
            return false;
        at++;
    }
    return !outer && !inner;
}

static bool is_in(const struct policy *p, const char *const *patterns, size_t n, const char *inner)
{
    for (size_t i = 0; i < n; i++)
        if (covers(p, patterns[i], inner))
            return true;
    return false;
}

static bool is_own_service(const struct policy *p, struct text t)
{
    for (size_t i = 0; i < p->n_services; i++)
        if (text_is(t, p->services[i]))
            return true;
    return false;
}

static bool is_own_event(const struct policy *p, const char *s)
{
    struct text service = token(s, 1);

    return text_is(token(s, 0), "evt") && token(s, 2).len && (text_is(service, p->plugin) || is_own_service(p, service));
}

/* ---- subjects ------------------------------------------------------------------------------------------------------------------- */

int policy_subscribe(const struct policy *p, const char *pattern, char why[POLICY_WHY_SIZE])
{
    char service[NAME_TOKEN_SIZE];

    if (!pattern || !subject_is_pattern(pattern, strlen(pattern)))
        return say(why, MUSTER_EINVAL, "subscription to \"%.100s\": expected a legal pattern", pattern ? pattern : "");
    if (pattern[0] == '_')
        return say(why, MUSTER_EACCES, "subscription to \"%.100s\": what begins with _ is the broker's", pattern);
    if ((text_is(token(pattern, 0), "rpc") && token(pattern, 3).len && is_own_service(p, token(pattern, 2))) || is_own_event(p, pattern))
        return 0;
    if (reserved_overlap(pattern, service))
        return say(why, MUSTER_EACCES,
                   "subscription to \"%.100s\": would get requests to service %s, which is of the plugins that come with Muster", pattern,
                   service);
    if (is_in(p, p->subscribe, p->n_subscribe, pattern))
        return 0;
    return say(why, MUSTER_EACCES,
               "subscription to \"%.100s\": expected requests or events of the plugin's own services (rpc.*.<service>.…,"
               " evt.<service>.…), or what lies inside allow.subscribe",
               pattern);
}

/* Kinds that tell an agent that the broker has spoken. */
static bool is_of_broker(struct text kind)
{
    static const char *const kinds[] = {"box", "msg", "cdc", "audit", "log", "sub", "pres"};

    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (text_is(kind, kinds[i]))
            return true;
    return kind.s[0] == '_';
}

/* The token that says who sends; empty for kinds that have none. */
static struct text sender_of(const char *subject)
{
    struct text kind = token(subject, 0);

    if (text_is(kind, "rpc") || text_is(kind, "all"))
        return token(subject, 1);
    return text_is(kind, "to") || text_is(kind, "grp") ? token(subject, 2) : (struct text){"", 0};
}

int policy_publish(const struct policy *p, const char *subject, char why[POLICY_WHY_SIZE])
{
    struct text sender;

    if (!subject || !subject_is_literal(subject, strlen(subject)))
        return say(why, MUSTER_EINVAL, "subject \"%.100s\": expected tokens without wildcards", subject ? subject : "");
    if (is_of_broker(token(subject, 0)))
        return say(why, MUSTER_EACCES, "subject \"%.100s\": only the broker writes there", subject);
    sender = sender_of(subject);
    if (sender.len && !is_own_sender(p, sender) && (!text_is(sender, "_muster") || text_is(token(subject, 0), "rpc")))
        return say(why, MUSTER_EACCES, "subject \"%.100s\": its sender is \"%.*s\", expected \"_p_%s\"", subject, (int)sender.len, sender.s,
                   p->plugin);
    if (is_own_event(p, subject) || is_in(p, p->publish, p->n_publish, subject))
        return 0;
    return say(why, MUSTER_EACCES,
               "subject \"%.100s\": expected an event of the plugin's own services (evt.<service>.…), or what lies inside allow.publish",
               subject);
}

int policy_respond(const struct policy *p, const char *subject, const char *reply, char why[POLICY_WHY_SIZE])
{
    struct text service;

    if (!subject_responds(subject, reply, &service))
        return say(why, MUSTER_EINVAL, "reply \"%.100s\" of \"%.100s\": expected rpc.B.<service>.<verb>.<ref> of a message to.B.<from>.<type>", reply,
                   subject);
    if (is_own_service(p, service))
        return 0;
    return say(why, MUSTER_EACCES, "reply \"%.100s\": %.*s is no service of plugin %s", reply, (int)service.len, service.s, p->plugin);
}

/* ---- streams -------------------------------------------------------------------------------------------------------------------- */

/* The plugin's name, or the name, '_' and more. */
static bool is_own_name(const struct policy *p, struct text t)
{
    size_t len = strlen(p->plugin);

    return t.len >= len && memcmp(t.s, p->plugin, len) == 0 && (t.len == len || (t.s[len] == '_' && t.len > len + 1));
}

/* First tokens that agents take for the broker's word; a plugin of that name has no streams. */
static bool is_taken(struct text first)
{
    static const char *const kinds[] = {"evt", "rpc", "to", "all", "grp"};

    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (text_is(first, kinds[i]))
            return true;
    return is_of_broker(first);
}

int policy_stream(const struct policy *p, const char *name, const char *subjects, char why[POLICY_WHY_SIZE])
{
    if (!name || !name_is_legal(name, strlen(name)) || !subjects || !subject_is_pattern(subjects, strlen(subjects)))
        return say(why, MUSTER_EINVAL, "stream \"%.80s\": expected a name of letters, digits, _ or -, and a pattern", name ? name : "");
    if (!is_own_name(p, (struct text){name, strlen(name)}))
        return say(why, MUSTER_EACCES, "stream \"%.80s\": expected \"%s\" or \"%s_…\"", name, p->plugin, p->plugin);
    if (!is_own_name(p, token(subjects, 0)) || is_taken(token(subjects, 0)))
        return say(why, MUSTER_EACCES, "stream \"%.80s\" of \"%.100s\": expected subjects whose first token is \"%s\" or \"%s_…\"", name,
                   subjects, p->plugin, p->plugin);
    return 0;
}

int policy_append(const struct policy *p, const char *subject, char why[POLICY_WHY_SIZE])
{
    if (!subject || !subject_is_literal(subject, strlen(subject)))
        return say(why, MUSTER_EINVAL, "subject \"%.100s\": expected tokens without wildcards", subject ? subject : "");
    if (is_own_name(p, token(subject, 0)) && !is_taken(token(subject, 0)))
        return 0;
    return say(why, MUSTER_EACCES, "subject \"%.100s\": expected \"%s\" or \"%s_…\" as its first token", subject, p->plugin, p->plugin);
}
