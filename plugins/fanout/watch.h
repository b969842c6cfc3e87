/*
 * fanout/watch.h - watches: what agents asked to be told of, and what it takes to tell them.
 *
 * Parts    watch.c        the part of the plugin: shards and their leases, timers, requests
 *          watch_taps.c   the streams that a watch needs
 *          watch_open.c   one open, from its request to its answer
 *          watch_load.c   the watches of a shard that has come here
 *          watch_list.c   close and list
 *          watch_end.c    those whose agent has left
 *          watch_spec.c   what an open asks for, read and held against the table
 *          sources.c      patterns of subjects: which stream and which channel they are of
 *          feed.c         one stream, followed; and what of it is for whom
 *          dispatch.c     one message, to those it is for
 *          keep.c         how far a shard is, in the bucket
 *          reader.c       reading a stream from an earlier position up to where the feed is
 *          nodes.c        who wants what begins with these tokens; channels and their positions
 *          route.c        the nodes and the channel of a subject, remembered
 *          seek.c         where in a stream a position of a channel is
 *          note.c         a message as it waits for a watch
 *          outlet.c       from what waits for a watch to its subject, in the forms of outlet_form.c
 *          shape.c        a change as a watch shows it
 * Serving  16 shards of tenants; who holds the lease watch.<shard> serves it. The watches are rows of muster.watches; for each stream that one
 *          needs there is one consumer in the broker. How far a shard's watches are is kept once a second in the bucket,
 *          at/<shard>/<stream>; who takes a shard over goes on from there, so that what came since comes again, and nothing is missing.
 * Order    A watch hears a stream in its order. One that is behind (it begins earlier, its shard has just come here, it was full) is "apart": it
 *          is fed by a reader of its own and joins the feed where both are at one place.
 * Threads  The lane.
 */
#ifndef MUSTER_FANOUT_WATCH_H
#define MUSTER_FANOUT_WATCH_H

#include "base/name.h"
#include "common/shares.h"
#include "fanout/batch.h"
#include "fanout/fanout.h"
#include "fanout/table_index.h"

enum { WATCH_SHARDS = 16, WATCH_ID_SIZE = 65, WATCH_SUBJECT_SIZE = 160, WATCH_SOURCES_MAX = 64 };

struct watch;
struct watches;
struct feed;
struct node;
struct ask;
struct muster_value;

/* ---- sources.c ---- */

enum { SOURCE_CHANNEL_SIZE = 240, SOURCE_STREAM_SIZE = 80 };

/* Where the messages of a pattern are. */
struct source {
    char streams[2][SOURCE_STREAM_SIZE]; /* the second is "" mostly */
    char channel[SOURCE_CHANNEL_SIZE];   /* "" where it is of several, or of one without (all, to, grp, msg) */
    bool by_stream;                      /* positions are the stream's own */
    bool of_tenant;                      /* the stream is the tenant's: MSG */
};
/* pattern: what follows R.T. False: *ret_why says what was expected. */
bool source_of(const char *pattern, uint32_t presence_shard, struct source *ret, const char **ret_why);
/* The channel of a subject, as a length of it; 0: it has none. */
size_t channel_of(const char *subject);
bool pattern_matches(const char *pattern, const char *subject);
/* FNV-1a of a tenant's name: which of 16 shards it is of, here and in presence. */
uint32_t shard_of_name(const char *tenant);

/* ---- watch_spec.c ---- */

/* What an open asks for. Borrowed from the document it was read from. */
struct watch_spec {
    const char *schema, *table, *source, *filter, *conflate_by;
    const struct muster_value *columns, *sources, *after;
    uint32_t ops, encoding; /* encoding 0: as it comes */
    struct batch_rules rules;
};
struct complaint {
    const char *code, *field; /* code NULL: none */
    char text[512];
};
bool watch_spec_read(const struct muster_value *args, struct watch_spec *ret, struct complaint *complaint);

/* A table as muster.watch_table() tells of it. */
struct table_info {
    struct muster_value *doc;
    struct filter_column *columns;
    size_t n;
};
/* MUSTER_EINVAL: it is no such JSON. */
int table_info_read(const char *json, struct table_info *ret);
void table_info_done(struct table_info *info);

/* ---- a watch ---- */

struct pattern {
    char *text;
    struct node *node;
};

/* What one watch wants of one stream. */
struct tap {
    struct index_entry entry; /* of a table; first, because the index knows taps by it */
    struct watch *w;
    struct feed *feed;
    struct tap *next_in_feed, **link_in_feed;
    struct tap *next_astray, **link_astray; /* link NULL: it is where its shard is, and nothing of it is untold */
    struct node *node;         /* of a table */
    struct pattern *patterns;  /* of sources */
    size_t n_patterns;
    uint64_t serial;           /* the last message that it was looked at for */
    char *subject;             /* what a reader asks the stream for, within the tenant */
    uint64_t pos;              /* what is at or before it, it does not want (any more) */
    uint64_t unheard;          /* its first message of those that were sent and may have been heard by nobody; 0: none */
    struct reader *reader;     /* not NULL: it is apart */
    bool waits;                /* apart, until what waits for the watch has room */
};

struct gap {
    const char *reason; /* a literal */
    char channel[SOURCE_CHANNEL_SIZE];
    uint64_t epoch, seq;
};
enum { GAPS_MAX = 8 };

enum { HEARD_UNKNOWN, HEARD_ASKED, HEARD_NO, HEARD };

struct watch {
    struct watches *ws;
    const struct muster_tenant *tenant;
    char id[WATCH_ID_SIZE], agent[WATCH_ID_SIZE], subject[WATCH_SUBJECT_SIZE]; /* subject: what follows R.T. */
    uint32_t shard, role, encoding;
    char *spec_json;
    struct muster_value *doc; /* of spec */
    struct watch_spec spec;
    struct filter *filter;    /* of a table */
    struct buf binary;        /* of a table: the names of its columns of type bytea, each with its NUL */
    bool owned;               /* by the owner column: of others' rows nothing is shown */
    bool linked, open, ended;
    char channel[SOURCE_CHANNEL_SIZE]; /* that all it wants is of; "": it is of several, or of one without */
    bool by_stream;           /* positions are the one stream's */
    struct watch *next_ended;
    struct tap *taps;
    size_t n_taps;
    struct batch batch;
    struct gap gaps[GAPS_MAX];
    size_t n_gaps;
    struct watch *next_dirty; /* of those for whom something waits */
    bool dirty;
    uint32_t heard;           /* whether somebody subscribes to the subject */
    struct outlet_first *first; /* the message that finds it out */
    int64_t absent_ns;        /* since when the agent is not there; 0: it is */
    bool was_present;         /* as the roster knows it */
};

/* ---- nodes.c ---- */

/* Those who want messages of a tenant that begin with the same tokens. */
struct node {
    const struct muster_tenant *tenant;
    size_t key_len, prefix_len;
    struct table_index *table; /* NULL: nobody wants it as a table */
    struct tap **taps;         /* by patterns */
    size_t n_taps, cap_taps;
    char key[]; /* of the map: the tenant's handle, the prefix */
};

/* Where a channel is. */
struct channel_place {
    uint64_t epoch, seq;
};

struct node *node_get(struct watches *ws, const struct muster_tenant *tenant, const char *prefix, size_t len, bool make);
/* Free it where nobody is left. */
void node_tidy(struct watches *ws, struct node *node);
bool node_add(struct node *node, struct tap *tap);
void node_remove(struct node *node, struct tap *tap);
/* NULL: nothing is known of it (make false), or no memory. */
struct channel_place *channel_at(struct watches *ws, const struct muster_tenant *tenant, const char *name, size_t len, bool make);
/* Call fn for each tap whose messages may be of the channel. */
void channel_taps(struct watches *ws, const struct muster_tenant *tenant, const char *channel, void (*fn)(void *arg, struct tap *tap), void *arg);
void places_forget(struct watches *ws, const struct muster_tenant *tenant);
void nodes_done(struct watches *ws);

/* ---- route.c ---- */

enum { ROUTES = 512 /* two by two */, ROUTE_NODES = 4, ROUTE_SUBJECT = 160 };

struct route {
    uint64_t serial; /* of watches.routes_serial; another: it is of no use any more */
    const struct muster_tenant *tenant;
    bool watched; /* the tenant has watches here, in that shard */
    uint32_t shard;
    size_t channel_len;             /* 0: it is of none */
    struct channel_place *channel;  /* NULL: not looked for yet */
    size_t n_nodes;                 /* more than ROUTE_NODES: the first of them alone are here */
    struct node *nodes[ROUTE_NODES];
    size_t len;
    char subject[ROUTE_SUBJECT];
};

/* Good until the next call, or routes_forget(). */
struct route *route_of(struct watches *ws, const struct muster_tenant *tenant, const char *subject);
/* A node, a channel or a tenant has come or gone. */
void routes_forget(struct watches *ws);

/* ---- reader.c ---- */

struct reader_calls {
    bool (*take)(void *arg, const struct muster_msg *msg); /* false: no more now; it comes again after reader_go() */
    void (*cut)(void *arg);    /* retention has taken what stood next */
    void (*joined)(void *arg); /* the reader is at the feed's place, and over */
};
struct reader;
/* Begin behind pos. tenant NULL: all that is in the stream, also in one of a tenant's. It reads after reader_go(). */
struct reader *reader_new(struct feed *feed, const struct muster_tenant *tenant, const char *subject, uint64_t pos,
                          const struct reader_calls *calls, void *arg);
void reader_go(struct reader *r);
uint64_t reader_pos(const struct reader *r);
/* The feed has passed a message by, because the reader is to bring it. */
void reader_missed(struct reader *r);
void reader_stop(struct reader *r);
void *reader_arg(const struct reader *r);
void readers_tick(struct feed *feed); /* go on with those that failed */

/* ---- feed.c ---- */

struct shard_at {
    uint64_t hash; /* of what the bucket has */
    uint32_t busy; /* writes under way */
};

/* A stream that shards of this broker need. */
struct feed {
    struct feed *next;
    struct watches *ws;
    const struct muster_tenant *tenant; /* of MSG; NULL otherwise */
    char name[SOURCE_STREAM_SIZE];
    uint64_t stream, follow;
    bool attached, missing, asking;
    bool ready; /* pos is known, and it is followed */
    bool gone;  /* there is none; what it has when it comes is all new */
    bool full;  /* this broker follows as many streams as it may */
    uint64_t pos, created_us;
    uint32_t holds; /* readers for whose last step it stands still */
    uint32_t refs; /* taps, also of watches that are not open yet */
    struct tap *taps;
    struct tap *astray; /* of them: those that are not where their shard is, or were not a moment ago */
    uint32_t n_taps[WATCH_SHARDS];
    struct reader *catching[WATCH_SHARDS]; /* of shards that have just come here */
    struct shard_at at[WATCH_SHARDS]; /* of the bucket; keep.c */
    struct reader *readers;
    int64_t retry_ns, checked_ns;
    uint64_t checked_pos; /* at the last check */
    bool checking;
};

/* NULL: no memory. */
struct feed *feed_get(struct watches *ws, const char *name, const struct muster_tenant *tenant);
void feed_ensure(struct feed *feed); /* attach and follow where it is not yet */
void feeds_tick(struct watches *ws, int64_t now_ns);
void feeds_link(struct watches *ws, bool up);
void feeds_done(struct watches *ws);
/* Where the shard is in it, and where a tap is: what is after that must come again when this broker is gone. */
uint64_t feed_pos(const struct feed *feed, uint32_t shard);
uint64_t tap_pos(const struct tap *tap);
/* Let the shard begin at pos, and come up to the feed. */
void feed_catch(struct feed *feed, uint32_t shard, uint64_t pos);
void feed_drop_shard(struct feed *feed, uint32_t shard);
void feed_hold(struct feed *feed, bool on);
/* Let a tap read on its own from pos. */
bool tap_apart(struct tap *tap, uint64_t pos);
/* The watch's batch has room again. */
void tap_go(struct tap *tap);
/* It may be elsewhere than its shard from now on. */
void tap_stray(struct tap *tap);
void tap_return(struct tap *tap);
bool tap_link(struct tap *tap);
void tap_unlink(struct tap *tap);

/* ---- dispatch.c ---- */

/* Hand a message to those it is for: by the feed (only NULL), or to the shard that is fed by that reader. */
void dispatch_message(struct feed *feed, const struct muster_msg *msg, const struct reader *only);
/* Hand a message to one tap. False: its watch has no room. */
bool dispatch_to(struct tap *tap, const struct muster_msg *msg);

/* ---- seek.c ---- */

/* Where in the stream what follows a position of a channel begins: pos, and whether what is asked for is all there. Runs once. */
typedef void (*seek_fn)(void *arg, int code, uint64_t pos, bool whole);
int seek_begin(struct feed *feed, const struct muster_tenant *tenant, const char *subject, uint64_t epoch, uint64_t seq, seek_fn fn, void *arg);

/* ---- note.c, outlet.c, outlet_form.c ---- */

enum { OUTLET_HEADERS = 32 };

uint64_t message_number(const struct muster_msg *msg, const char *header);

/* A message as it waits for a watch; NULL: no memory. row NULL: it is not of a table. Until outlet_next() it is the same message, whose text is
 * written once for all watches that want the same form. */
void outlet_next(struct watches *ws);
struct note *outlet_note(struct tap *tap, const char *subject, const struct muster_msg *msg, struct row *row, int outcome);
/* Those that nobody has heard of yet; NULL: there are not so many. */
const struct gap *outlet_gap_at(const struct watch *w, size_t i);
void outlet_gap(struct watch *w, const char *reason, const char *channel, uint64_t epoch, uint64_t seq);
/* Publish; the first one of a watch as a question. */
int outlet_send(struct watch *w, const struct muster_publication *pub);
/* Send what waits: 0, or why not. */
int outlet_send_gaps(struct watch *w);
int outlet_send_one(struct watch *w);
int outlet_send_batch(struct watch *w, const struct note *end); /* MUSTER_EINVAL: larger than a message may be */
/* Deliver what is due. */
void outlet_flush(struct watch *w);
void outlet_ended(struct watch *w, const char *why);
void outlet_done(struct watch *w);
/* Something waits: it is flushed when it is due. */
void outlet_mark(struct watch *w);
void outlets_run(struct watches *ws);
/* Deliver what waits for watches of a shard that is about to leave. False: somebody is being asked. */
bool outlets_empty(struct watches *ws, uint32_t shard);

/* ---- shape.c ---- */

/* Append the change as the watch shows it, in the encoding it has. */
void shape_change(const struct watch *w, struct row *row, int outcome, struct buf *out);
/* Append a body in another encoding, as one value. False: it is not to be had. */
bool shape_transcode(const struct watch *watch, struct span body, uint32_t to, struct buf *out);

/* ---- keep.c ---- */

/* Keep how far the shards held here are, where it has changed. */
void keep_all(struct watches *ws);
/* The same of one, also while what was before is being written. */
void keep_shard(struct watches *ws, uint32_t shard);
bool keep_is_busy(const struct watches *ws, uint32_t shard);
/* Read how far a shard is in a stream; pos_of() tells it for one watch. MUSTER_ENOTFOUND: it was never kept. Runs once when it gave 0. */
struct kept; /* what was read; owned by who asked: kept_free() */
typedef void (*kept_fn)(void *arg, int code, struct kept *kept);
int kept_read(struct feed *feed, uint32_t shard, kept_fn fn, void *arg);
uint64_t kept_created_us(const struct kept *kept);
/* id NULL: of all that are not named. */
uint64_t kept_pos(const struct kept *kept, const char *id);
/* Whether a row's watch was served by then. Where it was not, the row alone says where it begins. */
bool kept_knows(const struct kept *kept, uint64_t epoch, uint64_t number);
/* Tell the watch the gaps that it has not heard of. */
void kept_gaps(const struct kept *kept, struct watch *w);
void kept_free(struct kept *kept);

/* ---- all of them ---- */

enum { SHARD_ELSEWHERE, SHARD_LOADING, SHARD_SERVED };

struct watch_shard {
    struct watches *ws;
    uint32_t n, state;
    uint64_t lease, epoch;
    uint32_t generation;    /* what was asked for before is void */
    int64_t contend_ns;     /* when to contend for the lease; 0: it does */
    int64_t retry_ns;       /* of a loading that failed; 0: none has */
    uint32_t tries;
    uint32_t writes;        /* of rows, under way: opens, closes, ends */
    uint64_t opened;        /* rows that were written here are numbered */
    struct opening *first_writing, **last_writing; /* those under way, in that order; last NULL: there was none yet */
    bool leaving;           /* what was reached is being kept; then another broker may have it */
    struct ask *waiting;    /* requests that came while it loads */
    struct load *load;
};

/* The text of the present message that was written last, and for whom it is right. */
struct written {
    struct note_text *text; /* NULL: there is none */
    uint32_t encoding;
    bool batched;
};

struct watches {
    struct fanout *f;
    const struct muster_sys *sys; /* NULL: this broker does not see connections */
    struct map by_id, nodes, channels, tenants; /* tenants: who has watches, to struct tenant_watches */
    struct feed *feeds;
    struct watch_shard shards[WATCH_SHARDS];
    struct shares shares;
    struct watch *dirty, *ended;
    struct opening *openings; /* that wait for a stream */
    uint64_t serial, passed, matched, looked_at; /* counts that the tick hands to the metrics */
    uint64_t timer;
    int64_t timer_ns; /* when it is due; 0: there is none */
    int64_t linked_ns, looked_ns, kept_ns; /* linked_ns: since when NATS is there */
    bool listing;
    struct map unseen; /* agents that the listing has not shown yet */
    struct row row;
    struct buf scratch;
    struct written written;
    uint64_t routes_serial; /* from 1 */
    struct route routes[ROUTES];
    uint64_t stmt_table, stmt_rows, stmt_end;
    struct {
        uint64_t watches, shards, changes, matches, delivered, dropped, gaps, readers, looked_at, refused;
    } m;
};

struct tenant_watches {
    size_t n;
    uint32_t shard;
};

/* NULL: no memory, or complaint says what is wrong. spec_json is taken over. */
struct watch *watch_new(struct watches *ws, const struct muster_tenant *tenant, const char *agent, uint32_t role, char *spec_json,
                        struct complaint *complaint);
/* Make its taps. */
bool watch_taps(struct watch *w, struct complaint *complaint);
/* Hold the spec against the table. */
bool watch_compile(struct watch *w, const struct table_info *info, struct complaint *complaint);
bool watch_link(struct watch *w);   /* into the index: from now on messages come */
void watch_free(struct watch *w);
/* Known by its id from now on. False: no memory, or the id is known already. */
bool watch_register(struct watch *w, const char *id);
struct watch *watch_find(struct watches *ws, const struct muster_tenant *tenant, const char *id);
/* Over: tell why (NULL: tell nobody), remove the row, free it when what is under way is done. */
void watch_end(struct watch *w, const char *why);
void watches_sweep(struct watches *ws); /* free those that have ended */
/* Whether the caller may hear it: 0, MUSTER_EACCES, MUSTER_ENOTFOUND. */
int watch_may(const struct watch *w);
/* Parameters of the statement that looks at its table; tokens has room for two names. */
enum { WATCH_TABLE_PARAMS = 6 };
void watch_table_params(const struct watch *w, char tokens[2][NAME_TOKEN_SIZE], struct muster_bytes params[WATCH_TABLE_PARAMS]);

extern const char watch_table_sql[];
extern const char watch_rows_sql[];
void watch_open(struct watches *ws, struct ask *a);
void watch_ask(struct watches *ws, struct ask *a); /* any of the three */
void watch_close(struct watches *ws, struct ask *a);
void watch_list(struct watches *ws, struct ask *a);
void opens_tick(struct watches *ws); /* go on with those that wait for a stream */
/* All rows up to that number are of watches that are served, or of none. */
uint64_t opens_known(const struct watch_shard *s);
void opens_done(struct watches *ws);
bool watch_is_present(const struct watch *w); /* as the roster has it */
void watches_look(struct watches *ws, int64_t now_ns); /* whose agents have left */
void shard_load(struct watch_shard *s);
/* All its watches are there: it is served. */
void shard_loaded(struct watch_shard *s);
void load_tick(struct watch_shard *s);
void load_stop(struct watch_shard *s);
void shard_drop(struct watch_shard *s);
bool shard_is_held(struct watches *ws, uint32_t shard);
uint32_t shard_number(struct watches *ws, const struct muster_tenant *tenant);

#endif
