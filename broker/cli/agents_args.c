/* What `muster agents` is asked for; see agents.h. */
#include <getopt.h>
#include <string.h>

#include "base/name.h"
#include "cli/agents.h"
#include "cli/cli.h"
#include "wire/writer.h"

enum { PAGE = 1000 };

static const char command[] = "agents";

static int take_label(struct agents_args *a, const char *text)
{
    const char *equals = strchr(text, '=');

    if (!equals || equals == text)
        return cli_fail(CLI_USAGE, command, "--label: %s came, KEY=VALUE was expected", text);
    if (a->n_labels == AGENTS_LABELS_MAX)
        return cli_fail(CLI_USAGE, command, "--label came more than %d times", AGENTS_LABELS_MAX);
    a->labels[a->n_labels++] = (struct agents_label){text, (size_t)(equals - text), equals + 1};
    return CLI_DONE;
}

static int take_name(const char *what, const char *text, const char **ret_name)
{
    if (!name_is_public(text, strlen(text)))
        return cli_fail(CLI_USAGE, command, "%s: %s came, a name [A-Za-z0-9_-]{1,64} without _ in front was expected", what, text);
    *ret_name = text;
    return CLI_DONE;
}

static int take_option(struct agents_args *a, int option, const char *value)
{
    switch (option) {
    case 't':
        return take_name("--tenant", value, &a->tenant);
    case 'l':
        return take_label(a, value);
    case 's':
        a->status = value;
        return CLI_DONE;
    case 'c':
        a->capability = value;
        return CLI_DONE;
    default:
        a->json = true;
        return CLI_DONE;
    }
}

static int take_verb(struct agents_args *a, int argc, char **argv, int *ret_next)
{
    static const char *const verbs[] = {"list", "show", "count"};

    *ret_next = optind;
    if (optind == argc)
        return CLI_DONE;
    for (int i = 0; i < 3; i++)
        if (strcmp(argv[optind], verbs[i]) == 0) {
            a->verb = (enum agents_verb)i;
            *ret_next = optind + 1;
            return CLI_DONE;
        }
    if (strcmp(argv[optind], "watch") == 0)
        return cli_fail(CLI_USAGE, command, "watch came behind options, which go behind it");
    return cli_fail(CLI_USAGE, command, "%s came, list, show, count or watch was expected", argv[optind]);
}

static int take_rest(struct agents_args *a, int argc, char **argv, int next)
{
    if (a->verb == AGENTS_SHOW && next == argc)
        return cli_fail(CLI_USAGE, command, "show: the name of an agent was expected");
    if (a->verb == AGENTS_SHOW && (a->status || a->capability || a->n_labels))
        return cli_fail(CLI_USAGE, command, "show: it is of one agent, and takes --tenant and --json alone");
    if (argc - next > (a->verb == AGENTS_SHOW))
        return cli_fail(CLI_USAGE, command, "%s came, which it does not take", argv[argc - 1]);
    return a->verb == AGENTS_SHOW ? take_name("show", argv[next], &a->name) : CLI_DONE;
}

int agents_parse(int argc, char **argv, struct agents_args *a)
{
    static const struct option options[] = {
        {"tenant", required_argument, NULL, 't'},     {"label", required_argument, NULL, 'l'}, {"status", required_argument, NULL, 's'},
        {"capability", required_argument, NULL, 'c'}, {"json", no_argument, NULL, 'j'},        {0}};
    int c, next = 0, code = CLI_DONE;

    optind = 0; /* as the first call of this process */
    opterr = 0;
    while (code == CLI_DONE && (c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
        if (c == '?' || c == ':')
            return cli_fail(CLI_USAGE, command, "%s%s; see muster agents --help", argv[optind - 1],
                            c == ':' ? " came without its value" : " came, which it does not take");
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

static void put_labels(struct muster_writer *w, const struct agents_args *a)
{
    if (!a->n_labels)
        return;
    writer_text(w, "label");
    writer_map(w, a->n_labels);
    for (size_t i = 0; i < a->n_labels; i++) {
        writer_str(w, a->labels[i].key, a->labels[i].key_len);
        writer_text(w, a->labels[i].value);
    }
}

int agents_question(const struct agents_args *a, const char *after, struct buf *out)
{
    bool pages = a->verb == AGENTS_LIST;
    struct muster_writer w;
    const char *why;

    writer_init(&w, MUSTER_JSON, out);
    writer_map(&w, (size_t)!!a->name + !!a->status + !!a->capability + !!a->n_labels + pages + !!after);
    put_member(&w, "agent", a->name);
    put_member(&w, "status", a->status);
    put_member(&w, "capability", a->capability);
    put_labels(&w, a);
    if (pages) {
        writer_text(&w, "limit");
        writer_int(&w, PAGE);
    }
    put_member(&w, "after", after);
    if (writer_finish(&w, &why) != 0 || buf_failed(out))
        return cli_fail(CLI_USAGE, command, "what is asked for cannot be written: %s", buf_failed(out) ? "no memory" : why);
    return CLI_DONE;
}
