/* Settings of the plugin good, which the tests read. */
#ifndef MUSTER_TESTS_GOOD_H
#define MUSTER_TESTS_GOOD_H

#include <stdint.h>

struct good_config {
    int64_t number, tick_ns, keep_ns;
};

#endif
