/*
 * A plugin that goes around the ABI: with system calls of its own, and with frames that it writes to the broker's socket itself.
 *
 * loaded   what a constructor reached, before the broker had heard of the plugin
 * reach    the same now. Everything is tried; the answer names what worked, and should name nothing
 * forge    write the bytes of `hex` to the socket, `times` times
 */
#include <muster/plugin.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

enum { SOCKET = 3 };

struct settings {
    struct muster_list files; /* that are none of its business */
    struct muster_list ports; /* of servers on this machine */
};

struct hostile {
    const struct muster_host *host;
    const struct settings *settings;
    const struct muster_bus *bus;
    const struct muster_codec *codec;
};

static struct {
    char text[4096];
    int tried;
} found, at_load;

static void tell(bool worked, const char *what)
{
    size_t len = strlen(found.text);

    found.tried++;
    if (worked)
        (void)snprintf(found.text + len, sizeof found.text - len, "%s; ", what);
}

#define TRY(call) tell((call), #call)

/* ---- files ---------------------------------------------------------------------------------------------------------------------- */

static bool opens(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC | O_NONBLOCK, 0600);

    if (fd >= 0)
        (void)close(fd);
    return fd >= 0;
}

static bool parent_opens(const char *name)
{
    char path[64];

    (void)snprintf(path, sizeof path, "/proc/%d/%s", (int)getppid(), name);
    return opens(path, O_RDONLY);
}

static void try_file(const char *path)
{
    char other[512];

    (void)snprintf(other, sizeof other, "%s.hostile", path);
    tell(opens(path, O_RDONLY), path);
    tell(opens(path, O_WRONLY | O_APPEND), path);
    tell(opens(other, O_WRONLY | O_CREAT), other);
    tell(truncate(path, 0) == 0, "truncate");
    tell(link(path, other) == 0, "link");
    tell(rename(path, other) == 0, "rename");
    tell(unlink(path) == 0, "unlink");
}

static void try_files(void)
{
    TRY(parent_opens("mem"));
    TRY(parent_opens("environ"));
    TRY(parent_opens("maps"));
    TRY(parent_opens("fd"));
    TRY(parent_opens("cmdline"));
    TRY(parent_opens("root"));
    TRY(opens("/proc/self/root/etc/shadow", O_RDONLY));
    TRY(opens("/proc/self/cwd", O_RDONLY));
    TRY(opens("/proc/self/root/tmp", O_RDONLY));
    TRY(opens("/", O_RDONLY));
    TRY(opens("/etc", O_RDONLY));
    TRY(opens("/root", O_RDONLY));
    TRY(opens("/home", O_RDONLY));
    TRY(opens("/tmp", O_RDONLY));
    TRY(opens("/var/lib", O_RDONLY));
    TRY(opens("/run", O_RDONLY));
    TRY(opens("/proc/1/cmdline", O_RDONLY));
    TRY(opens("/dev/mem", O_RDONLY));
    TRY(opens("/dev/kmsg", O_RDONLY));
    TRY(opens("/dev/shm/hostile", O_RDWR | O_CREAT));
    TRY(opens("/tmp/hostile", O_WRONLY | O_CREAT));
    TRY(mkdir("/tmp/hostile-folder", 0700) == 0);
    TRY(symlink("/etc/shadow", "/tmp/hostile-link") == 0);
}

/* ---- processes ------------------------------------------------------------------------------------------------------------------ */

static char there;

static bool reads_parent(void)
{
    char byte = 1;
    struct iovec here = {&byte, 1}, theirs = {&there, 1};

    return process_vm_readv(getppid(), &here, 1, &theirs, 1, 0) >= 0 || process_vm_writev(getppid(), &here, 1, &theirs, 1, 0) >= 0;
}

/* A process of its own would be without the throttle, and outlive the child. */
static bool forks(long result)
{
    if (result == 0)
        _exit(0);
    return result > 0;
}

static bool limits(int what, rlim_t most)
{
    struct rlimit limit = {most, most};

    return setrlimit((__rlimit_resource_t)what, &limit) == 0;
}

static bool sets_affinity(void)
{
    cpu_set_t cpus;

    CPU_ZERO(&cpus);
    CPU_SET(0, &cpus);
    return sched_setaffinity(getppid(), sizeof cpus, &cpus) == 0;
}

static void try_processes(void)
{
    char *argv[] = {(char *)"/bin/true", NULL};
    pid_t parent = getppid();

    TRY(ptrace(PTRACE_SEIZE, parent, NULL, NULL) == 0);
    TRY(ptrace(PTRACE_ATTACH, parent, NULL, NULL) == 0);
    TRY(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0);
    TRY(reads_parent());
    TRY(kill(parent, SIGSTOP) == 0);
    TRY(kill(parent, 0) == 0);
    TRY(kill(-1, 0) == 0);
    TRY(kill(-getpgrp(), 0) == 0);
    TRY(kill(0, 0) == 0);
    TRY(syscall(SYS_tgkill, parent, parent, SIGKILL) == 0);
    TRY(syscall(SYS_tkill, parent, SIGKILL) == 0);
    TRY(syscall(SYS_rt_sigqueueinfo, parent, SIGKILL, &there) == 0);
    TRY(syscall(SYS_pidfd_open, parent, 0) >= 0);
    TRY(syscall(SYS_prlimit64, parent, RLIMIT_NOFILE, NULL, NULL) == 0);
    TRY(setpriority(PRIO_PROCESS, 0, -20) == 0);
    TRY(setpriority(PRIO_PROCESS, (id_t)parent, 19) == 0);
    TRY(sets_affinity());
    TRY(forks(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0)));
    TRY(forks(fork()));
    TRY(execve(argv[0], argv, NULL) == 0);
    TRY(system("true") == 0);
    TRY(limits(RLIMIT_NOFILE, 1 << 20));
    TRY(limits(RLIMIT_DATA, RLIM_INFINITY) && !getenv("ASAN_OPTIONS"));
    TRY(prctl(PR_SET_PDEATHSIG, 0) == 0);
    TRY(setsid() >= 0);
}

/* ---- the kernel ----------------------------------------------------------------------------------------------------------------- */

static void try_kernel(void)
{
    TRY(setuid(0) == 0 && getuid() == 0 && opens("/etc/shadow", O_RDONLY));
    TRY(setgid(0) == 0 && getgid() == 0 && opens("/etc/shadow", O_RDONLY));
    TRY(chroot("/tmp") == 0);
    TRY(unshare(CLONE_NEWUSER) == 0);
    TRY(unshare(CLONE_NEWNS) == 0);
    TRY(syscall(SYS_mount, "none", "/tmp", "tmpfs", 0, NULL) == 0);
    TRY(syscall(SYS_bpf, 0, NULL, 0) >= 0);
    TRY(syscall(SYS_perf_event_open, NULL, 0, -1, -1, 0) >= 0);
    TRY(syscall(SYS_io_uring_setup, 1, NULL) >= 0);
    TRY(syscall(SYS_userfaultfd, 0) >= 0);
    TRY(syscall(SYS_keyctl, 0, -3, 0) >= 0);
    TRY(syscall(SYS_memfd_create, "hostile", 0) >= 0);
    TRY(syscall(SYS_open_by_handle_at, AT_FDCWD, NULL, O_RDONLY) >= 0);
    TRY(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
    TRY(syscall(SYS_init_module, NULL, 0, "") == 0);
}

/* ---- servers -------------------------------------------------------------------------------------------------------------------- */

static bool connects(const char *port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port)), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool connected = fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof to) == 0;

    if (fd >= 0)
        (void)close(fd);
    return connected;
}

static bool makes_socket(int domain, int type)
{
    int fd = socket(domain, type, 0);

    if (fd >= 0)
        (void)close(fd);
    return fd >= 0;
}

static void try_servers(const struct settings *s)
{
    for (size_t i = 0; s && i < s->ports.n; i++)
        tell(connects(s->ports.items[i]), s->ports.items[i]);
    TRY(makes_socket(AF_INET, SOCK_STREAM));
    TRY(makes_socket(AF_INET, SOCK_DGRAM));
    TRY(makes_socket(AF_INET6, SOCK_STREAM));
    TRY(makes_socket(AF_UNIX, SOCK_STREAM));
    TRY(makes_socket(AF_NETLINK, SOCK_RAW));
    TRY(makes_socket(AF_PACKET, SOCK_RAW));
}

static void try_all(const struct settings *s)
{
    memset(&found, 0, sizeof found);
    for (size_t i = 0; s && i < s->files.n; i++)
        try_file(s->files.items[i]);
    try_files();
    try_processes();
    try_kernel();
    try_servers(s);
}

/* Code that runs because the file is opened, not because anybody calls it. */
__attribute__((constructor)) static void run_at_load(void)
{
    try_all(NULL);
    at_load = found;
}

/* ---- the plugin ----------------------------------------------------------------------------------------------------------------- */

static int answer(struct hostile *h, const struct muster_msg *msg, const char *text, int tried)
{
    struct muster_writer *w;
    struct muster_bytes body;
    int err = h->codec->writer_new(h->host, msg->encoding, &w);

    if (err)
        return err;
    h->codec->put_map(w, 2);
    h->codec->put_str(w, "reached", 7);
    h->codec->put_str(w, text, strlen(text));
    h->codec->put_str(w, "tried", 5);
    h->codec->put_int(w, tried);
    err = h->codec->bytes(w, &body);
    if (!err)
        err = h->bus->reply(h->host, msg->request, body);
    h->codec->writer_free(w);
    return err;
}

/* All of it, whatever it takes. */
static bool say(const unsigned char *bytes, size_t n)
{
    while (n) {
        struct pollfd ready = {.fd = SOCKET, .events = POLLOUT};
        ssize_t sent = write(SOCKET, bytes, n);

        if (sent < 0 && (errno != EAGAIN || poll(&ready, 1, -1) < 0))
            return false;
        bytes += sent > 0 ? sent : 0;
        n -= sent > 0 ? (size_t)sent : 0;
    }
    return true;
}

static int forge(struct hostile *h, const struct muster_msg *msg)
{
    struct muster_value *args;
    const char *hex;
    size_t n = 0;
    int64_t times;
    int err = h->codec->decode(h->host, msg->encoding, msg->payload, &args);
    static unsigned char bytes[1 << 16];

    if (err)
        return err;
    hex = h->codec->as_str(h->codec->get(args, "hex"), NULL);
    for (; hex && hex[2 * n] && n < sizeof bytes; n++)
        if (sscanf(hex + 2 * n, "%2hhx", &bytes[n]) != 1)
            break;
    times = h->codec->get(args, "times") ? h->codec->as_int(h->codec->get(args, "times")) : 1;
    h->codec->free_doc(args);
    while (times > 0 && say(bytes, n))
        times--;
    return times == 0 ? answer(h, msg, "", (int)n) : MUSTER_EINVAL;
}

static int on_msg(void *self, const struct muster_msg *msg)
{
    struct hostile *h = self;

    if (strcmp(msg->verb, "forge") == 0)
        return forge(h, msg);
    if (strcmp(msg->verb, "loaded") == 0)
        return answer(h, msg, at_load.text, at_load.tried);
    try_all(h->settings);
    return answer(h, msg, found.text, found.tried);
}

static int create(const struct muster_host *host, const void *config, void **ret_self)
{
    struct hostile *h = calloc(1, sizeof *h);
    int err = h ? 0 : MUSTER_ENOMEM;

    if (!err) {
        *h = (struct hostile){.host = host, .settings = config};
        err = host->service(host, MUSTER_BUS, (const void **)&h->bus);
    }
    if (!err)
        err = host->service(host, MUSTER_CODEC, (const void **)&h->codec);
    if (err)
        free(h);
    else
        *ret_self = h;
    return err;
}

static int start(void *self)
{
    struct hostile *h = self;
    struct muster_subscription sub = {.size = sizeof sub, .subject = "rpc.*.hostile.*", .max_msgs = 16, .max_bytes = 1 << 20, .queue = 1, .fn = on_msg};
    uint64_t id;
    int err = h->bus->subscribe(h->host, &sub, &id);

    if (!err)
        h->host->health(h->host, MUSTER_HEALTH_OK, "ok", "waits for its chance");
    return err;
}

static void destroy(void *self)
{
    free(self);
}

static const struct muster_option options[] = {
    {.key = "files", .help = "Files to try.", .type = MUSTER_T_LIST, .offset = offsetof(struct settings, files)},
    {.key = "ports", .help = "Ports to try.", .type = MUSTER_T_LIST, .offset = offsetof(struct settings, ports)},
};
static const struct muster_service services[] = {{.size = sizeof(struct muster_service), .name = "hostile", .verbs = "reach loaded forge"}};

MUSTER_PLUGIN(.name = "hostile", .version = "6.6.6", .options = options, .n_options = 2, .config_size = sizeof(struct settings),
              .services = services, .n_services = 1, .create = create, .start = start, .destroy = destroy);
