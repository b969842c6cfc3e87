/* matrix_roles - the product's table of roles as JSON, for tests/matrix: {role: {pub: [patterns], sub: [patterns]}}. */
#include <stdio.h>

#include "auth/roles.h"

static void print_list(const char *key, int role, int list)
{
    const char *const *patterns = role_patterns(role, list);

    printf("\"%s\": [", key);
    for (size_t i = 0; patterns[i]; i++)
        printf("%s\"%s\"", i ? ", " : "", patterns[i]);
    printf("]");
}

int main(void)
{
    for (int role = 0; role < ROLES_N; role++) {
        printf("%s\"%s\": {", role ? ",\n " : "{", role_name(role));
        print_list("pub", role, ROLE_PUB);
        printf(", ");
        print_list("sub", role, ROLE_SUB);
        printf("}");
    }
    puts("}");
    return 0;
}
