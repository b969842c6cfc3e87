/* Loading of plugins; see loader.h. At start, before any lane runs. */
#include "core/loader.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/name.h"
#include "config/near.h"
#include "wire/reserved.h"

#define ENTRY_PREFIX "muster_plugin_entry_v"
enum { DESCRIBE_SIZE = 128 };

static int why_not(char why[LOADER_WHY_SIZE], int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

static int why_not(char why[LOADER_WHY_SIZE], int code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(why, LOADER_WHY_SIZE, fmt, ap);
    va_end(ap);
    return code;
}

/* Where none of the places is there, the last one stands in the message that follows. */
const char *loader_dir(char *out, size_t size)
{
    static const char *const places[] = {"../lib/muster/plugins", "../plugins"};
    const char *env = getenv("MUSTER_PLUGIN_DIR");
    char exe[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    char *slash;

    if (env && *env) {
        (void)snprintf(out, size, "%s", env);
        return out;
    }
    exe[n > 0 ? n : 0] = '\0';
    slash = strrchr(exe, '/');
    if (slash)
        *slash = '\0';
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        (void)snprintf(out, size, "%s/%s", exe, places[i]);
        if (access(out, R_OK | X_OK) == 0)
            return out;
    }
    return out;
}

const char *loader_path(const struct config_plugin *p, char *out, size_t size)
{
    char dir[PATH_MAX];

    if (p->path)
        (void)snprintf(out, size, "%s", p->path);
    else
        (void)snprintf(out, size, "%s/%s.so", loader_dir(dir, sizeof dir), p->name);
    return out;
}

struct stamp loader_stamp(const struct config_plugin *p)
{
    char path[PATH_MAX + 80];

    return stamp_of(loader_path(p, path, sizeof path));
}

/* The built-in plugins by name: those near to near->word are kept there, all are listed in *names. */
static void look_around(const char *dir, struct near *near, struct buf *names)
{
    struct dirent **entries;
    int n = scandir(dir, &entries, NULL, alphasort);

    for (int i = 0; i < n; i++) {
        size_t len = strlen(entries[i]->d_name);

        if (len > 3 && strcmp(entries[i]->d_name + len - 3, ".so") == 0) {
            near_offer(near, entries[i]->d_name, len - 3);
            buf_printf(names, "%s%.*s", names->len ? ", " : "", (int)len - 3, entries[i]->d_name);
        }
        free(entries[i]);
    }
    if (n >= 0)
        free(entries);
}

/* Names in the configuration are the operator's; that they become files is not. */
static int why_no_plugin(const char *name, char why[LOADER_WHY_SIZE])
{
    struct near near = near_to(name);
    struct buf names = {0};
    char dir[PATH_MAX];

    look_around(loader_dir(dir, sizeof dir), &near, &names);
    if (near.n)
        (void)why_not(why, 0, "there is no plugin %s; did you mean %s?", name, near.names.data);
    else if (names.len)
        (void)why_not(why, 0, "there is no plugin %s; those of %s are %s", name, dir, names.data);
    else
        (void)why_not(why, 0, "there is no plugin %s; %s holds none", name, dir);
    near_done(&near);
    buf_done(&names);
    return MUSTER_ENOTFOUND;
}

/* A file that anybody else may write is anybody's code in this process. */
int loader_check_file(const struct config_plugin *how, const char *path, char why[LOADER_WHY_SIZE])
{
    struct stat st;

    if (stat(path, &st) != 0 && errno == ENOENT && !how->path)
        return why_no_plugin(how->name, why);
    if (stat(path, &st) != 0)
        return why_not(why, MUSTER_ENOTFOUND, "%s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return why_not(why, MUSTER_EINVAL, "%s: not a file", path);
    if ((st.st_mode & S_IWOTH) || (st.st_uid != 0 && st.st_uid != geteuid()))
        return why_not(why, MUSTER_EACCES,
                       "%s: owner %u, mode %03o: expected a file of root or of the broker's user that nobody else may write", path,
                       (unsigned int)st.st_uid, (unsigned int)(st.st_mode & 0777));
    return 0;
}

/* The entry of another major has another name: say which one the file has. */
static int why_no_entry(void *lib, const char *path, char why[LOADER_WHY_SIZE])
{
    char symbol[64];

    for (int major = 0; major < 16; major++) {
        (void)snprintf(symbol, sizeof symbol, ENTRY_PREFIX "%d", major);
        if (dlsym(lib, symbol))
            return why_not(why, MUSTER_EABI, "%s: made for ABI major %d, this broker has %d", path, major, MUSTER_ABI_MAJOR);
    }
    return why_not(why, MUSTER_EINVAL, "%s: no function " ENTRY_PREFIX "%d: not a plugin (MUSTER_PLUGIN() is missing)", path,
                   MUSTER_ABI_MAJOR);
}

/* "plugin acme 1.2" where the descriptor can be read so far. */
static const char *describe(const struct muster_plugin *p, char out[DESCRIBE_SIZE])
{
    bool readable = p->abi_major == MUSTER_ABI_MAJOR && MUSTER_HAS(p, version) && p->name && p->version;

    (void)snprintf(out, DESCRIBE_SIZE, readable ? "plugin %.64s %.32s" : "plugin", readable ? p->name : "", readable ? p->version : "");
    return out;
}

/* Held against what this broker needs, not against its own size: an older plugin's descriptor may be shorter. */
static int check_numbers(const struct muster_plugin *p, const char *path, char why[LOADER_WHY_SIZE])
{
    char who[DESCRIBE_SIZE];

    if (p->abi_major != MUSTER_ABI_MAJOR || p->abi_minor > MUSTER_ABI_MINOR || p->abi_minor < MUSTER_ABI_OLDEST)
        return why_not(why, MUSTER_EABI, "%s: %s made for ABI %u.%u, this broker loads ABI %d.%d to %d.%d", path, describe(p, who),
                       p->abi_major, p->abi_minor, MUSTER_ABI_MAJOR, MUSTER_ABI_OLDEST, MUSTER_ABI_MAJOR, MUSTER_ABI_MINOR);
    if (!MUSTER_HAS(p, destroy))
        return why_not(why, MUSTER_EINVAL, "%s: %s has a descriptor of %u bytes, expected at least %zu", path, describe(p, who), p->size,
                       offsetof(struct muster_plugin, destroy) + sizeof p->destroy);
    return 0;
}

static const size_t least_service = offsetof(struct muster_service, schema) + sizeof(const char *); /* of the oldest minor */

int loader_check(const struct muster_plugin *p, const char *path, char why[LOADER_WHY_SIZE])
{
    char who[DESCRIBE_SIZE];
    int err = p ? check_numbers(p, path, why) : why_not(why, MUSTER_EINVAL, "%s: its entry returned no descriptor", path);

    if (err)
        return err;
    if (!p->name || !name_is_public(p->name, strlen(p->name)) || !p->version)
        return why_not(why, MUSTER_EINVAL, "%s: its descriptor's name is \"%s\", expected letters, digits, _ or -, and a version",
                       path, p->name ? p->name : "");
    if (!p->create || !p->start || !p->destroy)
        return why_not(why, MUSTER_EINVAL, "%s: %s lacks create, start or destroy", path, describe(p, who));
    if (p->n_options && (!p->options || p->option_size < offsetof(struct muster_option, choices)))
        return why_not(why, MUSTER_EINVAL, "%s: %s has %u options of %u bytes, expected at least %zu bytes each", path,
                       describe(p, who), p->n_options, p->option_size, offsetof(struct muster_option, choices));
    if (p->n_services && (!p->services || p->service_size < least_service))
        return why_not(why, MUSTER_EINVAL, "%s: %s has %u services of %u bytes, expected at least %zu bytes each", path,
                       describe(p, who), p->n_services, p->service_size, least_service);
    return 0;
}

/* A built-in plugin is one that is given by name. */
int loader_check_names(const struct config_plugin *how, const struct muster_plugin *p, const char *path, char why[LOADER_WHY_SIZE])
{
    char who[DESCRIBE_SIZE], taken[LOADER_WHY_SIZE / 2];
    int err = how->path ? reserved_check(p, taken, sizeof taken) : 0;

    return err ? why_not(why, err, "%s: %s %s", path, describe(p, who), taken) : 0;
}

bool loader_has_capability(const struct muster_plugin *plugin, const char *capability)
{
    const char *list = MUSTER_HAS(plugin, capabilities) ? plugin->capabilities : NULL;
    size_t len = strlen(capability);

    while (list && *list) {
        size_t n = strcspn(list, " ");

        if (n == len && memcmp(list, capability, len) == 0)
            return true;
        list += n + strspn(list + n, " ");
    }
    return false;
}

int loader_open(const char *path, const struct muster_plugin **ret_plugin, char why[LOADER_WHY_SIZE])
{
    const struct muster_plugin *(*entry)(void);
    const struct muster_plugin *plugin;
    void *lib, *symbol;
    int err;

    /* NOW: a missing symbol shows here and not in a callback. NODELETE: destructors of threads may outlive the last
     * user. */
    lib = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!lib)
        return why_not(why, MUSTER_EINVAL, "%s: cannot be loaded: %s", path, dlerror());
    symbol = dlsym(lib, "muster_plugin_entry_v0");
    if (!symbol)
        return why_no_entry(lib, path, why);
    memcpy(&entry, &symbol, sizeof entry); /* POSIX: the object pointer is a function's; ISO C has no cast for it */
    plugin = entry();
    err = loader_check(plugin, path, why);
    if (!err)
        *ret_plugin = plugin;
    return err;
}
