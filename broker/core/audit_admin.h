/*
 * core/audit_admin.h - what was done to tenants and names, by the command line, by plain SQL or by a broker that admits a login: from
 * muster.audit into the stream AUDIT.
 *
 * Shape    Looks every half second. A broker claims rows for a minute, hands them to core/audit.h and removes what the stream has confirmed;
 *          what a broker that died had claimed is another's after that minute, under the same Nats-Msg-Id.
 *          Where credentials were made anew, who is connected with the old ones is cut.
 * Bounds   AUDIT_ADMIN_BATCH rows a statement.
 * Threads  The core lane, for every call but new and free.
 */
#ifndef MUSTER_CORE_AUDIT_ADMIN_H
#define MUSTER_CORE_AUDIT_ADMIN_H

struct audit_admin;
struct broker;

enum { AUDIT_ADMIN_BATCH = 500 };

int audit_admin_new(struct broker *broker, struct audit_admin **ret_admin); /* before audit_start() */
void audit_admin_free(struct audit_admin *a);                               /* after audit_stop(); accepts NULL */
int audit_admin_open(struct audit_admin *a);
void audit_admin_close(struct audit_admin *a); /* after tenants_close() */

#endif
