/* The exported symbols of a shared object; see elf.h. Each offset is checked: the file may be anything. */
#include "cli/elf.h"

#include <elf.h>
#include <fcntl.h>
#include <muster/plugin.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct image {
    const char *data;
    size_t size;
};

static const void *part(const struct image *f, uint64_t offset, uint64_t size)
{
    return offset <= f->size && size <= f->size - offset ? f->data + offset : NULL;
}

static const Elf64_Shdr *section(const struct image *f, const Elf64_Ehdr *e, uint32_t i)
{
    return i < e->e_shnum ? part(f, e->e_shoff + (uint64_t)i * sizeof(Elf64_Shdr), sizeof(Elf64_Shdr)) : NULL;
}

static bool is_exported(const Elf64_Sym *s)
{
    unsigned char binding = ELF64_ST_BIND(s->st_info), visibility = ELF64_ST_VISIBILITY(s->st_other);

    return s->st_shndx != SHN_UNDEF && binding != STB_LOCAL && (visibility == STV_DEFAULT || visibility == STV_PROTECTED);
}

static const char *tell_symbols(const struct image *f, const Elf64_Shdr *table, const Elf64_Shdr *names, elf_symbol_fn fn, void *arg)
{
    size_t n = table->sh_size / sizeof(Elf64_Sym);
    const Elf64_Sym *symbols = part(f, table->sh_offset, table->sh_size);
    const char *text = names ? part(f, names->sh_offset, names->sh_size) : NULL;

    if (!symbols || !text || !names->sh_size || text[names->sh_size - 1] != '\0')
        return "its dynamic symbols lie outside of the file";
    for (size_t i = 0; i < n; i++) {
        Elf64_Sym s;

        memcpy(&s, &symbols[i], sizeof s);
        if (is_exported(&s) && s.st_name < names->sh_size)
            fn(arg, text + s.st_name, ELF64_ST_BIND(s.st_info) != STB_GLOBAL);
    }
    return NULL;
}

static const char *read_image(const struct image *f, elf_symbol_fn fn, void *arg)
{
    const Elf64_Ehdr *e = part(f, 0, sizeof *e);

    if (!e || memcmp(e->e_ident, ELFMAG, SELFMAG) != 0 || e->e_ident[EI_CLASS] != ELFCLASS64 || e->e_shentsize != sizeof(Elf64_Shdr))
        return "it is no 64-bit ELF file with sections";
    for (uint32_t i = 0; i < e->e_shnum; i++) {
        const Elf64_Shdr *s = section(f, e, i);

        if (!s)
            return "its sections lie outside of the file";
        if (s->sh_type == SHT_DYNSYM)
            return tell_symbols(f, s, section(f, e, s->sh_link), fn, arg);
    }
    return "it has no dynamic symbols";
}

int elf_exports(const char *file, elf_symbol_fn fn, void *arg, const char **ret_why)
{
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    struct stat st;
    struct image f = {0};

    *ret_why = "it cannot be read";
    if (fd < 0)
        return MUSTER_EINVAL;
    if (fstat(fd, &st) == 0 && st.st_size > 0) {
        void *data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);

        f = (struct image){data == MAP_FAILED ? NULL : data, (size_t)st.st_size};
    }
    (void)close(fd);
    if (!f.data)
        return MUSTER_EINVAL;
    *ret_why = read_image(&f, fn, arg);
    (void)munmap((void *)(uintptr_t)f.data, f.size);
    return *ret_why ? MUSTER_EINVAL : 0;
}
