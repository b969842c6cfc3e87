/*
 * cli/template.h - the files of `muster plugin new`, from cli/template/, as the build embeds them.
 *
 * In paths NAME stands for the plugin's name; in texts @NAME@, @METRIC@ (the name as metrics have it), @MUSTER@ (this version, of which
 * the last number does not matter) and @PLUGINDIR@ (the brokers' plugin folder).
 */
#ifndef MUSTER_CLI_TEMPLATE_H
#define MUSTER_CLI_TEMPLATE_H

#include <stddef.h>

struct template_file {
    const char *path, *text;
};

extern const struct template_file template_files[];
extern const size_t n_template_files;

#endif
