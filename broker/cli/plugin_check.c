/*
 * muster plugin check - what a plugin's file does against the contract; see plugin_check.h. The parent: options, order, report.
 */
#include "cli/plugin_check.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/utf8.h"
#include "cli/cli.h"
#include "cli/file.h"
#include "cli/plugin.h"

enum { DEFAULT_RUNS = 50, MAX_RUNS = 1000000, MAX_CONFIG = 1 << 20, MAX_REASONS = 12, MAX_ONLY = 32 };
enum { OK, FAILED, SKIPPED };
static const char command[] = "plugin";
static const char *const result_words[] = {"ok", "failed", "skipped"};

struct asked {
    struct plugin_check check;
    const char *config_file, *only[MAX_ONLY];
    size_t n_only;
    char file[PATH_MAX];
    struct buf config;
    bool json, reproduce;
};

/* What has been seen so far. */
struct report {
    const struct asked *asked;
    int level;
    const char *level_lost_by; /* the test that did not show its level */
    size_t n[3];
    bool any;
    struct buf out; /* of JSON */
};

/* ---- options ------------------------------------------------------------------------------------------------------------------- */

static const struct plugin_test *find_test(const char *name)
{
    for (size_t i = 0; i < n_plugin_tests; i++)
        if (strcmp(plugin_tests[i].name, name) == 0)
            return &plugin_tests[i];
    return NULL;
}

static int unknown_test(const char *name)
{
    struct buf names = {0};
    int code;

    for (size_t i = 0; i < n_plugin_tests; i++)
        buf_printf(&names, "%s%s", i ? ", " : "", plugin_tests[i].name);
    code = cli_fail(CLI_USAGE, command, "check: --only %s came, one of %s was expected", name, names.data ? names.data : "");
    buf_done(&names);
    return code;
}

static int parse_number(const char *option, const char *text, uint64_t max, uint64_t *ret_n)
{
    char *end;

    errno = 0;
    *ret_n = strtoull(text, &end, 10);
    if (errno || *end || end == text || *text == '-' || *ret_n > max)
        return cli_fail(CLI_USAGE, command, "check: --%s %s came, a number up to %llu was expected", option, text, (unsigned long long)max);
    return CLI_DONE;
}

static int take_only(struct asked *a, const char *name)
{
    if (!find_test(name))
        return unknown_test(name);
    if (a->n_only == MAX_ONLY)
        return cli_fail(CLI_USAGE, command, "check: --only came more than %d times", MAX_ONLY);
    a->only[a->n_only++] = name;
    return CLI_DONE;
}

static int take_option(struct asked *a, int c, const char *value)
{
    uint64_t n = 0;
    int code = CLI_DONE;

    if (c == 'j') {
        a->json = true;
    } else if (c == 'c') {
        a->config_file = value;
    } else if (c == 'o') {
        code = take_only(a, value);
    } else if (c == 'n') {
        code = parse_number("runs", value, MAX_RUNS, &n);
        a->check.runs = (uint32_t)n;
    } else {
        code = parse_number(c == 's' ? "seed" : "reproduce", value, INT64_MAX, &a->check.seed);
        a->reproduce |= c == 'r';
    }
    return code;
}

static int parse(int argc, char **argv, struct asked *a)
{
    static const struct option options[] = {{"config", required_argument, NULL, 'c'}, {"seed", required_argument, NULL, 's'},
                                            {"runs", required_argument, NULL, 'n'},   {"json", no_argument, NULL, 'j'},
                                            {"only", required_argument, NULL, 'o'},   {"reproduce", required_argument, NULL, 'r'},
                                            {0}};
    int c, code = CLI_DONE;

    optind = 0;
    opterr = 0;
    while (code == CLI_DONE && (c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
        if (c == '?' || c == ':')
            return cli_fail(CLI_USAGE, command, "check: %s came%s", argv[optind - 1],
                            c == ':' ? " without its value" : ", FILE [--config FILE] [--seed N] [--runs N] [--json] [--only TEST] "
                                                              "[--reproduce SEED] was expected");
        code = take_option(a, c, optarg);
    }
    if (code == CLI_DONE && argc - optind != 1)
        return cli_fail(CLI_USAGE, command, "check: %s came, one FILE was expected", argc > optind ? argv[optind + 1] : "nothing");
    return code;
}

/* ---- settings ------------------------------------------------------------------------------------------------------------------ */

static int read_stdin(struct buf *out)
{
    char piece[4096];
    size_t n;

    while ((n = fread(piece, 1, sizeof piece, stdin)) > 0 && out->len < MAX_CONFIG)
        buf_put(out, piece, n);
    return ferror(stdin) || n ? cli_fail(CLI_FAILED, command, "check: the settings on stdin cannot be read") : CLI_DONE;
}

static int read_config(struct asked *a)
{
    struct file_error err;
    int code = CLI_DONE;

    if (a->config_file && strcmp(a->config_file, "-") == 0)
        code = read_stdin(&a->config);
    else if (a->config_file && file_read(a->config_file, MAX_CONFIG, &a->config, &err) != 0)
        code = cli_fail(CLI_FAILED, command, "check: %s", err.text);
    buf_puts(&a->config, "");
    if (code == CLI_DONE && strlen(a->config.data) != a->config.len)
        code = cli_fail(CLI_FAILED, command, "check: %s: holds a NUL, settings were expected", a->config_file);
    a->check.config = a->config.data;
    return code;
}

/* ---- the report ---------------------------------------------------------------------------------------------------------------- */

/* Each line once, with how often it came. */
struct lines {
    const char *at[MAX_REASONS];
    size_t len[MAX_REASONS], n[MAX_REASONS], n_kept, n_more;
};

static void keep_line(struct lines *l, const char *s, size_t len)
{
    for (size_t i = 0; i < l->n_kept; i++)
        if (l->len[i] == len && memcmp(l->at[i], s, len) == 0) {
            l->n[i]++;
            return;
        }
    if (l->n_kept == MAX_REASONS) {
        l->n_more++;
        return;
    }
    l->at[l->n_kept] = s;
    l->len[l->n_kept] = len;
    l->n[l->n_kept++] = 1;
}

static void split(const struct buf *b, struct lines *out)
{
    const char *at = b->data, *end = at ? at + b->len : NULL, *nl;

    *out = (struct lines){0};
    while (at && at < end && (nl = memchr(at, '\n', (size_t)(end - at)))) {
        keep_line(out, at, (size_t)(nl - at));
        at = nl + 1;
    }
}

static void put_text(struct buf *out, const char *s, size_t len)
{
    struct buf clean = {0};

    utf8_put(&clean, s, len);
    buf_put_json(out, clean.data ? clean.data : "", clean.len);
    buf_done(&clean);
}

static void put_lines(struct buf *out, const char *key, const struct buf *from)
{
    struct lines l;

    split(from, &l);
    buf_printf(out, ",\"%s\":[", key);
    for (size_t i = 0; i < l.n_kept; i++) {
        buf_puts(out, i ? ",{\"text\":" : "{\"text\":");
        put_text(out, l.at[i], l.len[i]);
        buf_printf(out, ",\"times\":%zu}", l.n[i]);
    }
    buf_putc(out, ']');
}

static void print_lines(const struct buf *from, bool all)
{
    struct lines l;

    if (all && from->data) { /* the events of a life, in their order */
        const char *at = from->data, *nl;

        for (; (nl = strchr(at, '\n')); at = nl + 1)
            printf("           %.*s\n", (int)(nl - at), at);
        return;
    }
    split(from, &l);
    for (size_t i = 0; i < l.n_kept; i++) {
        printf("           %.*s", (int)l.len[i], l.at[i]);
        if (l.n[i] > 1)
            printf(" (%zu times)", l.n[i]);
        putchar('\n');
    }
    if (l.n_more)
        printf("           and %zu lines more\n", l.n_more);
}

/* why_not: of a test that was not run. */
static void tell(struct report *report, const struct plugin_test *test, int result, const struct check_result *r, const char *why_not)
{
    report->n[result]++;
    if (report->asked->json) {
        buf_printf(&report->out, "%s{\"name\":\"%s\",\"what\":", report->any ? ",\n" : "", test->name);
        put_text(&report->out, test->what, strlen(test->what));
        buf_printf(&report->out, ",\"result\":\"%s\",\"took_ms\":%lld", result_words[result], (long long)r->took_ms);
        put_lines(&report->out, "failures", &r->failures);
        put_lines(&report->out, "skipped", &r->skips);
        put_lines(&report->out, "notes", &r->notes);
        buf_putc(&report->out, '}');
        report->any = true;
        return;
    }
    printf("%-8s %-14s %s\n", result_words[result], test->name, why_not ? why_not : test->what);
    if (result == FAILED || report->asked->reproduce)
        print_lines(&r->notes, report->asked->reproduce);
    if (result == FAILED)
        print_lines(&r->failures, false);
    if (result == SKIPPED && !why_not)
        print_lines(&r->skips, false);
    (void)fflush(stdout);
}

/* How to see the same again. */
static void tell_again(struct report *report, const struct plugin_test *test, struct check_result *r)
{
    const struct asked *a = report->asked;

    if (strcmp(test->name, "fuzz") != 0 || !r->lived || a->reproduce)
        return;
    buf_printf(&r->failures, "again: muster plugin check %s%s%s --reproduce %llu\n", a->file, a->config_file ? " --config " : "",
               a->config_file ? a->config_file : "", (unsigned long long)r->seed);
}

static int judge(struct check_result *r)
{
    if (!r->finished)
        buf_printf(&r->failures, "%s\n", r->end.len ? r->end.data : "it ended");
    if (r->failures.len)
        return FAILED;
    return r->skips.len ? SKIPPED : OK;
}

static void skip(struct report *report, const struct plugin_test *test)
{
    struct check_result r = {0};
    char why[64];

    (void)snprintf(why, sizeof why, "%s has to work first", report->level_lost_by);
    buf_printf(&r.skips, "%s\n", why);
    tell(report, test, SKIPPED, &r, why);
    check_result_done(&r);
}

/* A level is reached when its test has shown it, also where it found faults beside. */
static bool run_test(struct report *report, const struct plugin_test *test)
{
    struct check_result r;
    int result;

    if (test->needs > report->level) {
        skip(report, test);
        return true;
    }
    if (!check_run(&report->asked->check, test->name, &r)) {
        (void)cli_fail(CLI_FAILED, command, "check: no process could be started: %s", strerror(errno));
        return false;
    }
    result = judge(&r);
    if (r.shown && r.finished && test->shows > report->level)
        report->level = test->shows;
    else if (test->shows > report->level)
        report->level_lost_by = test->name;
    if (result == FAILED)
        tell_again(report, test, &r);
    tell(report, test, result, &r, NULL);
    check_result_done(&r);
    return true;
}

static bool is_asked(const struct asked *a, const char *name)
{
    if (a->reproduce)
        return strcmp(name, "fuzz") == 0;
    for (size_t i = 0; i < a->n_only; i++)
        if (strcmp(a->only[i], name) == 0)
            return true;
    return !a->n_only;
}

/* Who asks for one test wants that one, whatever the others would say. */
static bool run_all(struct report *report)
{
    const struct asked *a = report->asked;

    if (a->n_only || a->reproduce)
        report->level = LEVEL_ANSWERS;
    for (size_t i = 0; i < n_plugin_tests; i++)
        if (is_asked(a, plugin_tests[i].name) && !run_test(report, &plugin_tests[i]))
            return false;
    return true;
}

static void begin_report(struct report *report)
{
    if (!report->asked->json) {
        printf("%s, seed %llu\n", report->asked->file, (unsigned long long)report->asked->check.seed);
        return;
    }
    buf_puts(&report->out, "{\"file\":");
    put_text(&report->out, report->asked->file, strlen(report->asked->file));
    buf_printf(&report->out, ",\"seed\":%llu,\"tests\":[\n", (unsigned long long)report->asked->check.seed);
}

static void end_report(struct report *report)
{
    const size_t *n = report->n;

    if (report->asked->json)
        printf("%s\n],\"ok\":%zu,\"failed\":%zu,\"skipped\":%zu}\n", report->out.data, n[OK], n[FAILED], n[SKIPPED]);
    else
        printf("%zu ok, %zu failed, %zu skipped\n", n[OK], n[FAILED], n[SKIPPED]);
}

static int check(struct asked *a, const char *file)
{
    struct report report = {.asked = a, .level_lost_by = ""};
    int code;

    if (!realpath(file, a->file))
        return cli_fail(CLI_FAILED, command, "check: %s: %s", file, strerror(errno));
    a->check.file = a->file;
    code = read_config(a);
    if (code != CLI_DONE)
        return code;
    if (a->reproduce)
        a->check.runs = 1;
    a->check.tell_events = a->reproduce;
    begin_report(&report);
    if (!run_all(&report))
        code = CLI_FAILED;
    else if (buf_failed(&report.out))
        code = cli_fail(CLI_FAILED, command, "no memory");
    else
        end_report(&report);
    buf_done(&report.out);
    return code == CLI_DONE && report.n[FAILED] ? CLI_FAILED : code;
}

int plugin_check(const struct cli *cli, int argc, char **argv)
{
    struct asked a = {.check = {.runs = DEFAULT_RUNS, .seed = (uint64_t)clock_wall_ns() % 1000000}};
    int code = parse(argc, argv, &a);

    (void)cli; /* the broker's configuration is none of the plugin's business here */
    if (code == CLI_DONE)
        code = check(&a, argv[optind]);
    buf_done(&a.config);
    return code;
}
