/*
 * auth/nkey.h - Ed25519 nkeys of NATS: operator, account, user and server.
 *
 * Shape    A public key is base32(prefix, 32 bytes, CRC-16); a seed carries two prefix bytes. Both are plain text.
 * Errors   0 or MUSTER_EINVAL (the text is no such key) or MUSTER_ENOMEM (OpenSSL refused).
 * Memory   A struct nkey holds its seed: nkey_wipe() when done, and every buffer that held a seed text.
 * Threads  Any; no state.
 */
#ifndef MUSTER_AUTH_NKEY_H
#define MUSTER_AUTH_NKEY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { NKEY_RAW_LEN = 32, NKEY_SIG_LEN = 64, NKEY_TEXT_SIZE = 57, NKEY_SEED_SIZE = 59 };

/* The prefix bytes as NATS defines them: their base32 begins with O, A, U and N. */
enum { NKEY_OPERATOR = 14 << 3, NKEY_ACCOUNT = 0, NKEY_USER = 20 << 3, NKEY_SERVER = 13 << 3 };

struct nkey {
    int kind;
    uint8_t seed[NKEY_RAW_LEN];
    char text[NKEY_TEXT_SIZE]; /* the public form */
};

int nkey_generate(int kind, struct nkey *ret_key);
/* Read a seed text; the kind is in it. */
int nkey_from_seed(const char *text, size_t len, struct nkey *ret_key);
/* Write the seed text; wipe it after use. */
void nkey_seed_text(const struct nkey *key, char out[NKEY_SEED_SIZE]);
int nkey_sign(const struct nkey *key, const void *data, size_t len, uint8_t ret_sig[NKEY_SIG_LEN]);
void nkey_wipe(struct nkey *key);

/* Check and take apart a public key's text. */
int nkey_public_decode(const char *text, size_t len, int *ret_kind, uint8_t ret_raw[NKEY_RAW_LEN]);
/* True when sig over data is by the owner of the public key. */
bool nkey_verify(const char *public_text, const void *data, size_t len,
                 const uint8_t sig[NKEY_SIG_LEN]);

#endif
