/*
 * child/walls.h - the parts of a child's walls, built by sandbox_build() in this order; private to child/.
 */
#ifndef MUSTER_CHILD_WALLS_H
#define MUSTER_CHILD_WALLS_H

#include "child/sandbox.h"

/* Landlock. *lacks gets what it has no word for. 0, or an errno with the path in question in *ret_what. */
int walls_files(const struct sandbox *s, const char *file, uint32_t *lacks, const char **ret_what);
/* seccomp. 0, or an errno. */
int walls_calls(const struct sandbox *s, uint32_t *lacks);

#endif
