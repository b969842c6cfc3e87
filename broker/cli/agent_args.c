/* The arguments of `muster agent`; see agent_job.h. */
#include "cli/agent_job.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/map.h"
#include "base/name.h"

static const char command[] = "agent";

/* 30d and the like. False when it is none, or above ten years. */
static bool parse_expires(const char *text, int64_t *ret_seconds)
{
    static const struct {
        char unit;
        int64_t seconds;
    } units[] = {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}, {'w', 604800}};
    const int64_t max = INT64_C(3650) * 86400;
    char *end;

    if (*text < '0' || *text > '9')
        return false;
    errno = 0;
    long long n = strtoll(text, &end, 10);
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (!errno && *end == units[i].unit && !end[1] && n > 0 && n <= max / units[i].seconds) {
            *ret_seconds = n * units[i].seconds;
            return true;
        }
    return false;
}

static int take_option(struct job *job, int option, const char *value)
{
    int64_t seconds;

    if (option == 'o') {
        job->out = value;
        return CLI_DONE;
    }
    if (option == 't') {
        job->tokens = true;
        return CLI_DONE;
    }
    if (option == 'g' || option == 'b' || option == 'v')
        return narrowing_take(&job->given, option == 'g' ? "groups" : option == 'b' ? "tables" : "verbs",
                              value);
    if (option == 'r') {
        job->role = role_find(value);
        return job->role >= 0
                   ? CLI_DONE
                   : cli_fail(CLI_USAGE, command, "--role: %s came, one of %s was expected", value,
                              role_list());
    }
    if (!parse_expires(value, &seconds))
        return cli_fail(
            CLI_USAGE, command,
            "--expires: %s came, a time of at most 3650d such as 12h, 30d or 8w was expected",
            value);
    job->expires = clock_wall_ns() / CLOCK_S + seconds;
    return CLI_DONE;
}

int job_parse_options(struct job *job, int argc, char **argv, const char *allowed)
{
    static const struct option options[] = {{"role", required_argument, NULL, 'r'},
                                            {"expires", required_argument, NULL, 'e'},
                                            {"out", required_argument, NULL, 'o'},
                                            {"token", no_argument, NULL, 't'},
                                            {"groups", required_argument, NULL, 'g'},
                                            {"tables", required_argument, NULL, 'b'},
                                            {"verbs", required_argument, NULL, 'v'},
                                            {0}};
    int c;

    optind = 0; /* as the first call of this process; another subcommand may have parsed before */
    opterr = 0;
    while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
        if (c == ':')
            return cli_fail(CLI_USAGE, command, "%s: %s came without its value", argv[0],
                            argv[optind - 1]);
        if (c == '?' || !strchr(allowed, c))
            return cli_fail(CLI_USAGE, command,
                            "%s: %s came, which it does not take; see `muster agent --help`",
                            argv[0],
                            c == '?'   ? argv[optind - 1]
                            : c == 'r' ? "--role"
                            : c == 'e' ? "--expires"
                            : c == 't' ? "--token"
                            : c == 'g' ? "--groups"
                            : c == 'b' ? "--tables"
                            : c == 'v' ? "--verbs"
                                       : "--out");
        int code = take_option(job, c, optarg);
        if (code != CLI_DONE)
            return code;
    }
    if (argc - optind < 2)
        return cli_fail(CLI_USAGE, command, "%s: TENANT and at least one AGENT were expected",
                        argv[0]);
    return CLI_DONE;
}

int job_check_name(const char *what, const char *name, size_t max)
{
    if (name_is_public(name, strlen(name)) && strlen(name) <= max)
        return CLI_DONE;
    return cli_fail(CLI_USAGE, command,
                    "%s: %s came, a name [A-Za-z0-9_-]{1,%zu} without _ in front was expected",
                    what, name, max);
}

int job_take_names(struct job *job, char **names, size_t n)
{
    /* An operator's alias must be a name too. */
    size_t max =
        job->role == ROLE_OPERATOR ? NAME_MAX_LEN - strlen(ROLE_ALIAS_PREFIX) : NAME_MAX_LEN;
    struct map seen = {0};
    int code = CLI_DONE;

    for (size_t i = 0; i < n && code == CLI_DONE; i++) {
        size_t len = strlen(names[i]);

        code = job_check_name("AGENT", names[i], max);
        if (code == CLI_DONE && map_get(&seen, names[i], len))
            code = cli_fail(CLI_USAGE, command, "AGENT: %s came twice", names[i]);
        if (code == CLI_DONE && !map_put(&seen, names[i], len, names[i]))
            code = cli_fail(CLI_FAILED, command, "out of memory");
        job->rows[i] =
            (struct agent_row){.agent = names[i], .role = job->role, .expires = job->expires};
    }
    map_done(&seen);
    return code;
}
