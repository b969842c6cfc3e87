/* Names of the built-in plugins and services; see reserved.h. */
#include "wire/reserved.h"

#include <stdio.h>
#include <string.h>

#include "wire/subject.h"

/* Separated by blanks. The core knows no plugin by its name: the build does. */
static const char plugins[] = MUSTER_RESERVED_PLUGINS, services[] = MUSTER_RESERVED_SERVICES;

/* One word of a list, "" at its end; *list goes on behind it. */
static const char *next_word(const char **list, char out[NAME_TOKEN_SIZE])
{
    const char *s = *list + strspn(*list, " ");
    size_t len = strcspn(s, " ");

    (void)snprintf(out, NAME_TOKEN_SIZE, "%.*s", (int)len, s);
    *list = s + len;
    return out;
}

static bool is_one_of(const char *list, const char *name)
{
    char word[NAME_TOKEN_SIZE];

    while (*next_word(&list, word))
        if (strcmp(word, name) == 0)
            return true;
    return false;
}

static const char *service_name(const struct muster_plugin *plugin, uint32_t i)
{
    const char *at = (const char *)plugin->services + (size_t)i * plugin->service_size;
    const struct muster_service *service = (const struct muster_service *)(const void *)at;

    return MUSTER_HAS(service, name) && service->name ? service->name : "";
}

int reserved_check(const struct muster_plugin *plugin, char *why, size_t size)
{
    *why = '\0';
    if (is_one_of(plugins, plugin->name)) {
        (void)snprintf(why, size, "has the name of a plugin that comes with Muster; a plugin given by path needs a name of its own");
        return MUSTER_EEXIST;
    }
    for (uint32_t i = 0; i < plugin->n_services; i++) {
        const char *service = service_name(plugin, i);

        if (!is_one_of(services, service))
            continue;
        (void)snprintf(why, size, "answers service %s, which is of the plugins that come with Muster; a plugin given by path needs services "
                       "of its own", service);
        return MUSTER_EEXIST;
    }
    return 0;
}

bool reserved_overlap(const char *pattern, char ret_service[NAME_TOKEN_SIZE])
{
    const char *list = services;
    char requests[NAME_TOKEN_SIZE + 8];

    while (*next_word(&list, ret_service)) {
        (void)snprintf(requests, sizeof requests, "rpc.*.%s.>", ret_service);
        if (subject_overlap(requests, pattern))
            return true;
    }
    return false;
}
