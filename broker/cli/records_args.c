/* What `muster tasks`, `runs` and `help` are asked for; see records.h. */
#include <getopt.h>
#include <string.h>

#include "base/clock.h"
#include "base/name.h"
#include "cli/cli.h"
#include "cli/records.h"
#include "config/scalar.h"
#include "wire/writer.h"

enum { PAGE = 1000, LIMIT_DEFAULT = 100 };

const char *const records_verbs[RECORDS_N_VERBS] = {"list", "show", "history", "retry", "cancel"};

bool records_is_verb(const char *word)
{
    for (int i = 0; i < RECORDS_N_VERBS; i++)
        if (strcmp(word, records_verbs[i]) == 0)
            return true;
    return strcmp(word, "watch") == 0;
}

static int take_tenant(struct records_args *a, const char *text)
{
    if (!name_is_public(text, strlen(text)))
        return cli_fail(CLI_USAGE, a->kind->command, "--tenant: %s came, a name [A-Za-z0-9_-]{1,64} without _ in front was expected", text);
    a->tenant = text;
    return CLI_DONE;
}

static int take_limit(struct records_args *a, const char *text)
{
    bool over;

    if (scalar_int(text, &a->limit, &over) && a->limit >= 0)
        return CLI_DONE;
    return cli_fail(CLI_USAGE, a->kind->command, "--limit: %s came, a whole number was expected; 0 is all", text);
}

static int take_option(struct records_args *a, int option, const char *value)
{
    switch (option) {
    case 't':
        return take_tenant(a, value);
    case 'n':
        return take_limit(a, value);
    case 's':
        a->state = value;
        return CLI_DONE;
    case 'a':
        a->agent = value;
        return CLI_DONE;
    case 'r':
        a->reason = value;
        return CLI_DONE;
    default:
        a->json = true;
        return CLI_DONE;
    }
}

static int take_verb(struct records_args *a, int argc, char **argv, int *ret_next)
{
    *ret_next = optind;
    if (optind == argc)
        return CLI_DONE;
    for (int i = 0; i < RECORDS_N_VERBS; i++)
        if (strcmp(argv[optind], records_verbs[i]) == 0) {
            a->verb = (enum records_verb)i;
            *ret_next = optind + 1;
            return CLI_DONE;
        }
    if (strcmp(argv[optind], "watch") == 0)
        return cli_fail(CLI_USAGE, a->kind->command, "watch came behind options, which go behind it");
    return cli_fail(CLI_USAGE, a->kind->command, "%s came, list, show, history, retry, cancel or watch was expected", argv[optind]);
}

static int check_options(const struct records_args *a)
{
    if (a->verb != RECORDS_LIST && (a->state || a->agent))
        return cli_fail(CLI_USAGE, a->kind->command, "%s: it is of one %s, and takes no --state or --agent", records_verbs[a->verb], a->kind->what);
    if (a->verb != RECORDS_CANCEL && a->reason)
        return cli_fail(CLI_USAGE, a->kind->command, "%s: --reason came, which cancel alone takes", records_verbs[a->verb]);
    return CLI_DONE;
}

static int take_rest(struct records_args *a, int argc, char **argv, int next)
{
    bool one = a->verb != RECORDS_LIST;

    if (one && next == argc)
        return cli_fail(CLI_USAGE, a->kind->command, "%s: the id of a %s was expected", records_verbs[a->verb], a->kind->what);
    if (argc - next > one)
        return cli_fail(CLI_USAGE, a->kind->command, "%s came, which it does not take", argv[argc - 1]);
    a->id = one ? argv[next] : NULL;
    return check_options(a);
}

int records_parse(int argc, char **argv, struct records_args *a)
{
    static const struct option options[] = {
        {"tenant", required_argument, NULL, 't'}, {"state", required_argument, NULL, 's'},  {"agent", required_argument, NULL, 'a'},
        {"limit", required_argument, NULL, 'n'},  {"reason", required_argument, NULL, 'r'}, {"json", no_argument, NULL, 'j'},
        {0}};
    int c, next = 0, code = CLI_DONE;

    a->limit = LIMIT_DEFAULT;
    optind = 0; /* as the first call of this process */
    opterr = 0;
    while (code == CLI_DONE && (c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
        if (c == '?' || c == ':')
            return cli_fail(CLI_USAGE, a->kind->command, "%s%s; see muster %s --help", argv[optind - 1],
                            c == ':' ? " came without its value" : " came, which it does not take", a->kind->command);
        code = take_option(a, c, optarg);
    }
    if (code == CLI_DONE)
        code = take_verb(a, argc, argv, &next);
    return code == CLI_DONE ? take_rest(a, argc, argv, next) : code;
}

/* ---- the request ---- */

static void put_member(struct muster_writer *w, const char *key, const char *value)
{
    if (!value)
        return;
    writer_text(w, key);
    writer_text(w, value);
}

/* What writes may be sent twice, where nobody answered the first time: it is done once all the same. */
static void put_request_id(struct muster_writer *w)
{
    char id[CLOCK_UUID_SIZE];

    clock_uuid7(id);
    put_member(w, "request_id", id);
}

int records_question(const struct records_args *a, const char *after, int64_t n, struct buf *out)
{
    bool pages = a->verb == RECORDS_LIST || a->verb == RECORDS_HISTORY, writes = a->verb >= RECORDS_RETRY;
    struct muster_writer w;
    const char *why;

    writer_init(&w, MUSTER_JSON, out);
    writer_map(&w, (size_t)!!a->id + !!a->state + !!a->agent + !!a->reason + pages + !!after + writes);
    put_member(&w, a->kind->id, a->id);
    put_member(&w, a->kind->state, a->state);
    put_member(&w, a->kind->agent, a->agent);
    put_member(&w, "reason", a->reason);
    if (pages) {
        writer_text(&w, "limit");
        writer_int(&w, n && n < PAGE ? n : PAGE);
    }
    put_member(&w, "after", after);
    if (writes)
        put_request_id(&w);
    if (writer_finish(&w, &why) != 0 || buf_failed(out))
        return cli_fail(CLI_USAGE, a->kind->command, "what is asked for cannot be written: %s", buf_failed(out) ? "no memory" : why);
    return CLI_DONE;
}
