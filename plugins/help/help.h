/*
 * help/help.h - what the parts of the plugin share. The service help: the database has every request, and decides; brokers ask it.
 *
 * Parts    verbs.c      the requests, each one function of the database, and what respond() says    (common/work)
 *          experts.c    who is present and fits
 *          tells.c      what agents are told when a change is committed
 *          known.h      whom what is open is about
 *          knowledge.c  a share_knowledge straight to an asker, which is an answer
 *          sweeps.c     deadlines, rounds, lost sessions and old requests
 * Threads  The lane, without a lock.
 */
#ifndef MUSTER_HELP_HELP_H
#define MUSTER_HELP_HELP_H

#include "base/buf.h"
#include "common/work/sweeper.h"
#include "common/work/work.h"
#include "help/known.h"

struct help_config {
    int64_t sweep_ns;
    int64_t keep_ns, keep_accepted_ns; /* of requests that have ended; 0: for ever */
    int64_t timeout_ns, offer_ns, claim_ns, verdict_ns;
    int64_t rounds, rejections, depth, quota, prior;
    int32_t auto_accept;
};

enum { JOB_DUE, JOB_LOOKING, JOB_ORPHANS, JOBS };

/* Something that every broker asks the database now and then, and one alone does; what it gives has to be told. */
struct job {
    struct help *h;
    const char *name;
    uint64_t stmt;
    int64_t period_ns, due_ns, taken_ns; /* since when its lock was another's whenever it was asked for; 0: it was not */
    bool asking, anyway;                 /* anyway: without the lock */
};

struct help {
    struct work work; /* first: common/work/work.h */
    const struct muster_roster *roster;
    const struct help_config *config;
    struct known known;
    bool reading_open, read_open_again; /* of knowledge.c */
    struct job jobs[JOBS];
    struct sweep purge;
    uint64_t offer, knowledge, lost, involved; /* statements */
    uint64_t m_told, m_untold;                 /* metrics */
    int64_t started_ns;
    uint64_t look_from;                        /* of experts.c: where the next look begins */
    struct outlook outlook;                    /* of sweeps.c: by the last job */
    char keep[64];    /* what purge is told */
    char set[256];    /* the settings as the database takes them */
};

extern const struct work_verb help_verbs[];
extern const size_t n_help_verbs;
/* For struct muster_service. */
#define HELP_VERBS "request claim decline answer accept reject escalate resolve withdraw retry get list history stats"

#define HELP_TICK_NS (INT64_C(50) * 1000000)

int respond_start(struct help *h); /* what respond() says */
/* How deep lists and maps stand in it: at most LEVELS_MAX, since in an event and in a list it is some levels deeper. */
enum { LEVELS_MAX = 24 };
unsigned int levels_of(const struct muster_value *v);

/* The session of an agent that is present, as ,"session":"…"; nothing where it is not. */
void experts_put_session(struct help *h, const struct muster_tenant *tenant, const char *agent, struct buf *out);
/* Who fits what a request wants (capabilities, labels) and is not the asker: [{"agent", "load"?}]. Gives how many. */
size_t experts_put(struct help *h, const struct muster_tenant *tenant, const struct muster_value *wants, const char *asker, struct buf *out);
/* False: that nobody was found may mean that this broker does not know yet who is there. */
bool experts_are_known(struct help *h, const struct muster_tenant *tenant);
/* An open request looks for experts: find some, and have them offered it. */
void experts_look(struct help *h, const struct muster_tenant *tenant, const struct muster_value *offer);

int tells_create(struct help *h);
/* What an outcome has beside ok: {tell[], offer, done[]}; it, and of done[] each, has a tenant, or it is this one. */
void tells_send(struct help *h, const struct muster_tenant *tenant, const struct muster_value *outcome);
/* The whole outcome of a statement of the plugin's own. */
void tells_of_result(struct help *h, const struct muster_tenant *tenant, const struct muster_sql_result *result);

int knowledge_create(struct help *h);
int knowledge_start(struct help *h);
void knowledge_tables(struct help *h); /* tenants are known now: read what is open */

int jobs_create(struct help *h);
void jobs_set(struct help *h); /* the configuration is new */
void jobs_tick(struct help *h, int64_t now_ns);

#endif
