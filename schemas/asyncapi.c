/*
 * muster-asyncapi - print the AsyncAPI 3.0 document of all definitions in schemas/messages/.
 *
 * A tool of the build: it loads every definition, so a wrong one stops the build with the file and the place.
 */
#include <stdio.h>
#include <string.h>

#include "wire/asyncapi.h"

struct definition {
    const char *file, *text;
};

#include "schemas/all.inc"

enum { N_DEFINITIONS = sizeof definitions / sizeof *definitions };

static struct schema *schemas[N_DEFINITIONS];

static int load_all(void)
{
    struct wire_error err = {.text = "no memory"};

    for (size_t i = 0; i < N_DEFINITIONS; i++) {
        if (schema_load(definitions[i].text, schema_core(), &schemas[i], &err)) {
            fprintf(stderr, "schemas/messages/%s.yaml: %s\n", definitions[i].file, err.text);
            return -1;
        }
        if (strcmp(schemas[i]->service, definitions[i].file) != 0) {
            fprintf(stderr,
                    "schemas/messages/%s.yaml: service: %s came, expected the name of the file\n",
                    definitions[i].file, schemas[i]->service);
            return -1;
        }
    }
    return 0;
}

static void free_all(void)
{
    for (size_t i = 0; i < N_DEFINITIONS; i++)
        schema_free(schemas[i]);
}

int main(void)
{
    struct buf out = {0};
    int err = load_all();

    if (!err)
        asyncapi_put(&out, (const struct schema *const *)schemas, N_DEFINITIONS,
                     "Made by muster-asyncapi from schemas/messages/; edit those. The contract in words is INTERFACE.");
    if (buf_failed(&out))
        err = MUSTER_ENOMEM;
    if (!err)
        fputs(out.data, stdout);
    buf_done(&out);
    free_all();
    return err ? 1 : 0;
}
