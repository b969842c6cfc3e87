/*
 * common/work/notice.h - what an agent is told by `_muster`, live: R.T.to.<agent>._muster.<type>.
 */
#ifndef MUSTER_COMMON_WORK_NOTICE_H
#define MUSTER_COMMON_WORK_NOTICE_H

#include "base/buf.h"
#include "common/work/work.h"

/* Tell it; to what is no agent's name nothing is sent: who writes a table himself can have put anything there. reply: where its respond() goes,
 * "rpc.<agent>.<service>.<verb>.<ref>"; NULL: it is a receipt, and no more. 0, or MUSTER_E* with nothing sent. */
int notice_send(struct work *w, const struct muster_tenant *tenant, const char *agent, const char *type, const char *reply,
                const struct buf *json);
/* In start(): take receipts. The struct work is the instance's first member. */
int notice_receipts(struct work *w);
/* What respond() says is a receipt: it has come, and that is all. What the callback of the message returns. */
int notice_received(struct work *w, const struct muster_msg *msg);

/* The ref of something with an epoch: one token. Append it. */
void notice_ref(struct buf *out, const char *id, uint64_t epoch);
/* Of the last token of a subject; the id is appended. False: it is none. */
bool notice_read_ref(const char *subject, struct buf *ret_id, uint64_t *ret_epoch);

/* What respond() said, which may be anything; NULL: no map. value_free() it. */
struct muster_value *notice_body(const struct muster_msg *msg);
bool notice_says(const struct muster_value *body, const char *key, bool what);
/* Its reason, as much of it as a request may have, behind args as ,"reason":"…". */
void notice_put_reason(const struct muster_value *body, struct buf *args);

/* As JSON. v NULL: null. */
void notice_put_value(struct buf *b, const struct muster_value *v);

#endif
