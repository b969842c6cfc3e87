/*
 * cli/dev_site.h - the folder of `muster dev`: what lies in it, which ports it uses, where the programs are.
 *
 *   state       the ports, kept as long as they are free          dev.creds   of agent dev in tenant default
 *   pgpass      passwords of PostgreSQL, for libpq's passfile     muster.yaml written at every start
 *   tls/        certificates, with --tls (dev_ca.h)
 *   env         for a shell: settings for muster, DATABASE_URL    postgres/ nats/ run/ log/
 *
 * Shape    dev_site_open() makes the folder, takes its lock and makes it the working folder; all other paths are relative to it.
 * Errors   CLI_DONE or CLI_FAILED, and then the reason has been told.
 * Memory   dev_site_close() frees; it accepts what was zero-initialised.
 */
#ifndef MUSTER_CLI_DEV_SITE_H
#define MUSTER_CLI_DEV_SITE_H

#include <limits.h>
#include <pwd.h>
#include <stdbool.h>

enum { DEV_PORT_NATS, DEV_PORT_POSTGRES, DEV_PORT_HTTP, DEV_PORT_ADMIN, DEV_PORTS };

struct dev_site {
    char dir[PATH_MAX]; /* absolute */
    int lock_fd;
    int ports[DEV_PORTS];
    bool tls; /* set by the caller: everything speaks TLS */
    const struct passwd *user; /* PostgreSQL's, when we are root, which it refuses; else NULL */
    char *self, *musterd, *nats_server, *postgres, *initdb;
};

/* dir NULL: /var/lib/muster/dev as root, ./.muster otherwise. */
int dev_site_open(struct dev_site *site, const char *dir);
void dev_site_close(struct dev_site *site);
/* Remove a file or a folder with all that is in it; none is there: fine. */
int dev_site_remove(const char *path);
/* Remove everything that `muster dev` ever made in the folder, and nothing else. */
int dev_site_wipe(void);

/* Find every program, or tell which is missing and how it is installed. */
int dev_site_find_programs(struct dev_site *site);
/* Take the ports of the last run, others where those are in use now, and keep them in `state`. */
int dev_site_choose_ports(struct dev_site *site);
/* A new password for each role in pgpass. ret_password: postgres's, 33 bytes. */
int dev_site_new_passwords(char ret_password[33]);
/* The password of a role from pgpass. */
int dev_site_password(const char *role, char ret_password[33]);
int dev_site_write_config(const struct dev_site *site);
int dev_site_write_env(const struct dev_site *site);

struct buf;
/* Append a connection string for role; the password is in the passfile that it names. */
void dev_site_put_dsn(const struct dev_site *site, const char *role, const char *database, struct buf *out);

#endif
