/* Processes on this host: fork and exec of our own program. */
#include "slurm/slurm.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static void child(const struct launch *what, const char *program, int report_fd)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    if (what->ignore_term)
        signal(SIGTERM, SIG_IGN);
    if (what->own_session)
        setsid();
    if (what->dies_with_us)
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    int in = open("/dev/null", O_RDONLY);
    int out = what->output_path ? open(what->output_path, O_WRONLY | O_CREAT | O_APPEND, 0644) : -1;
    bool ready = in >= 0 && dup2(in, STDIN_FILENO) >= 0 && (!what->output_path || (out >= 0 && dup2(out, STDOUT_FILENO) >= 0 && dup2(out, STDERR_FILENO) >= 0));
    if (ready && what->keep_fd >= 0)
        ready = fcntl(what->keep_fd, F_SETFD, 0) == 0;
    for (const char *const *e = what->env; ready && e && *e; e++)
        ready = putenv((char *)*e) == 0;
    if (ready) {
        char *argv[64] = {what->program ? (char *)what->program : (char *)"viaduct"};
        unsigned n = 1;
        for (const char *const *a = what->argv; *a && n < 63; a++)
            argv[n++] = (char *)*a;
        execv(program, argv);
    }
    int why = errno;
    (void)!write(report_fd, &why, sizeof why);
    _exit(127);
}

int launch_local(const struct launch *what, pid_t *pid, struct err *err)
{
    char program[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    if (n < 0)
        return err_errno(err, errno, "cannot find our own program");
    program[n] = '\0';
    if (access(program, X_OK) < 0)        /* built anew or upgraded meanwhile: what started this process is still there under this name */
        snprintf(program, sizeof program, "/proc/self/exe");
    if (what->program)
        snprintf(program, sizeof program, "%s", what->program);
    int report[2];
    if (pipe2(report, O_CLOEXEC) < 0)
        return err_errno(err, errno, "cannot start %s", program);
    pid_t made = fork();
    if (made < 0) {
        int why = errno;
        close(report[0]);
        close(report[1]);
        return err_errno(err, why, "cannot start %s", program);
    }
    if (made == 0)
        child(what, program, report[1]);
    close(report[1]);
    int why = 0;
    ssize_t got;
    while ((got = read(report[0], &why, sizeof why)) < 0 && errno == EINTR)
        ;
    close(report[0]);
    if (got == (ssize_t)sizeof why) {     /* else end of file: exec went through */
        while (waitpid(made, NULL, 0) < 0 && errno == EINTR)
            ;
        return err_errno(err, why, "cannot start %s", program);
    }
    *pid = made;
    return 0;
}

uint64_t process_start_ticks(pid_t pid)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0)
        return 0;
    text[n] = '\0';
    char *after_name = strrchr(text, ')');   /* the name may hold anything, also parentheses */
    if (!after_name || after_name[1] == '\0' || after_name[2] == 'Z')
        return 0;                            /* a zombie runs no more */
    char *field = after_name + 2;
    for (int i = 3; i < 22 && field; i++) {
        field = strchr(field, ' ');
        field = field ? field + 1 : NULL;
    }
    return field ? strtoull(field, NULL, 10) : 0;
}

void last_line_of(const char *path, char *out, size_t size)
{
    char tail[4096];
    out[0] = '\0';
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    off_t end = lseek(fd, 0, SEEK_END);
    off_t at = end > (off_t)sizeof tail - 1 ? end - (off_t)sizeof tail + 1 : 0;
    ssize_t n = pread(fd, tail, sizeof tail - 1, at);
    close(fd);
    if (n <= 0)
        return;
    while (n > 0 && (tail[n - 1] == '\n' || tail[n - 1] == ' '))
        n--;
    tail[n] = '\0';
    char *line = strrchr(tail, '\n'), *words;
    line = line ? line + 1 : tail;
    if (strncmp(line, "viaduct: ", 9) == 0 && (words = strstr(line + 9, ": ")))   /* "viaduct: worker: ...": who asks knows whose words these are */
        line = words + 2;
    snprintf(out, size, "%s", line);
}

static bool number_of(const char *name, unsigned *out)
{
    const char *text = getenv(name);
    if (!text || !*text)
        return false;
    char *end;
    unsigned long v = strtoul(text, &end, 10);
    if (*end || v > 1u << 20)
        return false;
    *out = (unsigned)v;
    return true;
}

struct mpi_environment mpi_environment_read(void)
{
    struct mpi_environment m = {0};
    if (!number_of("OMPI_COMM_WORLD_RANK", &m.rank) || !number_of("OMPI_COMM_WORLD_SIZE", &m.ranks))
        return (struct mpi_environment){0};
    number_of("OMPI_COMM_WORLD_LOCAL_RANK", &m.local_rank);
    return m;
}

void mpirun_words(unsigned ranks, char *out, size_t size)
{
    snprintf(out, size, "mpirun %s-n %u", geteuid() == 0 ? "--allow-run-as-root " : "", ranks);
}

void mpi_environment_forget(void)
{
    static const char *const told[] = {"PMIX_", "OMPI_COMM_WORLD_", "OMPI_MCA_orte_", "OMPI_MCA_ess", "OMPI_MCA_pmix=", "OMPI_MCA_mpi_oversubscribe=",
                                       "OMPI_MCA_shmem_RUNTIME", "OMPI_MCA_initial_wdir", "OMPI_APP_CTX", "OMPI_UNIVERSE_SIZE", "OMPI_NUM_APP_CTX",
                                       "OMPI_FIRST_RANKS", "OMPI_FILE_LOCATION", "OMPI_COMMAND", "OMPI_ARGV"};
    for (char **v = environ; *v;) {
        char name[256];
        unsigned i = 0;
        while (i < sizeof told / sizeof *told && strncmp(*v, told[i], strlen(told[i])) != 0)
            i++;
        snprintf(name, sizeof name, "%.*s", (int)strcspn(*v, "="), *v);
        if (i == sizeof told / sizeof *told || unsetenv(name) < 0)
            v++;
    }
}
