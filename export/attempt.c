/* The folder of an attempt: made beside the final place, whole before it takes it. Whatever moment a process is killed at, the next attempt starts from
 * here; a process that wakes up late finds its folder gone and fails, instead of publishing half of it. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "export/parts.h"

int path_in(const char *dir, const char *name, char out[PATH_MAX], struct err *err)
{
    return snprintf(out, PATH_MAX, "%s/%s", dir, name) < PATH_MAX ? 0 : err_set(err, ERR_FAILED, "the path %s is too long", dir);
}

static bool is_between(const char *name, const char *start, const char *end)
{
    size_t n = strlen(name), s = strlen(start), e = strlen(end);
    return n >= s + e && strncmp(name, start, s) == 0 && strcmp(name + n - e, end) == 0;
}

/* Folders as deep as an attempt makes them: attempt/triton/NAME/VERSION. Links are removed, never followed. */
#define DEPTH_MAX 4

static int remove_below(const char *dir, unsigned depth, struct err *err)
{
    char path[PATH_MAX];
    int rc = 0, fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 && (errno == ENOTDIR || errno == ELOOP) && unlink(dir) == 0)
        return 0;
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d)
        return errno == ENOENT ? 0 : err_errno(err, errno, "cannot remove %s, what an earlier attempt left", dir);
    for (struct dirent *e; rc == 0 && (e = readdir(d));) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 || snprintf(path, sizeof path, "%s/%s", dir, e->d_name) >= (int)sizeof path)
            continue;
        if (depth > 1)
            rc = remove_below(path, depth - 1, err);
        else
            unlink(path);
    }
    closedir(d);
    if (rc < 0)
        return rc;
    return rmdir(dir) < 0 && errno != ENOENT ? err_errno(err, errno, "cannot remove %s, what an earlier attempt left", dir) : 0;
}

int folder_remove(const char *dir, struct err *err) { return remove_below(dir, DEPTH_MAX, err); }

/* No name that anything is published under: neither of a model nor of an alias. */
static int trash_of(const char *dir, char out[PATH_MAX], struct err *err)
{
    return snprintf(out, PATH_MAX, "%s~trash", dir) < PATH_MAX ? 0 : err_set(err, ERR_FAILED, "the path %s is too long", dir);
}

static int set_aside(const char *dir, char trash[PATH_MAX], struct err *err)
{
    TRY(trash_of(dir, trash, err));
    TRY(folder_remove(trash, err));
    return rename(dir, trash) < 0 && errno != ENOENT ? err_errno(err, errno, "cannot set %s aside", dir) : 0;
}

static int sweep_entry(const char *export_dir, const char *name, struct err *err)
{
    char path[PATH_MAX], trash[PATH_MAX];
    TRY(path_in(export_dir, name, path, err));
    if (is_between(name, "attempt-", ".tmp")) {
        TRY(set_aside(path, trash, err));   /* in one step: whoever still writes into it can no longer rename it into place */
        return folder_remove(trash, err);
    }
    if (is_between(name, "", "~trash"))
        return folder_remove(path, err);
    if (is_between(name, "result.json.tmp-", ""))
        unlink(path);
    return 0;
}

int attempt_sweep(const char *export_dir, struct err *err)
{
    int rc = 0;
    DIR *d = opendir(export_dir);
    if (!d)
        return errno == ENOENT ? 0 : err_errno(err, errno, "cannot open %s", export_dir);
    for (struct dirent *e; rc == 0 && (e = readdir(d));)
        rc = sweep_entry(export_dir, e->d_name, err);
    closedir(d);
    return rc;
}

/* For file systems that cannot exchange two names: without a result nobody takes the files for whole while there are none. */
static int replace_in_steps(const char *export_dir, const char *attempt_dir, const char *final, struct err *err)
{
    char result[PATH_MAX], trash[PATH_MAX];
    TRY(path_in(export_dir, "result.json", result, err));
    if (unlink(result) < 0 && errno != ENOENT)
        return err_errno(err, errno, "cannot withdraw %s", result);
    TRY(fs_fsync_dir(&fs_real, export_dir, err));
    TRY(set_aside(final, trash, err));
    return rename(attempt_dir, final) < 0 ? err_errno(err, errno, "cannot rename %s to %s", attempt_dir, final) : 0;
}

static int take_place(const char *export_dir, const char *attempt_dir, const char *final, struct err *err)
{
    if (rename(attempt_dir, final) == 0)
        return 0;
    if (errno == ENOTEMPTY || errno == EEXIST || errno == ENOTDIR) {   /* a folder; a link or a file in its place */
        if (renameat2(AT_FDCWD, attempt_dir, AT_FDCWD, final, RENAME_EXCHANGE) == 0)
            return 0;
        if (errno == EINVAL || errno == ENOSYS)
            return replace_in_steps(export_dir, attempt_dir, final, err);
    }
    return err_errno(err, errno, "cannot rename %s to %s", attempt_dir, final);
}

int attempt_publish(const char *export_dir, const char *attempt_dir, const char *name, struct err *err)
{
    char made[PATH_MAX], final[PATH_MAX], trash[PATH_MAX];
    TRY(path_in(attempt_dir, name, made, err));
    TRY(path_in(export_dir, name, final, err));
    TRY(trash_of(final, trash, err));
    TRY(fs_fsync_dir(&fs_real, made, err));
    TRY(fs_fsync_dir(&fs_real, attempt_dir, err));
    failpoint(FAIL_EXPORT_RENAME);
    TRY(take_place(export_dir, made, final, err));
    TRY(fs_fsync_dir(&fs_real, export_dir, err));
    return folder_remove(trash, err);    /* of replace_in_steps, this one's or one that died */
}

int attempt_withdraw(const char *export_dir, const char *name, struct err *err)
{
    char final[PATH_MAX], trash[PATH_MAX];
    TRY(path_in(export_dir, name, final, err));
    TRY(set_aside(final, trash, err));
    TRY(fs_fsync_dir(&fs_real, export_dir, err));
    return folder_remove(trash, err);
}
