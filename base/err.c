#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int err_set(struct err *e, int code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    if (e) {
        e->code = code;
        e->scope = SCOPE_CALL;
        vsnprintf(e->text, sizeof e->text, fmt, ap);
    }
    va_end(ap);
    return code;
}

int err_errno(struct err *e, int errno_value, const char *fmt, ...)
{
    int code = errno_value == ENOENT ? ERR_NOT_FOUND : errno_value == EACCES || errno_value == EPERM ? ERR_DENIED : ERR_IO;
    if (!e)
        return code;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(e->text, sizeof e->text, fmt, ap);
    va_end(ap);
    e->code = code;
    e->scope = SCOPE_CALL;
    size_t used = strlen(e->text);
    snprintf(e->text + used, sizeof e->text - used, ": %s", strerror(errno_value));
    return code;
}

int err_wrap(struct err *e, const char *fmt, ...)
{
    if (!e)
        return ERR_FAILED;
    char who[256], inner[sizeof e->text];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(who, sizeof who, fmt, ap);
    va_end(ap);
    memcpy(inner, e->text, sizeof inner);
    /* A chain that no longer fits keeps its outer part: who was doing what. */
    size_t room = sizeof e->text - 1, head = strlen(who);
    snprintf(e->text, sizeof e->text, "%s: %.*s", who, (int)(room - head - 2), inner);
    return e->code;
}

int err_scope(struct err *e, enum err_scope scope)
{
    if (!e)
        return ERR_FAILED;
    e->scope = scope;
    return e->code;
}

int err_exit_code(int code)
{
    switch ((enum err_code)code) {
    case ERR_NONE: return 0;
    case ERR_FAILED: return 1;
    case ERR_USAGE: return 2;
    case ERR_JOB: case ERR_CORRUPT: case ERR_IO: case ERR_NO_MEMORY: case ERR_DIVERGED: return 3;
    case ERR_NOT_FOUND: return 4;
    case ERR_DENIED: return 5;
    case ERR_CONFLICT: return 6;
    case ERR_TEMPORARY: case ERR_ABORTED: return 75;
    }
    return 1;
}

const char *err_code_name(int code)
{
    switch ((enum err_code)code) {
    case ERR_NONE: return "ok";
    case ERR_FAILED: return "failed";
    case ERR_USAGE: return "usage";
    case ERR_JOB: return "job";
    case ERR_NOT_FOUND: return "not-found";
    case ERR_DENIED: return "denied";
    case ERR_CONFLICT: return "conflict";
    case ERR_TEMPORARY: return "temporary";
    case ERR_CORRUPT: return "corrupt";
    case ERR_IO: return "io";
    case ERR_NO_MEMORY: return "no-memory";
    case ERR_ABORTED: return "aborted";
    case ERR_DIVERGED: return "diverged";
    }
    return "unknown";
}

void check_failed(const char *file, int line, const char *cond)
{
    fprintf(stderr, "%s:%d: CHECK failed: %s (a defect of viaduct; please report this line)\n", file, line, cond);
    abort();
}
