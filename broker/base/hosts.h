/*
 * base/hosts.h - the hosts of a PostgreSQL connection string, begun at another one than the first.
 *
 * libpq goes through its hosts from the front. Used without blocking it has no limit of time for each: one that takes the
 * connection and never answers, or that swallows packets, hides those behind it until the whole attempt is given up. So the
 * attempt after one that failed begins at the next host. All of them stay in the list, which is why target_session_attrs and
 * load_balance_hosts mean what they mean.
 *
 * Shape    Set first, give every option of PQconninfoParse() to hosts_take(), and the lists to PQconnectStartParams() behind
 *          dbname, where NULL says nothing.
 * Errors   Without memory the order is that of the connection string.
 * Memory   hosts_done() releases the lists.
 */
#ifndef MUSTER_BASE_HOSTS_H
#define MUSTER_BASE_HOSTS_H

#include <stdbool.h>

struct hosts {
    unsigned int first;           /* any number: it is taken modulo the hosts that there are */
    char *host, *hostaddr, *port; /* owned; NULL: as the connection string has it */
    bool as_is;                   /* a service names them, or there was no memory */
};

/* One option by its keyword, as the string has it, or else the environment. value and variable may be NULL. */
void hosts_take(struct hosts *h, const char *keyword, const char *value, const char *variable);
void hosts_done(struct hosts *h);

#endif
