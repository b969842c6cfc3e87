/*
 * common/work/outlook.h - what the answers to a plugin's own statements say of the database, told as the health of the plugin.
 *
 * Threads  The lane.
 */
#ifndef MUSTER_COMMON_WORK_OUTLOOK_H
#define MUSTER_COMMON_WORK_OUTLOOK_H

#include "common/work/work.h"

struct outlook {
    int code; /* of the last answer */
    char state[6]; /* its SQLSTATE */
    bool answered; /* once at least, with code 0 */
    int told;
};

void outlook_note(struct outlook *o, const struct muster_sql_result *result);
/* Where it is not what was told before. what: "tasks"; change: "no task changes". */
void outlook_tell(struct outlook *o, const struct muster_host *host, const char *what, const char *change);

#endif
