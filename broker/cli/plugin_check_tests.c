/* The contract tests of `muster plugin check`; see plugin_check.h. Each runs in a child of its own. */
#include <limits.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/elf.h"
#include "cli/options.h"
#include "cli/plugin_check.h"
#include "config/options.h"
#include "core/loader.h"
#include "testhost/process.h"

enum { N_BODIES = 40, N_CYCLES = 30, N_RELOADS = 10, MAX_SWEEP = 64, MAX_TOLD = 8 };
#define ENTRY "muster_plugin_entry_v0"

/* ---- the file ------------------------------------------------------------------------------------------------------------------ */

struct exports {
    size_t n_other, n_weak;
    bool has_entry;
};

static void on_symbol(void *arg, const char *name, bool weak)
{
    struct exports *e = arg;

    if (strcmp(name, ENTRY) == 0)
        e->has_entry = true;
    else if (weak && strncmp(name, "_Z", 2) == 0)
        e->n_weak++; /* templates of the C++ library, which no option hides */
    else if (e->n_other++ < MAX_TOLD)
        check_failed("exports %.100s: expected " ENTRY " alone (-fvisibility=hidden)", name);
}

static void test_symbols(struct plugin_check *c)
{
    struct exports e = {0};
    const char *why;

    if (elf_exports(c->file, on_symbol, &e, &why) != 0)
        check_failed("%s: %s", c->file, why);
    else if (!e.has_entry)
        check_failed("does not export " ENTRY ": MUSTER_PLUGIN() is missing, or is not extern \"C\"");
    if (e.n_other > MAX_TOLD)
        check_failed("exports %zu symbols more", e.n_other - MAX_TOLD);
    if (e.n_weak)
        check_note("%zu weak C++ symbols are exported too", e.n_weak);
}

static bool comes_with_muster(const char *file)
{
    char dir[PATH_MAX], real_dir[PATH_MAX], real_file[PATH_MAX];
    size_t len;

    if (!realpath(file, real_file) || !realpath(loader_dir(dir, sizeof dir), real_dir))
        return false;
    len = strlen(real_dir);
    return strncmp(real_file, real_dir, len) == 0 && real_file[len] == '/';
}

/* Names that come with Muster are for the files that do. */
static void check_names(const struct plugin_check *c, const struct muster_plugin *p)
{
    const struct config_plugin how = {.path = c->file, .instance = "check", .lanes = 1};
    char why[LOADER_WHY_SIZE];

    if (!comes_with_muster(c->file) && loader_check_names(&how, p, c->file, why) != 0)
        check_failed("%s", why);
}

static void test_loads(struct plugin_check *c)
{
    struct muster_test *t = check_new(c, NULL);
    const struct muster_plugin *p = t ? muster_test_plugin(t) : NULL;

    if (p) {
        check_names(c, p);
        check_shown();
        check_note("%s %s, ABI %u.%u", p->name, p->version, p->abi_major, p->abi_minor);
    }
    check_end(c, t);
}

/* ---- options ------------------------------------------------------------------------------------------------------------------- */

static size_t size_of(uint32_t type)
{
    switch (type) {
    case MUSTER_T_BOOL:
    case MUSTER_T_ENUM:
        return sizeof(int32_t);
    case MUSTER_T_STRING:
        return sizeof(const char *);
    case MUSTER_T_LIST:
        return sizeof(struct muster_list);
    case MUSTER_T_MAP:
        return sizeof(struct muster_map);
    default:
        return sizeof(int64_t);
    }
}

static void check_pair(const struct muster_option *a, const struct muster_option *b)
{
    if (strcmp(a->key, b->key) == 0)
        check_failed("option %s is there twice", a->key);
    else if (a->offset < b->offset + size_of(b->type) && b->offset < a->offset + size_of(a->type))
        check_failed("options %s and %s share bytes of the config struct", a->key, b->key);
}

static void test_options(struct plugin_check *c)
{
    struct muster_test *t = check_new(c, NULL);
    const struct muster_plugin *p = muster_test_plugin(t);
    const struct config_table table = {p->options, p->n_options, p->option_size};
    const char *fault = options_fault(p);

    if (fault)
        check_failed("its option table is wrong: %s", fault);
    for (uint32_t i = 0; !fault && i < table.n; i++) {
        struct muster_option o = table_at(&table, i);

        if (!o.help || !*o.help)
            check_failed("option %s has no help", o.key);
        if (o.flags & MUSTER_O_RELOADABLE && (!MUSTER_HAS(p, reload) || !p->reload))
            check_failed("option %s is MUSTER_O_RELOADABLE, but there is no reload()", o.key);
        for (uint32_t j = 0; j < i; j++) {
            struct muster_option other = table_at(&table, j);

            check_pair(&o, &other);
        }
    }
    check_end(c, t);
}

static void on_difference(void *arg, const char *text)
{
    check_failed("%s: %s", (const char *)arg, text);
}

/* Of a table without required options the defaults must do. */
static void test_settings(struct plugin_check *c)
{
    char what[] = "check()";
    struct process before;
    int err = 0;

    check_end(c, check_new(c, NULL)); /* the host's own first time is over */
    process_look(&before);
    for (int i = 0; i < 10 && !err; i++) {
        struct muster_test *t = check_new(c, NULL);

        err = muster_test_check(t);
        if (err && !*c->config)
            check_skipped("the defaults do not do, and --config gives no others: %s", muster_test_reason(t));
        else if (err)
            check_failed("it does not take its settings: %s", muster_test_reason(t));
        check_end(c, t);
    }
    process_compare(&before, on_difference, what);
    process_done(&before);
    if (!err)
        check_shown();
}

/* ---- life ---------------------------------------------------------------------------------------------------------------------- */

static void test_create(struct plugin_check *c)
{
    struct muster_test *t = check_new(c, NULL);
    int err = muster_test_create(t);

    if (err)
        check_failed("create() failed (%d): %s", err, muster_test_reason(t));
    else
        check_shown();
    check_end(c, t); /* destroy() without start() */
}

static void test_start(struct plugin_check *c)
{
    struct muster_test *t = check_begin(c);

    if (t)
        check_shown();
    check_end(c, t);
}

static void test_start_away(struct plugin_check *c)
{
    struct muster_test *t = check_new(c, &(struct check_how){.flags = MUSTER_TEST_LINK_DOWN});

    if (muster_test_create(t) != 0 || muster_test_start(t) != 0) {
        check_failed("it does not start while NATS is away: %s", muster_test_reason(t));
        check_end(c, t);
        return;
    }
    check_traffic(t, c->seed, 0);
    muster_test_advance(t, 10 * MUSTER_TEST_S);
    muster_test_link(t, 1);
    check_settle(t, "after NATS came");
    check_end(c, t);
}

/* ---- one fault after the other ------------------------------------------------------------------------------------------------- */

/* How often each function is called on the way to `upto`: to create(), or to start(). */
static void count_calls(struct plugin_check *c, bool start, uint64_t *counts)
{
    struct muster_test *t = check_new(c, NULL);
    const struct muster_test_function *f;
    size_t n;

    f = muster_test_functions(&n);
    if (muster_test_create(t) == 0 && start) {
        for (size_t i = 0; i < n; i++)
            counts[i] = muster_test_calls(t, f[i].name);
        (void)muster_test_start(t);
    }
    for (size_t i = 0; i < n; i++)
        counts[i] = muster_test_calls(t, f[i].name) - counts[i];
    check_end(c, t);
}

/* Of the first few failures it is told which faults led there. */
static void tell_fault(struct muster_test *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void tell_fault(struct muster_test *t, const char *fmt, ...)
{
    static unsigned int n_told;
    char text[300];
    va_list ap;

    if (!muster_test_failures(t) || n_told++ >= 3)
        return;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    check_failed("%s", text);
}

/* A step that met a fault may fail or go on; either way it leaves nothing. */
static void try_fault(struct plugin_check *c, const struct muster_test_function *f, int code, uint32_t nth, bool start)
{
    struct muster_test *t = check_new(c, NULL);
    int err = 0;

    if (start)
        err = muster_test_create(t);
    muster_test_fault(t, f->name, code, nth, 1);
    if (!err && !start)
        err = muster_test_create(t);
    else if (!err)
        err = muster_test_start(t);
    if (!err && start)
        check_settle(t, "after a fault in start()");
    muster_test_destroy(t);
    tell_fault(t, "this came after %s() had given %s to call %u in %s()", f->name, check_code(code), nth, start ? "start" : "create");
    check_end(c, t);
}

static void sweep(struct plugin_check *c, bool start)
{
    uint64_t counts[128] = {0};
    const struct muster_test_function *f;
    size_t n, n_tried = 0;

    f = muster_test_functions(&n);
    count_calls(c, start, counts);
    for (size_t i = 0; i < n; i++)
        for (uint32_t nth = 1; nth <= counts[i] && nth <= MAX_SWEEP; nth++)
            for (size_t code = 0; f[i].codes[code]; code++, n_tried++)
                try_fault(c, &f[i], f[i].codes[code], nth, start);
    check_note("%zu faults", n_tried);
}

static void test_create_faults(struct plugin_check *c)
{
    sweep(c, false);
}

static void test_start_faults(struct plugin_check *c)
{
    sweep(c, true);
}

/* ---- requests ------------------------------------------------------------------------------------------------------------------ */

static void test_requests(struct plugin_check *c)
{
    struct muster_test *t = check_begin(c);
    struct check_verb v;
    size_t n_verbs = 0;

    if (!t)
        return;
    for (; check_verb_at(t, n_verbs, &v); n_verbs++) {
        const struct muster_test_answer *answer;
        char subject[256];

        (void)snprintf(subject, sizeof subject, "rpc.a0.%s.%s", v.service, v.verb);
        answer = muster_test_answer(t, muster_test_request(t, subject, v.defined ? muster_test_body(t, v.service, v.verb, MUSTER_JSON, 1, 0).data : "{}"));
        if (answer && answer->by_host && strcmp(answer->error, "not_found") == 0)
            check_failed("declares %s.%s, but has no subscription for it", v.service, v.verb);
    }
    if (!n_verbs)
        check_note("it declares no service");
    for (uint64_t i = 0; i < N_BODIES; i++) {
        check_traffic(t, c->seed + i, 0);
        muster_test_advance(t, MUSTER_TEST_S / 10);
    }
    check_settle(t, "after it came");
    check_end(c, t);
    check_shown();
}

static void test_bodies(struct plugin_check *c)
{
    struct muster_test *t = check_begin(c);

    for (uint64_t i = 0; t && i < N_BODIES; i++)
        check_traffic(t, c->seed + i, 1);
    if (t)
        check_settle(t, "after broken bodies");
    check_end(c, t);
}

/* Every function gives each of its codes, for ever and once; and all of them at once. */
static void fault_with(struct plugin_check *c, const char *name, int code, uint32_t count)
{
    struct muster_test *t = check_begin(c);

    if (!t)
        return;
    check_traffic(t, c->seed, 0);
    muster_test_fault(t, name, code, 1, count);
    for (uint64_t i = 1; i < 6; i++) {
        check_traffic(t, c->seed + i, 0);
        muster_test_advance(t, 2 * MUSTER_TEST_S);
    }
    check_settle(t, "after faults");
    muster_test_destroy(t);
    tell_fault(t, "this came while %s gave %s %s", name ? name : "every function", check_code(code), count ? "once" : "always");
    check_end(c, t);
}

static void test_faults(struct plugin_check *c)
{
    static const int codes[] = {MUSTER_EAGAIN, MUSTER_ELINK, MUSTER_ENOMEM, MUSTER_ETIME};
    const struct muster_test_function *f;
    size_t n;

    f = muster_test_functions(&n);
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        fault_with(c, NULL, codes[i], 0);
    for (size_t i = 0; i < n; i++)
        for (size_t code = 0; f[i].codes[code]; code++)
            for (uint32_t count = 0; count < 2; count++)
                fault_with(c, f[i].name, f[i].codes[code], count);
}

static void test_link(struct plugin_check *c)
{
    struct muster_test *t = check_begin(c);

    for (uint64_t i = 0; t && i < 12; i++) {
        check_traffic(t, c->seed + i, 0);
        muster_test_link(t, (int)(i & 1));
        check_traffic(t, c->seed + i, 0);
        muster_test_advance(t, (int64_t)(i % 4) * 20 * MUSTER_TEST_S);
    }
    if (t)
        check_settle(t, "after the link was lost and came again");
    check_end(c, t);
}

static void test_drain(struct plugin_check *c)
{
    struct muster_test *t = check_begin(c);

    for (uint64_t i = 0; t && i < 5; i++)
        check_traffic(t, c->seed + i, 0);
    if (t)
        muster_test_drain(t, 30 * MUSTER_TEST_S);
    check_end(c, t);
    t = check_begin(c); /* and in the middle of its work, without drain() */
    for (uint64_t i = 0; t && i < 5; i++)
        check_traffic(t, c->seed + i, 0);
    check_end(c, t);
}

static void test_reload(struct plugin_check *c)
{
    struct muster_test *t = check_begin(c);

    if (t && (!MUSTER_HAS(muster_test_plugin(t), reload) || !muster_test_plugin(t)->reload)) {
        check_skipped("it has no reload(): changes wait for a restart");
        check_end(c, t);
        return;
    }
    for (uint64_t i = 0; t && i < N_RELOADS; i++) {
        int err = muster_test_reload(t, c->config);

        if (err)
            check_failed("it does not take over the settings that it has (%d): %s", err, muster_test_reason(t));
        if (muster_test_reload(t, "no_such_key_of_any_plugin: 1\n") == 0)
            check_failed("an unknown key was taken at a reload");
        check_traffic(t, c->seed + i, 0);
    }
    if (t)
        check_settle(t, "after reloads");
    check_end(c, t);
}

/* ---- side by side -------------------------------------------------------------------------------------------------------------- */

static struct muster_test *begin_lane(struct plugin_check *c, const struct check_how *how)
{
    struct muster_test *t = check_new(c, how);

    if (muster_test_create(t) == 0 && muster_test_start(t) == 0) {
        (void)muster_test_lease_give(t, NULL);
        return t;
    }
    check_note("lane %u of %u: %s", how->lane, how->n_lanes, muster_test_reason(t));
    check_end(c, t);
    return NULL;
}

static void end_lane(struct plugin_check *c, struct muster_test *t)
{
    c->t = t;
    check_end(c, t);
}

/* What the first does must not show in the second, and the end of one is not that of the other. */
static void side_by_side(struct plugin_check *c, uint32_t n_lanes, const char *second)
{
    struct muster_test *a = begin_lane(c, &(struct check_how){.n_lanes = n_lanes, .instance = "first"}), *b = NULL;

    if (a)
        b = begin_lane(c, &(struct check_how){.lane = n_lanes - 1, .n_lanes = n_lanes, .instance = second});

    for (uint64_t i = 0; a && b && i < 6; i++) {
        c->t = a;
        check_traffic(a, c->seed + i, 0);
        c->t = b;
        check_traffic(b, c->seed + 100 + i, 0);
        muster_test_advance(i & 1 ? a : b, MUSTER_TEST_S);
    }
    if (a && b && muster_test_self(a) == muster_test_self(b) && muster_test_self(a))
        check_failed("two instances have one self: they share what they know");
    if (a)
        end_lane(c, a);
    if (!b)
        return;
    c->t = b;
    check_traffic(b, c->seed, 0);
    check_settle(b, "after another instance ended");
    end_lane(c, b);
}

static void test_lanes(struct plugin_check *c)
{
    side_by_side(c, 1, "second");
    side_by_side(c, 2, "first");
}

/* ---- memory -------------------------------------------------------------------------------------------------------------------- */

static void cycle(struct plugin_check *c)
{
    struct muster_test *t = check_begin(c);

    for (uint64_t i = 0; t && i < 5; i++)
        check_traffic(t, c->seed + i, i & 1);
    if (t)
        check_settle(t, "of a life");
    check_end(c, t);
}

/* Lives that are the same must cost the same. The first ones fill caches; and what is lost grows with each of the others. */
static void test_leaks(struct plugin_check *c)
{
    size_t used[N_CYCLES], grown = 0, n = N_CYCLES / 2;

    for (size_t i = 0; i < N_CYCLES; i++) {
        cycle(c);
        used[i] = mallinfo2().uordblks;
    }
    for (size_t i = n; i < N_CYCLES; i++)
        grown += used[i] > used[i - 1];
    if (grown == N_CYCLES - n)
        check_failed("each life leaves memory allocated, %zu bytes the last one", used[N_CYCLES - 1] - used[N_CYCLES - 2]);
}

const struct plugin_test plugin_tests[] = {
    {"symbols", "the file exports its entry alone", LEVEL_FILE, LEVEL_FILE, test_symbols},
    {"loads", "it loads; descriptor and definitions are whole", LEVEL_FILE, LEVEL_LOADS, test_loads},
    {"options", "its option table is sound", LEVEL_LOADS, LEVEL_LOADS, test_options},
    {"settings", "it takes its settings; check() has no side effects", LEVEL_LOADS, LEVEL_SETTINGS, test_settings},
    {"create", "create(), then destroy()", LEVEL_SETTINGS, LEVEL_CREATES, test_create},
    {"create-faults", "create() fails cleanly, whatever call fails", LEVEL_CREATES, LEVEL_CREATES, test_create_faults},
    {"start", "start(), then destroy()", LEVEL_CREATES, LEVEL_STARTS, test_start},
    {"start-away", "it starts while NATS is away", LEVEL_STARTS, LEVEL_STARTS, test_start_away},
    {"start-faults", "start() fails cleanly, whatever call fails", LEVEL_STARTS, LEVEL_STARTS, test_start_faults},
    {"requests", "each verb answers each request exactly once", LEVEL_STARTS, LEVEL_ANSWERS, test_requests},
    {"bodies", "broken bodies do no harm", LEVEL_ANSWERS, LEVEL_ANSWERS, test_bodies},
    {"faults", "every call fails, once and for ever", LEVEL_ANSWERS, LEVEL_ANSWERS, test_faults},
    {"link", "NATS goes and comes", LEVEL_ANSWERS, LEVEL_ANSWERS, test_link},
    {"drain", "drain() answers what is held", LEVEL_ANSWERS, LEVEL_ANSWERS, test_drain},
    {"reload", "a reload changes what it says, and it goes on", LEVEL_ANSWERS, LEVEL_ANSWERS, test_reload},
    {"lanes", "instances side by side share nothing", LEVEL_ANSWERS, LEVEL_ANSWERS, test_lanes},
    {"leaks", "lives cost no memory", LEVEL_ANSWERS, LEVEL_ANSWERS, test_leaks},
    {"fuzz", "events in an order that the seed makes", LEVEL_ANSWERS, LEVEL_ANSWERS, check_fuzz},
};
const size_t n_plugin_tests = sizeof plugin_tests / sizeof *plugin_tests;
