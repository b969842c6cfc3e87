/*
 * common/late.h - what presence tells the other plugins of this broker of an agent in the roster, and nobody outside.
 *
 * An agent is late while so many of its beats are missing that with the next one it is gone. It is present, nobody is told of it, and it holds what it
 * holds; but what is given to it now would soon have to be given to another.
 */
#ifndef MUSTER_COMMON_LATE_H
#define MUSTER_COMMON_LATE_H

#define AGENT_IS_LATE (1u << 31) /* beside MUSTER_AGENT_*, which begin at the other end */

#endif
