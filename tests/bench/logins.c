/*
 * logins - many clients that log in at once, each over a connection of its own that stays open, and tries again when it is not let in.
 *
 *   logins PORT N AT_ONCE CREDS [TOKEN]    TOKEN: "acme.b", to which each client's number is added
 *
 * Prints one line: {"n", "seconds", "p50_ms", "p99_ms", "max_ms", "tries"}. A login lasts from the first connect() to the server's PONG; at
 * most AT_ONCE are under way.
 *
 * Threads  One, with epoll; what it costs to sign the server's nonce is in the figures, as it is for any client.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "auth/jwt.h"
#include "base/clock.h"

enum { LINE = 4096, EVENTS = 512, FILE_MAX = 16384 };
static const int64_t again_ns = 200 * CLOCK_MS, patience_ns = 120 * CLOCK_S;

enum { AWAY, ASKED, DONE };
struct client {
    int fd, state;
    int64_t begun_ns, again_at_ns, took_ns;
    size_t len;
    char *in; /* a line's bytes, of LINE */
};

static struct client *clients;
static int n_clients, n_begun, at_once, n_done, n_away, poll_fd;
static uint64_t n_tries;
static struct sockaddr_in server;
static struct nkey key;
static const char *jwt, *token;
static size_t jwt_len;

static void die(const char *what)
{
    (void)fprintf(stderr, "logins: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void knock(struct client *c)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    int one = 1;

    n_tries++;
    n_away--;
    c->len = 0;
    c->state = ASKED;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        die("socket");
    (void)setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(c->fd, (struct sockaddr *)&server, sizeof server) != 0 && errno != EINPROGRESS)
        die("connect");
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, c->fd, &event) != 0)
        die("epoll");
}

static void go_away(struct client *c)
{
    close(c->fd);
    c->state = AWAY;
    c->again_at_ns = clock_now_ns() + again_ns;
    n_away++;
}

static void answer_greeting(struct client *c)
{
    const char *nonce = strstr(c->in, "\"nonce\":\"");
    uint8_t sig[NKEY_SIG_LEN];
    struct buf out = {0};

    if (!nonce)
        die("a server without a nonce");
    nonce += strlen("\"nonce\":\"");
    if (nkey_sign(&key, nonce, strcspn(nonce, "\""), sig) != 0)
        die("signing");
    buf_printf(&out, "CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"c\",\"version\":\"0\",\"protocol\":1,\"jwt\":\"%.*s\",\"sig\":\"",
               (int)jwt_len, jwt);
    buf_put_base64url(&out, sig, sizeof sig);
    if (token)
        buf_printf(&out, "\",\"auth_token\":\"%s%d", token, (int)(c - clients));
    buf_put_lit(&out, "\"}\r\nPING\r\n");
    if (send(c->fd, out.data, out.len, MSG_NOSIGNAL) != (ssize_t)out.len)
        go_away(c);
    buf_done(&out);
}

static void take_line(struct client *c)
{
    if (strncmp(c->in, "INFO ", 5) == 0 && !strstr(c->in, "\"connect_info\":true")) {
        answer_greeting(c);
    } else if (strncmp(c->in, "PONG", 4) == 0) {
        c->took_ns = clock_now_ns() - c->begun_ns;
        c->state = DONE;
        n_done++;
    } else if (strncmp(c->in, "-ERR", 4) == 0) {
        go_away(c);
    }
}

static void hear(struct client *c)
{
    ssize_t n = recv(c->fd, c->in + c->len, LINE - 1 - c->len, 0);
    char *end;

    if (n <= 0) {
        if (c->state == ASKED)
            go_away(c);
        return;
    }
    c->len += (size_t)n;
    c->in[c->len] = '\0';
    while (c->state == ASKED && (end = strstr(c->in, "\r\n"))) {
        *end = '\0';
        take_line(c);
        c->len -= (size_t)(end + 2 - c->in);
        memmove(c->in, end + 2, c->len + 1);
    }
}

static void begin_more(void)
{
    for (; n_begun < n_clients && n_begun - n_done < at_once; n_begun++) {
        clients[n_begun].begun_ns = clock_now_ns();
        n_away++;
        knock(&clients[n_begun]);
    }
}

static void wait_for_all(void)
{
    int64_t end_ns = clock_now_ns() + patience_ns;
    struct epoll_event events[EVENTS];

    while (n_done < n_clients) {
        begin_more();
        int n = epoll_wait(poll_fd, events, EVENTS, n_away ? 20 : 1000);

        for (int i = 0; i < n; i++)
            hear(events[i].data.ptr);
        for (int i = 0; i < n_begun && n_away; i++)
            if (clients[i].state == AWAY && clients[i].again_at_ns <= clock_now_ns())
                knock(&clients[i]);
        if (clock_now_ns() > end_ns)
            die("not all were let in");
    }
}

static int by_time(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

static void print(int64_t began_ns)
{
    int64_t *took = calloc((size_t)n_clients, sizeof *took);

    if (!took)
        die("memory");
    for (int i = 0; i < n_clients; i++)
        took[i] = clients[i].took_ns;
    qsort(took, (size_t)n_clients, sizeof *took, by_time);
    printf("{\"n\": %d, \"seconds\": %.3f, \"p50_ms\": %.1f, \"p99_ms\": %.1f, \"max_ms\": %.1f, \"tries\": %llu}\n", n_clients,
           (double)(clock_now_ns() - began_ns) / 1e9, (double)took[n_clients / 2] / 1e6, (double)took[n_clients * 99 / 100] / 1e6,
           (double)took[n_clients - 1] / 1e6, (unsigned long long)n_tries);
    free(took);
}

static void load_creds(const char *path)
{
    static char text[FILE_MAX];
    FILE *f = fopen(path, "re");

    if (!f || !fread(text, 1, sizeof text - 1, f) || jwt_read_creds(text, &jwt, &jwt_len, &key) != 0)
        die(path);
    (void)fclose(f);
}

int main(int argc, char **argv)
{
    struct rlimit files;
    int64_t began_ns;

    if (argc < 5)
        die("expected PORT N AT_ONCE CREDS [TOKEN]");
    server = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    n_clients = atoi(argv[2]);
    at_once = atoi(argv[3]);
    load_creds(argv[4]);
    token = argc > 5 ? argv[5] : NULL;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
    clients = calloc((size_t)n_clients, sizeof *clients);
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (!clients || poll_fd < 0)
        die("memory");
    began_ns = clock_now_ns();
    for (int i = 0; i < n_clients; i++) {
        clients[i].in = malloc(LINE);
        if (!clients[i].in)
            die("memory");
    }
    wait_for_all();
    print(began_ns);
    return 0;
}
