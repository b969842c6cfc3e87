/*
 * webhook/sign.h - signatures of Standard Webhooks 1.0 (v1: HMAC-SHA256).
 */
#ifndef WEBHOOK_SIGN_H
#define WEBHOOK_SIGN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SIGN_KEY_MIN = 24, SIGN_KEY_MAX = 64 };

struct sign_key {
    uint8_t bytes[SIGN_KEY_MAX];
    size_t len; /* 0: none */
};

enum { SIGN_ID_SIZE = 40, SIGN_TEXT_SIZE = 128 };

/* Read "whsec_<base64>", with blanks around it. NULL, or what was expected. */
const char *sign_read_key(const char *text, size_t len, struct sign_key *ret);
/* "v1,<base64>", and behind a blank the one of the old key where there is one. */
bool sign_make(const struct sign_key keys[2], const char *id, int64_t timestamp_s, const char *body, size_t len, char out[SIGN_TEXT_SIZE]);
/* "msg_" and 128 random bits. */
bool sign_new_id(char out[SIGN_ID_SIZE]);

#endif
