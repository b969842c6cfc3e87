/* Lists of hosts begun at another one; see hosts.h. */
#include "base/hosts.h"

#include <stdlib.h>
#include <string.h>

#include "base/buf.h"

/* What stands before the entry that comes first. */
static size_t skipped(const char *list, unsigned int first)
{
    unsigned int n = 1;
    const char *at = list;

    for (const char *c = list; *c; c++)
        n += *c == ',';
    for (first %= n; first > 0; first--)
        at = strchr(at, ',') + 1;
    return (size_t)(at - list);
}

static void keep_as_is(struct hosts *h)
{
    hosts_done(h);
    h->as_is = true;
}

static void rotate(struct hosts *h, const char *list, char **ret_list)
{
    size_t len = skipped(list, h->first);
    struct buf b = {0};

    if (len == 0)
        return;
    buf_puts(&b, list + len);
    buf_putc(&b, ',');
    buf_put(&b, list, len - 1);
    *ret_list = buf_take(&b);
    if (!*ret_list) /* the lists belong together */
        keep_as_is(h);
}

void hosts_take(struct hosts *h, const char *keyword, const char *value, const char *variable)
{
    struct {
        const char *keyword;
        char **list;
    } lists[] = {{"host", &h->host}, {"hostaddr", &h->hostaddr}, {"port", &h->port}};

    if (!value && variable)
        value = getenv(variable);
    if (!value || h->as_is)
        return;
    /* Its file, which only libpq reads, goes before the environment. */
    if (strcmp(keyword, "service") == 0)
        keep_as_is(h);
    for (size_t i = 0; !h->as_is && i < sizeof lists / sizeof *lists; i++)
        if (strcmp(keyword, lists[i].keyword) == 0)
            rotate(h, value, lists[i].list);
}

void hosts_done(struct hosts *h)
{
    free(h->host);
    free(h->hostaddr);
    free(h->port);
    h->host = h->hostaddr = h->port = NULL;
}
