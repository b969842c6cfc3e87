/*
 * host:port to a listening socket; see listen.h.
 *
 * Made here and not by libmicrohttpd, which does not say why it failed: "the port is taken" and "no
 * such address" need different answers from an operator. Runs once, at the start; a host name may
 * ask the resolver.
 */
#include "http/listen.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct host_port {
    char host[256];
    char port[6];
};

static bool is_port(const char *s)
{
    unsigned int v = 0;
    size_t len = strlen(s);

    if (len == 0 || len > 5)
        return false;
    for (; *s; s++) {
        if (*s < '0' || *s > '9')
            return false;
        v = v * 10 + (unsigned int)(*s - '0');
    }
    return v <= 65535;
}

/* Split at the last colon; an IPv6 address stands in brackets, so that its own colons are not taken
 * for it. */
static bool split(const char *listen, struct host_port *ret)
{
    const char *colon = strrchr(listen, ':');
    const char *host = listen;
    size_t len = colon ? (size_t)(colon - listen) : 0;

    if (!colon || !is_port(colon + 1))
        return false;
    if (*host == '[') {
        if (len < 3 || host[len - 1] != ']')
            return false;
        host++;
        len -= 2;
    } else if (memchr(host, ':', len)) {
        return false;
    }
    if (len == 0 || len >= sizeof ret->host)
        return false;
    memcpy(ret->host, host, len);
    ret->host[len] = '\0';
    (void)snprintf(ret->port, sizeof ret->port, "%s", colon + 1); /* fits: is_port() */
    return true;
}

/* Bind and listen. Returns the descriptor, or -1 with errno. */
static int open_socket(const struct addrinfo *at)
{
    int fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int on = 1, saved;

    if (fd < 0)
        return -1;
    /* Without it the port of a broker that was just stopped stays taken for a minute. */
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
        bind(fd, at->ai_addr, at->ai_addrlen) == 0 && listen(fd, 64) == 0)
        return fd;
    saved = errno;
    (void)close(fd); /* errno of the failure is what counts */
    errno = saved;
    return -1;
}

/* What the system chose, where port 0 was asked for. */
static uint16_t port_of(int fd)
{
    struct sockaddr_storage addr = {0};
    socklen_t len = sizeof addr;

    if (getsockname(fd, (struct sockaddr *)&addr, &len))
        return 0;
    if (addr.ss_family == AF_INET6)
        return ntohs(((struct sockaddr_in6 *)&addr)->sin6_port);
    return ntohs(((struct sockaddr_in *)&addr)->sin_port);
}

static int fail(const struct http_options *o, int errno_code, char why[HTTP_WHY_SIZE])
{
    const char *hint = "";
    int err = errno_code == ENOMEM || errno_code == EMFILE || errno_code == ENFILE ? MUSTER_ENOMEM
                                                                                   : MUSTER_EINVAL;

    if (errno_code == EADDRINUSE) {
        err = MUSTER_EEXIST;
        hint = "; another process listens there: stop it or choose another port";
    } else if (errno_code == EACCES || errno_code == EPERM) {
        err = MUSTER_EACCES;
        hint = "; choose a port from 1024 up";
    } else if (errno_code == EADDRNOTAVAIL) {
        hint = "; no interface of this machine has that address";
    }
    (void)snprintf(why, HTTP_WHY_SIZE, "%s: cannot listen on %.96s: %s%s", o->key, o->listen,
                   strerror(errno_code), hint);
    return err;
}

int listen_open(const struct http_options *options, struct listener *ret_listener,
                char why[HTTP_WHY_SIZE])
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    struct host_port at;
    int fd = -1, err;

    if (!split(options->listen, &at)) {
        (void)snprintf(why, HTTP_WHY_SIZE,
                       "%s: \"%.96s\" is not host:port, as in 127.0.0.1:7423 or [::1]:7423",
                       options->key, options->listen);
        return MUSTER_EINVAL;
    }
    err = getaddrinfo(at.host, at.port, &hints, &found);
    if (err) {
        (void)snprintf(why, HTTP_WHY_SIZE, "%s: no address for host \"%.96s\": %s", options->key,
                       at.host, gai_strerror(err));
        return MUSTER_EINVAL;
    }
    for (const struct addrinfo *a = found; a && fd < 0; a = a->ai_next)
        fd = open_socket(a);
    err = errno;
    freeaddrinfo(found);
    if (fd < 0)
        return fail(options, err, why);
    *ret_listener = (struct listener){.fd = fd, .port = port_of(fd)};
    return 0;
}
