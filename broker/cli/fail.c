/*
 * The one way in which subcommands tell an error: one line on stderr; see cli.h.
 *
 * It is also used for notes (code CLI_DONE), so that scripts can tell them by the same beginning.
 */
#include <stdarg.h>
#include <stdio.h>

#include "base/buf.h"
#include "cli/cli.h"
#include "cli/term.h"

enum { LINE_MAX_BYTES = 64 << 10 };

/* What came is named as it came, and may hold line breaks, or whatever a terminal would obey. */
static void put_line(const struct buf *said, struct buf *line)
{
    if (!buf_failed(said))
        term_put(line, said->data, said->len, LINE_MAX_BYTES);
    buf_putc(line, '\n');
}

/* One call of stdio, so that the lines of several processes on one terminal do not mix. */
int cli_fail(int code, const char *command, const char *fmt, ...)
{
    struct buf said = {0}, line = {0};
    va_list ap;

    buf_printf(&said, command ? "muster %s: " : "muster: ", command);
    va_start(ap, fmt);
    buf_vprintf(&said, fmt, ap);
    va_end(ap);
    put_line(&said, &line);
    fputs(buf_failed(&said) || buf_failed(&line) ? "muster: no memory for an error message\n" : line.data, stderr);
    buf_done(&said);
    buf_done(&line);
    return code;
}
