/* The program's entry: finds the verb, or says which one was meant. Help and the man page are printed from the table of verbs. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

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
