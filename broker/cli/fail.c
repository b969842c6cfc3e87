/*
 * The one way in which subcommands tell an error: one line on stderr; see cli.h.
 *
 * It is also used for notes (code CLI_DONE), so that scripts can tell them by the same beginning.
 */
#include <stdarg.h>
#include <stdio.h>

#include "base/buf.h"
#include "cli/cli.h"

/* One call of stdio, so that the lines of several processes on one terminal do not mix. */
int cli_fail(int code, const char *command, const char *fmt, ...)
{
    struct buf line = {0};
    va_list ap;

    buf_printf(&line, command ? "muster %s: " : "muster: ", command);
    va_start(ap, fmt);
    buf_vprintf(&line, fmt, ap);
    va_end(ap);
    buf_putc(&line, '\n');
    fputs(buf_failed(&line) ? "muster: no memory for an error message\n" : line.data, stderr);
    buf_done(&line);
    return code;
}
