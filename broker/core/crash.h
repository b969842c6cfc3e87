/*
 * core/crash.h - the crash report: which plugin, version, callback and subject a fatal signal struck.
 *
 * Async-signal-safe: it writes to stderr what the thread's breadcrumb (core/lane.h) says, then a backtrace, and lets the
 * signal do its work, so that a core dump and the exit status stay true. Nothing is recovered.
 */
#ifndef MUSTER_CORE_CRASH_H
#define MUSTER_CORE_CRASH_H

/* Install for SIGSEGV, SIGBUS, SIGILL, SIGFPE and SIGABRT. Once, before any thread. who: this process, where no callback runs ("the broker
 * itself"); read when it crashes. */
void crash_install(const char *who);

#endif
