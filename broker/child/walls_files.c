/*
 * Landlock: the files, ports and signals of a child; see walls.h.
 *
 * The numbers of the kernel's interface stand here, as the headers of a distribution may be older than the kernel that runs.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "child/walls.h"

enum {
    FS_EXECUTE = 1 << 0,
    FS_WRITE_FILE = 1 << 1,
    FS_READ_FILE = 1 << 2,
    FS_READ_DIR = 1 << 3,
    FS_REMOVE_DIR = 1 << 4,
    FS_REMOVE_FILE = 1 << 5,
    FS_MAKE_DIR = 1 << 7,
    FS_MAKE_REG = 1 << 8,
    FS_REFER = 1 << 13,
    FS_TRUNCATE = 1 << 14,
    FS_IOCTL_DEV = 1 << 15,
    FS_OF_FILES = FS_EXECUTE | FS_WRITE_FILE | FS_READ_FILE | FS_TRUNCATE | FS_IOCTL_DEV,
    FS_READ = FS_READ_FILE | FS_READ_DIR,
    FS_WRITE = FS_READ | FS_WRITE_FILE | FS_TRUNCATE | FS_MAKE_REG | FS_MAKE_DIR | FS_REMOVE_FILE | FS_REMOVE_DIR | FS_REFER,
};
enum { NET_BIND = 1 << 0, NET_CONNECT = 1 << 1, SCOPE_ABSTRACT = 1 << 0, SCOPE_SIGNAL = 1 << 1, RULE_PATH = 1, RULE_PORT = 2 };
enum { SINCE_PORTS = 4, SINCE_SCOPES = 6 };

struct ruleset {
    uint64_t fs, net, scoped;
};
struct port_rule {
    uint64_t access, port;
};

/* What any program needs to find its libraries, names, users and the time; nothing in there is of this installation. */
static const char *const readable[] = {"/usr", "/lib", "/lib32", "/lib64", "/libx32", "/etc/ld.so.cache", "/etc/ssl", "/etc/pki",
    "/etc/ca-certificates", "/etc/resolv.conf", "/etc/hosts", "/etc/host.conf", "/etc/nsswitch.conf", "/etc/gai.conf", "/etc/services",
    "/etc/protocols", "/etc/localtime", "/etc/timezone", "/etc/passwd", "/etc/group", "/dev/urandom", "/dev/random", "/dev/zero", "/dev/null",
    "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system/cpu"};

/* Of version 1, and what each later one added. */
static uint64_t all_of(long version)
{
    uint64_t all = (1u << 13) - 1;

    if (version >= 2)
        all |= FS_REFER;
    if (version >= 3)
        all |= FS_TRUNCATE;
    if (version >= 5)
        all |= FS_IOCTL_DEV;
    return all;
}

static struct ruleset rules_of(const struct sandbox *s, long version)
{
    struct ruleset r = {.fs = all_of(version)};

    if (version >= SINCE_PORTS && s->sockets != SANDBOX_ALL_SOCKETS)
        r.net = NET_BIND | NET_CONNECT;
    if (version >= SINCE_SCOPES)
        r.scoped = SCOPE_ABSTRACT | SCOPE_SIGNAL;
    return r;
}

static size_t size_for(long version)
{
    if (version >= SINCE_SCOPES)
        return sizeof(struct ruleset);
    return version >= SINCE_PORTS ? offsetof(struct ruleset, scoped) : offsetof(struct ruleset, net);
}

/* 0 or an errno. */
static int allow_path(int rules, const char *path, uint64_t access)
{
    struct landlock_path_beneath_attr rule = {.parent_fd = open(path, O_PATH | O_CLOEXEC)};
    struct stat st;
    int err = 0;

    if (rule.parent_fd < 0)
        return errno;
    if (fstat(rule.parent_fd, &st) == 0 && !S_ISDIR(st.st_mode))
        access &= FS_OF_FILES;
    rule.allowed_access = access;
    if (syscall(SYS_landlock_add_rule, rules, RULE_PATH, &rule, 0) != 0)
        err = errno;
    (void)close(rule.parent_fd);
    return err;
}

static int allow_list(int rules, const struct muster_list *paths, uint64_t access, const char **ret_what)
{
    int err = 0;

    for (size_t i = 0; i < paths->n && !err; i++) {
        *ret_what = paths->items[i];
        err = allow_path(rules, paths->items[i], access);
    }
    return err;
}

static int allow_ports(int rules, const struct sandbox *s)
{
    int err = 0;

    for (uint32_t i = 0; i < s->n_ports && !err; i++) {
        struct port_rule rule = {NET_CONNECT, s->ports[i]};

        if (syscall(SYS_landlock_add_rule, rules, RULE_PORT, &rule, 0) != 0)
            err = errno;
    }
    return err;
}

/* What a machine does not have of the list is no loss. */
static int allow_all(int rules, const struct sandbox *s, const char *file, const struct ruleset *all, const char **ret_what)
{
    int err;

    for (size_t i = 0; i < sizeof readable / sizeof *readable; i++) {
        *ret_what = readable[i];
        err = allow_path(rules, readable[i], FS_READ & all->fs);
        if (err && err != ENOENT && err != EACCES)
            return err;
    }
    *ret_what = file;
    err = allow_path(rules, "/dev/null", (FS_READ | FS_WRITE_FILE) & all->fs);
    if (!err && file)
        err = allow_path(rules, file, FS_READ & all->fs);
    if (!err)
        err = allow_list(rules, &s->read, FS_READ & all->fs, ret_what);
    if (!err)
        err = allow_list(rules, &s->write, FS_WRITE & all->fs, ret_what);
    if (!err && all->net)
        err = allow_ports(rules, s);
    return err;
}

int walls_files(const struct sandbox *s, const char *file, uint32_t *lacks, const char **ret_what)
{
    long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    struct ruleset all = rules_of(s, version);
    int rules, err;

    *lacks |= (version < 1 ? SANDBOX_LACKS_FILES : 0u) | (version < SINCE_SCOPES ? SANDBOX_LACKS_SIGNALS : 0u) |
              (version < SINCE_PORTS && s->sockets != SANDBOX_ALL_SOCKETS && s->sockets != SANDBOX_NO_SOCKETS ? SANDBOX_LACKS_PORTS : 0u);
    if (version < 1)
        return 0;
    *ret_what = "its rules";
    rules = (int)syscall(SYS_landlock_create_ruleset, &all, size_for(version), 0);
    if (rules < 0)
        return errno;
    err = allow_all(rules, s, file, &all, ret_what);
    if (!err && syscall(SYS_landlock_restrict_self, rules, 0) != 0)
        err = errno;
    (void)close(rules);
    return err;
}
