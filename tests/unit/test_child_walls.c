/*
 * child/spawn, child/sandbox, child/ask: this program is its own child. Which part it plays there stands in its arguments, where a broker
 * has the name of an instance. What a part finds out it tells as the reason of a refusal.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
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
#include <unistd.h>

#include "base/clock.h"
#include "child/ask.h"
#include "child/platform.h"
#include "child/spawn.h"

enum { OWN_UID = 61190 };

/* ---- the child's parts ---------------------------------------------------------------------------------------------------------- */

static void send_frame(struct buf *b, struct frame *f)
{
    if (frame_end(f) != 0 || send(SPAWN_FD, b->data, b->len, 0) != (ssize_t)b->len)
        _exit(90);
    buf_clear(b);
}

static void refuse(int code, const char *why)
{
    struct buf b = {0};
    struct frame f = frame_begin(&b, FRAME_REFUSED, 0);

    frame_put_i32(&f, code);
    frame_put_str(&f, why);
    send_frame(&b, &f);
    pause();
}

/* The next frame of the broker, in memory that stays. */
static struct frame_reader hear_frame(void)
{
    static char in[1 << 16];
    static size_t n, used;
    struct frame_reader r;
    size_t len;

    memmove(in, in + used, n - used);
    n -= used;
    used = 0;
    while (frame_peek(in, n, &r, &len) != 1) {
        ssize_t got = recv(SPAWN_FD, in + n, sizeof in - n, 0);

        if (got <= 0)
            _exit(91);
        n += (size_t)got;
    }
    used = len;
    return r;
}

static bool raw(long result)
{
    return result >= 0;
}

static bool opens(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC, 0600);

    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

static bool parent_file(const char *name, int flags)
{
    char path[64];

    snprintf(path, sizeof path, "/proc/%d/%s", (int)getppid(), name);
    return opens(path, flags);
}

/* The same program at the same address, or none at all: read or not is what counts. */
static char there_too;

static bool reads_parent(void)
{
    char byte;
    struct iovec here = {&byte, 1}, there = {&there_too, 1};

    return raw(process_vm_readv(getppid(), &here, 1, &there, 1, 0)) || raw(process_vm_writev(getppid(), &here, 1, &there, 1, 0));
}

static bool clones(void)
{
    struct clone_args args = {.exit_signal = SIGCHLD};
    long pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);

    if (pid == 0)
        _exit(0);
    if (pid < 0) {
        pid = syscall(SYS_clone3, &args, sizeof args);
        if (pid == 0)
            _exit(0);
    }
    return pid >= 0;
}

static bool makes_socket(int domain, int type)
{
    return raw(socket(domain, type, 0));
}

static void *idle(void *arg)
{
    return arg;
}

/* What must work all the same, or a plugin would be of no use. */
static const char *what_fails(void)
{
    int pair[2], pipe_ends[2];
    pthread_t thread;

    if (!opens("/etc/hosts", O_RDONLY) || !opens("/dev/urandom", O_RDONLY) || !opens("/proc/self/status", O_RDONLY))
        return "reading what all may";
    if (!opens("/dev/null", O_WRONLY))
        return "writing to /dev/null";
    if (pthread_create(&thread, NULL, idle, NULL) != 0 || pthread_join(thread, NULL) != 0)
        return "a thread";
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0 || pipe(pipe_ends) != 0)
        return "a pair of sockets, or a pipe";
    if (kill(getpid(), 0) != 0 || raise(0) != 0)
        return "signals to itself";
    return NULL;
}

#define TRY(list, what) ((what) ? strcat((list), #what "; ") : (list))

/* Everything here must be refused, by the walls or by the kernel because of them. */
static void try_all(char out[2048])
{
    const char *argv[] = {"/bin/true", NULL};
    pid_t parent = getppid();
    cpu_set_t cpus;

    CPU_ZERO(&cpus);
    CPU_SET(0, &cpus);
    TRY(out, opens("/etc/shadow", O_RDONLY));
    TRY(out, opens("/root", O_RDONLY | O_DIRECTORY));
    TRY(out, opens("/tmp", O_RDONLY | O_DIRECTORY));
    TRY(out, opens("/tmp/muster-walls-write", O_WRONLY | O_CREAT));
    TRY(out, opens("/dev/shm/muster-walls", O_RDWR | O_CREAT));
    TRY(out, opens("/proc/1/status", O_RDONLY));
    TRY(out, parent_file("mem", O_RDONLY));
    TRY(out, parent_file("environ", O_RDONLY));
    TRY(out, parent_file("maps", O_RDONLY));
    TRY(out, parent_file("fd", O_RDONLY | O_DIRECTORY));
    TRY(out, raw(unlink("/tmp/muster-walls-victim")));
    TRY(out, raw(rename("/tmp/muster-walls-victim", "/tmp/muster-walls-moved")));
    TRY(out, raw(mkdir("/tmp/muster-walls-folder", 0700)));
    TRY(out, raw(ptrace(PTRACE_ATTACH, parent, NULL, NULL)));
    TRY(out, raw(ptrace(PTRACE_SEIZE, parent, NULL, NULL)));
    TRY(out, reads_parent());
    TRY(out, raw(kill(parent, 0)));
    TRY(out, raw(kill(-1, 0)));
    TRY(out, raw(kill(0, 0)));
    TRY(out, raw(syscall(SYS_tgkill, parent, parent, 0)));
    TRY(out, raw(syscall(SYS_tkill, parent, 0)));
    TRY(out, raw(syscall(SYS_pidfd_open, parent, 0)));
    TRY(out, raw(syscall(SYS_prlimit64, parent, RLIMIT_NOFILE, NULL, NULL)));
    TRY(out, raw(sched_setaffinity(parent, sizeof cpus, &cpus)));
    TRY(out, raw(setpriority(PRIO_PROCESS, 0, -20)));
    TRY(out, raw(execve(argv[0], (char *const *)argv, NULL)));
    TRY(out, raw(syscall(SYS_execveat, AT_FDCWD, argv[0], argv, NULL, 0)));
    TRY(out, clones());
    TRY(out, raw(unshare(CLONE_NEWUSER)));
    TRY(out, raw(setns(0, 0)));
    TRY(out, raw(syscall(SYS_bpf, 0, NULL, 0)));
    TRY(out, raw(syscall(SYS_perf_event_open, NULL, 0, -1, -1, 0)));
    TRY(out, raw(syscall(SYS_io_uring_setup, 1, NULL)));
    TRY(out, raw(syscall(SYS_userfaultfd, 0)));
    TRY(out, raw(syscall(SYS_keyctl, 0, 0)));
    TRY(out, raw(syscall(SYS_memfd_create, "x", 0)));
    TRY(out, mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
    TRY(out, raw(prctl(PR_SET_PDEATHSIG, 0)));
    TRY(out, raw(setuid(0)) && getuid() == 0 && opens("/etc/shadow", O_RDONLY));
    TRY(out, raw(mknod("/tmp/muster-walls-node", S_IFIFO | 0600, 0)));
    TRY(out, raw(chroot("/")));
    TRY(out, makes_socket(AF_NETLINK, SOCK_RAW) && makes_socket(AF_PACKET, SOCK_RAW));
    TRY(out, makes_socket(AF_PACKET, SOCK_RAW));
}

static void part_walls(void)
{
    char out[2048] = "";
    const char *fails = what_fails();

    try_all(out);
    TRY(out, makes_socket(AF_INET, SOCK_STREAM));
    TRY(out, makes_socket(AF_INET6, SOCK_DGRAM));
    TRY(out, makes_socket(AF_UNIX, SOCK_STREAM));
    refuse(MUSTER_EINVAL, fails ? fails : out);
}

static void part_sockets(void)
{
    char out[2048] = "";

    try_all(out);
    if (!makes_socket(AF_INET, SOCK_STREAM))
        strcat(out, "no socket; ");
    if (makes_socket(AF_UNIX, SOCK_STREAM))
        strcat(out, "a local socket; ");
    if (makes_socket(AF_INET, SOCK_DGRAM))
        strcat(out, "a datagram; ");
    refuse(MUSTER_EINVAL, out);
}

static void part_memory(void)
{
    size_t mib = 0;

    while (mib < 4096 && malloc(1 << 20))
        mib++;
    refuse(MUSTER_EINVAL, mib < 64 ? "held" : "not held");
}

static void part_write(void)
{
    char out[2048] = "";

    try_all(out);
    if (!opens("/tmp/muster-walls-open/new", O_WRONLY | O_CREAT) || unlink("/tmp/muster-walls-open/new") != 0)
        strcat(out, "what it may write it cannot; ");
    refuse(MUSTER_EINVAL, out);
}

static void part_who(void)
{
    char out[512];
    struct rlimit files;

    getrlimit(RLIMIT_NOFILE, &files);
    snprintf(out, sizeof out, "uid %d gid %d files %d nice %d home %s fds %d", (int)getuid(), (int)getgid(), (int)files.rlim_max,
             getpriority(PRIO_PROCESS, 0), getenv("HOME") ? "yes" : "no", fcntl(4, F_GETFD) != -1);
    refuse(MUSTER_EINVAL, out);
}

static const struct muster_service a_service = {.size = sizeof a_service, .name = "thing", .verbs = "do see"};

static int a_check(const struct muster_host *host, const void *config)
{
    (void)host;
    (void)config;
    return 0;
}

static struct muster_plugin a_plugin(void)
{
    return (struct muster_plugin){.size = sizeof(struct muster_plugin), .abi_major = MUSTER_ABI_MAJOR, .abi_minor = MUSTER_ABI_MINOR,
                                  .name = "thing", .version = "1.2", .services = &a_service, .n_services = 1,
                                  .service_size = sizeof a_service, .check = a_check};
}

static void say_hello(uint32_t lacks)
{
    struct muster_plugin p = a_plugin();
    struct buf b = {0};
    struct frame f = frame_begin(&b, FRAME_HELLO, 0);

    frame_put_u32(&f, FRAME_VERSION);
    frame_put_u32(&f, lacks);
    describe_put(&f, &p);
    send_frame(&b, &f);
}

static void part_check(void)
{
    struct frame_reader r = hear_frame();
    struct buf b = {0};
    struct frame f = frame_begin(&b, FRAME_CHECKED, 0);

    if (r.type != FRAME_SETTINGS || hear_frame().type != FRAME_CHECK)
        _exit(92);
    frame_put_i32(&f, MUSTER_EACCES);
    frame_put_str(&f, "key: is not to my taste");
    send_frame(&b, &f);
    pause();
}

static void part_flood(void)
{
    static char text[1 << 16];
    struct buf b = {0};

    memset(text, 'x', sizeof text - 1);
    for (;;) {
        struct frame f = frame_begin(&b, FRAME_LOG, 0);

        frame_put_u32(&f, MUSTER_LOG_DEBUG);
        frame_put_str(&f, text);
        send_frame(&b, &f);
    }
}

static int play(const char *part)
{
    struct frame_reader r = hear_frame();
    struct arena memory = {0};
    char why[SANDBOX_WHY_SIZE];
    struct sandbox walls;
    uint32_t lacks;

    if (frame_get_u32(&r) != FRAME_VERSION || !frame_get_str(&r) || sandbox_get(&r, &walls, &memory) != 0)
        return 93;
    if (sandbox_build(&walls, "/usr/bin/true", &lacks, why) != 0)
        refuse(MUSTER_EACCES, why);
    if (strcmp(part, "crash") == 0) {
        fputs("first line\nlast \033[1mwords\n", stderr);
        raise(SIGSEGV);
    }
    if (strcmp(part, "exit") == 0)
        return 7;
    if (strcmp(part, "garbage") == 0)
        send(SPAWN_FD, "0123456789abcdef0123456789abcdef", 32, 0);
    if (strcmp(part, "flood") == 0)
        part_flood();
    if (strcmp(part, "walls") == 0)
        part_walls();
    if (strcmp(part, "sockets") == 0)
        part_sockets();
    if (strcmp(part, "memory") == 0)
        part_memory();
    if (strcmp(part, "write") == 0)
        part_write();
    if (strcmp(part, "who") == 0)
        part_who();
    if (strcmp(part, "hello") == 0 || strcmp(part, "check") == 0)
        say_hello(lacks);
    if (strcmp(part, "check") == 0)
        part_check();
    pause();
    return 0;
}

/* ---- the broker's side ---------------------------------------------------------------------------------------------------------- */

static struct sandbox some_walls(void)
{
    return (struct sandbox){.parent = (uint32_t)getpid(), .files = 64, .uid = geteuid() ? 0 : OWN_UID, .gid = geteuid() ? 0 : OWN_UID};
}

static int play_with(const char *part, const struct sandbox *walls, char why[ASK_WHY_SIZE])
{
    struct ask ask = {.instance = part, .file = "/usr/bin/true", .walls = walls, .patience_ns = 2 * CLOCK_S};
    struct described *d = NULL;
    int err = ask_describe(&ask, &d, why);

    describe_free(d);
    return err;
}

/* What the kernel of this machine lacks shows in a child's hello. */
static uint32_t lacks_here(void)
{
    struct sandbox walls = some_walls();
    struct ask ask = {.instance = "hello", .file = "/usr/bin/true", .walls = &walls};
    struct described *d = NULL;
    char why[ASK_WHY_SIZE];
    uint32_t lacks;

    assert_int_equal(ask_describe(&ask, &d, why), 0);
    lacks = d->lacks;
    describe_free(d);
    return lacks;
}

static void skip_where_lacking(uint32_t lacks)
{
    for (unsigned int i = 0; i < SANDBOX_N_LACKS; i++)
        if (lacks & lacks_here() & (1u << i)) {
            print_message("this kernel: %s\n", sandbox_lack_text(1u << i));
            skip();
        }
}

static void test_nothing_outside_is_reached(void **state)
{
    struct sandbox walls = some_walls();
    char why[ASK_WHY_SIZE];

    (void)state;
    skip_where_lacking(SANDBOX_LACKS_CALLS | SANDBOX_LACKS_FILES);
    close(open("/tmp/muster-walls-victim", O_WRONLY | O_CREAT | O_CLOEXEC, 0666));
    assert_int_equal(play_with("walls", &walls, why), MUSTER_EINVAL);
    assert_string_equal(why, "");
    walls.uid = walls.gid = 0; /* as a broker without root has it */
    assert_int_equal(play_with("walls", &walls, why), MUSTER_EINVAL);
    assert_string_equal(why, "");
    assert_int_equal(unlink("/tmp/muster-walls-victim"), 0);
}

static void test_sockets_for_postgres_are_streams(void **state)
{
    struct sandbox walls = some_walls();
    char why[ASK_WHY_SIZE];

    (void)state;
    skip_where_lacking(SANDBOX_LACKS_CALLS | SANDBOX_LACKS_FILES);
    walls.sockets = SANDBOX_POSTGRES;
    assert_int_equal(play_with("sockets", &walls, why), MUSTER_EINVAL);
    assert_string_equal(why, "");
    walls.local = 1;
    assert_int_equal(play_with("sockets", &walls, why), MUSTER_EINVAL);
    assert_string_equal(why, "a local socket; ");
}

static void test_memory_is_held(void **state)
{
    struct sandbox walls = some_walls();
    char why[ASK_WHY_SIZE];

    (void)state;
    if (PLATFORM_SANITIZED)
        skip(); /* its shadow has no limit */
    walls.memory = 48 << 20;
    assert_int_equal(play_with("memory", &walls, why), MUSTER_EINVAL);
    assert_string_equal(why, "held");
}

static void test_what_it_may_write_it_writes(void **state)
{
    const char *paths[] = {"/tmp/muster-walls-open"};
    struct sandbox walls = some_walls();
    char why[ASK_WHY_SIZE];

    (void)state;
    skip_where_lacking(SANDBOX_LACKS_CALLS | SANDBOX_LACKS_FILES);
    (void)mkdir(paths[0], 0777);
    assert_int_equal(chmod(paths[0], 0777), 0);
    walls.write = (struct muster_list){paths, 1};
    assert_int_equal(play_with("write", &walls, why), MUSTER_EINVAL);
    assert_string_equal(why, "");
    assert_int_equal(rmdir(paths[0]), 0);
    assert_int_equal(play_with("write", &walls, why), MUSTER_EACCES);
    assert_string_equal(why, "the walls around the plugin cannot be built: /tmp/muster-walls-open: No such file or directory");
}

static void test_it_is_somebody_else_with_nothing_of_ours(void **state)
{
    struct sandbox walls = some_walls();
    char why[ASK_WHY_SIZE], expected[128];
    int before = getpriority(PRIO_PROCESS, 0);

    (void)state;
    if (lacks_here() & SANDBOX_LACKS_USER)
        skip();
    setenv("HOME", "/root", 1);
    assert_int_equal(play_with("who", &walls, why), MUSTER_EINVAL);
    snprintf(expected, sizeof expected, "uid %d gid %d files 64 nice %d home no fds 0", (int)(walls.uid ? walls.uid : getuid()),
             (int)(walls.gid ? walls.gid : getgid()), before + 5 > 19 ? 19 : before + 5);
    assert_string_equal(why, expected);
}

static void test_a_crash_is_told_with_its_last_words(void **state)
{
    struct sandbox walls = some_walls();
    char why[ASK_WHY_SIZE];

    (void)state;
    assert_int_equal(play_with("crash", &walls, why), MUSTER_EINVAL);
    if (!PLATFORM_SANITIZED)
        assert_string_equal(why, "ended while its file was loaded: signal 11 (Segmentation fault); its last words: last  [1mwords");
    assert_int_equal(play_with("exit", &walls, why), MUSTER_EINVAL);
    assert_string_equal(why, "ended while its file was loaded: exit code 7");
    assert_int_equal(play_with("garbage", &walls, why), MUSTER_EINVAL);
    assert_string_equal(why, "said what is no frame while its file was loaded");
}

static long resident_kib(void)
{
    struct rusage usage;

    assert_int_equal(getrusage(RUSAGE_SELF, &usage), 0);
    return usage.ru_maxrss;
}

static void test_one_that_hangs_or_talks_for_ever_is_ended(void **state)
{
    struct sandbox walls = some_walls();
    int64_t before = clock_now_ns();
    long kib = resident_kib();
    char why[ASK_WHY_SIZE];

    (void)state;
    assert_int_equal(play_with("hang", &walls, why), MUSTER_EINVAL);
    assert_string_equal(why, "said nothing of use within 2 s while its file was loaded");
    assert_int_equal(play_with("flood", &walls, why), MUSTER_EINVAL);
    assert_string_equal(why, "said nothing of use within 2 s while its file was loaded");
    assert_true(clock_now_ns() - before < 8 * CLOCK_S);
    assert_true(PLATFORM_SANITIZED || resident_kib() - kib < 32 << 10);
}

static void test_check_answers(void **state)
{
    struct sandbox walls = some_walls();
    struct ask ask = {.instance = "check", .file = "/usr/bin/true", .walls = &walls};
    struct buf b = {0};
    struct frame f = frame_begin(&b, FRAME_SETTINGS, 0);
    char why[ASK_WHY_SIZE];
    bool asked;

    (void)state;
    assert_int_equal(frame_end(&f), 0);
    assert_int_equal(ask_check(&ask, (struct muster_bytes){b.data, b.len}, &asked, why), MUSTER_EACCES);
    assert_true(asked);
    assert_string_equal(why, "key: is not to my taste");
    ask.instance = "crash";
    assert_int_equal(ask_check(&ask, (struct muster_bytes){b.data, b.len}, &asked, why), MUSTER_EINVAL);
    assert_false(asked);
    buf_done(&b);
}

static void test_a_user_that_was_asked_for_must_be_there(void **state)
{
    struct sandbox walls = some_walls();
    char why[ASK_WHY_SIZE];

    (void)state;
    if (geteuid() != 0)
        skip();
    walls.uid = UINT32_MAX; /* no user */
    walls.must_become = 1;
    assert_int_equal(play_with("who", &walls, why), MUSTER_EACCES);
    assert_string_equal(why, "the walls around the plugin cannot be built: its user: Invalid argument");
}

static void test_it_ends_with_its_parent(void **state)
{
    struct sandbox walls = some_walls();
    char why[ASK_WHY_SIZE];

    (void)state;
    walls.parent = 1;
    assert_int_equal(play_with("who", &walls, why), MUSTER_EACCES);
    assert_string_equal(why, "the walls around the plugin cannot be built: its parent: No such process");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_outside_is_reached),
        cmocka_unit_test(test_sockets_for_postgres_are_streams),
        cmocka_unit_test(test_memory_is_held),
        cmocka_unit_test(test_what_it_may_write_it_writes),
        cmocka_unit_test(test_it_is_somebody_else_with_nothing_of_ours),
        cmocka_unit_test(test_a_crash_is_told_with_its_last_words),
        cmocka_unit_test(test_one_that_hangs_or_talks_for_ever_is_ended),
        cmocka_unit_test(test_check_answers),
        cmocka_unit_test(test_a_user_that_was_asked_for_must_be_there),
        cmocka_unit_test(test_it_ends_with_its_parent),
    };

    if (argc == 3 && strcmp(argv[1], SPAWN_OPTION) == 0)
        return play(argv[2]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
