/*
 * cli/schema.h - whether schema muster is what `muster migrate` made, before anything in it is read.
 *
 * Whoever may create a schema can make one of that name with a view that calls his function, and a
 * superuser who reads the view runs the function. So the catalog is asked first, and alone. What
 * belongs to a superuser is trusted as well: nobody but a superuser can have put it there, and a
 * dump that was restored without its owners looks like that.
 */
#ifndef MUSTER_CLI_SCHEMA_H
#define MUSTER_CLI_SCHEMA_H

#include <stdbool.h>

#include "sql/admin.h"

struct schema {
    bool there;        /* it exists */
    bool migrated;     /* and has the record of migrations */
    char foreign[320]; /* what in it is somebody else's, as a sentence; "": nothing */
};

/* Look. Where it was not there nothing of it may be read afterwards: somebody may make it meanwhile.
 * Errors as of sql_admin_exec(). */
int schema_look(struct sql_admin *admin, struct schema *ret_schema);

#endif
