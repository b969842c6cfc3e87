/*
 * wire/subject.h - the subjects of INTERFACE 2: parsed, checked, matched.
 *
 * Shape    subject_parse() is strict: what it takes is exactly a subject of the table in INTERFACE
 *          2, with legal names. Parts are slices of the subject, so it must outlive them. Which
 *          part is filled is told at each kind.
 * Errors   MUSTER_ENOTFOUND: another root token, not ours. MUSTER_EINVAL: ours, and malformed.
 * Threads  Any; nothing is kept.
 */
#ifndef MUSTER_WIRE_SUBJECT_H
#define MUSTER_WIRE_SUBJECT_H

#include <muster/plugin.h>
#include <stdbool.h>
#include <stddef.h>

#include "wire/text.h"

enum {
    SUBJECT_RPC,   /* R.T.rpc.<agent>.<service>.<verb>[.<ref>]; agent may be a plugin or an operator, as which no agent can be named */
    SUBJECT_BOX,   /* R.T.box.<agent>.<rest>; likewise */
    SUBJECT_ALL,   /* R.T.all.<agent>.<verb>: the type is in verb */
    SUBJECT_TO,    /* R.T.to.<target>.<agent>.<verb> */
    SUBJECT_GRP,   /* R.T.grp.<target>.<agent>.<verb> */
    SUBJECT_MSG,   /* R.T.msg.<target> */
    SUBJECT_EVT,   /* R.T.evt.<service>.<verb>.<ref>: event and key; R.T.evt._.head has no ref */
    SUBJECT_CDC,   /* R.T.cdc.<service>.<schema>.<table>.<verb>.<ref>: source, operation, key */
    SUBJECT_AUDIT, /* R.T.audit.<service>.<verb>.<agent> */
    SUBJECT_LOG,   /* R.T.log.<all|to|grp>...: parts as of the kind in `inner` */
    SUBJECT_SUB,   /* R.T.sub.<target>.<ref> */
    SUBJECT_IN,    /* R._in.T.<rest>, what streams capture */
};

#define SUBJECT_PLUGIN_PREFIX "_p_"    /* and the plugin's name: a plugin as one who asks services */
#define SUBJECT_OPERATOR_PREFIX "_op_" /* and the operator's name: an operator outside its own tenant */

enum { SUBJECT_MAX = 1024 }; /* bytes; longer ones are malformed */

struct subject {
    int kind, inner; /* SUBJECT_*; inner: of LOG */
    struct text tenant;
    struct text agent;  /* who sends; of BOX and AUDIT: whose box, who did it */
    struct text target; /* who or which group is addressed */
    struct text service, verb, ref;
    struct text schema, table;
    struct text rest; /* all tokens behind the named ones */
};

/* Parse a full subject under the root token. */
int subject_parse(const char *root, const char *s, size_t len, struct subject *ret_subject);
/* Parse R.T.rpc.<agent>.… as far as the agent, whatever stands behind it: who asked for what is malformed. kind, tenant and agent
 * are filled. MUSTER_EINVAL: it is no request of an agent. */
int subject_parse_asker(const char *root, const char *s, size_t len, struct subject *ret_subject);
/* True for one who asks under such a prefix. */
bool subject_is_plugin(struct text asker);
bool subject_is_operator(struct text asker);
/* The kind's token: "rpc". */
const char *subject_kind_name(int kind);

/* True when a broker may answer agent's request on reply: inside root.tenant.box.agent.> or exactly
 * root.tenant.to.agent._muster.reply. Anything else could reach another tenant or $JS. */
bool subject_reply_is_own(const char *reply, const char *root, const char *tenant,
                          const char *agent);

/* Two subjects behind R.T.: a message to an agent, "to.B.<from>.<type>", and where its respond() goes, "rpc.B.<service>.<verb>.<ref>".
 * False: they are not, or of different agents. */
bool subject_responds(const char *message, const char *reply, struct text *ret_service);

/* True for tokens without blanks, control characters and wildcards, none of them empty. */
bool subject_is_literal(const char *s, size_t len);
/* True for what may be subscribed: as a literal, but '*' may be a token and '>' the last one. */
bool subject_is_pattern(const char *s, size_t len);
/* True when all that the second matches the first matches, too; the second may be a literal. Both well-formed. */
bool subject_covers(const char *pattern, const char *covered);
/* NATS matching of a pattern and a literal subject, both well-formed. */
bool subject_match(const char *pattern, const char *subject);
/* True when some subject matches both patterns. */
bool subject_overlap(const char *a, const char *b);

#endif
