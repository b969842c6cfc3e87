/*
 * muster plugin - what the configured plugins are, and the options that they take; and whether one keeps to the contract
 * (plugin_check.c).
 *
 * A plugin is loaded to ask it: in a child behind its walls where its isolation is process, else here, with the
 * rights of who runs this command, as far as the loader takes it (core/loader.h).
 */
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/utf8.h"
#include "child/sandbox.h"
#include "cli/cli.h"
#include "cli/options.h"
#include "cli/plugin.h"
#include "cli/plugin_check.h"
#include "config/config.h"
#include "config/scalar.h"
#include "core/described.h"
#include "core/walls.h"

static const char command[] = "plugin";

/* One entry of `plugins:` and what its file says of itself. The loader never closes a file, so the
 * descriptor stays for as long as the program runs. */
struct listed {
    const struct config_plugin *how;
    const struct muster_plugin *plugin; /* NULL: why says why it does not load */
    char file[PATH_MAX + 80];
    char why[LOADER_WHY_SIZE];
};

static void look_at(const struct config_plugin *how, struct listed *l)
{
    l->how = how;
    l->plugin = NULL;
    l->why[0] = '\0';
    (void)loader_path(how, l->file, sizeof l->file);
    if (loader_load(how, &l->plugin, l->why) != 0)
        l->plugin = NULL;
}

/* By the plugin's own stride: it may know a longer or a shorter struct. */
static const struct muster_service *service_at(const struct muster_plugin *p, uint32_t i)
{
    return (const void *)((const char *)p->services + (size_t)i * p->service_size);
}

static bool is_in_child(const struct listed *l)
{
    return l->how->isolation == CONFIG_ISOLATION_PROCESS;
}

/* What this machine does not hold its child to. */
static uint32_t lacks_of(const struct listed *l)
{
    return is_in_child(l) && l->plugin ? ((const struct described *)l->plugin)->lacks : 0;
}

/* ---- for people ---- */

static void print_list(struct buf *out, const char *what, const struct muster_list *list)
{
    for (size_t i = 0; i < list->n; i++)
        buf_printf(out, "%s%s", i ? " " : what, list->items[i]);
}

/* Whose its files are to be: a name, or a number of its own. */
static void put_user(struct buf *out, const struct config_plugin *how)
{
    if (how->user)
        buf_puts(out, how->user);
    else
        buf_printf(out, "%u", WALLS_FIRST_UID + how->number);
}

/* The limits, then what its entry opens, whose it is, then what nothing holds. */
static void print_walls(struct buf *out, const struct listed *l)
{
    const struct config_plugin *how = l->how;
    char memory[SCALAR_TEXT_SIZE], cpu[SCALAR_TEXT_SIZE];

    buf_printf(out, "  walls: memory %s, files %lld, messages %lld, cpu %s", scalar_put_bytes(how->limits.memory, memory), (long long)how->limits.files,
               (long long)how->limits.messages,
               scalar_put_float(how->limits.cpu, cpu));
    print_list(out, "; hears ", &how->allow.subscribe);
    print_list(out, "; sends ", &how->allow.publish);
    print_list(out, "; tenants ", &how->allow.tenants);
    print_list(out, "; reads ", &how->allow.read);
    print_list(out, "; writes ", &how->allow.write);
    buf_puts(out, how->allow.network ? "; network" : "");
    buf_putc(out, '\n');
    buf_puts(out, "  its user, where root runs the broker: ");
    put_user(out, how);
    buf_putc(out, '\n');
    for (unsigned int i = 0; i < SANDBOX_N_LACKS; i++)
        if (lacks_of(l) & (1u << i))
            buf_printf(out, "  not held here: %s\n", sandbox_lack_text(1u << i));
}

static void print_abi(struct buf *out, const struct muster_plugin *p)
{
    buf_printf(out, "%u.%u", p->abi_major, p->abi_minor);
}

/* The second line says why it does not load, else what it needs; the file is last in the first
 * line, because it is the only part without a width. */
static void print_line(struct buf *out, const struct listed *l)
{
    const struct muster_plugin *p = l->plugin;
    struct buf abi = {0};

    if (p)
        print_abi(&abi, p);
    buf_printf(out, "%-16s %-12s %-10s %-5s %5lld  %-9s  %s\n", l->how->instance, p ? p->name : "-",
               p ? p->version : "-", abi.data ? abi.data : "-", (long long)l->how->lanes,
               is_in_child(l) ? "process" : "none", l->file);
    buf_done(&abi);
    if (!p)
        buf_printf(out, "  does not load: %s\n", l->why);
    if (p && p->capabilities)
        buf_printf(out, "  needs %s\n", p->capabilities);
    if (is_in_child(l))
        print_walls(out, l);
    for (uint32_t i = 0; p && i < p->n_services; i++)
        buf_printf(out, "  serves %s: %s\n", service_at(p, i)->name, service_at(p, i)->verbs);
}

static void print_header(struct buf *out)
{
    buf_printf(out, "%-16s %-12s %-10s %-5s %5s  %-9s  %s\n", "INSTANCE", "PLUGIN", "VERSION", "ABI",
               "LANES", "ISOLATION", "FILE");
}

/* ---- as JSON ---- */

/* Names of files and words of a plugin's author may be any bytes. */
static void put_json(struct buf *out, const char *text)
{
    struct buf clean = {0};

    utf8_put(&clean, text, strlen(text));
    buf_put_json(out, clean.data ? clean.data : "", clean.len);
    buf_done(&clean);
}

static void put_member(struct buf *out, const char *key, const char *value)
{
    buf_printf(out, ",\"%s\":", key);
    if (value)
        put_json(out, value);
    else
        buf_put_lit(out, "null");
}

/* Words separated by blanks, as a list. */
static void put_words(struct buf *out, const char *words)
{
    bool any = false;

    buf_putc(out, '[');
    for (const char *at = words ? words : ""; *at;) {
        size_t len = strcspn(at, " ");

        if (len) {
            buf_printf(out, "%s\"%.*s\"", any ? "," : "", (int)len, at);
            any = true;
        }
        at += len + (at[len] == ' ');
    }
    buf_putc(out, ']');
}

static void put_services(struct buf *out, const struct muster_plugin *p)
{
    buf_put_lit(out, ",\"services\":[");
    for (uint32_t i = 0; i < p->n_services; i++) {
        buf_printf(out, "%s{\"name\":\"%s\",\"verbs\":", i ? "," : "", service_at(p, i)->name);
        put_words(out, service_at(p, i)->verbs);
        buf_putc(out, '}');
    }
    buf_putc(out, ']');
}

static void put_list(struct buf *out, const char *key, const struct muster_list *list)
{
    buf_printf(out, ",\"%s\":[", key);
    for (size_t i = 0; i < list->n; i++) {
        buf_puts(out, i ? "," : "");
        put_json(out, list->items[i]);
    }
    buf_putc(out, ']');
}

static void put_walls(struct buf *out, const struct listed *l)
{
    const struct config_plugin *how = l->how;
    struct buf user = {0};
    char cpu[SCALAR_TEXT_SIZE];
    bool any = false;

    put_user(&user, how);
    buf_put_lit(out, ",\"walls\":{\"user\":");
    put_json(out, user.data ? user.data : "");
    buf_done(&user);
    buf_printf(out, ",\"memory\":%lld,\"files\":%lld,\"messages\":%lld,\"cpu\":%s,\"network\":%s", (long long)how->limits.memory,
               (long long)how->limits.files, (long long)how->limits.messages, scalar_put_float(how->limits.cpu, cpu), how->allow.network ? "true" : "false");
    put_list(out, "subscribe", &how->allow.subscribe);
    put_list(out, "publish", &how->allow.publish);
    put_list(out, "capabilities", &how->allow.capabilities);
    put_list(out, "tenants", &how->allow.tenants);
    put_list(out, "read", &how->allow.read);
    put_list(out, "write", &how->allow.write);
    buf_put_lit(out, ",\"lacks\":[");
    for (unsigned int i = 0; i < SANDBOX_N_LACKS; i++)
        if (lacks_of(l) & (1u << i)) {
            buf_printf(out, "%s\"%s\"", any ? "," : "", sandbox_lack_word(1u << i));
            any = true;
        }
    buf_put_lit(out, "]}");
}

/* The object without its closing brace. */
static void put_listed(struct buf *out, const struct listed *l)
{
    const struct muster_plugin *p = l->plugin;

    buf_put_lit(out, "{\"instance\":");
    put_json(out, l->how->instance);
    put_member(out, "file", l->file);
    buf_printf(out, ",\"lanes\":%lld,\"isolation\":\"%s\",\"required\":%s,\"loads\":%s",
               (long long)l->how->lanes,
               is_in_child(l) ? "process" : "none",
               l->how->required ? "true" : "false", p ? "true" : "false");
    if (is_in_child(l))
        put_walls(out, l);
    if (!p) {
        put_member(out, "error", l->why);
        return;
    }
    put_member(out, "name", p->name);
    put_member(out, "version", p->version);
    put_member(out, "source_id", p->source_id);
    buf_put_lit(out, ",\"abi\":\"");
    print_abi(out, p);
    buf_put_lit(out, "\",\"capabilities\":");
    put_words(out, p->capabilities);
    put_services(out, p);
}

/* ---- the verb list ---- */

/* A plugin that does not load is part of the answer, not a failure of the question: the exit code
 * stays 0, and `muster doctor` is who judges. */
static void list_all(const struct config *config, bool json, struct buf *out)
{
    struct listed l;

    if (json)
        buf_putc(out, '[');
    else
        print_header(out);
    for (size_t i = 0; i < config->n_plugins; i++) {
        look_at(&config->plugins[i], &l);
        if (!json) {
            print_line(out, &l);
            continue;
        }
        buf_puts(out, i ? ",\n" : "");
        put_listed(out, &l);
        buf_putc(out, '}');
    }
    if (json)
        buf_put_lit(out, "]\n");
}

/* The configured instance of that name; else what would be loaded for a built-in of that name. */
static struct config_plugin find_plugin(const struct config *config, const char *name)
{
    for (size_t i = 0; i < config->n_plugins; i++)
        if (strcmp(config->plugins[i].instance, name) == 0)
            return config->plugins[i];
    return (struct config_plugin){.name = name, .instance = name, .lanes = 1, .required = true};
}

/* Here the file has to load, because the options are what was asked for. A name with a slash would
 * make the loader take any file for a built-in. */
static int list_one(const struct config *config, const char *name, bool json, struct buf *out)
{
    const struct config_plugin how = find_plugin(config, name);
    struct listed l;
    const char *fault;

    if (strchr(name, '/'))
        return cli_fail(
            CLI_USAGE, command,
            "list: %s came, the name of a configured instance or of a built-in plugin was expected",
            name);
    look_at(&how, &l);
    if (!l.plugin)
        return cli_fail(CLI_FAILED, command, "%s: %s", name, l.why);
    fault = options_fault(l.plugin);
    if (fault)
        return cli_fail(CLI_FAILED, command, "%s: its option table is wrong: %s", l.file, fault);
    if (json) {
        put_listed(out, &l);
        buf_put_lit(out, ",\"options\":");
        config_schema(l.plugin, out);
        buf_put_lit(out, "}\n");
    } else {
        print_header(out);
        print_line(out, &l);
        buf_putc(out, '\n');
        options_print(l.plugin, out);
    }
    return CLI_DONE;
}

static int parse_list(int argc, char **argv, bool *ret_json)
{
    static const struct option options[] = {
        {"json", no_argument, NULL, 'j'}, {"tenant", required_argument, NULL, 't'}, {0}};
    int c;

    optind = 0; /* as the first call of this process */
    opterr = 0;
    while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
        if (c == '?' || c == ':')
            return cli_fail(CLI_USAGE, command,
                            "list: %s came, [NAME] [--json] [--tenant T] was expected",
                            argv[optind - 1]);
        *ret_json |= c == 'j'; /* --tenant: plugins are the same for every tenant */
    }
    if (argc - optind > 1)
        return cli_fail(CLI_USAGE, command, "list: %s came, one NAME at most was expected",
                        argv[optind + 1]);
    return CLI_DONE;
}

int plugin_list(const struct cli *cli, int argc, char **argv)
{
    struct buf out = {0};
    bool json = false;
    int code = parse_list(argc, argv, &json);

    if (code != CLI_DONE)
        return code;
    if (optind < argc)
        code = list_one(cli->config, argv[optind], json, &out);
    else
        list_all(cli->config, json, &out);
    if (buf_failed(&out))
        code = cli_fail(CLI_FAILED, command, "no memory");
    else if (code == CLI_DONE)
        fputs(out.data, stdout);
    buf_done(&out);
    return code;
}

static const struct {
    const char *verb;
    int (*run)(const struct cli *cli, int argc, char **argv);
    bool without_config; /* runs also when the configuration cannot be used */
} verbs[] = {{"list", plugin_list, false},
             {"asyncapi", plugin_asyncapi, false},
             {"new", plugin_new, true},
             {"check", plugin_check, true},
             {"role", plugin_role, false}};
enum { N_VERBS = sizeof verbs / sizeof *verbs };

static int run_verb(const struct cli *cli, size_t i, int argc, char **argv)
{
    if (cli->config || verbs[i].without_config)
        return verbs[i].run(cli, argc, argv);
    fprintf(stderr, "%s\n", cli->config_error); /* as every other command has it */
    return CLI_FAILED;
}

int cmd_plugin(const struct cli *cli, int argc, char **argv)
{
    struct buf expected = {0};
    int code;

    if (argc > 1 && strcmp(argv[1], CHECK_CHILD) == 0)
        return check_one(argc - 1, argv + 1); /* started by `check`, told nowhere */
    for (size_t i = 0; i < N_VERBS; i++)
        if (argc > 1 && strcmp(argv[1], verbs[i].verb) == 0)
            return run_verb(cli, i, argc - 1, argv + 1);
    for (size_t i = 0; i < N_VERBS; i++)
        buf_printf(&expected, "%s%s", i == 0 ? "" : i == N_VERBS - 1 ? " or " : ", ", verbs[i].verb);
    code = cli_fail(CLI_USAGE, command, "%s came, %s was expected", argc > 1 ? argv[1] : "nothing", expected.data);
    buf_done(&expected);
    return code;
}
