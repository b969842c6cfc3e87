/*
 * bare_reader - reads a slot to nowhere: the limit that libpq and the walsender set. Counts the rows up to the marker.
 */
#include "base/clock.h"
#include "common.h"

int main(int argc, char **argv)
{
    struct args args = {0};
    struct slot slot;
    uint64_t rows = 0;

    args_parse(&args, argc, argv);
    slot_open(&slot, &args);
    do {
        slot_next(&slot);
        rows += slot.data[0] == 'I';
    } while (!is_marker(&slot));
    report(rows, clock_wall_ns(), PQbackendPID(slot.conn));
    slot_close(&slot);
    return 0;
}
