/*
 * auth/token.h - Muster's own tokens: random, opaque, and known to the database by a salted hash only.
 *
 * Shape    mst_<id>_<secret>: the id is 80 random bits and finds the row, the secret is 256 and proves who has it; both in lower-case
 *          base32. What is stored is the id and `sha256:<salt>:<hash>` in hexadecimal. One round of SHA-256 is enough for a secret
 *          that nobody can guess, and a login costs microseconds.
 * Errors   0, MUSTER_EINVAL (no such token, another secret) or MUSTER_ENOMEM (no random numbers).
 * Memory   A struct token holds the secret: token_wipe() when done, and every buffer that held the text.
 * Threads  Any; no state.
 */
#ifndef MUSTER_AUTH_TOKEN_H
#define MUSTER_AUTH_TOKEN_H

#include <stdbool.h>
#include <stddef.h>

#define TOKEN_PREFIX "mst_"

enum {
    TOKEN_ID_LEN = 16,
    TOKEN_SECRET_LEN = 52,
    TOKEN_TEXT_SIZE = 4 + TOKEN_ID_LEN + 1 + TOKEN_SECRET_LEN + 1,
    TOKEN_HASH_SIZE = 7 + 32 + 1 + 64 + 1,
};

struct token {
    char id[TOKEN_ID_LEN + 1], secret[TOKEN_SECRET_LEN + 1];
};

int token_generate(struct token *ret_token);
/* True for what begins like a token of Muster, whole or not: no other kind of token does. */
bool token_is_ours(const char *text, size_t len);
int token_read(const char *text, size_t len, struct token *ret_token);
void token_text(const struct token *token, char out[TOKEN_TEXT_SIZE]);
/* Write what is stored, with a fresh salt. */
int token_hash(const struct token *token, char out[TOKEN_HASH_SIZE]);
/* 0 when stored is the hash of this token's secret, in a time that tells nothing of where they differ. */
int token_check(const struct token *token, const char *stored);
void token_wipe(struct token *token);

#endif
