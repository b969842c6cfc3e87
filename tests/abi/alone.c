/* The header compiles alone, as C and, by alone.cpp, as C++; every macro that a plugin may use is used. */
#include <muster/plugin.h>

static int create(const struct muster_host *host, const void *config, void **ret_self)
{
    const void *table;

    if (MUSTER_HAS(host, postgres_dsn) && host->service(host, MUSTER_BUS, &table) != 0)
        return host->fail(host, MUSTER_EABI, "no %s", MUSTER_BUS);
    *ret_self = (void *)(uintptr_t)config;
    return 0;
}

static int start(void *self)
{
    return self ? 0 : MUSTER_EINVAL;
}

static void destroy(void *self)
{
    (void)self;
}

MUSTER_PLUGIN(.name = "alone", .version = "1", .create = create, .start = start, .destroy = destroy);
