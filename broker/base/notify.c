/*
 * The service manager's notification protocol (sd_notify(3)); see notify.h.
 *
 * Owns no socket: messages are seconds apart, and a socket that is made anew also reaches a manager
 * that was restarted. The address is read each time for the same reason. Any thread.
 */
#include "base/notify.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/utf8.h"

enum { STATUS_MAX = 512 };

/* Fill *ret_addr from a path or, behind '@', an abstract name. Returns its length, 0 when it is
 * neither or too long. */
static socklen_t address_of(const char *path, struct sockaddr_un *ret_addr)
{
    size_t len = strlen(path);

    if ((path[0] != '/' && path[0] != '@') || len < 2 || len >= sizeof ret_addr->sun_path)
        return 0;
    *ret_addr = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(ret_addr->sun_path, path, len);
    if (path[0] == '@')
        ret_addr->sun_path[0] = '\0';
    /* An abstract name ends where the address ends: a NUL more would be part of it. */
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + (path[0] == '/'));
}

static bool send_text(const char *text)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un addr;
    socklen_t addr_len;
    ssize_t sent;
    int fd;

    if (!path || !*path)
        return true;
    addr_len = address_of(path, &addr);
    if (!addr_len) {
        errno = EINVAL;
        return false;
    }
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    do
        sent = sendto(fd, text, strlen(text), MSG_NOSIGNAL, (struct sockaddr *)&addr, addr_len);
    while (sent < 0 && errno == EINTR);
    (void)close(fd); /* a datagram is sent or not; closing cannot fail in a way that matters */
    return sent >= 0;
}

bool notify_ready(void)
{
    return send_text("READY=1");
}

bool notify_reloading(void)
{
    char text[64];

    (void)snprintf(text, sizeof text, "RELOADING=1\nMONOTONIC_USEC=%" PRId64,
                   clock_now_ns() / 1000);
    return send_text(text);
}

bool notify_stopping(void)
{
    return send_text("STOPPING=1");
}

bool notify_status(const char *text)
{
    char line[sizeof "STATUS=" + STATUS_MAX] = "STATUS=";
    char *value = line + strlen(line);
    /* The manager drops a message that is not UTF-8. */
    size_t len = utf8_prefix(text, strnlen(text, STATUS_MAX));

    /* A line break would begin another assignment: a text from outside could send any message. */
    for (size_t i = 0; i < len; i++)
        value[i] = (unsigned char)text[i] < 0x20 ? ' ' : text[i];
    value[len] = '\0';
    return send_text(line);
}

bool notify_watchdog(void)
{
    return send_text("WATCHDOG=1");
}

/* True when s is a decimal number within 1 .. max and nothing else. */
static bool parse_number(const char *s, int64_t max, int64_t *ret_value)
{
    int64_t v = 0;

    if (!s || !*s)
        return false;
    for (; *s; s++) {
        if (*s < '0' || *s > '9' || v > (max - (*s - '0')) / 10)
            return false;
        v = v * 10 + (*s - '0');
    }
    *ret_value = v;
    return v > 0;
}

int64_t notify_watchdog_ns(void)
{
    const char *pid_text = getenv("WATCHDOG_PID");
    int64_t us, pid;

    if (!parse_number(getenv("WATCHDOG_USEC"), INT64_MAX / 1000, &us))
        return 0;
    /* A child inherits the variables but is not the one that is watched. */
    if (pid_text && (!parse_number(pid_text, INT32_MAX, &pid) || pid != (int64_t)getpid()))
        return 0;
    return us * 1000;
}
