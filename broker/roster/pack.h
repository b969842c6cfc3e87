/*
 * roster/pack.h - one agent in one piece of memory. Private to roster/.
 */
#ifndef MUSTER_ROSTER_PACK_H
#define MUSTER_ROSTER_PACK_H

#include <muster/plugin.h>
#include <stddef.h>

struct pack {
    struct muster_agent agent; /* all that it points to is behind it, but for the capabilities' texts */
    size_t n_bytes;
    const char **capabilities; /* agent.capabilities, for who fills them in */
};

/* A copy. names: where the texts of the capabilities stand, which live as long as the pack; n_names of them. NULL: no memory. */
struct pack *pack_new(const struct muster_agent *from, const char *const *names, uint32_t n_names);

#endif
