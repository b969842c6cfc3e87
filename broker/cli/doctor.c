/*
 * muster doctor - looks at the whole installation: says what is broken and what mends it.
 *
 * It changes nothing, and every check stands alone: what is away is said once, and what can still
 * be looked at is. Broken is what does not work now, or will not after the next restart; a hint is
 * what works and could be better, or what nobody can know from here.
 */
#include "cli/doctor.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/utf8.h"
#include "cli/term.h"

static const char command[] = "doctor";
static const char *const words[] = {
    [DOCTOR_OK] = "ok", [DOCTOR_HINT] = "hint", [DOCTOR_BROKEN] = "broken"};

/* ---- findings ---- */

static void print_finding(int level, const char *what, const char *text)
{
    static const int colours[] = {
        [DOCTOR_OK] = TERM_GREEN, [DOCTOR_HINT] = TERM_YELLOW, [DOCTOR_BROKEN] = TERM_RED};
    struct buf line = {0};
    char word[16];

    (void)snprintf(word, sizeof word, "%-7s", words[level]);
    term_colour(&line, term_has_colours(STDOUT_FILENO), colours[level], word);
    buf_putc(&line, ' ');
    term_put(&line, what, strlen(what), DOCTOR_WHAT_SIZE);
    buf_put_lit(&line, ": ");
    term_put(&line, text, strlen(text), 4096);
    buf_putc(&line, '\n');
    fputs(line.data ? line.data : "no memory\n", stdout);
    (void)fflush(stdout); /* some checks take seconds; a failed write is told at the end */
    buf_done(&line);
}

static void put_member(struct buf *out, const char *key, const char *value)
{
    struct buf clean = {0};

    buf_printf(out, ",\"%s\":", key);
    utf8_put(&clean, value, strlen(value));
    buf_put_json(out, clean.data ? clean.data : "", clean.len);
    buf_done(&clean);
}

/* parts: what, code or NULL, text. */
static void put_finding(struct doctor *d, int level, const char *const parts[3])
{
    buf_printf(&d->out, "%s\n{\"level\":\"%s\"", d->n ? "," : "", words[level]);
    put_member(&d->out, "what", parts[0]);
    if (parts[1])
        put_member(&d->out, "code", parts[1]);
    else
        buf_put_lit(&d->out, ",\"code\":null");
    put_member(&d->out, "text", parts[2]);
    buf_putc(&d->out, '}');
}

void doctor_say(struct doctor *d, int level, const char *what, const char *code, const char *fmt,
                ...)
{
    struct buf text = {0};
    va_list ap;

    va_start(ap, fmt);
    buf_vprintf(&text, fmt, ap);
    va_end(ap);
    if (d->json) {
        put_finding(d, level, (const char *const[]){what, code, text.data ? text.data : ""});
    } else {
        if (code)
            buf_printf(&text, " (%s)", code);
        print_finding(level, what, text.data ? text.data : "");
    }
    d->n++;
    d->n_of[level]++;
    buf_done(&text);
}

/* ---- questions to PostgreSQL ---- */

struct sql_rows *doctor_query(struct doctor *d, struct sql_admin *admin, const char *sql, int n,
                              const char *const *params)
{
    struct sql_rows *rows = NULL;

    if (sql_admin_exec(admin, sql, n, params, &rows) == 0)
        return rows;
    doctor_say(d, DOCTOR_BROKEN, "postgres", "postgres_error", "a question was refused: %s",
               sql_admin_error(admin));
    return NULL;
}

bool doctor_is_true(const struct sql_rows *rows, int row, int column)
{
    const char *value = sql_rows_get(rows, row, column);

    return value && strcmp(value, "t") == 0;
}

/* ---- the command ---- */

/* The sum comes last, where somebody looks first. */
static int report(struct doctor *d)
{
    size_t broken = d->n_of[DOCTOR_BROKEN], hints = d->n_of[DOCTOR_HINT];
    int code = broken ? CLI_FAILED : CLI_DONE;

    if (!d->json) {
        printf("%zu broken, %zu hint%s, %zu ok\n", broken, hints, hints == 1 ? "" : "s",
               d->n_of[DOCTOR_OK]);
        return code;
    }
    if (buf_failed(&d->out))
        return cli_fail(CLI_FAILED, command, "no memory");
    printf("{\"broken\":%zu,\"hints\":%zu,\"checks\":[%s\n]}\n", broken, hints, d->out.data);
    return code;
}

static void doctor_done(struct doctor *d)
{
    for (size_t i = 0; i < d->n_cdc; i++)
        free(d->cdc[i].values);
    free(d->cdc);
    map_done(&d->streams);
    buf_done(&d->out);
}

static int parse(int argc, char **argv, struct doctor *d)
{
    static const struct option options[] = {{"json", no_argument, NULL, 'j'}, {0}};
    int c;

    optind = 0; /* as the first call of this process */
    opterr = 0;
    while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
        if (c != 'j')
            return cli_fail(CLI_USAGE, command, "%s came, [--json] was expected", argv[optind - 1]);
        d->json = true;
    }
    if (optind < argc)
        return cli_fail(CLI_USAGE, command, "%s came, no argument was expected", argv[optind]);
    return CLI_DONE;
}

int cmd_doctor(const struct cli *cli, int argc, char **argv)
{
    struct doctor d = {.cli = cli};
    int code = parse(argc, argv, &d);

    if (code == CLI_DONE) {
        if (doctor_config(&d)) {
            doctor_certificates(&d);
            doctor_nats(&d);
            doctor_walls(&d);
            doctor_postgres(&d);
            doctor_broker(&d);
        }
        code = report(&d);
    }
    doctor_done(&d);
    return code;
}
