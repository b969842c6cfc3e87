/* Questions to local servers; see dev_probe.h. */
#include "cli/dev_probe.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/probe.h"

/* With timeouts: a server that is starting may accept and then be silent. */
static int dial(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct timeval second = {.tv_sec = 1};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0)
        return -1;
    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof second) == 0 &&
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &second, sizeof second) == 0 &&
        connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
        return fd;
    (void)close(fd);
    return -1;
}

/* Read until the end, the bound or a second without a byte; NUL-terminated. */
static size_t read_text(int fd, char *text, size_t size, size_t enough)
{
    size_t len = 0;
    ssize_t n;

    while (len < enough && len < size - 1 && (n = recv(fd, text + len, size - 1 - len, 0)) > 0)
        len += (size_t)n;
    text[len] = '\0';
    return len;
}

bool dev_probe_nats(int port)
{
    char text[64];
    int fd = dial(port);
    bool greets;

    if (fd < 0)
        return false;
    greets = read_text(fd, text, sizeof text, 5) >= 5 && memcmp(text, "INFO ", 5) == 0;
    (void)close(fd);
    return greets;
}

/* Any HTTP/1.x will do; the body is only shown to people. */
bool dev_probe_http(int port, const char *path, const char *ca, char *text, size_t size)
{
    const struct probe_tls tls = {.ca = ca};
    struct probe p = {.host = "127.0.0.1", .tls = ca ? &tls : NULL, .timeout_ms = 1000, .max = 4096};
    char request[128], why[PROBE_WHY_SIZE];
    struct buf answer = {0};
    const char *body;
    bool good;

    (void)snprintf(p.port, sizeof p.port, "%d", port);
    (void)snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", path);
    p.request = request;
    text[0] = '\0';
    good = probe_ask(&p, &answer, why) && answer.len && strncmp(answer.data, "HTTP/1.", 7) == 0;
    body = good ? strstr(answer.data, "\r\n\r\n") : NULL;
    if (body)
        (void)snprintf(text, size, "%s", body + 4);
    good = good && strncmp(answer.data + 8, " 200", 4) == 0;
    buf_done(&answer);
    return good;
}
