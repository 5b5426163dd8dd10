/* Slurm's commands, run without a shell and never waited for without end: a slurmctld that is down must not hold a run up. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "slurm/slurm.h"

int slurm_find(const char *name, char *out, size_t size, struct err *err)
{
    char copy[PATH_MAX], *rest = copy;
    const char *path = getenv("PATH");
    snprintf(copy, sizeof copy, "%s", path && *path ? path : "/usr/local/bin:/usr/bin:/bin");
    for (char *dir; (dir = strsep(&rest, ":"));)
        if (*dir == '/' && snprintf(out, size, "%s/%s", dir, name) < (int)size && access(out, X_OK) == 0)
            return 0;
    return err_set(err, ERR_NOT_FOUND, "there is no `%s` on the PATH of this host: Slurm's commands are needed (Debian: apt install slurm-client)", name);
}

static void child(const char *program, const char *const *argv, const int fd[2], const int why[2])
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    int in = open("/dev/null", O_RDONLY);
    if (in >= 0 && dup2(in, STDIN_FILENO) >= 0 && dup2(fd[1], STDOUT_FILENO) >= 0 && dup2(why[1], STDERR_FILENO) >= 0)
        execv(program, (char *const *)(uintptr_t)argv);
    _exit(127);
}

struct stream { int fd; char *at; size_t size, used; bool open; };

static void drain(struct stream *s)
{
    char more[512];
    ssize_t n = read(s->fd, more, sizeof more);
    if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN))
        s->open = false;
    for (ssize_t i = 0; i < n && s->used + 1 < s->size; i++)
        s->at[s->used++] = more[i];
    s->at[s->used] = '\0';
}

/* Until both streams end; false: it took too long. */
static bool read_both(struct stream s[2], uint64_t timeout_ms)
{
    uint64_t until = clock_now_ms() + timeout_ms;
    while (s[0].open || s[1].open) {
        struct pollfd p[2] = {{s[0].open ? s[0].fd : -1, POLLIN, 0}, {s[1].open ? s[1].fd : -1, POLLIN, 0}};
        uint64_t now = clock_now_ms();
        if (now >= until)
            return false;
        if (poll(p, 2, (int)MIN(until - now, (uint64_t)1000)) < 0 && errno != EINTR)
            return false;
        for (unsigned i = 0; i < 2; i++)
            if (s[i].open && p[i].revents)
                drain(&s[i]);
    }
    return true;
}

static const char *last_line(char *text)
{
    size_t n = strlen(text);
    while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == ' '))
        text[--n] = '\0';
    char *line = strrchr(text, '\n');
    return line ? line + 1 : text;
}

int slurm_command(const char *const *argv, uint64_t timeout_ms, char *out, size_t size, struct err *err)
{
    char program[PATH_MAX], words[2048] = "";
    int fd[2], why[2];
    TRY(slurm_find(argv[0], program, sizeof program, err));
    if (pipe2(fd, O_CLOEXEC) < 0)
        return err_errno(err, errno, "cannot start %s", argv[0]);
    if (pipe2(why, O_CLOEXEC) < 0) {
        int no = errno;
        close(fd[0]);
        close(fd[1]);
        return err_errno(err, no, "cannot start %s", argv[0]);
    }
    out[0] = '\0';
    pid_t pid = fork();
    int no = errno;
    if (pid == 0)
        child(program, argv, fd, why);
    close(fd[1]);
    close(why[1]);
    struct stream s[2] = {{fd[0], out, size, 0, true}, {why[0], words, sizeof words, 0, true}};
    bool in_time = pid > 0 && read_both(s, timeout_ms);
    close(fd[0]);
    close(why[0]);
    if (pid < 0)
        return err_errno(err, no, "cannot start %s", argv[0]);
    int status = 0;
    if (!in_time)
        kill(pid, SIGKILL);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (!in_time)
        return err_set(err, ERR_TEMPORARY, "`%s` gave no answer within %llu s", argv[0], (unsigned long long)(timeout_ms / 1000));
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return err_set(err, ERR_FAILED, "`%s` failed: %.400s", argv[0], words[0] ? last_line(words) : "it says nothing");
    return 0;
}
