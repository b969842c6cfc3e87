/*
 * bus/js_api.h - what the files over $JS.API share: its answers read. Private to bus/.
 */
#ifndef MUSTER_BUS_JS_API_H
#define MUSTER_BUS_JS_API_H

#include <cjson/cJSON.h>

#include "bus/bus.h"

/* Read an answer that came with code. *ret_root is owned by the caller also when it holds an error; *ret_text says in one line why the
 * result is not 0, and lives as long as it. */
int js_api_parse(int code, const struct bus_msg *msg, cJSON **ret_root, const char **ret_text);
/* 0: it is not there, or no positive number. */
uint64_t js_api_number(const cJSON *parent, const char *key);
/* "": it is not there. */
const char *js_api_text(const cJSON *parent, const char *key);

#endif
