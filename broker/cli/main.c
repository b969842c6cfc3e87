/*
 * muster - the operator's command line: finds the command, loads the configuration, runs it.
 *
 * Owns     Nothing but the configuration, which lives as long as the command runs.
 * Exit     0 done, 1 failed, 2 wrong use. Commands and their help are in commands.c.
 * Threads  One; a command that needs more makes and joins them itself.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/crypto.h"
#include "base/log.h"
#include "child/program.h"
#include "child/spawn.h"
#include "cli/cli.h"
#include "cli/records.h"
#include "config/config.h"
#include "config/near.h"

enum { RUN = -1 }; /* a result of parse_globals(): no exit code yet, go on */

/* What `muster --help` prints. */
static void print_overview(void)
{
    fputs("usage: muster [-c FILE] COMMAND [ARGUMENTS]\n\nThe command line of Muster, the message "
          "broker for fleets of AI agents.\n\n",
          stdout);
    for (size_t i = 0; i < n_cli_commands; i++) {
        const char *help = cli_commands[i].help;

        printf("  %-12s %.*s\n", cli_commands[i].name, (int)strcspn(help, "\n"), help);
    }
    fputs("\n"
          "  -c, --config FILE   the configuration (default: $MUSTER_CONFIG; without either, the "
          "environment alone)\n"
          "      --version       print the version and exit\n"
          "  -h, --help          print this and exit; `muster COMMAND --help` tells of a command\n",
          stdout);
}

static int print_help(const struct cli_command *command)
{
    printf("usage: muster [-c FILE] %s %s\n\n%s", command->name, command->usage, command->help);
    return CLI_DONE;
}

static const struct cli_command *find_command(const char *name)
{
    for (size_t i = 0; i < n_cli_commands; i++)
        if (strcmp(cli_commands[i].name, name) == 0)
            return &cli_commands[i];
    return NULL;
}

/* Says the names that may have been meant: most unknown commands are slips of the finger. */
static int unknown_command(const char *name)
{
    struct near near = near_to(name);

    for (size_t i = 0; i < n_cli_commands; i++)
        near_offer(&near, cli_commands[i].name, strlen(cli_commands[i].name));
    if (near.n && !buf_failed(&near.names))
        (void)cli_fail(CLI_USAGE, NULL, "there is no command %s; did you mean %s?", name,
                       near.names.data);
    else
        (void)cli_fail(CLI_USAGE, NULL, "there is no command %s; see muster --help", name);
    near_done(&near);
    return CLI_USAGE;
}

/* The options before the command. */
static int parse_globals(int argc, char **argv, const char **ret_file)
{
    enum { OPT_VERSION = 256 };
    static const struct option options[] = {{"config", required_argument, NULL, 'c'},
                                            {"version", no_argument, NULL, OPT_VERSION},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    int c;

    opterr = 0;
    /* "+": what follows the command is the command's, also where it looks like one of these. */
    while ((c = getopt_long(argc, argv, "+:c:h", options, NULL)) != -1) {
        switch (c) {
        case 'c':
            *ret_file = optarg;
            break;
        case OPT_VERSION:
            puts("muster " MUSTER_VERSION);
            return CLI_DONE;
        case 'h':
            print_overview();
            return CLI_DONE;
        default:
            return cli_fail(CLI_USAGE, NULL, "%s%s; see muster --help", argv[optind - 1],
                            c == ':' ? " came without its value"
                                     : " came before the command, which is no option there");
        }
    }
    return RUN;
}

/* --help or -h anywhere among the arguments, but not behind "--": nobody who asks for help wants
 * the command to run, whatever else stands there. */
static bool wants_help(const struct cli_command *command, int argc, char **argv)
{
    if (command->own_help && argc > 1 && strcmp(argv[1], command->own_help) == 0)
        return false;
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return true;
    return false;
}

/* `muster help` and `muster help NAME` are what people expect by habit; with a verb it is the command about requests for help. */
static bool is_about_commands(int argc, char **argv)
{
    return strcmp(argv[0], "help") == 0 && (argc < 2 || (argv[1][0] != '-' && !records_is_verb(argv[1])));
}

/* argv[0] is "help". */
static int help_on(int argc, char **argv)
{
    const struct cli_command *command;

    if (argc < 2) {
        print_overview();
        return CLI_DONE;
    }
    command = find_command(argv[1]);
    return command ? print_help(command) : unknown_command(argv[1]);
}

/* A configuration that cannot be used ends every command but those that are made for that case. Its
 * error is printed as it is: it begins with file:line:column, which editors know how to jump to. */
static int run(const struct cli_command *command, const char *file, int argc, char **argv)
{
    struct cli cli = {.config_path = file && *file ? file : NULL};
    struct config_error err = {""};
    struct config *config = NULL;
    int code;

    if (config_load(cli.config_path, &config, &err) != 0) {
        config = NULL;
        cli.config_error = err.text;
    }
    if (!config && !command->without_config) {
        fprintf(stderr, "%s\n", err.text);
        return CLI_FAILED;
    }
    cli.config = config;
    code = command->run(&cli, argc, argv);
    config_free(config);
    return code;
}

/* What a command has printed must have reached its place: a full disk is no success. */
static int finish(int code)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return code;
    return code ? code : cli_fail(CLI_FAILED, NULL, "the output could not be written");
}

int main(int argc, char **argv)
{
    const char *file = getenv("MUSTER_CONFIG");
    const struct cli_command *command;
    int code;

    crypto_keep();
    /* doctor and `plugin list` have a child of this program load the plugins of strangers. */
    if (argc > 1 && strcmp(argv[1], SPAWN_OPTION) == 0)
        return program_run();
    code = parse_globals(argc, argv, &file);
    if (code != RUN)
        return finish(code);
    argc -= optind;
    argv += optind;
    if (argc == 0)
        return cli_fail(CLI_USAGE, NULL, "expected a command; see muster --help");
    if (is_about_commands(argc, argv))
        return finish(help_on(argc, argv));
    command = find_command(argv[0]);
    if (!command)
        return unknown_command(argv[0]);
    if (wants_help(command, argc, argv))
        return finish(print_help(command));
    /* The parts of the broker that commands use tell their callers what failed; a log line beside
     * it would say it twice. */
    log_setup(false, LOG_ERROR);
    return finish(run(command, file, argc, argv));
}
