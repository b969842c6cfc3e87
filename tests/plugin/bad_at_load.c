/* A file that goes wrong by being opened: its constructor crashes, or never ends (BAD_HANGS). */
#include "bad.h"

#include <unistd.h>

__attribute__((constructor)) static void run_at_load(void)
{
#ifdef BAD_HANGS
    for (;;)
        (void)pause();
#else
    static const char words[] = "about to crash\n";

    if (write(2, words, sizeof words - 1) > 0)
        abort();
#endif
}

BAD_PLUGIN(.size = sizeof plugin, .abi_major = MUSTER_ABI_MAJOR, .abi_minor = MUSTER_ABI_MINOR, .start = bad_start);
