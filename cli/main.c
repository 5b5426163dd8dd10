/* The program's entry: finds the verb, or says which one was meant. Help and the man page are printed from the table of verbs. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "cli/cli.h"

int cli_unknown_verb(const char *name)
{
    const char *names[64];
    unsigned count = 0;
    for (const struct verb *v = verbs; v->name && count < ARRAY_LEN(names); v++)
        if (!v->role)
            names[count++] = v->name;
    const char *nearest = nearest_name(name, names, count);
    fprintf(stderr, "viaduct: unknown verb '%s'", name);
    if (nearest)
        fprintf(stderr, "; did you mean '%s'?", nearest);
    fprintf(stderr, "\nviaduct --help lists the verbs\n");
    return 2;
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    if (argc < 2) {
        cli_print_help(stderr);
        return 2;
    }
    const char *name = argv[1];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        cli_print_help(stdout);
        return 0;
    }
    if (strcmp(name, "--version") == 0)
        name = argv[1] = "version";
    const struct verb *v = verb_find(name);
    if (!v)
        return cli_unknown_verb(name);
    for (int i = 2; i < argc && !v->role; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            cli_print_verb(v, stdout);
            return 0;
        }
    return v->main(argc - 1, argv + 1);
}
