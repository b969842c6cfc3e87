/* Tasks that agents do; see crowd.h. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "crowd.h"

enum { ID_SIZE = 64, TAG_SIZE = 32 };
enum step { SAID, QUEUED, HELD, ENDING, ENDED }; /* of a task, as far as this program knows: who it is with, and what is asked of it */

struct piece {
    char id[ID_SIZE];
    int64_t said_ns;
    int holder, epoch;
    enum step step;
};

static struct piece *pieces; /* never forgotten: what is under way may be of an earlier order */
static size_t n_pieces, pieces_cap;
static char batch[24];
static bool at_work;
static int64_t ending; /* complete asked, and not answered */
static uint64_t n_queued, n_ended, n_moved;

static struct piece *add_piece(void)
{
    if (n_pieces == pieces_cap) {
        pieces_cap = pieces_cap ? 2 * pieces_cap : 4096;
        pieces = realloc(pieces, pieces_cap * sizeof *pieces);
        if (!pieces)
            die("memory");
    }
    pieces[n_pieces] = (struct piece){.holder = -1};
    return &pieces[n_pieces++];
}

/* ---- said ---- */

static void ask_about(struct piece *p, int agent, const char *verb, const char *body)
{
    char tagged[TAG_SIZE];

    (void)snprintf(tagged, sizeof tagged, "%s-%zu", verb, (size_t)(p - pieces));
    agent_ask_tagged(&crowd.agents[agent], "task", verb, tagged, body);
}

static void submit(void)
{
    struct piece *p = add_piece();
    char body[BODY_SIZE];

    if (!*batch)
        (void)snprintf(batch, sizeof batch, "b%lx-%x", (unsigned long)time(NULL), (unsigned)getpid());
    (void)snprintf(p->id, sizeof p->id, "%s-%08zu", batch, n_pieces - 1);
    (void)snprintf(body, sizeof body,
                   "{\"task_id\":\"%s\",\"description\":\"Resize a picture\",\"payload\":{\"kind\":\"resize\",\"url\":\"https://example.org/pictures/1.png\",\"w\":640,\"h\":480}}", p->id);
    p->said_ns = clock_now_ns();
    ask_about(p, 0, "submit", body);
}

static void say_of(struct piece *p, const char *verb, const char *further)
{
    char body[BODY_SIZE];

    (void)snprintf(body, sizeof body, "{\"task_id\":\"%s\",\"epoch\":%d%s}", p->id, p->epoch, further);
    ask_about(p, p->holder, verb, body);
}

static void end_it(struct piece *p)
{
    p->step = ENDING;
    ending++;
    say_of(p, "complete", ",\"result\":{\"ok\":true}");
}

static void begin_it(struct piece *p)
{
    if (crowd.asks)
        say_of(p, "accept", "");
    else
        end_it(p);
}

/* ---- heard ---- */

/* The text of a member, where there is one: the first of that name. */
static void text_of(const struct wire_message *msg, const char *name, char *text, size_t size)
{
    const char *at = memmem(msg->body, msg->len, name, strlen(name)), *end = msg->body + msg->len;
    size_t n = 0;

    at = at ? memchr(at + strlen(name), '"', (size_t)(end - at) - strlen(name)) : NULL;
    while (at && ++at < end && *at != '"' && n + 1 < size)
        text[n++] = *at;
    text[n] = '\0';
}

static int number_in(const struct wire_message *msg, const char *name)
{
    const char *at = memmem(msg->body, msg->len, name, strlen(name));

    return at ? atoi(at + strlen(name)) : 0; /* an object's end follows */
}

/* Of those that this program submitted the number stands in the name. */
static struct piece *piece_of(const char *id)
{
    size_t len = strlen(batch), i = SIZE_MAX;

    if (len && strncmp(id, batch, len) == 0 && id[len] == '-')
        i = strtoul(id + len + 1, NULL, 10);
    if (i < n_pieces)
        return &pieces[i];
    struct piece *p = add_piece();

    (void)snprintf(p->id, sizeof p->id, "%s", id);
    return p;
}

void take_assignment(int agent, const struct wire_message *msg)
{
    char id[ID_SIZE];
    int epoch = number_in(msg, "\"epoch\":");
    int64_t now = clock_now_ns();
    struct piece *p;

    if (crowd.agents[agent].gone)
        return;
    text_of(msg, "\"task_id\":", id, sizeof id);
    p = piece_of(id);
    if (p->epoch >= epoch)
        return; /* told once more */
    if (p->holder >= 0) {
        sample(now - crowd.agents[p->holder].gone_ns);
        n_moved++;
    } else if (p->said_ns) {
        sample(now - p->said_ns);
    }
    p->holder = agent;
    p->epoch = epoch;
    p->step = HELD;
    if (at_work)
        begin_it(p);
}

/* "submit-17": what was asked, and of which task. */
void take_word(const char *tagged, const struct wire_message *msg)
{
    struct piece *p = &pieces[strtoul(strchr(tagged, '-') + 1, NULL, 10)];

    if (memmem(msg->body, msg->len, "\"error\"", 7) && crowd.n_errors++ == 0)
        (void)fprintf(stderr, "crowd: %s: %.*s\n", tagged, (int)msg->len, msg->body);
    if (*tagged == 's') {
        n_queued++;
        p->step = p->step == SAID ? QUEUED : p->step; /* it may be in somebody's hand before */
    } else if (*tagged == 'a') {
        end_it(p);
    } else {
        p->step = ENDED;
        ending--;
        n_ended++;
    }
}

/* ---- orders ---- */

void order_slots(const struct order *o)
{
    crowd.capacity = (int)o->a;
    crowd.asks = o->b != 0;
}

static void work_on(void)
{
    at_work = true;
    for (size_t i = 0; i < n_pieces; i++)
        if (pieces[i].step == HELD && !crowd.agents[pieces[i].holder].gone)
            begin_it(&pieces[i]);
}

void order_work(const struct order *o)
{
    (void)o;
    work_on();
}

void order_tasks(const struct order *o)
{
    uint64_t queued = n_queued, ended = n_ended;

    work_on();
    for (int64_t i = 0; i < o->a; i++) {
        submit();
        if (i + 1 >= o->b)
            await(&n_ended, ended + (uint64_t)(i + 2 - o->b), o);
    }
    await(&n_queued, queued + (uint64_t)o->a, o);
    await(&n_ended, ended + (uint64_t)o->a, o);
}

void order_flow(const struct order *o)
{
    uint64_t queued = n_queued, ended = n_ended;
    int64_t begin = clock_now_ns();

    work_on();
    for (int64_t i = 0; i < o->b; turn(i < o->b ? 1 : 0))
        for (int64_t due = (clock_now_ns() - begin) * o->a / CLOCK_S + 1; i < o->b && i < due; i++)
            submit();
    await(&n_queued, queued + (uint64_t)o->b, o);
    await(&n_ended, ended + (uint64_t)o->b, o);
}

void order_flood(const struct order *o)
{
    uint64_t queued = n_queued;

    for (int64_t i = 0; i < o->a; i++) {
        submit();
        if (i + 1 >= o->b)
            await(&n_queued, queued + (uint64_t)(i + 2 - o->b), o);
    }
    await(&n_queued, queued + (uint64_t)o->a, o);
}

void order_drain(const struct order *o)
{
    work_on();
    await(&n_ended, n_ended + (uint64_t)o->a, o);
    at_work = false;
    while (ending) {
        turn(10);
        check(o);
    }
}

/* Over when everything that those who were lost held is with others. */
static void inherit(bool cut, const struct order *o)
{
    uint64_t moved = n_moved, left = 0;

    agents_lose((int)o->a, cut);
    for (size_t i = 0; i < n_pieces; i++)
        left += pieces[i].step == HELD && crowd.agents[pieces[i].holder].gone;
    if (left == 0)
        die("heirs: those who are lost hold nothing");
    await(&n_moved, moved + left, o);
}

void order_heirs(const struct order *o)
{
    inherit(true, o);
}

void order_orphans(const struct order *o)
{
    inherit(false, o);
}
