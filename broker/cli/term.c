/* Foreign text and colours on a terminal; see term.h. */
#include "cli/term.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/utf8.h"

/* NO_COLOR is what https://no-color.org asks for: any value but the empty one. */
bool term_has_colours(int fd)
{
    const char *off = getenv("NO_COLOR"), *term = getenv("TERM");

    return isatty(fd) && !(off && *off) && term && strcmp(term, "dumb") != 0;
}

/* C1 controls are two bytes in UTF-8, C2 80 to C2 9F; some terminals obey them as they obey ESC [.
 * */
static void put_printable(struct buf *out, const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)s[i];

        if (c < 0x20 || c == 0x7f) {
            buf_putc(out, '?');
        } else if (c == 0xc2 && i + 1 < len && (unsigned char)s[i + 1] < 0xa0) {
            buf_putc(out, '?');
            i++;
        } else {
            buf_putc(out, s[i]);
        }
    }
}

void term_put(struct buf *out, const char *s, size_t len, size_t max)
{
    struct buf clean = {0};
    size_t n = len > max ? max : len;

    while (n < len && n && ((unsigned char)s[n] & 0xc0) == 0x80) /* not inside a character */
        n--;
    utf8_put(&clean, s, n);
    put_printable(out, clean.data ? clean.data : "", clean.len);
    if (len > max)
        buf_puts(out, "…");
    out->failed |= buf_failed(&clean);
    buf_done(&clean);
}

void term_colour(struct buf *out, bool colours, int colour, const char *text)
{
    static const char *const codes[] = {
        [TERM_PLAIN] = "",          [TERM_DIM] = "\033[2m",  [TERM_GREEN] = "\033[32m",
        [TERM_YELLOW] = "\033[33m", [TERM_RED] = "\033[31m", [TERM_MAGENTA] = "\033[35m",
    };

    if (!colours || colour == TERM_PLAIN) {
        buf_puts(out, text);
        return;
    }
    buf_printf(out, "%s%s\033[0m", codes[colour], text);
}
