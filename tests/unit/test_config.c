/*
 * config/: every kind of error of YAML and of the host's keys with its exact line and column, the
 * environment, files.
 *
 * The tables hold a text and what must come of it. Plugin settings are in test_config_options.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config_demo.h"

static void refuses_bytes(const char *text, size_t len, const char *expected)
{
    struct config *config = NULL;
    struct config_error err = {""};

    assert_int_equal(config_load_text("m.yaml", text, len, &config, &err), MUSTER_EINVAL);
    assert_string_equal(err.text, expected);
    assert_null(config);
}

static void refuses(const char *text, const char *expected)
{
    refuses_bytes(text, strlen(text), expected);
}

static void test_syntax_errors(void **state)
{
    static const struct bad table[] = {
        {"broker:\n  id: &a b1\n", "m.yaml:2:7: an anchor (&name); write the value out where it is needed"},
        {"broker: &b {id: b1}\n", "m.yaml:1:9: an anchor (&name); write the value out where it is needed"},
        {"broker:\n  id: *a\n",
         "m.yaml:2:7: an alias (*name); write the value out, or put text that begins with * in quotes"},
        {"broker: {id: !!str 7}\n",
         "m.yaml:1:14: a tag (!name); types follow from the key, put text that begins with ! in quotes"},
        {"# é\nbroker:\n  id: ! b1\n",
         "m.yaml:3:7: a tag (!name); types follow from the key, put text that begins with ! in quotes"},
        {"nats: {urls: !x [a]}\n",
         "m.yaml:1:14: a tag (!name); types follow from the key, put text that begins with ! in quotes"},
        {"%TAG !m! tag:m,2026:\n---\nbroker: {}\n", "m.yaml:1:1: a %TAG directive; tags are not used here"},
        {"broker: {}\n---\nnats: {}\n", "m.yaml:2:1: a second document; a configuration is one"},
        {"broker:\n\tid: b1\n", "m.yaml:2:1: a tab; use blanks, and \\t inside double quotes"},
        {"broker:\n  id: b1\t# é\n", "m.yaml:2:9: a tab; use blanks, and \\t inside double quotes"},
        {"broker:\n  id: \"é\tb\"\n", "m.yaml:2:9: a tab; use blanks, and \\t inside double quotes"},
        {"broker:\r\n  root: a\r\n  id: b\r\n  root: c\r\n",
         "m.yaml:4:3: broker.root: given twice; the first is at line 2"},
        {"plugins:\n  - {name: a, config: {x: 1, x: 2}}\n",
         "m.yaml:2:30: plugins[0].config.x: given twice; the first is at line 2"},
        {"broker:\n  id: \"\\0\"\n", "m.yaml:2:7: a text that holds the character NUL"},
        {"broker:\n  ? [a]\n  : b\n", "m.yaml:2:5: a key that is a list or a map; keys are text"},
        {"broker:\n  '': b\n", "m.yaml:2:3: a key is missing before the colon"},
        {"broker:\n  id: b\x01\n",
         "m.yaml:2:8: a control character; write it as \\x.. inside double quotes"},
        {"broker:\n  id: b\xff\n", "m.yaml:2:8: a byte that is not UTF-8"},
        {"broker:\n  id: \"\xc0\xaf\"\n", "m.yaml:2:8: a byte that is not UTF-8"},
        {"a: \xe2\x80\xa8\n", "m.yaml:1:4: a Unicode line separator; end lines with a line feed"},
        {"broker: {id: a\n",
         "m.yaml:2:1: not YAML: did not find expected ',' or '}', while parsing a flow mapping "
         "that begins at line 1"},
        {"broker:\n  id: a\n bad: b\n",
         "m.yaml:3:2: not YAML: did not find expected key, while parsing a block mapping "
         "that begins at line 1"},
        {"broker: {id: @a}\n", "m.yaml:1:14: not YAML: found character that cannot start any token"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        refuses(table[i].text, table[i].expected);
    refuses_bytes("broker:\n  id: a\0b\n", 18,
                  "m.yaml:2:8: a control character; write it as \\x.. inside double quotes");
}

static void test_host_errors(void **state)
{
    static const struct bad table[] = {
        {"[a, b]\n", "m.yaml:1:1: expected a map of settings, got a list"},
        {"hello\n", "m.yaml:1:1: expected a map of settings, got 'hello'"},
        {"natz: {}\n", "m.yaml:1:1: natz: unknown key; did you mean nats?"},
        {"nats:\n  creds: a\n  url: nats://h\n", "m.yaml:3:3: nats.url: unknown key; did you mean urls?"},
        {"nats: {tls: {cx: a}}\n", "m.yaml:1:14: nats.tls.cx: unknown key; did you mean ca?"},
        {"limits: {burst: 5}\n", "m.yaml:1:17: limits.burst: needs limits.requests_per_s beside it"},
        {"limits: {queued_bytes: 65535}\n", "m.yaml:1:24: limits.queued_bytes: 65535 is below 64KiB; 0 is no limit"},
        {"limits: {bytes_per_s: 1023}\n", "m.yaml:1:23: limits.bytes_per_s: 1023 is below 1KiB; 0 is no limit"},
        {"limits: {requests_per_s: -1}\n", "m.yaml:1:26: limits.requests_per_s: -1 is below 0"},
        {"limits: {sub: 1}\n", "m.yaml:1:10: limits.sub: unknown key; did you mean subscriptions?"},
        {"limits: {x: 1}\n",
         "m.yaml:1:10: limits.x: unknown key; the keys here are requests_per_s, burst, bytes_per_s, in_flight, agent_request"
         "s_per_s, agent_bytes_per_s, agent_in_flight, queued_messages, queued_bytes, connections, subscriptions, out_bytes, stream_bytes, stream_messages, watches"},
        {"broker: 5\n", "m.yaml:1:9: broker: expected a map of settings, got '5'"},
        {"broker: {log: [x]}\n", "m.yaml:1:15: broker.log: expected a map of settings, got a list"},
        {"broker: {log: {level: inf}}\n", "m.yaml:1:23: broker.log.level: expected one of error, warn, "
                                          "info, debug, got 'inf'; did you mean info?"},
        {"broker: {log: {format: xml}}\n",
         "m.yaml:1:24: broker.log.format: expected one of text, json, got 'xml'"},
        {"broker:\n  root: a.b\n",
         "m.yaml:2:9: broker.root: 'a.b' is no legal name; a name is 1 to 64 of A-Z a-z 0-9 "
         "_ - and does not begin with _"},
        {"broker: {root: _x}\n",
         "m.yaml:1:16: broker.root: '_x' is no legal name; a name is 1 to 64 of A-Z a-z 0-9 "
         "_ - and does not begin with _"},
        {"broker: {id: }\n", "m.yaml:1:14: broker.id: expected text, got nothing"},
        {"broker: {id: null}\n",
         "m.yaml:1:14: broker.id: expected text, got nothing; put it in quotes if it is meant as text"},
        {"broker: {id: true}\n",
         "m.yaml:1:14: broker.id: expected text, got 'true'; put it in quotes if it is meant as text"},
        {"broker: {http: 7422}\n",
         "m.yaml:1:16: broker.http: expected host:port such as 127.0.0.1:7422, got '7422'"},
        {"broker: {admin: 'h:65536'}\n",
         "m.yaml:1:17: broker.admin: expected host:port such as 127.0.0.1:7422, got 'h:65536'"},
        {"broker: {http: '[::1@x]:5'}\n",
         "m.yaml:1:16: broker.http: expected host:port such as 127.0.0.1:7422, got '…@x]:5'"},
        {"broker: {http: 'password=:5'}\n",
         "m.yaml:1:16: broker.http: expected host:port such as 127.0.0.1:7422, got 'password=…'"},
        {"nats: {urls: nats://h}\n",
         "m.yaml:1:14: nats.urls: expected a list such as [a, b], got 'nats://h'; put it in brackets"},
        {"nats: {urls: []}\n", "m.yaml:1:14: nats.urls: has 0 items, at least 1 are needed"},
        {"nats: {urls: [[a]]}\n", "m.yaml:1:15: nats.urls[0]: expected text, got a list"},
        {"nats:\n  urls:\n    - nats://h:1\n    - http://u:pw@h\n",
         "m.yaml:4:7: nats.urls[1]: expected nats://host:port or tls://host:port, got 'http://u:…@h'"},
        {"nats: {urls: ['nats://[x?password=y]:1']}\n",
         "m.yaml:1:15: nats.urls[0]: expected nats://host:port or tls://host:port, got 'nats://[x?password=…'"},
        {"nats: {urls: ['nats://']}\n",
         "m.yaml:1:15: nats.urls[0]: expected nats://host:port or tls://host:port, got 'nats://'"},
        {"nats: {creds: a, user: b, password_file: c}\n",
         "m.yaml:1:24: nats.user: nats.creds is given too; a server takes credentials (operator mode) or a "
         "user "
         "(static), not both"},
        {"nats: {user: b}\n", "m.yaml:1:14: nats.user: needs nats.password_file beside it"},
        {"nats: {tls: {cert: b}}\n", "m.yaml:1:20: nats.tls.cert: needs nats.tls.key beside it"},
        {"postgres: {dsn: 'user:secret@host/db'}\n",
         "m.yaml:1:17: postgres.dsn: expected postgresql://user@host/database, "
         "or host=… dbname=… user=…"},
        {"postgres: {pool: 65}\n", "m.yaml:1:18: postgres.pool: 65 is above 64"},
        {"plugins: {name: cdc}\n", "m.yaml:1:10: plugins: expected a list of maps, got a map"},
        {"plugins: [cdc]\n", "m.yaml:1:11: plugins[0]: expected a map of settings, got 'cdc'"},
        {"plugins:\n  - config: {}\n",
         "m.yaml:2:5: plugins[0]: a plugin needs a name (a built-in) or a path (a file)"},
        {"plugins:\n  - {name: a, path: b.so}\n",
         "m.yaml:2:21: plugins[0].path: name is given too; a plugin has a "
         "name (a built-in) or a path (a file), not both"},
        {"plugins: [{name: ../x}]\n",
         "m.yaml:1:18: plugins[0].name: '../x' is no legal name; a file is given with path"},
        {"plugins: [{path: /x/a.b.so}]\n", "m.yaml:1:18: plugins[0].path: 'a.b' is no legal name; a name "
                                           "is 1 to 64 of A-Z a-z 0-9 _ - and does not "
                                           "begin with _; give the plugin an instance"},
        {"plugins: [{name: a, instance: 'b c'}]\n",
         "m.yaml:1:31: plugins[0].instance: 'b c' is no legal name; a name is 1 to 64 of A-Z a-z 0-9 _ - "
         "and does not "
         "begin with _"},
        {"plugins:\n  - name: cdc\n  - {name: presence}\n  - {name: cdc, config: {}}\n",
         "m.yaml:4:12: plugins[2].name: an instance 'cdc' exists already at line 2; give one of them "
         "another instance "
         "name"},
        {"plugins: [{name: cdc, lanes: 0}]\n", "m.yaml:1:30: plugins[0].lanes: 0 is below 1"},
        {"plugins: [{name: cdc, isolation: yes}]\n",
         "m.yaml:1:34: plugins[0].isolation: expected one of none, process, got 'yes'"},
        {"plugins: [{name: cdc, limits: {cpu: 2}}]\n",
         "m.yaml:1:23: plugins[0].limits: is of a plugin in a child; this one runs in the broker (isolation: none), where nothing "
         "would hold it"},
        {"plugins: [{path: /a.so, isolation: none, allow: {network: true}}]\n",
         "m.yaml:1:42: plugins[0].allow: is of a plugin in a child; this one runs in the broker (isolation: none), where nothing "
         "would hold it"},
        {"plugins: [{path: /a.so, allow: {subscribe: [evt.x.>, 'a b']}}]\n",
         "m.yaml:1:54: plugins[0].allow.subscribe[1]: expected what follows root and tenant in a subject, such as evt.orders.>, got 'a b'"},
        {"plugins: [{path: /a.so, allow: {publish: ['evt.>.x']}}]\n",
         "m.yaml:1:43: plugins[0].allow.publish[0]: expected what follows root and tenant in a subject, such as evt.orders.>, got "
         "'evt.>.x'"},
        {"plugins: [{path: /a.so, allow: {publish: ['']}}]\n",
         "m.yaml:1:43: plugins[0].allow.publish[0]: expected what follows root and tenant in a subject, such as evt.orders.>, got ''"},
        {"plugins: [{path: /a.so, allow: {capabilities: [sql]}}]\n",
         "m.yaml:1:48: plugins[0].allow.capabilities[0]: expected one of cross_tenant, stream, system, got 'sql'"},
        {"plugins: [{path: /a.so, allow: {tenants: [_x]}}]\n",
         "m.yaml:1:43: plugins[0].allow.tenants[0]: expected the name of a tenant, got '_x'"},
        {"plugins: [{path: /a.so, limits: {cpu: 0.01}}]\n", "m.yaml:1:39: plugins[0].limits.cpu: 0.01 is below 0.05 of a core"},
        {"plugins: [{path: /a.so, limits: {memory: 1MiB}}]\n", "m.yaml:1:42: plugins[0].limits.memory: 1MiB is below 32MiB"},
        {"plugins: [{path: /a.so, postgres: {dsn: host=x, dsn_file: /y}}]\n",
         "m.yaml:1:41: plugins[0].postgres.dsn: dsn_file is given too; expected one of them"},
        {"plugins: [{path: /a.so, postgres: {dsn: secret}}]\n",
         "m.yaml:1:41: plugins[0].postgres.dsn: expected postgresql://user@host/database, or host=… dbname=… user=…"},
        {"plugins: [{path: /a.so, user: 'a:b'}]\n", "m.yaml:1:31: plugins[0].user: expected the name of a user, got 'a:b'"},
        {"plugins: [{path: /a.so, restart: {delay: 5m}}]\n", "m.yaml:1:34: plugins[0].restart: its max_delay is below its delay"},
        {"plugins: [{name: cdc, config: [a]}]\n",
         "m.yaml:1:31: plugins[0].config: expected a map of settings, got a list"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        refuses(table[i].text, table[i].expected);
}

static void test_host_defaults(void **state)
{
    static const char *const texts[] = {"", "# nothing\n", "---\n", "{}\n",
                                        "\xef\xbb\xbf{broker: , plugins: }\n"};

    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct config *c = load(texts[i]);

        assert_string_equal(c->broker.id, "auto");
        assert_string_equal(c->broker.http, "127.0.0.1:7422");
        assert_string_equal(c->broker.admin, "127.0.0.1:7423");
        assert_string_equal(c->broker.root, "mst");
        assert_false(c->broker.log_json);
        assert_int_equal(c->broker.log_level, MUSTER_LOG_INFO);
        assert_int_equal(c->nats.n_urls, 1);
        assert_string_equal(c->nats.urls[0], "nats://127.0.0.1:4222");
        assert_null(c->nats.creds);
        assert_string_equal(c->postgres.dsn, "postgresql://muster_broker@127.0.0.1/muster");
        assert_int_equal(c->postgres.pool, 4);
        assert_int_equal(c->limits.subscriptions, 500);
        assert_int_equal(c->limits.watches, 1000);
        assert_int_equal(c->limits.requests_per_s, 0);
        assert_int_equal(c->limits.queued_bytes, 0);
        assert_int_equal(c->n_plugins, 0);
        config_free(c);
    }
}

static void test_host_values(void **state)
{
    struct config *c = load(
        "broker: {id: b1, http: '[::1]:80', admin: 'h:0', root: r, log: {format: json, level: debug}}\n"
        "nats: {urls: [tls://a.b:1, 'nats://u:p@h'], user: u, password_file: /p, tls: {ca: /ca}}\n"
        "postgres: {dsn: host=/run dbname=x, pool: 9}\n"
        "limits: {subscriptions: 7, watches: 8, requests_per_s: 200, burst: 400, queued_messages: 9, queued_bytes: 1MiB,\n"
        "  in_flight: 11, out_bytes: 2GiB, agent_requests_per_s: 5}\n"
        "plugins:\n  - {name: cdc, lanes: 3, required: false}\n"
        "  - {path: /opt/audit.so, config: {a: 1}}\n"
        "  - {path: /opt/audit.so, instance: two, isolation: none}\n");

    (void)state;
    assert_string_equal(c->broker.http, "[::1]:80");
    assert_true(c->broker.log_json);
    assert_int_equal(c->broker.log_level, MUSTER_LOG_DEBUG);
    assert_int_equal(c->nats.n_urls, 2);
    assert_string_equal(c->nats.urls[1], "nats://u:p@h");
    assert_string_equal(c->nats.password_file, "/p");
    assert_string_equal(c->nats.tls_ca, "/ca");
    assert_int_equal(c->postgres.pool, 9);
    assert_int_equal(c->limits.watches, 8);
    assert_int_equal(c->limits.requests_per_s, 200);
    assert_int_equal(c->limits.burst, 400);
    assert_int_equal(c->limits.queued_messages, 9);
    assert_int_equal(c->limits.queued_bytes, 1 << 20);
    assert_int_equal(c->limits.in_flight, 11);
    assert_int_equal(c->limits.out_bytes, INT64_C(2) << 30);
    assert_int_equal(c->limits.agent_requests_per_s, 5);
    assert_int_equal(c->n_plugins, 3);
    assert_string_equal(c->plugins[0].instance, "cdc");
    assert_int_equal(c->plugins[0].lanes, 3);
    assert_int_equal(c->plugins[0].isolation, CONFIG_ISOLATION_NONE);
    assert_false(c->plugins[0].required);
    assert_null(c->plugins[0].config);
    assert_string_equal(c->plugins[1].instance, "audit");
    assert_string_equal(c->plugins[1].path, "/opt/audit.so");
    assert_int_equal(c->plugins[1].isolation, CONFIG_ISOLATION_PROCESS);
    assert_int_equal(c->plugins[1].limits.memory, 256 << 20);
    assert_int_equal(c->plugins[1].limits.files, 256);
    assert_true(c->plugins[1].limits.cpu == 1);
    assert_false(c->plugins[1].allow.network);
    assert_int_equal(c->plugins[1].restart.delay_ns, INT64_C(1000000000));
    assert_true(c->plugins[1].required);
    assert_non_null(c->plugins[1].config);
    assert_int_equal(c->plugins[2].isolation, CONFIG_ISOLATION_NONE);
    config_free(c);
}

static void test_what_a_child_may(void **state)
{
    struct config *c = load("plugins:\n  - path: /a.so\n    instance: a\n    user: acme\n"
                            "    allow: {subscribe: [evt.x.>, rpc.*.y.*], publish: [evt.z.>], capabilities: [stream], tenants: [t1, t2], network: true,"
                            " read: [/r, q/r], write: [w]}\n"
                            "    limits: {memory: 1GiB, files: 64, cpu: 0.5}\n    postgres: {dsn_file: a.dsn}\n"
                            "    restart: {delay: 100ms, max_delay: 10s}\n"
                            "  - {name: cdc, isolation: process}\n");
    const struct config_plugin *p = c->plugins;

    (void)state;
    assert_int_equal(p->allow.subscribe.n, 2);
    assert_string_equal(p->allow.subscribe.items[1], "rpc.*.y.*");
    assert_string_equal(p->allow.publish.items[0], "evt.z.>");
    assert_string_equal(p->allow.capabilities.items[0], "stream");
    assert_string_equal(p->allow.tenants.items[1], "t2");
    assert_true(p->allow.network);
    assert_string_equal(p->allow.read.items[0], "/r");
    assert_int_equal(p->allow.read.items[1][0], '/'); /* seen from the folder of the file */
    assert_int_equal(p->allow.write.items[0][0], '/');
    assert_int_equal(p->limits.memory, 1 << 30);
    assert_int_equal(p->limits.files, 64);
    assert_true(p->limits.cpu == 0.5);
    assert_string_equal(p->user, "acme");
    assert_null(p->postgres.dsn);
    assert_int_equal(p->postgres.dsn_file[0], '/');
    assert_int_equal(p->restart.delay_ns, INT64_C(100000000));
    assert_int_equal(p->restart.max_delay_ns, INT64_C(10000000000));
    assert_int_equal(p[1].isolation, CONFIG_ISOLATION_PROCESS);
    config_free(c);
}

/* The user that a child runs as owns what it wrote: it must be the same at the next start, and nobody else's. */
static void test_numbers_of_instances_differ_and_stay(void **state)
{
    static bool seen[CONFIG_N_NUMBERS];
    struct buf text = {0};
    struct config *c, *alone = load("plugins: [{path: /a.so, instance: i7}]\n");

    (void)state;
    buf_puts(&text, "plugins:\n");
    for (int i = 7; i < 700; i++)
        buf_printf(&text, "  - {path: /a.so, instance: i%d}\n", i);
    c = load(text.data);
    for (size_t i = 0; i < c->n_plugins; i++) {
        assert_true(c->plugins[i].number < CONFIG_N_NUMBERS && !seen[c->plugins[i].number]);
        seen[c->plugins[i].number] = true;
    }
    assert_int_equal(c->plugins[0].number, alone->plugins[0].number);
    config_free(alone);
    config_free(c);
    buf_done(&text);
}

static const char *const variables[] = {"MUSTER_NATS_URLS",         "MUSTER_NATS_CREDS",
                                        "MUSTER_NATS_SYSTEM_CREDS", "MUSTER_NATS_KEYS",
                                        "MUSTER_POSTGRES_DSN",      "MUSTER_ROOT"};

static int clear_environment(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++)
        unsetenv(variables[i]);
    return 0;
}

static void test_environment(void **state)
{
    struct config *c;
    struct config_error err;

    (void)state;
    setenv("MUSTER_NATS_URLS", "nats://a:1 , tls://b", 1);
    setenv("MUSTER_NATS_CREDS", "x/broker.creds", 1);
    setenv("MUSTER_NATS_SYSTEM_CREDS", "", 1);
    setenv("MUSTER_NATS_KEYS", "keys", 1);
    setenv("MUSTER_POSTGRES_DSN", "host=/run", 1);
    setenv("MUSTER_ROOT", "fleet", 1);
    assert_int_equal(config_load(NULL, &c, &err), 0);
    assert_null(c->file);
    assert_int_equal(c->nats.n_urls, 2);
    assert_string_equal(c->nats.urls[0], "nats://a:1");
    assert_string_equal(c->nats.urls[1], "tls://b");
    assert_string_equal(c->nats.creds, "x/broker.creds");
    assert_null(c->nats.system_creds);
    assert_string_equal(c->nats.keys, "keys");
    assert_string_equal(c->postgres.dsn, "host=/run");
    assert_string_equal(c->broker.root, "fleet");
    config_free(c);
    c = load("broker: {root: a}\nnats: {creds: b}\n");
    assert_string_equal(c->broker.root, "fleet");
    assert_string_equal(c->nats.creds, "x/broker.creds");
    config_free(c);
}

static void test_environment_errors(void **state)
{
    static const struct {
        const char *variable, *value, *text, *expected;
    } table[] = {
        {"MUSTER_ROOT", "a.b", "broker: {root: ok}",
         "MUSTER_ROOT: 'a.b' is no legal name; a name is 1 to 64 of A-Z a-z 0-9 _ - and does not begin "
         "with _"},
        {"MUSTER_NATS_URLS", "nats://a,,nats://b", "nats: {urls: [nats://a, nats://b]}",
         "MUSTER_NATS_URLS: expected nats://host:port or tls://host:port, got ''"},
        {"MUSTER_NATS_URLS", "u:secret@h", "",
         "MUSTER_NATS_URLS: expected nats://host:port or tls://host:port, got '…@h'"},
        {"MUSTER_POSTGRES_DSN", "secret", "",
         "MUSTER_POSTGRES_DSN: expected postgresql://user@host/database, or host=… dbname=… user=…"},
        {"MUSTER_NATS_KEYS", "a\tb", "",
         "MUSTER_NATS_KEYS: character 2: a tab; use blanks, and \\t inside double quotes"},
        {"MUSTER_NATS_CREDS", "c", "nats: {user: a, password_file: b}",
         "m.yaml:1:14: nats.user: MUSTER_NATS_CREDS is given too; a server takes credentials (operator "
         "mode) or a user "
         "(static), not both"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        setenv(table[i].variable, table[i].value, 1);
        refuses(table[i].text, table[i].expected);
        unsetenv(table[i].variable);
    }
}

static void test_bounds(void **state)
{
    struct buf b = {0};

    (void)state;
    buf_puts(&b, "plugins: [{name: a, config: {a: ");
    for (int i = 0; i < 13; i++)
        buf_puts(&b, "[");
    refuses(b.data, "m.yaml:1:45: nested deeper than 16 levels");
    buf_clear(&b);
    buf_puts(&b, "nats: {urls: [");
    for (int i = 0; i < CONFIG_MAX_NODES; i++)
        buf_puts(&b, "a,");
    refuses(b.data, "m.yaml:1:131081: more than 65536 values");
    buf_clear(&b);
    for (int i = 0; i < 201; i++)
        buf_puts(&b, "k");
    buf_puts(&b, ": 1\n");
    refuses(b.data, "m.yaml:1:1: a key longer than 200 bytes");
    buf_done(&b);
}

/* A long value and a long path leave room for the sentence. */
static void test_long_texts(void **state)
{
    struct buf b = {0};

    (void)state;
    buf_puts(&b, "broker: {root: ");
    for (int i = 0; i < 400; i++)
        buf_puts(&b, "é");
    buf_puts(&b, "}");
    refuses(b.data, "m.yaml:1:16: broker.root: 'éééééééééééééééééééééééééééééé…' is no legal name; a name "
                    "is 1 to 64 of "
                    "A-Z a-z 0-9 _ - and does not begin with _");
    buf_done(&b);
}

static void test_files(void **state)
{
    char folder[] = "/tmp/muster-config-XXXXXX", name[64], expected[256];
    struct config *c = NULL;
    struct config_error err;
    FILE *f;

    (void)state;
    assert_non_null(mkdtemp(folder));
    snprintf(name, sizeof name, "%s/m.yaml", folder);
    assert_int_equal(config_load(name, &c, &err), MUSTER_EINVAL);
    snprintf(expected, sizeof expected, "%s: cannot be read: No such file or directory", name);
    assert_string_equal(err.text, expected);
    assert_int_equal(config_load(folder, &c, &err), MUSTER_EINVAL);
    snprintf(expected, sizeof expected, "%s: cannot be read: Is a directory", folder);
    assert_string_equal(err.text, expected);

    f = fopen(name, "w");
    assert_non_null(f);
    fprintf(f, "nats: {creds: a/b.creds, keys: /k, tls: {ca: ../ca.pem}}\nplugins: [{path: x.so}]\n");
    fclose(f);
    assert_int_equal(config_load(name, &c, &err), 0);
    snprintf(expected, sizeof expected, "%s/a/b.creds", folder);
    assert_string_equal(c->nats.creds, expected);
    assert_string_equal(c->nats.keys, "/k");
    snprintf(expected, sizeof expected, "%s/../ca.pem", folder);
    assert_string_equal(c->nats.tls_ca, expected);
    snprintf(expected, sizeof expected, "%s/x.so", folder);
    assert_string_equal(c->plugins[0].path, expected);
    config_free(c);

    f = fopen(name, "w");
    assert_non_null(f);
    fprintf(f, "%*s", CONFIG_MAX_BYTES + 1, "");
    fclose(f);
    assert_int_equal(config_load(name, &c, &err), MUSTER_EINVAL);
    snprintf(expected, sizeof expected, "%s: is larger than 1 MiB", name);
    assert_string_equal(err.text, expected);
    unlink(name);
    rmdir(folder);
}

/* tests/integration/bad_config: the first line of each file is the message it must give, without its
 * folder. */
static void check_bad_file(const char *folder, const char *name)
{
    char path[1024], line[512], expected[2048];
    struct config_error err = {""};
    struct config *config = NULL;
    FILE *f;

    snprintf(path, sizeof path, "%s/%s", folder, name);
    f = fopen(path, "r");
    assert_non_null(f);
    assert_non_null(fgets(line, sizeof line, f));
    fclose(f);
    line[strcspn(line, "\n")] = '\0';
    assert_memory_equal(line, "# expect: ", 10);
    snprintf(expected, sizeof expected, "%s/%s", folder, line + 10);
    assert_int_equal(config_load(path, &config, &err), MUSTER_EINVAL);
    assert_string_equal(err.text, expected);
}

static void test_bad_files(void **state)
{
    const char *folder = MUSTER_SOURCE_DIR "/tests/integration/bad_config";
    DIR *dir = opendir(folder);
    struct dirent *entry;
    int n = 0;

    (void)state;
    assert_non_null(dir);
    while ((entry = readdir(dir))) {
        if (!strstr(entry->d_name, ".yaml"))
            continue;
        check_bad_file(folder, entry->d_name);
        n++;
    }
    closedir(dir);
    assert_true(n >= 10);
}

static void test_example_loads(void **state)
{
    struct config *config = NULL;
    struct config_error err = {""};

    (void)state;
    if (config_load(MUSTER_SOURCE_DIR "/deploy/muster.yaml", &config, &err))
        fail_msg("%s", err.text);
    assert_true(config->n_plugins >= 1);
    config_free(config);
}

static void test_told_values(void **state)
{
    struct config *c = load("nats:\n  tls:\n    ca: no.pem\nplugins:\n  - {name: demo}\n");
    struct config_error err;

    (void)state;
    assert_int_equal(config_fault(c, "nats.tls.ca", &err, "%s is not there", c->nats.tls_ca), MUSTER_EINVAL);
    assert_non_null(strstr(err.text, "/no.pem is not there"));
    assert_memory_equal(err.text, "m.yaml:3:9: nats.tls.ca: /", 26);
    assert_int_equal(config_fault(c, "broker.admin", &err, "is taken"), MUSTER_EINVAL);
    assert_string_equal(err.text, "broker.admin: is taken");
    assert_int_equal(config_fault_entry(c, &c->plugins[0], "name", &err, "is not there"), MUSTER_EINVAL);
    assert_string_equal(err.text, "m.yaml:5:12: plugins.demo.name: is not there");
    assert_int_equal(config_fault_entry(c, &c->plugins[0], "path", &err, "is not there"), MUSTER_EINVAL);
    assert_string_equal(err.text, "m.yaml:5:5: plugins.demo: is not there");
    config_free(c);

    setenv("MUSTER_NATS_CREDS", "x", 1);
    c = load("nats: {creds: y}\n");
    assert_int_equal(config_fault(c, "nats.creds", &err, "is not there"), MUSTER_EINVAL);
    assert_string_equal(err.text, "MUSTER_NATS_CREDS: is not there");
    config_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_syntax_errors),
        cmocka_unit_test(test_host_errors),
        cmocka_unit_test(test_host_defaults),
        cmocka_unit_test(test_host_values),
        cmocka_unit_test(test_what_a_child_may),
        cmocka_unit_test(test_numbers_of_instances_differ_and_stay),
        cmocka_unit_test_teardown(test_environment, clear_environment),
        cmocka_unit_test_teardown(test_environment_errors, clear_environment),
        cmocka_unit_test_teardown(test_told_values, clear_environment),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_long_texts),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_example_loads),
    };

    return cmocka_run_group_tests(tests, clear_environment, NULL);
}
