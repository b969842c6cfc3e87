/* Addresses; see address.h. */
#include "address.h"

#include <netinet/in.h>
#include <stdint.h>
#include <string.h>

/* The IANA registry of special addresses, as far as it is not reachable from everywhere. */
static const struct {
    uint32_t net;
    int bits;
} special[] = {{0x00000000, 8},  {0x0a000000, 8},  {0x64400000, 10}, {0x7f000000, 8},  {0xa9fe0000, 16}, {0xac100000, 12},
               {0xc0000000, 24}, {0xc0000200, 24}, {0xc0586300, 24}, {0xc0a80000, 16}, {0xc6120000, 15}, {0xc6336400, 24},
               {0xcb007100, 24}, {0xe0000000, 3}};

static bool is_public_v4(uint32_t address)
{
    for (size_t i = 0; i < sizeof special / sizeof *special; i++)
        if ((address ^ special[i].net) >> (32 - special[i].bits) == 0)
            return false;
    return true;
}

/* Global unicast is 2000::/3. Within it 2001::/23 holds protocols, Teredo among them, 2001:db8::/32 and 3fff::/20 documentation, and
 * 2002::/16 embeds IPv4 addresses. Mapped and translated IPv4 lies outside. */
static bool is_public_v6(const uint8_t a[16])
{
    if (a[0] >> 5 != 1)
        return false;
    if (a[0] == 0x20 && a[1] == 0x01 && (a[2] < 0x02 || (a[2] == 0x0d && a[3] == 0xb8)))
        return false;
    if (a[0] == 0x3f && a[1] == 0xff && a[2] < 0x10)
        return false;
    return !(a[0] == 0x20 && a[1] == 0x02);
}

bool address_is_public(const struct sockaddr *address)
{
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;

    if (address->sa_family == AF_INET) {
        memcpy(&v4, address, sizeof v4);
        return is_public_v4(ntohl(v4.sin_addr.s_addr));
    }
    if (address->sa_family != AF_INET6)
        return false;
    memcpy(&v6, address, sizeof v6);
    return is_public_v6(v6.sin6_addr.s6_addr);
}
