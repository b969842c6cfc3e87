/* The verbs of the services run and event. What they mean is the database's (schemas/sql/018_runs.sql). */
#include <string.h>

#include "base/clock.h"
#include "common/work/ask.h"
#include "runs/runs.h"

/* What comes with the settings goes on from here. */
static bool run_with(struct ask *a, const char *setting, int64_t ns)
{
    struct buf args = {0}, own = {0};

    ask_args(a, &own);
    buf_printf(&args, "{\"%s\":%lld,%s", setting, (long long)(ns / CLOCK_MS), buf_failed(&own) ? "" : own.data + 1);
    if (buf_failed(&args) || buf_failed(&own))
        ask_failed(a, MUSTER_ENOMEM, "the request could not be read");
    else
        ask_run_with(a, args.data);
    buf_done(&args);
    buf_done(&own);
    return false;
}

static bool look_status(struct ask *a)
{
    const struct runs *r = (const struct runs *)a->w;
    const char *status = ask_str(a, "status");
    bool verifies = status && strcmp(status, "verification_in_progress") == 0;

    return run_with(a, verifies ? "lease_ms" : "verify_by_ms", verifies ? r->config->verify_lease_ns : r->config->verify_by_ns);
}

const struct work_verb run_verbs[] = {
    {"start", "run_start", WORK_ROLE, NULL, NULL, NULL},
    {"progress", "run_progress", WORK_ROLE, "run_id", NULL, NULL},
    {"status", "run_status", WORK_ROLE, "run_id", look_status, NULL},
    {"complete", "run_complete", WORK_ROLE, "run_id", NULL, NULL},
    {"fail", "run_fail", WORK_ROLE, "run_id", NULL, NULL},
    {"escalate", "run_escalate", WORK_ROLE, "run_id", NULL, NULL},
    {"retry", "run_retry", WORK_ROLE, "run_id", NULL, NULL},
    {"cancel", "run_cancel", WORK_ROLE, "run_id", NULL, NULL},
    {"verification", "run_verification", WORK_ROLE, "run_id", look_status, NULL},
    {"get", "run_get", WORK_READS | WORK_ROLE, NULL, NULL, NULL},
    {"list", "run_list", WORK_READS | WORK_ROLE | WORK_PAGED, NULL, NULL, NULL},
    {"history", "run_history", WORK_READS | WORK_ROLE | WORK_PAGED, NULL, NULL, NULL},
    {"summary", "run_summary", WORK_READS | WORK_ROLE, NULL, NULL, NULL},
    {"export", "run_export", WORK_READS | WORK_ROLE, NULL, NULL, NULL},
};
const size_t n_run_verbs = sizeof run_verbs / sizeof *run_verbs;

const struct work_verb event_verbs[] = {
    {"append", "event_append", 0, NULL, NULL, NULL},
    {"list", "event_list", WORK_READS | WORK_PAGED, NULL, NULL, NULL},
};
const size_t n_event_verbs = sizeof event_verbs / sizeof *event_verbs;
