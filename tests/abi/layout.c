/*
 * The layout of ABI 0.4, pinned: where each member of each struct stands. A member that moves breaks every plugin that was built before,
 * so a failure here is never mended here: append the member instead, or raise the number of the ABI and pin the new layout.
 *
 * For 64-bit machines, where pointers, size_t and uint64_t have 8 bytes. tests/abi/header.py checks that no member is missing below.
 */
#include <muster/plugin.h>

_Static_assert(MUSTER_ABI_MAJOR == 0 && MUSTER_ABI_MINOR == 4, "another ABI: pin its layout");
_Static_assert(sizeof(void *) == 8 && sizeof(size_t) == 8, "the numbers are those of 64-bit machines");

#define SIZE(type, bytes) _Static_assert(sizeof(struct type) == (bytes), #type)
#define AT(type, member, at) _Static_assert(offsetof(struct type, member) == (at), #type "." #member)

SIZE(muster_bytes, 16);
AT(muster_bytes, data, 0);
AT(muster_bytes, len, 8);

SIZE(muster_header, 16);
AT(muster_header, name, 0);
AT(muster_header, value, 8);

SIZE(muster_msg, 120);
AT(muster_msg, size, 0);
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
AT(muster_msg, role, 104);
AT(muster_msg, stored_wall_ns, 112);

SIZE(muster_host, 104);
AT(muster_host, size, 0);
AT(muster_host, abi_major, 4);
AT(muster_host, abi_minor, 6);
AT(muster_host, impl, 8);
AT(muster_host, log, 16);
AT(muster_host, fail, 24);
AT(muster_host, post, 32);
AT(muster_host, service, 40);
AT(muster_host, health, 48);
AT(muster_host, plugin, 56);
AT(muster_host, instance, 64);
AT(muster_host, lane, 72);
AT(muster_host, n_lanes, 76);
AT(muster_host, broker_id, 80);
AT(muster_host, postgres_dsn, 88);
AT(muster_host, root, 96);

SIZE(muster_subscription, 40);
AT(muster_subscription, size, 0);
AT(muster_subscription, overflow, 4);
AT(muster_subscription, subject, 8);
AT(muster_subscription, max_msgs, 16);
AT(muster_subscription, queue, 20);
AT(muster_subscription, max_bytes, 24);
AT(muster_subscription, fn, 32);

SIZE(muster_publication, 72);
AT(muster_publication, size, 0);
AT(muster_publication, n_headers, 4);
AT(muster_publication, tenant, 8);
AT(muster_publication, subject, 16);
AT(muster_publication, headers, 24);
AT(muster_publication, payload, 32);
AT(muster_publication, done, 48);
AT(muster_publication, arg, 56);
AT(muster_publication, reply, 64);

SIZE(muster_bus, 80);
AT(muster_bus, size, 0);
AT(muster_bus, subscribe, 8);
AT(muster_bus, unsubscribe, 16);
AT(muster_bus, publish, 24);
AT(muster_bus, request, 32);
AT(muster_bus, reply, 40);
AT(muster_bus, reply_error, 48);
AT(muster_bus, hold, 56);
AT(muster_bus, drop, 64);
AT(muster_bus, pause, 72);

SIZE(muster_stream_info, 48);
AT(muster_stream_info, size, 0);
AT(muster_stream_info, reserved, 4);
AT(muster_stream_info, first_seq, 8);
AT(muster_stream_info, last_seq, 16);
AT(muster_stream_info, n_msgs, 24);
AT(muster_stream_info, n_bytes, 32);
AT(muster_stream_info, created_wall_ns, 40);

SIZE(muster_stream_options, 64);
AT(muster_stream_options, size, 0);
AT(muster_stream_options, replicas, 4);
AT(muster_stream_options, name, 8);
AT(muster_stream_options, subjects, 16);
AT(muster_stream_options, max_age_ns, 24);
AT(muster_stream_options, max_bytes, 32);
AT(muster_stream_options, republish, 40);
AT(muster_stream_options, max_msgs, 48);
AT(muster_stream_options, max_msgs_per_subject, 56);

SIZE(muster_append, 80);
AT(muster_append, size, 0);
AT(muster_append, n_headers, 4);
AT(muster_append, tenant, 8);
AT(muster_append, subject, 16);
AT(muster_append, headers, 24);
AT(muster_append, payload, 32);
AT(muster_append, expected_seq, 48);
AT(muster_append, acked, 56);
AT(muster_append, arg, 64);
AT(muster_append, lease, 72);

SIZE(muster_stream, 88);
AT(muster_stream, size, 0);
AT(muster_stream, open, 8);
AT(muster_stream, close, 16);
AT(muster_stream, info, 24);
AT(muster_stream, last, 32);
AT(muster_stream, append, 40);
AT(muster_stream, read, 48);
AT(muster_stream, attach, 56);
AT(muster_stream, follow, 64);
AT(muster_stream, unfollow, 72);
AT(muster_stream, hold_back, 80);

SIZE(muster_kv_put, 80);
AT(muster_kv_put, size, 0);
AT(muster_kv_put, reserved, 4);
AT(muster_kv_put, tenant, 8);
AT(muster_kv_put, key, 16);
AT(muster_kv_put, value, 24);
AT(muster_kv_put, revision, 40);
AT(muster_kv_put, ttl_ns, 48);
AT(muster_kv_put, lease, 56);
AT(muster_kv_put, fn, 64);
AT(muster_kv_put, arg, 72);

SIZE(muster_kv_entry, 48);
AT(muster_kv_entry, size, 0);
AT(muster_kv_entry, reserved, 4);
AT(muster_kv_entry, key, 8);
AT(muster_kv_entry, value, 16);
AT(muster_kv_entry, revision, 32);
AT(muster_kv_entry, expires_wall_ns, 40);

SIZE(muster_kv, 40);
AT(muster_kv, size, 0);
AT(muster_kv, get, 8);
AT(muster_kv, put, 16);
AT(muster_kv, del, 24);
AT(muster_kv, scan, 32);

SIZE(muster_lease_options, 48);
AT(muster_lease_options, size, 0);
AT(muster_lease_options, reserved, 4);
AT(muster_lease_options, name, 8);
AT(muster_lease_options, ttl_ns, 16);
AT(muster_lease_options, on_got, 24);
AT(muster_lease_options, on_lost, 32);
AT(muster_lease_options, arg, 40);

SIZE(muster_lease, 32);
AT(muster_lease, size, 0);
AT(muster_lease, reserved, 4);
AT(muster_lease, acquire, 8);
AT(muster_lease, release, 16);
AT(muster_lease, epoch, 24);

SIZE(muster_connection, 64);
AT(muster_connection, size, 0);
AT(muster_connection, kind, 4);
AT(muster_connection, tenant, 8);
AT(muster_connection, agent, 16);
AT(muster_connection, server, 24);
AT(muster_connection, client, 32);
AT(muster_connection, name, 40);
AT(muster_connection, reason, 48);
AT(muster_connection, at_wall_ns, 56);

SIZE(muster_sys, 40);
AT(muster_sys, size, 0);
AT(muster_sys, reserved, 4);
AT(muster_sys, watch, 8);
AT(muster_sys, unwatch, 16);
AT(muster_sys, list, 24);
AT(muster_sys, kick, 32);

SIZE(muster_login, 56);
AT(muster_login, size, 0);
AT(muster_login, reserved, 4);
AT(muster_login, id, 8);
AT(muster_login, token, 16);
AT(muster_login, user, 24);
AT(muster_login, client_name, 32);
AT(muster_login, host, 40);
AT(muster_login, recv_ns, 48);

SIZE(muster_admission, 40);
AT(muster_admission, size, 0);
AT(muster_admission, reserved, 4);
AT(muster_admission, tenant, 8);
AT(muster_admission, agent, 16);
AT(muster_admission, role, 24);
AT(muster_admission, expires_wall_ns, 32);

SIZE(muster_logins, 32);
AT(muster_logins, size, 0);
AT(muster_logins, reserved, 4);
AT(muster_logins, serve, 8);
AT(muster_logins, admit, 16);
AT(muster_logins, refuse, 24);

SIZE(muster_agent, 112);
AT(muster_agent, size, 0);
AT(muster_agent, status, 4);
AT(muster_agent, flags, 8);
AT(muster_agent, capacity, 12);
AT(muster_agent, load, 16);
AT(muster_agent, serial, 24);
AT(muster_agent, agent, 32);
AT(muster_agent, session, 40);
AT(muster_agent, name, 48);
AT(muster_agent, task, 56);
AT(muster_agent, capabilities, 64);
AT(muster_agent, labels, 72);
AT(muster_agent, n_capabilities, 80);
AT(muster_agent, n_labels, 84);
AT(muster_agent, metadata, 88);
AT(muster_agent, started_wall_ns, 104);

SIZE(muster_roster_query, 48);
AT(muster_roster_query, size, 0);
AT(muster_roster_query, statuses, 4);
AT(muster_roster_query, without_flags, 8);
AT(muster_roster_query, n_capabilities, 12);
AT(muster_roster_query, n_labels, 16);
AT(muster_roster_query, limit, 20);
AT(muster_roster_query, capabilities, 24);
AT(muster_roster_query, labels, 32);
AT(muster_roster_query, after, 40);

SIZE(muster_roster_change, 40);
AT(muster_roster_change, size, 0);
AT(muster_roster_change, kind, 4);
AT(muster_roster_change, tenant, 8);
AT(muster_roster_change, agent, 16);
AT(muster_roster_change, session, 24);
AT(muster_roster_change, reason, 32);

SIZE(muster_roster, 72);
AT(muster_roster, size, 0);
AT(muster_roster, reserved, 4);
AT(muster_roster, get, 8);
AT(muster_roster, find, 16);
AT(muster_roster, count, 24);
AT(muster_roster, watch, 32);
AT(muster_roster, unwatch, 40);
AT(muster_roster, put, 48);
AT(muster_roster, remove, 56);
AT(muster_roster, clear, 64);

SIZE(muster_timer, 48);
AT(muster_timer, size, 0);
AT(muster_timer, reserved, 4);
AT(muster_timer, every, 8);
AT(muster_timer, once, 16);
AT(muster_timer, stop, 24);
AT(muster_timer, now, 32);
AT(muster_timer, wall_now, 40);

SIZE(muster_io, 32);
AT(muster_io, size, 0);
AT(muster_io, reserved, 4);
AT(muster_io, watch, 8);
AT(muster_io, change, 16);
AT(muster_io, unwatch, 24);

SIZE(muster_tenant_limits, 24);
AT(muster_tenant_limits, size, 0);
AT(muster_tenant_limits, encoding, 4);
AT(muster_tenant_limits, requests_per_s, 8);
AT(muster_tenant_limits, burst, 16);

SIZE(muster_table, 48);
AT(muster_table, size, 0);
AT(muster_table, subject_key, 4);
AT(muster_table, schema, 8);
AT(muster_table, table, 16);
AT(muster_table, tenant_column, 24);
AT(muster_table, tenant, 32);
AT(muster_table, owner_column, 40);

SIZE(muster_tenants, 72);
AT(muster_tenants, size, 0);
AT(muster_tenants, reserved, 4);
AT(muster_tenants, name, 8);
AT(muster_tenants, limits, 16);
AT(muster_tenants, find, 24);
AT(muster_tenants, each, 32);
AT(muster_tenants, refresh, 40);
AT(muster_tenants, tables, 48);
AT(muster_tenants, limit, 56);
AT(muster_tenants, may_hear, 64);

SIZE(muster_config, 16);
AT(muster_config, size, 0);
AT(muster_config, reserved, 4);
AT(muster_config, position, 8);

SIZE(muster_metrics, 40);
AT(muster_metrics, size, 0);
AT(muster_metrics, reserved, 4);
AT(muster_metrics, make, 8);
AT(muster_metrics, add, 16);
AT(muster_metrics, set, 24);
AT(muster_metrics, observe, 32);

SIZE(muster_sql_result, 40);
AT(muster_sql_result, size, 0);
AT(muster_sql_result, code, 4);
AT(muster_sql_result, error, 8);
AT(muster_sql_result, sqlstate, 16);
AT(muster_sql_result, n_rows, 24);
AT(muster_sql_result, n_columns, 28);
AT(muster_sql_result, get, 32);

SIZE(muster_sql, 24);
AT(muster_sql, size, 0);
AT(muster_sql, reserved, 4);
AT(muster_sql, prepare, 8);
AT(muster_sql, exec, 16);

SIZE(muster_codec, 184);
AT(muster_codec, size, 0);
AT(muster_codec, reserved, 4);
AT(muster_codec, decode, 8);
AT(muster_codec, free_doc, 16);
AT(muster_codec, type, 24);
AT(muster_codec, count, 32);
AT(muster_codec, at, 40);
AT(muster_codec, key, 48);
AT(muster_codec, get, 56);
AT(muster_codec, as_int, 64);
AT(muster_codec, as_float, 72);
AT(muster_codec, as_str, 80);
AT(muster_codec, writer_new, 88);
AT(muster_codec, writer_free, 96);
AT(muster_codec, put_map, 104);
AT(muster_codec, put_array, 112);
AT(muster_codec, put_str, 120);
AT(muster_codec, put_bin, 128);
AT(muster_codec, put_int, 136);
AT(muster_codec, put_float, 144);
AT(muster_codec, put_bool, 152);
AT(muster_codec, put_null, 160);
AT(muster_codec, put_value, 168);
AT(muster_codec, bytes, 176);

SIZE(muster_list, 16);
AT(muster_list, items, 0);
AT(muster_list, n, 8);

SIZE(muster_map, 24);
AT(muster_map, keys, 0);
AT(muster_map, entries, 8);
AT(muster_map, n, 16);

SIZE(muster_option, 88);
AT(muster_option, key, 0);
AT(muster_option, help, 8);
AT(muster_option, def, 16);
AT(muster_option, type, 24);
AT(muster_option, flags, 28);
AT(muster_option, offset, 32);
AT(muster_option, min, 40);
AT(muster_option, max, 48);
AT(muster_option, choices, 56);
AT(muster_option, fields, 64);
AT(muster_option, n_fields, 72);
AT(muster_option, reserved, 76);
AT(muster_option, entry_size, 80);

SIZE(muster_service, 32);
AT(muster_service, size, 0);
AT(muster_service, reserved, 4);
AT(muster_service, name, 8);
AT(muster_service, verbs, 16);
AT(muster_service, schema, 24);

SIZE(muster_plugin, 168);
AT(muster_plugin, size, 0);
AT(muster_plugin, abi_major, 4);
AT(muster_plugin, abi_minor, 6);
AT(muster_plugin, name, 8);
AT(muster_plugin, version, 16);
AT(muster_plugin, source_id, 24);
AT(muster_plugin, capabilities, 32);
AT(muster_plugin, options, 40);
AT(muster_plugin, n_options, 48);
AT(muster_plugin, option_size, 52);
AT(muster_plugin, config_size, 56);
AT(muster_plugin, services, 64);
AT(muster_plugin, n_services, 72);
AT(muster_plugin, service_size, 76);
AT(muster_plugin, create, 80);
AT(muster_plugin, start, 88);
AT(muster_plugin, drain, 96);
AT(muster_plugin, destroy, 104);
AT(muster_plugin, on_writable, 112);
AT(muster_plugin, on_link, 120);
AT(muster_plugin, on_tables, 128);
AT(muster_plugin, check, 136);
AT(muster_plugin, reload, 144);
AT(muster_plugin, on_pause, 152);
AT(muster_plugin, on_resume, 160);

#define VALUE(name, value) _Static_assert((name) == (value), #name)
VALUE(MUSTER_EINVAL, -1);
VALUE(MUSTER_ENOMEM, -2);
VALUE(MUSTER_EAGAIN, -3);
VALUE(MUSTER_EACCES, -4);
VALUE(MUSTER_ETIME, -5);
VALUE(MUSTER_EABI, -6);
VALUE(MUSTER_ESTALE, -7);
VALUE(MUSTER_ENOTFOUND, -8);
VALUE(MUSTER_EEXIST, -9);
VALUE(MUSTER_ELINK, -10);
VALUE(MUSTER_LOG_ERROR, 0);
VALUE(MUSTER_LOG_WARN, 1);
VALUE(MUSTER_LOG_INFO, 2);
VALUE(MUSTER_LOG_DEBUG, 3);
VALUE(MUSTER_JSON, 1);
VALUE(MUSTER_MSGPACK, 2);
VALUE(MUSTER_ROLE_NONE, 0);
VALUE(MUSTER_ROLE_AGENT, 1);
VALUE(MUSTER_ROLE_OBSERVER, 2);
VALUE(MUSTER_ROLE_USER, 3);
VALUE(MUSTER_ROLE_HUMAN, 4);
VALUE(MUSTER_ROLE_ADMIN, 5);
VALUE(MUSTER_ROLE_OPERATOR, 6);
VALUE(MUSTER_ROLE_PLUGIN, 7);
VALUE(MUSTER_HEALTH_OK, 0);
VALUE(MUSTER_HEALTH_STANDBY, 1);
VALUE(MUSTER_HEALTH_DEGRADED, 2);
VALUE(MUSTER_HEALTH_DOWN, 3);
VALUE(MUSTER_OVERFLOW_REJECT, 0);
VALUE(MUSTER_OVERFLOW_DROP_NEW, 1);
VALUE(MUSTER_OVERFLOW_DROP_OLD, 2);
VALUE(MUSTER_SYS_CONNECT, 1);
VALUE(MUSTER_SYS_DISCONNECT, 2);
VALUE(MUSTER_SYS_GAP, 3);
VALUE(MUSTER_SYS_SERVER_LOST, 4);
VALUE(MUSTER_SYS_SERVER_BACK, 5);
VALUE(MUSTER_AGENT_ONLINE, 1);
VALUE(MUSTER_AGENT_BUSY, 2);
VALUE(MUSTER_AGENT_AWAY, 3);
VALUE(MUSTER_AGENT_SUSPECT, 1);
VALUE(MUSTER_AGENT_PULLS, 2);
VALUE(MUSTER_AGENT_ASKS, 4);
VALUE(MUSTER_ROSTER_JOIN, 1);
VALUE(MUSTER_ROSTER_LEAVE, 2);
VALUE(MUSTER_ROSTER_STATUS, 3);
VALUE(MUSTER_ROSTER_SUSPECT, 4);
VALUE(MUSTER_ROSTER_REPLACED, 5);
VALUE(MUSTER_ROSTER_RESET, 6);
VALUE(MUSTER_READABLE, 1);
VALUE(MUSTER_WRITABLE, 2);
VALUE(MUSTER_COUNTER, 0);
VALUE(MUSTER_GAUGE, 1);
VALUE(MUSTER_HISTOGRAM, 2);
VALUE(MUSTER_SQL_READ, 0);
VALUE(MUSTER_SQL_WRITE, 1);
VALUE(MUSTER_NULL, 0);
VALUE(MUSTER_BOOL, 1);
VALUE(MUSTER_INT, 2);
VALUE(MUSTER_FLOAT, 3);
VALUE(MUSTER_STR, 4);
VALUE(MUSTER_BIN, 5);
VALUE(MUSTER_ARRAY, 6);
VALUE(MUSTER_MAP, 7);
VALUE(MUSTER_T_BOOL, 0);
VALUE(MUSTER_T_INT, 1);
VALUE(MUSTER_T_FLOAT, 2);
VALUE(MUSTER_T_ENUM, 3);
VALUE(MUSTER_T_DURATION_NS, 4);
VALUE(MUSTER_T_BYTES, 5);
VALUE(MUSTER_T_STRING, 6);
VALUE(MUSTER_T_LIST, 7);
VALUE(MUSTER_T_MAP, 8);
VALUE(MUSTER_O_REQUIRED, 1);
VALUE(MUSTER_O_SECRET, 2);
VALUE(MUSTER_O_RELOADABLE, 4);
VALUE(MUSTER_O_UNIQUE, 8);
VALUE(MUSTER_O_ONCE, 16);

/* A translation unit must have something in it. */
int main(void)
{
    return 0;
}
