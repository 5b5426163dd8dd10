/* The program's entry: finds the verb, or says which one was meant. Help and the man page are printed from the table of verbs. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "cli/cli.h"

/* Started without stdin, stdout or stderr: else the next file that is opened would be it, and take what is printed. */
static int open_missing(void)
{
    for (int fd; (fd = open("/dev/null", O_RDWR)) >= 0;)
        if (fd > STDERR_FILENO)
            return close(fd);
    return -1;
}

/* What was printed has arrived, unless the reader of a pipe had enough. */
static int after_print(const char *name, int code)
{
    struct pollfd out = {.fd = STDOUT_FILENO, .events = POLLOUT};
    bool lost = fflush(stdout) != 0 || ferror(stdout), gone = poll(&out, 1, 0) == 1 && out.revents & (POLLERR | POLLHUP);
    if (!lost || gone || code != 0)
        return code;
    fprintf(stderr, "viaduct %s: what it prints could not be written to stdout\n", name);
    return err_exit_code(ERR_IO);
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    if (open_missing() < 0)
        return err_exit_code(ERR_FAILED);
    if (argc < 2) {
        cli_print_help(stderr);
        return 2;
    }
    const char *name = argv[1];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        cli_print_help(stdout);
        return after_print("--help", 0);
    }
    if (strcmp(name, "--version") == 0)
        name = argv[1] = "version";
    const struct verb *v = verb_find(name);
    if (!v)
        return cli_unknown_verb(name);
    for (int i = 2; i < argc && !v->role; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            cli_print_verb(v, stdout);
            return after_print(name, 0);
        }
    int code = v->main(argc - 1, argv + 1);
    return v->role ? code : after_print(name, code);
}
