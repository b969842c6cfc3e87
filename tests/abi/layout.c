/*
 * The layout of the plugin ABI on 64-bit targets, pinned. A line here changes only together with MUSTER_ABI_MINOR (members
 * appended) or MUSTER_ABI_MAJOR, and with the tables in ABI.md.
 */
#include <muster/plugin.h>

#define SIZE(name, bytes) _Static_assert(sizeof(struct name) == (bytes), "size of struct " #name)
#define AT(name, member, bytes) _Static_assert(offsetof(struct name, member) == (bytes), #name "." #member)

_Static_assert(sizeof(void *) == 8, "the pinned layout is that of 64-bit targets");
_Static_assert(MUSTER_ABI_MAJOR == 0 && MUSTER_ABI_MINOR == 1, "pin the layout of the new version here");

SIZE(muster_bytes, 16);
AT(muster_bytes, len, 8);
SIZE(muster_header, 16);
SIZE(muster_msg, 104);
AT(muster_msg, encoding, 4);
AT(muster_msg, tenant, 8);
AT(muster_msg, agent, 16);
AT(muster_msg, subject, 24);
AT(muster_msg, service, 32);
AT(muster_msg, verb, 40);
AT(muster_msg, headers, 48);
AT(muster_msg, n_headers, 56);
AT(muster_msg, request, 64);
AT(muster_msg, payload, 72);
AT(muster_msg, recv_ns, 88);
AT(muster_msg, seq, 96);
SIZE(muster_host, 96);
AT(muster_host, impl, 8);
AT(muster_host, log, 16);
AT(muster_host, fail, 24);
AT(muster_host, post, 32);
AT(muster_host, service, 40);
AT(muster_host, health, 48);
AT(muster_host, plugin, 56);
AT(muster_host, lane, 72);
AT(muster_host, postgres_dsn, 88);
SIZE(muster_subscription, 40);
AT(muster_subscription, subject, 8);
AT(muster_subscription, max_bytes, 24);
AT(muster_subscription, fn, 32);
SIZE(muster_publication, 64);
AT(muster_publication, tenant, 8);
AT(muster_publication, payload, 32);
AT(muster_publication, arg, 56);
SIZE(muster_bus, 72);
AT(muster_bus, subscribe, 8);
AT(muster_bus, publish, 24);
AT(muster_bus, request, 32);
AT(muster_bus, reply, 40);
AT(muster_bus, drop, 64);
SIZE(muster_stream_info, 48);
SIZE(muster_stream_options, 40);
SIZE(muster_append, 72);
AT(muster_append, expected_seq, 48);
AT(muster_append, arg, 64);
SIZE(muster_stream, 48);
AT(muster_stream, append, 40);
SIZE(muster_kv, 24);
AT(muster_kv, put, 16);
SIZE(muster_timer, 48);
AT(muster_timer, wall_now, 40);
SIZE(muster_io, 32);
AT(muster_io, unwatch, 24);
SIZE(muster_tenant_limits, 24);
SIZE(muster_table, 48);
SIZE(muster_tenants, 56);
AT(muster_tenants, tables, 48);
SIZE(muster_config, 16);
SIZE(muster_metrics, 40);
AT(muster_metrics, observe, 32);
SIZE(muster_sql_result, 40);
AT(muster_sql_result, get, 32);
SIZE(muster_sql, 24);
AT(muster_sql, exec, 16);
SIZE(muster_codec, 184);
AT(muster_codec, bytes, 176);
SIZE(muster_list, 16);
SIZE(muster_map, 24);
SIZE(muster_option, 88);
AT(muster_option, offset, 32);
AT(muster_option, min, 40);
AT(muster_option, choices, 56);
AT(muster_option, entry_size, 80);
SIZE(muster_service, 32);
AT(muster_service, schema, 24);
SIZE(muster_plugin, 136);
AT(muster_plugin, abi_major, 4);
AT(muster_plugin, name, 8);
AT(muster_plugin, capabilities, 32);
AT(muster_plugin, options, 40);
AT(muster_plugin, config_size, 56);
AT(muster_plugin, services, 64);
AT(muster_plugin, create, 80);
AT(muster_plugin, destroy, 104);
AT(muster_plugin, on_tables, 128);

/* The values are part of the contract as well. */
_Static_assert(MUSTER_EINVAL == -1 && MUSTER_ENOMEM == -2 && MUSTER_EAGAIN == -3 && MUSTER_EACCES == -4 && MUSTER_ETIME == -5 &&
                   MUSTER_EABI == -6 && MUSTER_ESTALE == -7 && MUSTER_ENOTFOUND == -8 && MUSTER_EEXIST == -9 && MUSTER_ELINK == -10,
               "error codes");
_Static_assert(MUSTER_JSON == 1 && MUSTER_MSGPACK == 2, "encodings");
_Static_assert(MUSTER_T_BOOL == 0 && MUSTER_T_MAP == 8, "types of options");
_Static_assert(MUSTER_HEALTH_OK == 0 && MUSTER_HEALTH_DOWN == 3, "states");

int main(void)
{
    return 0; /* compiling it is the test */
}
