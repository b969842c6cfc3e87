/* follow(), unfollow() and hold_back() of muster.stream/1 in the test host. Lane only. */
#include <stdlib.h>
#include <string.h>

#include "testhost/stored.h"

static const int64_t again_ns = INT64_C(250000000);

struct follow {
    uint64_t id, handle;
    char *pattern; /* NULL: all */
    uint64_t next; /* what is expected; 0: not known yet */
    uint64_t number; /* of the stream, once it was seen */
    muster_stream_follow_fn fn;
    void *arg;
    bool held, gap, told_away, told_end;
    bool due;
};

/* Its next turn. */
struct turn {
    struct due due;
    uint64_t follow;
};

static struct follow *find(struct muster_test *t, uint64_t id)
{
    for (size_t i = 0; i < t->follows.n; i++) {
        struct follow *f = t->follows.items[i];

        if (f->id == id)
            return f;
    }
    return NULL;
}

static void drop_at(struct muster_test *t, size_t i)
{
    struct follow *f = t->follows.items[i];

    list_remove(&t->follows, i);
    free(f->pattern);
    free(f);
}

static void drop(struct muster_test *t, uint64_t id)
{
    for (size_t i = 0; i < t->follows.n; i++)
        if (((struct follow *)t->follows.items[i])->id == id) {
            drop_at(t, i);
            return;
        }
}

static struct stream *stream_of(struct muster_test *t, const struct follow *f)
{
    const struct handle *h = handle_find(t, f->handle);

    return h ? stream_named(t, h->name) : NULL;
}

/* ---- turns ---------------------------------------------------------------------------------------------------------------------- */

static void run_turn(struct muster_test *t, struct due *d, int code);

static void schedule(struct muster_test *t, struct follow *f, int64_t after_ns)
{
    struct turn *turn;

    if (f->due)
        return;
    f->due = true;
    turn = must_alloc(sizeof *turn);
    turn->due = (struct due){.kind = DUE_LINK, .callback = CALL_STREAM_FOLLOW_CB, .owner = f->id, .run = run_turn};
    turn->follow = f->id;
    due_add(t, &turn->due, t->now_ns + after_ns);
}

static void tell(struct muster_test *t, const struct follow *f, int code)
{
    DURING(t, "stream follow", NULL, f->fn(f->arg, code, NULL));
}

static void give(struct muster_test *t, struct follow *f, const struct sent *m)
{
    struct arena *a = arena_new(msg_room(&m->seen));
    struct muster_msg *msg = stored_msg(t, a, m);

    f->next = m->seen.seq + 1;
    DURING(t, "stream follow", m->seen.subject, f->fn(f->arg, 0, msg));
    arena_end(a, "a message of a stream that is followed");
}

static void lose(struct muster_test *t, struct follow *f)
{
    bool told = f->told_away;

    f->told_away = true;
    f->told_end = false;
    if (t->up && t->phase < PHASE_ENDING)
        schedule(t, f, again_ns); /* when the link is away, its return does it */
    if (!told)
        tell(t, f, MUSTER_ELINK);
}

/* False: there is no such stream any more, or it is another. */
static bool place(struct follow *f, const struct stream *s)
{
    if (!s || (f->number && f->number != s->number) || (f->next && s->last_seq + 1 < f->next))
        return false;
    f->number = s->number;
    if (!f->next)
        f->next = s->last_seq + 1;
    if (f->next < s->first_seq) {
        f->gap = f->gap || !f->pattern || !f->told_end;
        f->next = s->first_seq;
    }
    return true;
}

/* The next one that is wanted; NULL: none, and all is seen. */
static const struct sent *next_of(struct follow *f, const struct stream *s)
{
    for (; f->next <= s->last_seq; f->next++) {
        const struct sent *m = stream_at(s, f->next);

        if (stream_has(f->pattern, m))
            return m;
        f->gap = f->gap || (!m && !f->pattern);
    }
    return NULL;
}

/* One thing after another; what the plugin does in there may end it. */
static bool step(struct muster_test *t, struct follow *f)
{
    const struct stream *s = stream_of(t, f);
    const struct sent *m;

    if (!place(f, s)) {
        struct follow gone = *f;

        gone.pattern = NULL;
        drop(t, f->id);
        tell(t, &gone, MUSTER_ENOTFOUND);
        return false;
    }
    m = next_of(f, s);
    if (f->gap) {
        f->gap = false;
        tell(t, f, MUSTER_ESTALE);
    } else if (m) {
        give(t, f, m);
    } else if (!f->told_end) {
        f->told_end = true;
        f->told_away = false;
        tell(t, f, MUSTER_EAGAIN);
    } else {
        return false;
    }
    return true;
}

static void run_turn(struct muster_test *t, struct due *d, int code)
{
    uint64_t id = ((struct turn *)d)->follow;
    struct follow *f = find(t, id);

    free(d);
    if (!f)
        return;
    f->due = false;
    if (t->phase >= PHASE_ENDING)
        return; /* nothing is told any more */
    if (code)
        lose(t, f);
    else
        while ((f = find(t, id)) && !f->held && t->up && step(t, f))
            ;
}

void follow_wake(struct muster_test *t, const char *stream)
{
    for (size_t i = 0; i < t->follows.n; i++) {
        struct follow *f = t->follows.items[i];
        const struct handle *h = handle_find(t, f->handle);

        if (t->up && h && strcmp(h->name, stream) == 0)
            schedule(t, f, 0);
    }
}

void follow_missed(struct muster_test *t, const struct stream *s, const struct sent *m)
{
    for (size_t i = 0; i < t->follows.n; i++) {
        struct follow *f = t->follows.items[i];

        if (f->number == s->number && f->next && m->seen.seq >= f->next && stream_has(f->pattern, m))
            f->gap = true;
    }
}

void follow_link(struct muster_test *t, bool up)
{
    uint64_t last = t->next_id;

    for (size_t i = 0; i < t->follows.n; i++) {
        struct follow *f = t->follows.items[i];

        if (f->id > last)
            continue;
        if (up)
            schedule(t, f, 0);
        else if (!f->told_away)
            lose(t, f);
    }
}

/* ---- calls ---------------------------------------------------------------------------------------------------------------------- */

int follow_begin(const struct muster_host *host, uint64_t stream, const struct muster_tenant *tenant, const char *subject, uint64_t from_seq,
                 uint32_t max_msgs, muster_stream_follow_fn fn, void *arg, uint64_t *ret_follow)
{
    struct muster_test *t = test_of(host, CALL_STREAM_FOLLOW);
    int err = call_begin(t, CALL_STREAM_FOLLOW);
    char *pattern = NULL;
    struct follow *f;

    if (!err && (max_msgs > 5000 || !ret_follow))
        err = breach(t, CALL_STREAM_FOLLOW, "max_msgs is %u: expected 0 to 5000; ret_follow: not NULL", max_msgs);
    if (!err)
        err = handle_wanted(t, CALL_STREAM_FOLLOW, stream, fn != NULL, &(struct wanted){tenant, subject}, &pattern);
    if (err)
        return err;
    f = must_alloc(sizeof *f);
    *f = (struct follow){.id = ++t->next_id, .handle = stream, .pattern = pattern, .next = from_seq, .fn = fn, .arg = arg};
    list_add(&t->follows, f);
    schedule(t, f, 0);
    *ret_follow = f->id;
    return 0;
}

void follow_end(const struct muster_host *host, uint64_t follow)
{
    struct muster_test *t = test_of(host, CALL_STREAM_UNFOLLOW);

    if (call_begin(t, CALL_STREAM_UNFOLLOW) == 0)
        drop(t, follow);
}

void follow_hold(const struct muster_host *host, uint64_t follow, uint32_t on)
{
    struct muster_test *t = test_of(host, CALL_STREAM_HOLD_BACK);
    struct follow *f = call_begin(t, CALL_STREAM_HOLD_BACK) == 0 ? find(t, follow) : NULL;

    if (!f)
        return;
    f->held = on != 0;
    if (!on && t->up)
        schedule(t, f, 0);
}

void follow_close(struct muster_test *t, uint64_t handle)
{
    for (size_t i = t->follows.n; i > 0; i--)
        if (((struct follow *)t->follows.items[i - 1])->handle == handle)
            drop_at(t, i - 1);
}

void follow_free(struct muster_test *t)
{
    while (t->follows.n)
        drop_at(t, t->follows.n - 1);
    list_done(&t->follows);
}
