/* The line that goes on with a run, or brings a site back to one: what is kept for it, and how it reads. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "cli/rundirs.h"
#include "coordinator/coordinator.h"

/* Two lines, words before and after `viaduct run ...`; or a third, which is the whole command. */
static int write_words(const char *dir, const char *text, struct err *err)
{
    char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/state/resume", dir);
    return fs_publish_file(&fs_real, path, text, strlen(text), err);
}

int rundirs_keep_words(const struct rundir *run, const char *before, const char *after, struct err *err)
{
    char text[PATH_MAX + 400];
    snprintf(text, sizeof text, "%s\n%s\n", before, after);
    return write_words(run->path, text, err);
}

/* One word of a shell's command line. */
static size_t quote(char *out, size_t size, const char *word)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./-+=:,@%";
    size_t n = 0;
    if (word[strspn(word, plain)] == '\0' && *word)
        return (size_t)snprintf(out, size, "%s", word);
    n += (size_t)snprintf(out, size, "'");
    for (const char *p = word; *p && n + 6 < size; p++)
        n += (size_t)snprintf(out + n, size - n, *p == '\'' ? "'\\''" : "%c", *p);
    return n + (size_t)snprintf(out + n, size - n, "'");
}

static bool is_same_file(const char *path, const struct stat *st)
{
    struct stat found;
    return stat(path, &found) == 0 && found.st_ino == st->st_ino && found.st_dev == st->st_dev && access(path, X_OK) == 0;
}

/* This program as a shell finds it: "viaduct" when PATH leads to it, else where it lies. */
static void own_name(char out[PATH_MAX])
{
    char path[2 * PATH_MAX], *rest = getenv("PATH") ? strdup(getenv("PATH")) : NULL, *all = rest;
    struct stat own;
    ssize_t n = readlink("/proc/self/exe", out, PATH_MAX - 1);
    out[MAX(n, (ssize_t)0)] = '\0';
    bool known = n > 0 && stat("/proc/self/exe", &own) == 0, found = false;
    for (char *part; known && !found && (part = strsep(&rest, ":"));) {
        snprintf(path, sizeof path, "%s/viaduct", part);
        found = is_same_file(path, &own);
    }
    free(all);
    char *deleted = strstr(out, " (deleted)");   /* it was built anew meanwhile */
    if (deleted)
        *deleted = '\0';
    if (!known || found)
        snprintf(out, PATH_MAX, "viaduct");
}

void rundirs_resume_command(const char *dir, char *out, size_t size)
{
    char path[PATH_MAX + 64], word[2 * PATH_MAX], spec[2 * PATH_MAX + 64], own[PATH_MAX], program[2 * PATH_MAX], before[256] = "", after[PATH_MAX] = "";
    snprintf(path, sizeof path, "%s/state/resume", dir);
    FILE *f = fopen(path, "re");
    out[0] = '\0';
    if (f && fgets(before, sizeof before, f) && fgets(after, sizeof after, f))
        before[strcspn(before, "\n")] = after[strcspn(after, "\n")] = '\0';
    else
        before[0] = after[0] = '\0';
    bool whole = f && fgets(out, (int)size, f);
    out[strcspn(out, "\n")] = '\0';
    if (f)
        fclose(f);
    if (whole)
        return;
    snprintf(path, sizeof path, "%s/spec.yaml", dir);
    quote(spec, sizeof spec, path);
    quote(word, sizeof word, dir);
    own_name(own);
    quote(program, sizeof program, own);
    snprintf(out, size, "%s%s%s run %s --resume --dir %s%s%s", before, *before ? " " : "", program, spec, word, *after ? " " : "", after);
}

int rundirs_keep_command(const char *dir, const char *before, int argc, char **argv, struct err *err)
{
    char own[PATH_MAX], *text = malloc(RESUME_COMMAND_BYTES);
    CHECK(text != NULL);
    own_name(own);
    size_t n = (size_t)snprintf(text, RESUME_COMMAND_BYTES, "\n\n%s%s", before, *before ? " " : "");
    n += quote(text + n, RESUME_COMMAND_BYTES - n, own);
    for (int i = 0; i < argc && n < RESUME_COMMAND_BYTES; i++) {
        if (strncmp(argv[i], "--external-gang=", 16) == 0 || strncmp(argv[i], "--ranks=", 8) == 0)
            continue;                     /* between our own processes */
        n += (size_t)snprintf(text + n, RESUME_COMMAND_BYTES - n, " ");
        n += n < RESUME_COMMAND_BYTES ? quote(text + n, RESUME_COMMAND_BYTES - n, argv[i]) : 0;
    }
    int rc = n + 2 < RESUME_COMMAND_BYTES ? 0 : err_set(err, ERR_USAGE, "the command line is longer than %d bytes", RESUME_COMMAND_BYTES);
    if (rc == 0) {
        snprintf(text + n, 2, "\n");
        rc = write_words(dir, text, err);
    }
    free(text);
    return rc;
}

static void print_anew(const char *dir, FILE *out)
{
    char path[PATH_MAX + 64], spec[2 * PATH_MAX + 64], own[PATH_MAX], program[2 * PATH_MAX];
    snprintf(path, sizeof path, "%s/spec.yaml", dir);
    quote(spec, sizeof spec, path);
    own_name(own);
    quote(program, sizeof program, own);
    fprintf(out, "a resume keeps the learning rate and would go the same way; start anew: %s run %s --dir ANOTHER train.optimizer.lr=SMALLER\n", program, spec);
}

void rundirs_print_resume(const char *dir, FILE *out)
{
    if (rundirs_diverged(dir)) {
        print_anew(dir, out);
        return;
    }
    char command[RESUME_COMMAND_BYTES];
    struct err err = ERR_INIT;
    struct ckpt_found found;
    rundirs_resume_command(dir, command, sizeof command);
    fprintf(out, "go on with: %s\n", command);
    int rc = coordinator_base(dir, &found, &err);
    if (rc == 0)
        fprintf(out, "  it begins after step %llu, from ckpt/%s/step-%08llu, when that verifies\n", (unsigned long long)found.step, found.site, (unsigned long long)found.step);
    else if (rc == ERR_NOT_FOUND)
        fprintf(out, "  it begins at step 1: no checkpoint was saved\n");
    else
        fprintf(out, "  it cannot begin yet: %s\n", err.text);
}
