/*
 * muster plugin new - writes a plugin to begin with: it builds outside of this tree against the installed package, and passes its test.
 *
 * All or nothing: the folder is made, or it was there and stays as it is.
 */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/name.h"
#include "cli/cli.h"
#include "cli/file.h"
#include "cli/plugin.h"
#include "cli/template.h"
#include "core/loader.h"
#include "wire/reserved.h"

static const char command[] = "plugin";

/* What stands in the files between two @. */
struct values {
    const char *name;
    char metric[NAME_TOKEN_SIZE], muster[32], plugin_dir[PATH_MAX];
};

/* ---- the name ---- */

/* A descriptor with nothing but the names, because that is what the broker would refuse later. */
static int check_reserved(const char *name)
{
    const struct muster_service service = {.size = sizeof service, .name = name, .verbs = "next"};
    const struct muster_plugin plugin = {.size = sizeof plugin,
                                         .name = name,
                                         .services = &service,
                                         .n_services = 1,
                                         .service_size = sizeof service};
    char why[256];

    if (reserved_check(&plugin, why, sizeof why) == 0)
        return CLI_DONE;
    return cli_fail(CLI_USAGE, command, "new: %s: the name belongs to a plugin or a service that comes with Muster; another one was expected",
                    name);
}

static bool is_builtin(const char *name)
{
    char dir[PATH_MAX];
    struct buf path = {0};
    bool found;

    buf_printf(&path, "%s/%s.so", loader_dir(dir, sizeof dir), name);
    found = !buf_failed(&path) && file_exists(path.data);
    buf_done(&path);
    return found;
}

/* It becomes a file, a target of CMake, a subject token and a part of metric names: a letter in front suits them all. */
static int check_name(const char *name)
{
    size_t len = strlen(name);

    if (!name_is_public(name, len) || !((*name >= 'a' && *name <= 'z') || (*name >= 'A' && *name <= 'Z')))
        return cli_fail(CLI_USAGE, command, "new: \"%s\" came, a name of at most %d letters, digits, _ and - that begins with a letter was expected",
                        name, NAME_MAX_LEN);
    if (is_builtin(name))
        return cli_fail(CLI_USAGE, command, "new: there is a plugin %s in the brokers' folder already; another name was expected", name);
    return check_reserved(name);
}

static void fill(struct values *v, const char *name)
{
    char dir[PATH_MAX], real[PATH_MAX];

    v->name = name;
    (void)snprintf(v->metric, sizeof v->metric, "%s", name);
    for (char *c = v->metric; *c; c++)
        if (*c == '-')
            *c = '_';
    (void)snprintf(v->muster, sizeof v->muster, "%.*s", (int)(strrchr(MUSTER_VERSION, '.') - MUSTER_VERSION), MUSTER_VERSION);
    (void)loader_dir(dir, sizeof dir);
    (void)snprintf(v->plugin_dir, sizeof v->plugin_dir, "%s", realpath(dir, real) ? real : dir);
}

/* ---- the files ---- */

static bool put_value(struct buf *out, const struct values *v, const char *key, size_t len)
{
    const struct {
        const char *key, *value;
    } known[] = {{"NAME", v->name}, {"METRIC", v->metric}, {"MUSTER", v->muster}, {"PLUGINDIR", v->plugin_dir}};

    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strlen(known[i].key) == len && memcmp(key, known[i].key, len) == 0) {
            buf_puts(out, known[i].value);
            return true;
        }
    return false;
}

/* An @ that begins none of the keys is itself. */
static void put_text(struct buf *out, const char *text, const struct values *v)
{
    while (*text) {
        size_t plain = strcspn(text, "@"), len;

        buf_put(out, text, plain);
        text += plain;
        if (!*text)
            return;
        len = strcspn(text + 1, "@");
        if (text[1 + len] == '@' && put_value(out, v, text + 1, len)) {
            text += len + 2;
            continue;
        }
        buf_putc(out, '@');
        text++;
    }
}

static void put_path(struct buf *out, const char *folder, const char *path, const char *name)
{
    const char *at = strstr(path, "NAME");

    buf_printf(out, "%s/", folder);
    if (at)
        buf_printf(out, "%.*s%s%s", (int)(at - path), path, name, at + strlen("NAME"));
    else
        buf_puts(out, path);
}

/* The folders between the plugin's and the file. */
static int make_folders(const char *folder, char *path, struct file_error *err)
{
    int code = 0;

    for (char *slash = strchr(path + strlen(folder) + 1, '/'); slash && !code; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        code = file_make_folder(path, 0755, err);
        *slash = '/';
    }
    return code;
}

static int write_file(const char *folder, const struct template_file *file, const struct values *v, struct file_error *err)
{
    struct buf path = {0}, text = {0};
    int code = MUSTER_ENOMEM;

    (void)snprintf(err->text, sizeof err->text, "no memory");
    put_path(&path, folder, file->path, v->name);
    put_text(&text, file->text, v);
    if (!buf_failed(&path) && !buf_failed(&text)) {
        code = make_folders(folder, path.data, err);
        if (!code)
            code = file_write(path.data, FILE_PUBLIC, &text, err);
    }
    buf_done(&path);
    buf_done(&text);
    return code;
}

/* What a failure in the middle has left: files of ours in a folder of ours. */
static void take_back(const char *folder, const struct values *v, size_t n)
{
    for (size_t i = n; i-- > 0;) {
        struct buf path = {0};

        put_path(&path, folder, template_files[i].path, v->name);
        if (!buf_failed(&path)) {
            (void)unlink(path.data); /* what stays is named by the error */
            for (char *slash = strrchr(path.data, '/'); slash && (size_t)(slash - path.data) >= strlen(folder); slash = strrchr(path.data, '/')) {
                *slash = '\0';
                if (rmdir(path.data) != 0)
                    break; /* the last file of it takes it along */
            }
        }
        buf_done(&path);
    }
}

static int write_all(const char *folder, const struct values *v)
{
    struct file_error err;

    if (mkdir(folder, 0755) != 0)
        return cli_fail(CLI_FAILED, command, errno == EEXIST ? "new: %s: %s; a folder that is not there was expected" : "new: %s: %s", folder,
                        strerror(errno));
    for (size_t i = 0; i < n_template_files; i++)
        if (write_file(folder, &template_files[i], v, &err) != 0) {
            take_back(folder, v, i + 1);
            return cli_fail(CLI_FAILED, command, "new: %s", err.text);
        }
    return CLI_DONE;
}

/* Where find_package() finds this installation, when it does not look there by itself; "" otherwise. */
static const char *find_prefix(const struct values *v, char out[PATH_MAX])
{
    static const char below[] = "/lib/muster/plugins";
    size_t len = strlen(v->plugin_dir);

    *out = '\0';
    if (len <= sizeof below - 1)
        return out;
    len -= sizeof below - 1;
    if (strcmp(v->plugin_dir + len, below) == 0)
        (void)snprintf(out, PATH_MAX, "%.*s", (int)len, v->plugin_dir);
    if (strcmp(out, "/usr") == 0 || strcmp(out, "/usr/local") == 0)
        *out = '\0';
    return out;
}

static void tell(const char *folder, const struct values *v)
{
    char prefix[PATH_MAX];

    for (size_t i = 0; i < n_template_files; i++) {
        struct buf path = {0};

        put_path(&path, folder, template_files[i].path, v->name);
        if (!buf_failed(&path))
            puts(path.data);
        buf_done(&path);
    }
    (void)find_prefix(v, prefix);
    printf("\ncd %s && cmake -B build%s%s && cmake --build build && ctest --test-dir build --output-on-failure\n", folder,
           *prefix ? " -D CMAKE_PREFIX_PATH=" : "", prefix);
}

/* ---- the verb ---- */

static int parse(int argc, char **argv, const char **ret_dir)
{
    static const struct option options[] = {{"dir", required_argument, NULL, 'd'}, {0}};
    int c;

    optind = 0; /* as the first call of this process */
    opterr = 0;
    while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
        if (c == '?' || c == ':')
            return cli_fail(CLI_USAGE, command, "new: %s came, NAME [--dir DIR] was expected", argv[optind - 1]);
        *ret_dir = optarg;
    }
    if (argc - optind != 1)
        return cli_fail(CLI_USAGE, command, "new: %s came, NAME [--dir DIR] was expected", argc > optind ? argv[optind + 1] : "nothing");
    return CLI_DONE;
}

int plugin_new(const struct cli *cli, int argc, char **argv)
{
    const char *dir = ".";
    struct buf folder = {0};
    struct values v;
    int code = parse(argc, argv, &dir);

    (void)cli; /* nothing of it is configured */
    if (!code)
        code = check_name(argv[optind]);
    if (code)
        return code;
    fill(&v, argv[optind]);
    if (strcmp(dir, ".") == 0)
        buf_puts(&folder, v.name);
    else
        file_join(&folder, dir, v.name);
    code = buf_failed(&folder) ? cli_fail(CLI_FAILED, command, "no memory") : write_all(folder.data, &v);
    if (!code)
        tell(folder.data, &v);
    buf_done(&folder);
    return code;
}
