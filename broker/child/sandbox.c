/* The walls of a child; see sandbox.h. Files first, while this process may still open all; calls last, as they end what builds the rest. */
#include "child/sandbox.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "child/platform.h"
#include "child/walls.h"

enum { NICENESS = 5 };

/* ---- over the pipe -------------------------------------------------------------------------------------------------------------- */

static void put_list(struct frame *f, const struct muster_list *list)
{
    frame_put_u32(f, (uint32_t)list->n);
    for (size_t i = 0; i < list->n; i++)
        frame_put_str(f, list->items[i]);
}

void sandbox_put(struct frame *f, const struct sandbox *s)
{
    frame_put_u32(f, s->parent);
    frame_put_u32(f, s->uid);
    frame_put_u32(f, s->gid);
    frame_put_u32(f, s->must_become);
    frame_put_i64(f, s->memory);
    frame_put_i64(f, s->files);
    frame_put_i64(f, s->threads);
    frame_put_u32(f, s->sockets);
    frame_put_u32(f, s->local);
    put_list(f, &s->read);
    put_list(f, &s->write);
    frame_put_u32(f, s->n_ports);
    for (uint32_t i = 0; i < s->n_ports; i++)
        frame_put_u32(f, s->ports[i]);
}

static int get_list(struct frame_reader *r, struct muster_list *out, struct arena *memory)
{
    uint32_t n = frame_get_count(r, sizeof(uint32_t) + 1);
    const char **items = arena_alloc(memory, n, sizeof *items);

    if (!items)
        return MUSTER_ENOMEM;
    for (uint32_t i = 0; i < n; i++) {
        items[i] = frame_get_str(r);
        r->bad |= !items[i];
    }
    *out = (struct muster_list){items, n};
    return r->bad || n > SANDBOX_MAX_PATHS ? MUSTER_EINVAL : 0;
}

int sandbox_get(struct frame_reader *r, struct sandbox *s, struct arena *memory)
{
    int err;

    *s = (struct sandbox){.parent = frame_get_u32(r), .uid = frame_get_u32(r)};
    s->gid = frame_get_u32(r);
    s->must_become = frame_get_u32(r);
    s->memory = frame_get_i64(r);
    s->files = frame_get_i64(r);
    s->threads = frame_get_i64(r);
    s->sockets = frame_get_u32(r);
    s->local = frame_get_u32(r);
    err = get_list(r, &s->read, memory);
    if (!err)
        err = get_list(r, &s->write, memory);
    s->n_ports = err ? 0 : frame_get_count(r, sizeof(uint32_t));
    if (s->n_ports > SANDBOX_MAX_PORTS)
        return MUSTER_EINVAL;
    for (uint32_t i = 0; i < s->n_ports; i++)
        s->ports[i] = frame_get_u32(r);
    return err ? err : frame_is_read(r) ? 0 : MUSTER_EINVAL;
}

/* ---- building ------------------------------------------------------------------------------------------------------------------- */

static int why_not(char why[SANDBOX_WHY_SIZE], const char *what, int error)
{
    (void)snprintf(why, SANDBOX_WHY_SIZE, "the walls around the plugin cannot be built: %s: %s", what, strerror(error));
    return MUSTER_EACCES;
}

/* Never above what this process has. */
static int limit(__rlimit_resource_t what, int64_t most)
{
    struct rlimit now, next = {(rlim_t)most, (rlim_t)most};

    if (getrlimit(what, &now) != 0)
        return errno;
    if (now.rlim_max != RLIM_INFINITY && now.rlim_max < next.rlim_max)
        next = (struct rlimit){now.rlim_max, now.rlim_max};
    return setrlimit(what, &next) == 0 ? 0 : errno;
}

/* The shadow of a sanitizer counts as memory, and its reports as descriptors: with one only what they can live with is set. */
static int build_limits(const struct sandbox *s)
{
    int err = s->files ? limit(RLIMIT_NOFILE, s->files) : 0;

    if (!err && s->memory && !PLATFORM_SANITIZED)
        err = limit(RLIMIT_DATA, s->memory);
    if (!err && s->threads)
        err = limit(RLIMIT_NPROC, s->threads);
    if (!err)
        err = limit(RLIMIT_MEMLOCK, 0);
    if (!err)
        err = limit(RLIMIT_MSGQUEUE, 0);
    errno = 0;
    if (!err && nice(NICENESS) == -1 && errno) /* -1 is a value too */
        err = errno;
    return err;
}

/* Whatever capabilities are left, of a service manager or of root, go with the user or here. A service manager may have taken the call itself
 * away: then there must be none to drop. */
static int drop_capabilities(void)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2] = {0}, now[2];

    (void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); /* a kernel without them has none */
    if (syscall(SYS_capset, &head, none) == 0)
        return 0;
    head.pid = 0;
    if (syscall(SYS_capget, &head, now) != 0 || now[0].permitted || now[1].permitted)
        return EPERM;
    return 0;
}

static int become_user(const struct sandbox *s, uint32_t *lacks)
{
    int err = 0;

    if (s->uid && (setgroups(0, NULL) != 0 || setresgid(s->gid, s->gid, s->gid) != 0 || setresuid(s->uid, s->uid, s->uid) != 0))
        err = errno;
    if (!err && s->uid && (getuid() != s->uid || getgid() != s->gid)) /* -1 is nobody, and no error */
        err = EINVAL;
    if (err == EPERM && !s->must_become) {
        *lacks |= SANDBOX_LACKS_USER;
        err = 0;
    }
    return err ? err : drop_capabilities();
}

/* Both are undone by a change of the user. A parent that is gone already sends no signal. */
static int bind_to_parent(const struct sandbox *s)
{
    if (prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) != 0 || prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0)
        return errno;
    return (uint32_t)getppid() == s->parent ? 0 : ESRCH;
}

int sandbox_build(const struct sandbox *s, const char *file, uint32_t *ret_lacks, char why[SANDBOX_WHY_SIZE])
{
    const char *what = "its limits";
    int err = build_limits(s);

    *ret_lacks = 0;
    if (!err && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        err = errno;
    if (!err)
        err = walls_files(s, file, ret_lacks, &what);
    if (err)
        return why_not(why, what, err);
    what = "its user";
    err = become_user(s, ret_lacks);
    if (!err) {
        what = "its parent";
        err = bind_to_parent(s);
    }
    if (!err) {
        what = "its system calls";
        err = walls_calls(s, ret_lacks);
    }
    return err ? why_not(why, what, err) : 0;
}

/* ---- words ---------------------------------------------------------------------------------------------------------------------- */

static const char *const words[SANDBOX_N_LACKS][2] = {
    {"files", "it can read and write every file that its user can (no Landlock)"},
    {"ports", "with its sockets it can connect to every port (no Landlock 4)"},
    {"signals", "abstract sockets of other programs are open to it (no Landlock 6)"},
    {"calls", "every system call is open to it (no seccomp)"},
    {"user", "it runs as the broker's user (no right to become another)"},
};

static const char *word_of(uint32_t bit, int which)
{
    for (unsigned int i = 0; i < SANDBOX_N_LACKS; i++)
        if (bit == 1u << i)
            return words[i][which];
    return "?";
}

const char *sandbox_lack_word(uint32_t bit)
{
    return word_of(bit, 0);
}

const char *sandbox_lack_text(uint32_t bit)
{
    return word_of(bit, 1);
}
