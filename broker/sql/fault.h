/*
 * sql/fault.h - what a refusal of PostgreSQL means to who operates the broker, and what mends it. No state; any thread.
 */
#ifndef MUSTER_SQL_FAULT_H
#define MUSTER_SQL_FAULT_H

struct sql_fault {
    const char *code; /* a short stable word, as plugins and doctor use it too */
    const char *help; /* what mends it */
};

/* What text, which PostgreSQL or libpq said, is about. sqlstate "": it is looked for in text ("FATAL:  28P01: …"), then words are. */
struct sql_fault sql_fault_of(const char *sqlstate, const char *text);

#endif
