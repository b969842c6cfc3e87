/*
 * config/yaml.h - from the text of a file to a tree, by libyaml's events.
 *
 * Refused, each where it stands: anchors, aliases, tags, a second document, tabs, duplicate keys, keys
 * that are not text, what is not UTF-8, nesting deeper than CONFIG_MAX_DEPTH, more than CONFIG_MAX_NODES
 * values.
 */
#ifndef MUSTER_CONFIG_YAML_H
#define MUSTER_CONFIG_YAML_H

#include <stddef.h>

#include "config/report.h"

/* Fill s->tree with what is in data; an empty text gives an empty value. */
int yaml_read(const struct config_scope *s, const char *data, size_t len);

#endif
