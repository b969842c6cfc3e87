/* OpenSSL in this process; see crypto.h. */
#include "base/crypto.h"

#include <openssl/crypto.h>

/* Failing, it leaves OpenSSL as it is by itself, and whoever needs it next is told. */
void crypto_keep(void)
{
    (void)OPENSSL_init_crypto(OPENSSL_INIT_NO_ATEXIT, NULL);
}
