/* The NATS protocol over epoll; see wire.h. */
#include "wire.h"

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

#include "base/clock.h"

enum { EVENTS = 512, FILE_MAX = 16384, CHUNK = 65536, SUBJECT_SIZE = 256 };

static const struct wire_calls *calls;
static struct sockaddr_in server;
static int poll_fd;
static struct wire **dirty; /* those that have something to send */
static size_t n_dirty, dirty_cap;
uint64_t wire_n_tries;

void die(const char *what)
{
    (void)fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, strerror(errno));
    exit(1);
}

void wire_key_load(const char *path, struct wire_key *key)
{
    FILE *f = fopen(path, "re");

    key->text = calloc(1, FILE_MAX);
    if (!f || !key->text || !fread(key->text, 1, FILE_MAX - 1, f) || jwt_read_creds(key->text, &key->jwt, &key->jwt_len, &key->key) != 0)
        die(path);
    (void)fclose(f);
}

void wire_open(uint16_t port, const struct wire_calls *own_calls)
{
    struct rlimit files;

    calls = own_calls;
    server = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (poll_fd < 0)
        die("epoll");
}

static void watch(struct wire *w, int how)
{
    struct epoll_event event = {.events = EPOLLIN | (w->waits ? EPOLLOUT : 0), .data.ptr = w};

    if (epoll_ctl(poll_fd, how, w->fd, &event) != 0)
        die("epoll");
}

void wire_knock(struct wire *w)
{
    int one = 1;

    wire_n_tries++;
    buf_clear(&w->in);
    buf_clear(&w->out);
    w->sent = 0;
    w->n_flushing = 0;
    w->waits = false;
    w->state = WIRE_ASKED;
    w->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (w->fd < 0)
        die("socket");
    (void)setsockopt(w->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(w->fd, (struct sockaddr *)&server, sizeof server) != 0 && errno != EINPROGRESS)
        die("connect");
    watch(w, EPOLL_CTL_ADD);
}

static void go_away(struct wire *w)
{
    bool was_in = w->state == WIRE_IN;

    if (w->state == WIRE_AWAY)
        return;
    (void)close(w->fd);
    w->state = WIRE_AWAY;
    w->again_ns = clock_now_ns() + 200 * CLOCK_MS;
    if (was_in && !w->cut)
        calls->on_out(w);
}

void wire_cut(struct wire *w)
{
    w->cut = true;
    go_away(w);
}

/* ---- out ---- */

static void mark(struct wire *w)
{
    if (w->dirty)
        return;
    if (n_dirty == dirty_cap) {
        dirty_cap = dirty_cap ? 2 * dirty_cap : 1024;
        dirty = realloc(dirty, dirty_cap * sizeof(struct wire *));
        if (!dirty)
            die("memory");
    }
    dirty[n_dirty++] = w;
    w->dirty = true;
}

void wire_subscribe(struct wire *w, const char *subject)
{
    buf_printf(&w->out, "SUB %s %d\r\n", subject, ++w->n_subs);
    mark(w);
}

void wire_publish(struct wire *w, const char *subject, const char *reply, const char *body)
{
    buf_printf(&w->out, "PUB %s %s%s%zu\r\n%s\r\n", subject, reply ? reply : "", reply ? " " : "", strlen(body), body);
    mark(w);
}

void wire_publish_with(struct wire *w, const char *subject, const char *headers, const char *body)
{
    size_t n_headers = strlen(headers);

    buf_printf(&w->out, "HPUB %s %zu %zu\r\n%s%s\r\n", subject, n_headers, n_headers + strlen(body), headers, body);
    mark(w);
}

void wire_flush(struct wire *w)
{
    w->n_flushing++;
    buf_put_lit(&w->out, "PING\r\n");
    mark(w);
}

static void send_what_waits(struct wire *w)
{
    bool waits;
    ssize_t n = 0;

    while (w->state != WIRE_AWAY && w->sent < w->out.len && n >= 0) {
        n = send(w->fd, w->out.data + w->sent, w->out.len - w->sent, MSG_NOSIGNAL);
        if (n > 0)
            w->sent += (size_t)n;
    }
    if (n < 0 && errno != EAGAIN)
        go_away(w);
    if (w->state == WIRE_AWAY)
        return;
    waits = w->sent < w->out.len;
    if (!waits) {
        buf_clear(&w->out);
        w->sent = 0;
    }
    if (waits != w->waits) {
        w->waits = waits;
        watch(w, EPOLL_CTL_MOD);
    }
}

static void send_all(void)
{
    size_t n = n_dirty;

    n_dirty = 0;
    for (size_t i = 0; i < n; i++) {
        dirty[i]->dirty = false;
        if (!dirty[i]->waits)
            send_what_waits(dirty[i]);
    }
}

/* ---- in ---- */

static void answer_greeting(struct wire *w, const char *line)
{
    const char *nonce = strstr(line, "\"nonce\":\"");
    uint8_t sig[NKEY_SIG_LEN];

    if (!nonce)
        die("a server without a nonce");
    nonce += strlen("\"nonce\":\"");
    if (nkey_sign(&w->key->key, nonce, strcspn(nonce, "\""), sig) != 0)
        die("signing");
    buf_printf(&w->out, "CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"c\",\"version\":\"0\",\"protocol\":1,\"headers\":true,\"jwt\":\"%.*s\",\"sig\":\"",
               (int)w->key->jwt_len, w->key->jwt);
    buf_put_base64url(&w->out, sig, sizeof sig);
    buf_put_lit(&w->out, "\"}\r\nPING\r\n");
    mark(w);
}

static void take_line(struct wire *w, const char *line)
{
    if (strncmp(line, "INFO ", 5) == 0 && w->state == WIRE_ASKED && !strstr(line, "\"connect_info\":true")) {
        answer_greeting(w, line);
    } else if (strncmp(line, "PING", 4) == 0) {
        buf_put_lit(&w->out, "PONG\r\n");
        mark(w);
    } else if (strncmp(line, "PONG", 4) == 0 && w->state == WIRE_ASKED) {
        w->state = WIRE_IN;
        calls->on_in(w);
    } else if (strncmp(line, "PONG", 4) == 0) {
        w->n_flushing--;
    } else if (strncmp(line, "-ERR", 4) == 0) {
        (void)fprintf(stderr, "%s\n", line);
        go_away(w);
    }
}

/* "MSG subject sid [reply] size" and "HMSG subject sid [reply] headers size". Returns how many bytes follow it, 0: not all is there. */
static size_t take_message(struct wire *w, const char *line, size_t at)
{
    bool headers = *line == 'H';
    const char *last = strrchr(line, ' ');
    size_t size = strtoul(last + 1, NULL, 10), head = 0, len;
    char subject[SUBJECT_SIZE];

    if (w->in.len - at < size + 2)
        return 0;
    if (headers) {
        while (last > line && last[-1] != ' ')
            last--;
        head = strtoul(last, NULL, 10);
    }
    line += headers ? 5 : 4;
    len = strcspn(line, " ");
    if (len >= sizeof subject)
        die("a long subject");
    memcpy(subject, line, len);
    subject[len] = '\0';
    calls->on_message(w, &(struct wire_message){subject, w->in.data + at + head, size - head});
    return size + 2;
}

static void take_all(struct wire *w)
{
    size_t at = 0;
    char *end;

    while (w->state != WIRE_AWAY && (end = memmem(w->in.data + at, w->in.len - at, "\r\n", 2))) {
        char *line = w->in.data + at;
        size_t next = (size_t)(end - w->in.data) + 2, more = 0;

        *end = '\0';
        if (strncmp(line, "MSG ", 4) == 0 || strncmp(line, "HMSG ", 5) == 0) {
            more = take_message(w, line, next);
            if (!more) {
                *end = '\r';
                break;
            }
        } else {
            take_line(w, line);
        }
        at = next + more;
    }
    if (at && w->state != WIRE_AWAY) {
        memmove(w->in.data, w->in.data + at, w->in.len - at);
        w->in.len -= at;
    }
}

static void hear(struct wire *w)
{
    static char chunk[CHUNK]; /* what a connection keeps is small, and there are many */
    ssize_t n = w->state == WIRE_AWAY ? -1 : recv(w->fd, chunk, sizeof chunk, 0);

    if (w->state == WIRE_AWAY || (n < 0 && errno == EAGAIN))
        return;
    if (n <= 0) {
        go_away(w);
        return;
    }
    buf_put(&w->in, chunk, (size_t)n);
    take_all(w);
}

void wire_turn(int wait_ms)
{
    struct epoll_event events[EVENTS];

    send_all();
    int n = epoll_wait(poll_fd, events, EVENTS, wait_ms);

    for (int i = 0; i < n; i++) {
        if (events[i].events & EPOLLOUT)
            send_what_waits(events[i].data.ptr);
        if (events[i].events & ~(uint32_t)EPOLLOUT)
            hear(events[i].data.ptr);
    }
    send_all();
}
