/* A server of the tests; see server.h. */
#include "server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_LINKS = 32, MAX_REQUESTS = 512, INPUT_SIZE = 8192 };

struct link {
    int fd; /* -1: free */
    char input[INPUT_SIZE];
    size_t len;
    bool hangs; /* its request is never answered */
};

struct server {
    server_answer_fn answer;
    int listener, port;
    pid_t process;
    pthread_mutex_t lock;
    int status;
    struct link links[MAX_LINKS];
    struct server_request requests[MAX_REQUESTS];
    size_t n, most;
};

static void take_header(const char *input, const char *name, char *out, size_t size)
{
    const char *line = strstr(input, "\r\n");
    size_t len = strlen(name);

    *out = '\0';
    for (; line; line = strstr(line + 2, "\r\n"))
        if (strncasecmp(line + 2, name, len) == 0 && line[2 + len] == ':') {
            const char *value = line + 3 + len + strspn(line + 3 + len, " ");

            snprintf(out, size, "%.*s", (int)strcspn(value, "\r"), value);
            return;
        }
}

static size_t n_open(const struct server *s)
{
    size_t n = 1; /* the one that is being answered */

    for (size_t i = 0; i < MAX_LINKS; i++)
        n += s->links[i].fd >= 0 && s->links[i].hangs;
    return n;
}

static void reply(struct server *s, struct link *l, const struct server_request *r)
{
    const char *header = NULL;
    char text[256];
    size_t n;
    int status, len;

    pthread_mutex_lock(&s->lock);
    n = s->n;
    if (n < MAX_REQUESTS)
        s->requests[s->n++] = *r;
    status = s->status;
    pthread_mutex_unlock(&s->lock);
    if (s->answer)
        status = s->answer(n, &header);
    pthread_mutex_lock(&s->lock);
    if (n_open(s) > s->most)
        s->most = n_open(s);
    pthread_mutex_unlock(&s->lock);
    l->hangs = status == SERVER_HANG;
    len = snprintf(text, sizeof text, "HTTP/1.1 %d X\r\nContent-Length: 0\r\n%s%s\r\n", status, header ? header : "", header ? "\r\n" : "");
    if (status > 0 && write(l->fd, text, (size_t)len) == len)
        return;
    if (status != SERVER_HANG) {
        close(l->fd);
        l->fd = -1;
    }
}

/* One request that is there whole, out of the input. */
static bool take_request(struct server *s, struct link *l)
{
    struct server_request r = {.len = 0};
    char *end, length[16];
    size_t head, body;

    l->input[l->len] = '\0';
    end = strstr(l->input, "\r\n\r\n");
    if (!end)
        return false;
    head = (size_t)(end - l->input) + 4;
    take_header(l->input, "content-length", length, sizeof length);
    body = strtoul(length, NULL, 10);
    if (body >= sizeof r.body || l->len < head + body)
        return false;
    take_header(l->input, "webhook-id", r.id, sizeof r.id);
    take_header(l->input, "webhook-timestamp", r.timestamp, sizeof r.timestamp);
    take_header(l->input, "webhook-signature", r.signature, sizeof r.signature);
    memcpy(r.body, l->input + head, body);
    r.len = body;
    memmove(l->input, l->input + head + body, l->len - head - body);
    l->len -= head + body;
    reply(s, l, &r);
    return l->fd >= 0;
}

static void hear(struct server *s, struct link *l)
{
    ssize_t n = read(l->fd, l->input + l->len, INPUT_SIZE - 1 - l->len);

    if (n <= 0) {
        close(l->fd);
        l->fd = -1;
        l->hangs = false;
        return;
    }
    l->len += (size_t)n;
    while (take_request(s, l))
        ;
}

static void accept_one(struct server *s)
{
    int fd = accept(s->listener, NULL, NULL);

    for (size_t i = 0; i < MAX_LINKS && fd >= 0; i++)
        if (s->links[i].fd < 0) {
            s->links[i] = (struct link){.fd = fd};
            return;
        }
    if (fd >= 0)
        close(fd);
}

static void run(struct server *s)
{
    for (;;) {
        struct pollfd fds[MAX_LINKS + 1] = {{.fd = s->listener, .events = POLLIN}};

        for (size_t i = 0; i < MAX_LINKS; i++)
            fds[i + 1] = (struct pollfd){.fd = s->links[i].fd, .events = POLLIN};
        if (poll(fds, MAX_LINKS + 1, -1) < 0 && errno != EINTR)
            return;
        for (size_t i = 0; i < MAX_LINKS; i++)
            if (s->links[i].fd >= 0 && fds[i + 1].revents)
                hear(s, &s->links[i]);
        if (fds[0].revents)
            accept_one(s);
    }
}

static bool listen_somewhere(struct server *s)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;

    s->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (s->listener < 0 || bind(s->listener, (struct sockaddr *)&at, sizeof at) != 0 || listen(s->listener, MAX_LINKS) != 0 ||
        getsockname(s->listener, (struct sockaddr *)&at, &len) != 0)
        return false;
    s->port = ntohs(at.sin_port);
    return true;
}

static void need(bool done)
{
    if (!done) {
        perror("server");
        exit(1);
    }
}

struct server *server_start(server_answer_fn answer)
{
    struct server *s = mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_mutexattr_t shared;
    pid_t parent = getpid(), process;

    need(s != MAP_FAILED && pthread_mutexattr_init(&shared) == 0 && pthread_mutexattr_setpshared(&shared, PTHREAD_PROCESS_SHARED) == 0 &&
         pthread_mutex_init(&s->lock, &shared) == 0);
    s->answer = answer;
    s->status = 200;
    for (size_t i = 0; i < MAX_LINKS; i++)
        s->links[i].fd = -1;
    need(listen_somewhere(s));
    process = fork();
    need(process >= 0);
    if (process == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() == parent)
            run(s);
        _exit(1);
    }
    s->process = process; /* not by the child, which sees the same memory */
    close(s->listener);
    return s;
}

void server_says(struct server *s, int status)
{
    pthread_mutex_lock(&s->lock);
    s->status = status;
    pthread_mutex_unlock(&s->lock);
}

int server_port(const struct server *s)
{
    return s->port;
}

size_t server_n(struct server *s)
{
    size_t n;

    pthread_mutex_lock(&s->lock);
    n = s->n;
    pthread_mutex_unlock(&s->lock);
    return n;
}

bool server_request(struct server *s, size_t n, struct server_request *ret)
{
    bool there;

    pthread_mutex_lock(&s->lock);
    there = n < s->n;
    if (there)
        *ret = s->requests[n];
    pthread_mutex_unlock(&s->lock);
    return there;
}

size_t server_most(struct server *s)
{
    size_t n;

    pthread_mutex_lock(&s->lock);
    n = s->most;
    pthread_mutex_unlock(&s->lock);
    return n;
}

void server_stop(struct server *s)
{
    kill(s->process, SIGKILL);
    waitpid(s->process, NULL, 0);
    munmap(s, sizeof *s);
}
