/*
 * Every struct that crosses the border, reachable from one exported function, so that abidiff can hold a build against one header
 * beside a build against another.
 */
#include <muster/plugin.h>

MUSTER_EXPORT void muster_abi_types(const struct muster_plugin *, const struct muster_host *, const struct muster_msg *,
                                    const struct muster_bus *, const struct muster_stream *, const struct muster_kv *,
                                    const struct muster_lease *, const struct muster_sys *, const struct muster_timer *,
                                    const struct muster_io *, const struct muster_tenants *, const struct muster_config *,
                                    const struct muster_metrics *, const struct muster_sql *, const struct muster_codec *,
                                    const struct muster_list *, const struct muster_map *);
#ifdef MUSTER_LOGIN /* since 0.3 */
MUSTER_EXPORT void muster_abi_types_of_logins(const struct muster_logins *);
#endif
#ifdef MUSTER_ROSTER /* since 0.4 */
MUSTER_EXPORT void muster_abi_types_of_roster(const struct muster_roster *, const struct muster_agent *, const struct muster_roster_query *,
                                              const struct muster_roster_change *);
#endif

void muster_abi_types(const struct muster_plugin *plugin, const struct muster_host *host, const struct muster_msg *msg,
                      const struct muster_bus *bus, const struct muster_stream *stream, const struct muster_kv *kv,
                      const struct muster_lease *lease, const struct muster_sys *sys, const struct muster_timer *timer,
                      const struct muster_io *io, const struct muster_tenants *tenants, const struct muster_config *config,
                      const struct muster_metrics *metrics, const struct muster_sql *sql, const struct muster_codec *codec,
                      const struct muster_list *list, const struct muster_map *map)
{
    const void *all[] = {plugin, host, msg, bus, stream, kv, lease, sys, timer, io, tenants, config, metrics, sql, codec, list, map};

    (void)all; /* their types are what counts */
}

#ifdef MUSTER_LOGIN
void muster_abi_types_of_logins(const struct muster_logins *logins)
{
    (void)logins;
}
#endif

#ifdef MUSTER_ROSTER
void muster_abi_types_of_roster(const struct muster_roster *roster, const struct muster_agent *agent, const struct muster_roster_query *query,
                                const struct muster_roster_change *change)
{
    const void *all[] = {roster, agent, query, change};

    (void)all;
}
#endif
