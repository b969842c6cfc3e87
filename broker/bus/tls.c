/* Certificates; see tls.h and bus_check_tls() in bus.h. */
#include "bus/tls.h"

#include <stdio.h>
#include <string.h>

/* The library takes tls:// for a wish: a server that offers none is spoken to in the clear. */
static bool is_secure(const struct bus_options *o)
{
    bool secure = o->tls_ca || o->tls_cert;

    for (size_t i = 0; i < o->n_urls && !secure; i++)
        secure = strncmp(o->urls[i], "tls://", 6) == 0;
    return secure;
}

struct tls_stamps tls_stamps(const struct bus_options *o)
{
    return (struct tls_stamps){stamp_of(o->tls_ca), stamp_of(o->tls_cert), stamp_of(o->tls_key)};
}

natsStatus tls_load(natsOptions *opts, const struct bus_options *o, const char **ret_key)
{
    natsStatus s = is_secure(o) ? natsOptions_SetSecure(opts, true) : NATS_OK;

    if (s == NATS_OK && o->tls_ca) {
        *ret_key = "nats.tls.ca";
        s = natsOptions_LoadCATrustedCertificates(opts, o->tls_ca);
    }
    if (s == NATS_OK && o->tls_cert) {
        *ret_key = "nats.tls.cert";
        s = natsOptions_LoadCertificatesChain(opts, o->tls_cert, o->tls_key);
    }
    return s;
}

/* Without the library's own "(opts.c:380): ". */
static const char *last_error(void)
{
    const char *text = nats_GetLastError(NULL), *end = text && text[0] == '(' ? strstr(text, "): ") : NULL;

    return end ? end + 3 : text ? text : "cannot be read";
}

int bus_check_tls(const struct bus_options *o, const char **ret_key, char why[BUS_WHY_SIZE])
{
    natsOptions *opts = NULL;
    const char *key = NULL;
    natsStatus s;

    if (!o->tls_ca && !o->tls_cert)
        return 0;
    s = natsOptions_Create(&opts);
    if (s == NATS_OK)
        s = tls_load(opts, o, &key);
    if (s != NATS_OK && key) {
        (void)snprintf(why, BUS_WHY_SIZE, "%s", last_error());
        *ret_key = key;
    }
    natsOptions_Destroy(opts);
    return s == NATS_OK ? 0 : key ? MUSTER_EINVAL : MUSTER_ENOMEM;
}
