/*
 * The pages on broker.admin; see admin.h.
 *
 * All three run on the server's own thread and ask no lane for anything: they must answer above all
 * when a lane hangs. Owns the server; borrows health and metrics.
 */
#include "core/admin.h"

#include <stdio.h>
#include <stdlib.h>

struct admin {
    struct health *health;
    struct metrics *metrics;
    struct http *http;
};

/* Answered as long as the process can answer at all: whoever restarts on this page must not restart
 * for a link's sake. */
static void on_healthz(void *arg, const struct http_request *request,
                       struct http_response *response)
{
    (void)arg;
    (void)request;
    buf_put_lit(&response->body, "ok\n");
}

static void on_readyz(void *arg, const struct http_request *request, struct http_response *response)
{
    const struct admin *admin = arg;

    (void)request;
    response->status = health_put_json(admin->health, &response->body) ? 200 : 503;
    response->content_type = "application/json";
}

static void on_metrics(void *arg, const struct http_request *request,
                       struct http_response *response)
{
    const struct admin *admin = arg;

    (void)request;
    metrics_render(admin->metrics, &response->body);
    response->content_type = METRICS_CONTENT_TYPE;
}

int admin_open(const struct admin_options *options, struct admin **ret_admin,
               char why[HTTP_WHY_SIZE])
{
    struct admin *admin = calloc(1, sizeof *admin);
    const struct http_route routes[] = {
        {"GET", "/healthz", on_healthz, admin},
        {"GET", "/readyz", on_readyz, admin},
        {"GET", "/metrics", on_metrics, admin},
    };
    int err;

    if (!admin) {
        (void)snprintf(why, HTTP_WHY_SIZE, "broker.admin: no memory");
        return MUSTER_ENOMEM;
    }
    admin->health = options->health;
    admin->metrics = options->metrics;
    err = http_open(&(struct http_options){.key = "broker.admin",
                                           .listen = options->listen,
                                           .files = options->files,
                                           .routes = routes,
                                           .n_routes = sizeof routes / sizeof *routes},
                    &admin->http, why);
    if (err) {
        free(admin);
        return err;
    }
    *ret_admin = admin;
    return 0;
}

void admin_close(struct admin *admin)
{
    if (!admin)
        return;
    http_close(admin->http);
    free(admin);
}

int admin_renew(struct admin *admin, char why[HTTP_WHY_SIZE])
{
    return http_renew(admin->http, why);
}

uint16_t admin_port(const struct admin *admin)
{
    return http_port(admin->http);
}
