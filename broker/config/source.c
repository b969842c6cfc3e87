/*
 * Reading the file and judging its characters; see source.h.
 *
 * All characters are judged before libyaml sees any: it has its own ideas about tabs, control characters
 * and line ends, and tells some of them without a position.
 */
#include "config/source.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/utf8.h"

/* The file as a whole: there is no line to name. */
static int cannot_read(const struct config_scope *s, int error)
{
    return config_refuse_place(s, 0, 0, "cannot be read: %s", strerror(error));
}

/* Not by size: the file may be a pipe, or grow. */
static int read_all(const struct config_scope *s, int fd, struct buf *text)
{
    while (text->len <= CONFIG_MAX_BYTES) {
        ssize_t got;

        if (!buf_reserve(text, 16384))
            return config_no_memory(s->err);
        got = read(fd, text->data + text->len, 16384);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return cannot_read(s, errno);
        if (got == 0)
            return 0;
        text->len += (size_t)got;
    }
    return config_refuse_place(s, 0, 0, "is larger than 1 MiB");
}

int source_read(const struct config_scope *s, struct buf *ret_text)
{
    struct buf text = {0};
    int fd = open(s->tree->file, O_RDONLY | O_CLOEXEC);
    int err;

    if (fd < 0)
        return cannot_read(s, errno);
    err = read_all(s, fd, &text);
    close(fd);
    if (err) {
        buf_done(&text);
        return err;
    }
    *ret_text = text;
    return 0;
}

size_t source_char(const char *s, uint32_t *ret_code)
{
    const unsigned char *u = (const unsigned char *)s;
    size_t len = u[0] < 0x80 ? 1 : u[0] < 0xe0 ? 2 : u[0] < 0xf0 ? 3 : 4;
    uint32_t code = len == 1 ? u[0] : u[0] & (0x7fu >> len);

    for (size_t i = 1; i < len; i++)
        code = code << 6 | (u[i] & 0x3f);
    *ret_code = code;
    return len;
}

/* Line ends other than LF and CR are refused so that every editor counts the same lines as the messages do.
 */
static const char *fault_of(uint32_t code)
{
    if (code == '\t')
        return "a tab; use blanks, and \\t inside double quotes";
    if (code == '\n' || code == '\r')
        return NULL;
    if (code < 0x20 || (code >= 0x7f && code < 0xa0))
        return "a control character; write it as \\x.. inside double quotes";
    if (code == 0x2028 || code == 0x2029)
        return "a Unicode line separator; end lines with a line feed";
    if (code == 0xfeff || code == 0xfffe || code == 0xffff)
        return "a byte order mark or a code that is no character";
    return NULL;
}

/* A CR before an LF is not a line of its own. A tab counts as one character; it is refused anyway. */
bool source_check(const char *data, size_t len, struct source_fault *ret_fault)
{
    struct source_fault at = {.line = 1, .column = 1};
    size_t valid = utf8_prefix(data, len);

    for (size_t i = 0; i < len;) {
        uint32_t code = 0;
        size_t n = i < valid ? source_char(data + i, &code) : 1;

        at.why = i < valid ? fault_of(code) : "a byte that is not UTF-8";
        if (at.why) {
            *ret_fault = at;
            return false;
        }
        at.column++;
        if (code == '\n' || (code == '\r' && (i + 1 == len || data[i + 1] != '\n'))) {
            at.line++;
            at.column = 1;
        }
        i += n;
    }
    return true;
}
