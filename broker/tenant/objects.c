/* Limits by their names, those of objects that services declare too; see tenant.h. Any thread. */
#include <string.h>

#include "tenant/parts.h"

int tenants_limit_index(const struct tenants *t, const char *name, size_t len)
{
    uint32_t n = atomic_load_explicit(&t->n_objects, memory_order_acquire);
    int fixed = limit_find(name, len);

    if (fixed >= 0)
        return fixed;
    for (uint32_t i = 0; i < n; i++)
        if (strlen(t->objects[i]) == len && memcmp(t->objects[i], name, len) == 0)
            return TENANT_N_LIMITS + (int)i;
    return -1;
}

int tenants_declare(struct tenants *t, const char *name)
{
    size_t len = strlen(name);
    int err = limit_is_object(name, len) ? 0 : MUSTER_EINVAL;
    uint32_t n;

    if (err)
        return err;
    pthread_rwlock_wrlock(&t->lock);
    n = atomic_load(&t->n_objects);
    if (tenants_limit_index(t, name, len) >= 0) {
        ;
    } else if (n == LIMITS_MAX_OBJECTS) {
        err = MUSTER_EAGAIN;
    } else {
        memcpy(t->objects[n], name, len + 1);
        atomic_store_explicit(&t->n_objects, n + 1, memory_order_release);
    }
    pthread_rwlock_unlock(&t->lock);
    return err;
}

int64_t tenants_limit_named(const struct tenants *t, const struct muster_tenant *tenant, const char *name)
{
    int which = tenants_limit_index(t, name, strlen(name));

    return which < 0 ? -1 : tenants_limit(tenant, which);
}
