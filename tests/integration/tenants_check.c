/*
 * tenants_check - follows the registry of tenants in a database and prints what it sees, for test_sqlsvc.py.
 *
 * tenants_check DSN reads commands from stdin: "refresh NAME", "quit". It prints "up", "down", "tenants NAME(LIMIT)…" and
 * "tables SERIAL SCHEMA.TABLE…" after each change, and "refreshed NAME CODE".
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tenant/tenant.h"

struct check {
    uv_loop_t loop;
    uv_pipe_t input;
    struct tenants *tenants;
    char line[256], name[256];
    size_t len;
};

static void on_link(void *arg, const struct sql_fault *fault, const char *reason)
{
    (void)arg;
    printf("%s %s\n", fault ? "down" : "up", reason);
}

static void print_tenant(void *arg, const struct muster_tenant *tenant)
{
    (void)arg;
    printf(" %s(%lld)", tenants_name(tenant), (long long)tenants_limit(tenant, TENANT_REQUESTS_PER_S));
}

static void print_table(void *arg, const struct muster_table *table)
{
    (void)arg;
    printf(" %s.%s:%s:%s:%u", table->schema, table->table, table->tenant_column ? table->tenant_column : "-",
           table->tenant ? table->tenant : "-", table->subject_key);
}

static void on_change(void *arg, unsigned int what)
{
    struct check *check = arg;
    uint64_t serial;

    if (what & TENANTS_CHANGED) {
        printf("tenants");
        tenants_each(check->tenants, print_tenant, NULL);
        printf("\n");
    }
    if (what & TENANTS_TABLES_CHANGED) {
        printf("tables");
        tenants_tables(check->tenants, print_table, NULL, &serial);
        printf(" serial=%llu\n", (unsigned long long)serial);
    }
}

static void on_found(void *arg, int code, const struct muster_tenant *tenant)
{
    struct check *check = arg;

    printf("refreshed %s %d %s\n", check->name, code, tenant ? tenants_name(tenant) : "-");
}

static void command(struct check *check)
{
    int err = 0;

    if (strncmp(check->line, "refresh ", 8) == 0) {
        snprintf(check->name, sizeof check->name, "%s", check->line + 8);
        err = tenants_refresh(check->tenants, check->name, strlen(check->name), on_found, check);
    }
    if (err != 0)
        printf("refresh refused %d\n", err);
    if (strcmp(check->line, "quit") == 0) {
        uv_close((uv_handle_t *)&check->input, NULL);
        tenants_close(check->tenants);
    }
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *ret_buf)
{
    struct check *check = handle->data;

    (void)suggested;
    *ret_buf = uv_buf_init(check->line + check->len, (unsigned int)(sizeof check->line - check->len - 1));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct check *check = stream->data;
    char *end;

    (void)buf;
    if (n < 0)
        exit(1);
    check->len += (size_t)n;
    check->line[check->len] = '\0';
    end = strchr(check->line, '\n');
    if (!end)
        return;
    *end = '\0';
    check->len = 0;
    command(check);
}

int main(int argc, char **argv)
{
    struct check check = {0};
    struct tenants_source source = {.loop = &check.loop, .broker_id = "check", .on_link = on_link};

    if (argc != 2)
        return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    source.dsn = argv[1];
    uv_loop_init(&check.loop);
    uv_pipe_init(&check.loop, &check.input, 0);
    check.input.data = &check;
    if (uv_pipe_open(&check.input, STDIN_FILENO) != 0 || tenants_new(&check.tenants) != 0 ||
        tenants_on_change(check.tenants, on_change, &check) != 0 || tenants_open(check.tenants, &source) != 0)
        return 1;
    uv_read_start((uv_stream_t *)&check.input, on_alloc, on_read);
    uv_run(&check.loop, UV_RUN_DEFAULT);
    tenants_free(check.tenants);
    return uv_loop_close(&check.loop) == 0 ? 0 : 1;
}
