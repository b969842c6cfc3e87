/* What lies within walls; see reach.h. */
#include "core/reach.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static void note_list(struct reach *r, const struct muster_list *paths)
{
    struct stat st;

    for (size_t i = 0; i < paths->n; i++)
        if (stat(paths->items[i], &st) == 0)
            r->places[r->n++] = (struct reach_place){st.st_dev, st.st_ino};
}

int reach_note(const struct sandbox *walls, struct arena *memory, struct reach *ret_reach)
{
    *ret_reach = (struct reach){.places = arena_alloc(memory, walls->read.n + walls->write.n, sizeof *ret_reach->places)};
    if (!ret_reach->places)
        return MUSTER_ENOMEM;
    note_list(ret_reach, &walls->read);
    note_list(ret_reach, &walls->write);
    return 0;
}

static bool is_noted(const struct reach *r, const char *path)
{
    struct stat st;

    if (stat(path, &st) != 0)
        return false;
    for (size_t i = 0; i < r->n; i++)
        if (r->places[i].device == st.st_dev && r->places[i].inode == st.st_ino)
            return true;
    return false;
}

/* The file, or a folder above it. */
static bool covers_path(const struct reach *r, const char *path)
{
    char full[PATH_MAX];
    char *slash;

    if (!realpath(path, full))
        return true; /* it is not there: the plugin's to tell */
    while (!is_noted(r, full)) {
        slash = strrchr(full, '/');
        if (!slash || !slash[1])
            return false;
        slash[slash == full] = '\0'; /* the last one above is / */
    }
    return true;
}

bool reach_covers(const struct reach *r, const struct sandbox *next)
{
    for (size_t i = 0; i < next->read.n; i++)
        if (!covers_path(r, next->read.items[i]))
            return false;
    return true;
}
