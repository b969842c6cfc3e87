/* From a frame of the parent's to who takes it; see host.h. On the lane. */
#include "base/assert.h"
#include "child/host.h"

static void on_settings(struct child *c, struct frame_reader *r)
{
    life_settings(c, r);
}

static void on_check(struct child *c, struct frame_reader *r)
{
    (void)r; /* it has no fields, like those below */
    life_check(c);
}

static void on_create(struct child *c, struct frame_reader *r)
{
    (void)r;
    life_create(c);
}

static void on_start(struct child *c, struct frame_reader *r)
{
    (void)r;
    life_start(c);
}

static void on_destroy(struct child *c, struct frame_reader *r)
{
    (void)r;
    life_destroy(c);
}

static void on_ping(struct child *c, struct frame_reader *r)
{
    (void)pipe_put(c->pipe, FRAME_PONG, r->id); /* without memory the parent asks again */
}

static void on_writable(struct child *c, struct frame_reader *r)
{
    (void)r;
    atomic_store(&c->in.wants_writable, true);
    instance_tell_writable(&c->in);
}

static void on_pause(struct child *c, struct frame_reader *r)
{
    (void)r;
    c->parent_is_narrow = true;
    life_tell_narrow(c);
}

static void on_resume(struct child *c, struct frame_reader *r)
{
    (void)r;
    c->parent_is_narrow = false;
    life_tell_narrow(c);
}

typedef void (*take_fn)(struct child *c, struct frame_reader *r);

static const take_fn takers[FRAME_N_TYPES] = {
    [FRAME_SETTINGS] = on_settings,
    [FRAME_CHECK] = on_check,
    [FRAME_CREATE] = on_create,
    [FRAME_START] = on_start,
    [FRAME_RELOAD] = life_reload,
    [FRAME_DRAIN] = life_drain,
    [FRAME_DESTROY] = on_destroy,
    [FRAME_PING] = on_ping,
    [FRAME_ON_LINK] = life_on_link,
    [FRAME_ON_WRITABLE] = on_writable,
    [FRAME_ON_TABLES] = life_on_tables,
    [FRAME_ON_PAUSE] = on_pause,
    [FRAME_ON_RESUME] = on_resume,
    [FRAME_TENANT] = tenant_told,
    [FRAME_TABLE] = tenant_table,
    [FRAME_FOUND] = tenant_found,
    [FRAME_MSG] = message_arrives,
    [FRAME_SENT] = bus_sent,
    [FRAME_ANSWER] = bus_answer,
    [FRAME_INFO] = store_info,
    [FRAME_STORED] = store_stored,
    [FRAME_APPENDED] = store_appended,
    [FRAME_VALUE] = kv_value,
    [FRAME_ENTRY] = kv_entry,
    [FRAME_LEASE_GOT] = lease_got,
    [FRAME_LEASE_LOST] = lease_lost,
    [FRAME_SYS_EVENT] = sys_event,
    [FRAME_SYS_LISTED] = sys_listed,
};

bool child_on_frame(void *arg, struct frame_reader *r)
{
    struct child *c = arg;
    take_fn take = r->type < FRAME_N_TYPES ? takers[r->type] : NULL;

    if (!take)
        child_confused(frame_name(r->type));
    if (!atomic_load(&c->is_through))
        take(c, r);
    if (r->bad)
        child_confused(frame_name(r->type));
    return true;
}
