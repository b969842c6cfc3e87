/*
 * cli/cli.h - what the subcommands of `muster` share.
 *
 * A subcommand is one function in a file of its own, named in the table of cli/main.c. It gets its
 * own arguments (argv[0] is its name), parses them with getopt_long, and returns the exit code: 0
 * done, 1 failed, 2 wrong use. An error is one line on stderr that says what to do; results go to
 * stdout, as JSON when --json was given.
 */
#ifndef MUSTER_CLI_CLI_H
#define MUSTER_CLI_CLI_H

#include <stdbool.h>
#include <stddef.h>

enum { CLI_DONE = 0, CLI_FAILED = 1, CLI_USAGE = 2 };

struct cli {
    const char *config_path; /* -c FILE, else MUSTER_CONFIG, else NULL: the environment alone */
    /* Defaults, then the file, then the environment. NULL only for a command that runs
     * `without_config`. */
    const struct config *config;
    const char *config_error; /* why config is NULL: file:line:column and what was expected */
};

struct cli_command {
    const char *name;
    const char *usage; /* one line: the arguments */
    const char *help;  /* the paragraph(s) of `muster NAME --help` */
    int (*run)(const struct cli *cli, int argc, char **argv);
    const char *own_help; /* the verb whose --help the command answers by itself; NULL: none */
    bool without_config;  /* runs also when the configuration cannot be used */
};

/* The table, in the order of the help; commands.c. */
extern const struct cli_command cli_commands[];
extern const size_t n_cli_commands;

/* Print "muster NAME: …" on stderr and return code; command NULL: of `muster` itself. */
int cli_fail(int code, const char *command, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

int cmd_nats_config(const struct cli *cli, int argc, char **argv);
int cmd_tenant(const struct cli *cli, int argc, char **argv);
int cmd_agent(const struct cli *cli, int argc, char **argv);
int cmd_migrate(const struct cli *cli, int argc, char **argv);
int cmd_publish(const struct cli *cli, int argc, char **argv);
int cmd_plugin(const struct cli *cli, int argc, char **argv);
int cmd_agents(const struct cli *cli, int argc, char **argv);
int cmd_tasks(const struct cli *cli, int argc, char **argv);
int cmd_runs(const struct cli *cli, int argc, char **argv);
int cmd_help(const struct cli *cli, int argc, char **argv);
int cmd_watch(const struct cli *cli, int argc, char **argv);
int cmd_doctor(const struct cli *cli, int argc, char **argv);
int cmd_dev(const struct cli *cli, int argc, char **argv);

#endif
