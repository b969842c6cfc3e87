/*
 * sql/dsn.h - what a connection string needs of the machine: ports, files, and whether names have to be looked up. Nothing of the
 * environment counts: the string is for a process without one.
 */
#ifndef MUSTER_SQL_DSN_H
#define MUSTER_SQL_DSN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { DSN_MAX_PORTS = 16, DSN_MAX_FILES = 5, DSN_FILE_SIZE = 512 };

struct dsn_needs {
    uint32_t ports[DSN_MAX_PORTS], n_ports;
    bool by_name; /* a host is neither an address nor the folder of a local socket */
    bool local;   /* a host is that, or none is told, which libpq takes for one */
    char files[DSN_MAX_FILES][DSN_FILE_SIZE]; /* certificates, keys, passwords */
    size_t n_files;
};

/* MUSTER_EINVAL: not a connection string, or one that names more than fits, or a service. */
int dsn_needs(const char *dsn, struct dsn_needs *ret_needs);

/* The certificates that a connection string names; "" where it names none, or none by its file. */
struct dsn_certificates {
    char cert[DSN_FILE_SIZE], key[DSN_FILE_SIZE], ca[DSN_FILE_SIZE];
};
void dsn_certificates(const char *dsn, struct dsn_certificates *ret);

#endif
