/*
 * cli/elf.h - which symbols a shared object exports: its dynamic symbol table, read from the file without loading it.
 *
 * Errors   MUSTER_EINVAL with *ret_why: no 64-bit ELF of this machine's byte order, or a table that lies outside of the file.
 */
#ifndef MUSTER_CLI_ELF_H
#define MUSTER_CLI_ELF_H

#include <stdbool.h>
#include <stddef.h>

/* weak: also C++'s unique ones, which the linker merges. */
typedef void (*elf_symbol_fn)(void *arg, const char *name, bool weak);
int elf_exports(const char *file, elf_symbol_fn fn, void *arg, const char **ret_why);

#endif
