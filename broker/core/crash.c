/* The crash report; see crash.h. */
#include "core/crash.h"

#include <execinfo.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "core/lane.h"

enum { MAX_FRAMES = 64 };

static const char *process;

static void put(const char *s)
{
    (void)!write(STDERR_FILENO, s, strlen(s)); /* nowhere to tell of a failure */
}

static void put_field(const char *name, const char *value)
{
    if (!value || !*value)
        return;
    put(" ");
    put(name);
    put("=");
    put(value);
}

static const char *name_of(int sig)
{
    switch (sig) {
    case SIGSEGV:
        return "SIGSEGV";
    case SIGBUS:
        return "SIGBUS";
    case SIGILL:
        return "SIGILL";
    case SIGFPE:
        return "SIGFPE";
    default:
        return "SIGABRT";
    }
}

static void on_signal(int sig)
{
    const struct lane_crumb *who = lane_crumb_here();
    void *frames[MAX_FRAMES];

    put("muster: crash: ");
    put(name_of(sig));
    if (who) {
        put(" in");
        put_field("plugin", who->plugin);
        put_field("instance", who->instance);
        put_field("version", who->version);
        put_field("source", who->source_id);
        put_field("callback", who->callback);
        put_field("subject", who->subject);
        put("\n");
    } else {
        put(" in ");
        put(process);
        put("\n");
    }
    backtrace_symbols_fd(frames, backtrace(frames, MAX_FRAMES), STDERR_FILENO);
    (void)raise(sig); /* SA_RESETHAND: the default action now */
}

void crash_install(const char *who)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};
    unsigned int flags = (unsigned int)SA_RESETHAND | (unsigned int)SA_NODEFER | (unsigned int)SA_ONSTACK;
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)flags};
    void *frame[1];

    process = who;
    (void)backtrace(frame, 1); /* loads its library now: the handler may not allocate */
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        (void)sigaction(signals[i], &action, NULL); /* fails only for signals that cannot be caught */
}
