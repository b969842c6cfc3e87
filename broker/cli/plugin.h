/*
 * cli/plugin.h - the verbs of `muster plugin`, a file each. argv[0] is the verb; they return exit codes as cli.h says.
 */
#ifndef MUSTER_CLI_PLUGIN_H
#define MUSTER_CLI_PLUGIN_H

struct cli;

int plugin_list(const struct cli *cli, int argc, char **argv);
/* The AsyncAPI document of all that this installation speaks: the broker's own services and those of the configured plugins. */
int plugin_asyncapi(const struct cli *cli, int argc, char **argv);
/* Make a plugin's role in PostgreSQL, or give it another password. */
int plugin_role(const struct cli *cli, int argc, char **argv);
/* Hold a plugin's file against the contract; plugin_check.h. */
int plugin_check(const struct cli *cli, int argc, char **argv);
/* Write a plugin to begin with. */
int plugin_new(const struct cli *cli, int argc, char **argv);

#endif
