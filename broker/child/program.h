/*
 * child/program.h - `musterd --plugin-host`: the process of one plugin.
 *
 * It is started by a broker (child/spawn.h) with a socket as descriptor 3, builds the walls it is told, loads the file and serves the plugin
 * until the broker says that it shall end, or is gone.
 */
#ifndef MUSTER_CHILD_PROGRAM_H
#define MUSTER_CHILD_PROGRAM_H

/* The exit code: 0 ended as told, 1 not. */
int program_run(void);

#endif
