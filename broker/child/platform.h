/*
 * child/platform.h - whether this program was built with a sanitizer. What such a program needs does not go through all walls: its shadow
 * memory is more than any limit of memory, and its words go through variables of the environment.
 */
#ifndef MUSTER_CHILD_PLATFORM_H
#define MUSTER_CHILD_PLATFORM_H

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { PLATFORM_SANITIZED = 1 };
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
enum { PLATFORM_SANITIZED = 1 };
#else
enum { PLATFORM_SANITIZED = 0 };
#endif
#else
enum { PLATFORM_SANITIZED = 0 };
#endif

#endif
