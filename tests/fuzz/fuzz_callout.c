/*
 * Requests of an auth callout, on any bytes: as they come, which no signature lets through, and as the claims that a server has signed. What
 * is read has keys of the right kinds and texts, and can be answered.
 */
#include <string.h>

#include "auth/callout.h"
#include "auth/roles.h"
#include "base/assert.h"

/* Of nobody: it was made for this fuzzer, and the seeds name its public key. */
static const char server_seed[] = "SNAECQKBIFAUCQKBIFAUCQKBIFAUCQKBIFAUCQKBIFAUCQKBIFAUCQODSI";
static const char signer_seed[] = "SAAEEQSCIJBEEQSCIJBEEQSCIJBEEQSCIJBEEQSCIJBEEQSCIJBEEQSNII";

static void load(const char *seed, struct nkey *key)
{
    ASSERT(nkey_from_seed(seed, strlen(seed), key) == 0);
}

static void check(struct callout_request *r)
{
    static struct nkey signer;
    const struct callout_user user = {.root = "mst", .tenant = "acme", .agent = "a1", .role = ROLE_AGENT, .subscriptions = 1};
    struct buf answer = {0};

    if (!signer.text[0])
        load(signer_seed, &signer);
    const struct callout_issuer issuer = {&signer, signer.text, signer.text};
    ASSERT(r->user_key[0] == 'U' && r->server[0] == 'N' && r->token && r->user && r->client_name && r->host);
    ASSERT(strlen(r->token) + strlen(r->user) + strlen(r->client_name) + strlen(r->host) < r->text.len);
    ASSERT(callout_put_admission(&answer, &issuer, r, &user) == 0 && callout_put_refusal(&answer, &issuer, r, r->user) == 0);
    buf_done(&answer);
    callout_request_done(r);
}

static void put_signed(struct buf *out, const uint8_t *claims, size_t size)
{
    static struct nkey server;
    uint8_t sig[NKEY_SIG_LEN];

    if (!server.text[0])
        load(server_seed, &server);
    buf_put_base64url(out, "{\"typ\":\"JWT\",\"alg\":\"ed25519-nkey\"}", 35);
    buf_putc(out, '.');
    buf_put_base64url(out, claims, size);
    ASSERT(nkey_sign(&server, out->data, out->len, sig) == 0);
    buf_putc(out, '.');
    buf_put_base64url(out, sig, sizeof sig);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct callout_request r;
    struct buf text = {0};

    if (callout_read((const char *)data, size, &r) == 0)
        check(&r);
    put_signed(&text, data, size);
    if (callout_read(text.data, text.len, &r) == 0)
        check(&r);
    buf_done(&text);
    return 0;
}
