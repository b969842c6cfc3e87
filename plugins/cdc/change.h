/*
 * cdc/change.h - the body, the key and single values of one row change.
 *
 * Shape    struct change says what happened, all borrowed; change_body() writes {schema, table, op,
 *          lsn, commit_time, xid, key, new, old, unchanged, omitted, columns?}; `unchanged` and
 *          `omitted` are empty lists mostly.
 * Rules    insert has old null, delete new null, truncate both and an empty key. An old 'K' tuple
 *          shows the columns of the identity only: its others are absent, not NULL. An unchanged
 *          TOAST value is filled from the old tuple where that has it; otherwise it is left out of
 *          new and named in `unchanged`. key is of the new row, of a delete of the old one.
 * Size     A body that would exceed its limit is written again with the key and the columns whose
 *          texts, new and old, are at most CHANGE_SMALL bytes; then with the key and empty values
 *          alone. The others are in `omitted` and in neither row. A text of more than
 *          CHANGE_HOPELESS times the limit is not even tried.
 * Reuse    A tenant move is the same change with op 'D', then 'I': the op decides which tuples are
 *          shown.
 * Threads  None: one owner.
 */
#ifndef MUSTER_CDC_CHANGE_H
#define MUSTER_CDC_CHANGE_H

#include "base/name.h"
#include "cdc/relation.h"

enum { CHANGE_SMALL = 64, CHANGE_HOPELESS = 8 };

/* The part of a body that all changes of a transaction share, ready made. Zero-initialised;
 * change_txn_done(). */
struct change_txn {
    struct buf text[RELATION_ENCODINGS]; /* `,"lsn":…,"commit_time":…,"xid":…` */
};

void change_txn_done(struct change_txn *txn);
/* Take a transaction's commit LSN, time and id. MUSTER_EINVAL when the time is not in the years
 * 1970 to 2262. */
int change_txn_set(struct change_txn *txn, const struct pgoutput_begin *begin);

struct change {
    const struct relation *rel;
    const struct change_txn *txn;
    char op;                                        /* I U D T, as pgoutput's */
    char old_kind;                                  /* K, O, or 0: there is no old tuple */
    const struct pgoutput_tuple *new_row, *old_row; /* NULL where there is none */
    bool list_columns;                              /* add `columns` */
};

/* The change that an I, U or D message holds. */
struct change change_of(const struct pgoutput *msg, const struct relation *rel,
                        const struct change_txn *txn);
/* MUSTER_EINVAL when the tuples do not have the relation's columns, or lack where the op needs one.
 * All functions below take a change that passed. */
int change_check(const struct change *c);

/* Append the body in o's encoding to b, at most max bytes. MUSTER_ENOMEM; MUSTER_EAGAIN when not
 * even the key fits. b has nothing of the body then. */
int change_body(const struct change *c, struct out *o, size_t max, struct buf *b);

/* Append the value of Muster-Key: for one column the value as a body shows it (of a string what stands
 * between the quotes), for several the JSON array of the values. One value with bytes that no header can carry (control characters, not UTF-8, space at
 * an end) is a JSON array too. Nothing is appended where there is no key. token (NAME_TOKEN_SIZE
 * bytes) is the subject's key token, "_" where there is no key; NULL: not wanted, which spares a
 * hash. MUSTER_ENOMEM. */
int change_key(const struct change *c, struct out *o, struct buf *b, char *token);
/* Whether a header can carry the bytes and give them back. */
bool change_fits_header(const char *s, size_t len);

enum { CHANGE_ABSENT, CHANGE_NULL, CHANGE_VALUE };
/* The text of column i before or after the change. CHANGE_ABSENT: the change does not tell it;
 * *ret_text is written for CHANGE_VALUE only and borrowed from the tuples. */
int change_new_text(const struct change *c, uint32_t i, struct muster_bytes *ret_text);
int change_old_text(const struct change *c, uint32_t i, struct muster_bytes *ret_text);

#endif
