/*
 * seccomp: the system calls that a child has no use for; see walls.h.
 *
 * A list of what is refused, as nobody can list what the libraries of a stranger call. Refused are: other processes and programs, the
 * privileges of an administrator, parts of the kernel that are large and young, memory that no limit counts, and sockets.
 */
#include <errno.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "child/walls.h"

/* EPERM. A name that this machine or library does not have is passed over. */
static const char *const refused[] = {
    /* other processes */
    "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "process_mrelease", "pidfd_open", "pidfd_send_signal", "pidfd_getfd",
    "kcmp", "tkill", "migrate_pages", "move_pages", "setpriority", "ioprio_set", "sched_setscheduler", "sched_setparam", "sched_setattr",
    "sched_setaffinity", "setpgid",
    /* programs and processes */
    "execve", "execveat", "fork", "vfork", "unshare", "setns",
    /* files past their paths, and mounts */
    "open_by_handle_at", "name_to_handle_at", "mount", "umount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "open_tree_attr",
    "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr", "quotactl", "quotactl_fd", "swapon", "swapoff", "mknod", "mknodat", "fanotify_init",
    /* the kernel itself */
    "bpf", "perf_event_open", "keyctl", "add_key", "request_key", "userfaultfd", "init_module", "finit_module", "delete_module", "kexec_load",
    "kexec_file_load", "reboot", "acct", "syslog", "iopl", "ioperm", "modify_ldt", "personality", "lookup_dcookie", "vhangup", "settimeofday",
    "clock_settime", "stime", "adjtimex", "clock_adjtime", "clock_adjtime64", "sethostname", "setdomainname", "nfsservctl",
    /* memory that RLIMIT_DATA does not count */
    "memfd_create", "memfd_secret", "shmget", "shmat", "shmctl", "msgget", "semget", "mq_open"};

/* ENOSYS: who asks has another way. */
static const char *const unknown[] = {"clone3", "io_uring_setup", "io_uring_enter", "io_uring_register"};

enum { N_DOMAINS = 64 };

struct filter {
    scmp_filter_ctx context;
    int err; /* of the first rule that failed */
};

/* For MASKED_EQ: the mask, and what must be left. */
static struct scmp_arg_cmp when(unsigned int argument, enum scmp_compare how, scmp_datum_t a, scmp_datum_t b)
{
    return (struct scmp_arg_cmp){argument, how, a, b};
}

static void refuse_if(struct filter *f, const char *name, int error, unsigned int n, const struct scmp_arg_cmp *conditions)
{
    int call = seccomp_syscall_resolve_name(name), err;

    if (call == __NR_SCMP_ERROR || f->err)
        return;
    err = seccomp_rule_add_array(f->context, SCMP_ACT_ERRNO((uint32_t)error), call, n, conditions);
    if (err && err != -EDOM) /* a number of another machine */
        f->err = -err;
}

static void refuse_names(struct filter *f, const char *const *names, size_t n, int error)
{
    for (size_t i = 0; i < n; i++)
        refuse_if(f, names[i], error, 0, NULL);
}

/* Signals to itself and threads of its own are what is left of these. */
static void refuse_others(struct filter *f)
{
    const struct scmp_arg_cmp other = when(0, SCMP_CMP_NE, (scmp_datum_t)getpid(), 0), not_me = when(0, SCMP_CMP_NE, 0, 0);
    const struct scmp_arg_cmp no_thread = when(0, SCMP_CMP_MASKED_EQ, CLONE_THREAD, 0);
    const struct scmp_arg_cmp death = when(0, SCMP_CMP_EQ, PR_SET_PDEATHSIG, 0), layout = when(0, SCMP_CMP_EQ, PR_SET_MM, 0);
    const struct scmp_arg_cmp typing = when(1, SCMP_CMP_MASKED_EQ, UINT32_MAX, TIOCSTI);
    const struct scmp_arg_cmp shared = when(3, SCMP_CMP_MASKED_EQ, MAP_SHARED | MAP_ANONYMOUS, MAP_SHARED | MAP_ANONYMOUS);

    refuse_if(f, "kill", EPERM, 1, &other);
    refuse_if(f, "tgkill", EPERM, 1, &other);
    refuse_if(f, "rt_sigqueueinfo", EPERM, 1, &other);
    refuse_if(f, "rt_tgsigqueueinfo", EPERM, 1, &other);
    refuse_if(f, "prlimit64", EPERM, 1, &not_me);
    refuse_if(f, "clone", EPERM, 1, &no_thread);
    refuse_if(f, "prctl", EPERM, 1, &death);
    refuse_if(f, "prctl", EPERM, 1, &layout);
    refuse_if(f, "ioctl", EPERM, 1, &typing);
    refuse_if(f, "mmap", EPERM, 1, &shared);
}

static bool is_open(const struct sandbox *s, int domain)
{
    if (domain == AF_UNIX)
        return s->local || s->sockets == SANDBOX_ALL_SOCKETS;
    return s->sockets != SANDBOX_NO_SOCKETS && (domain == AF_INET || domain == AF_INET6 || domain == AF_NETLINK);
}

/* One by one: a rule compares an argument once. What has more than 32 bits is above the last. */
static void refuse_sockets(struct filter *f, const struct sandbox *s)
{
    const struct scmp_arg_cmp above = when(0, SCMP_CMP_GE, N_DOMAINS, 0);
    const struct scmp_arg_cmp other_netlink[] = {when(0, SCMP_CMP_EQ, AF_NETLINK, 0), when(2, SCMP_CMP_NE, 0, 0)};

    refuse_if(f, "socket", EPERM, 1, &above);
    for (int domain = 0; domain < N_DOMAINS; domain++) {
        const struct scmp_arg_cmp of = when(0, SCMP_CMP_EQ, (scmp_datum_t)domain, 0);
        const struct scmp_arg_cmp datagrams[] = {of, when(1, SCMP_CMP_MASKED_EQ, 0xf, SOCK_DGRAM)};

        if (!is_open(s, domain))
            refuse_if(f, "socket", EPERM, 1, &of);
        else if (s->sockets == SANDBOX_POSTGRES && (domain == AF_INET || domain == AF_INET6))
            refuse_if(f, "socket", EPERM, 2, datagrams);
    }
    if (s->sockets != SANDBOX_NO_SOCKETS)
        refuse_if(f, "socket", EPERM, 2, other_netlink);
}

/* A kernel without seccomp refuses the filter as a whole. */
static int load(struct filter *f, uint32_t *lacks)
{
    int err = -seccomp_load(f->context);

    if (err != EINVAL && err != ENOSYS && err != EFAULT)
        return err;
    *lacks |= SANDBOX_LACKS_CALLS;
    return 0;
}

int walls_calls(const struct sandbox *s, uint32_t *lacks)
{
    struct filter f = {.context = seccomp_init(SCMP_ACT_ALLOW)};
    int err;

    if (!f.context)
        return ENOMEM;
    refuse_names(&f, refused, sizeof refused / sizeof *refused, EPERM);
    refuse_names(&f, unknown, sizeof unknown / sizeof *unknown, ENOSYS);
    refuse_others(&f);
    refuse_sockets(&f, s);
    err = f.err ? f.err : -seccomp_attr_set(f.context, SCMP_FLTATR_CTL_TSYNC, 1);
    if (!err)
        err = load(&f, lacks);
    seccomp_release(f.context);
    return err;
}
