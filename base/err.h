/* Errors: one type, a code that callers switch on, a scope that says what died, and a message chain for a person.
 *
 * A fallible function returns 0 or a negative code and takes `struct err *` last. It writes result parameters only on
 * success. `err_set` starts a message where the fault is found, `err_wrap` puts "who/which: " before it on the way up;
 * both return the code, so a failing return is one line. The message ends in something that a user can act on. */
#ifndef VIADUCT_BASE_ERR_H
#define VIADUCT_BASE_ERR_H

#include <stddef.h>

enum err_code {
    ERR_NONE = 0,
    ERR_FAILED = -1,    /* general failure of this program                exit 1  */
    ERR_USAGE = -2,     /* wrong command line or invalid spec             exit 2  */
    ERR_JOB = -3,       /* the job failed: NaN, damage, full disk         exit 3  */
    ERR_NOT_FOUND = -4, /* no such file, run, checkpoint                  exit 4  */
    ERR_DENIED = -5,    /* certificate or role refused                    exit 5  */
    ERR_CONFLICT = -6,  /* exists, stale version, another owner           exit 6  */
    ERR_TEMPORARY = -7, /* retry is sensible                              exit 75 */
    ERR_CORRUPT = -8,   /* bytes that do not verify                       exit 3  */
    ERR_IO = -9,        /* the operating system refused, errno in text    exit 3  */
    ERR_NO_MEMORY = -10,/*                                                exit 3  */
    ERR_ABORTED = -11,  /* a deadline passed or the view changed          exit 75 */
    ERR_DIVERGED = -12, /* a loss or gradient that is not finite          exit 3  */
};

/* The largest thing that died; recovery reads this, never the text. */
enum err_scope { SCOPE_CALL, SCOPE_LINK, SCOPE_PROCESS, SCOPE_SHARD, SCOPE_SITE, SCOPE_JOB };

struct err {
    int code;             /* enum err_code */
    enum err_scope scope;
    char text[768];       /* always terminated; a longer chain loses its tail */
};

#define ERR_INIT { .code = 0, .scope = SCOPE_CALL, .text = "" }

int err_set(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* As err_set, and appends ": " with the text of errno_value. Code ERR_IO (ERR_NOT_FOUND for ENOENT, ERR_DENIED for EACCES). */
int err_errno(struct err *e, int errno_value, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
int err_wrap(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int err_scope(struct err *e, enum err_scope scope);
int err_exit_code(int code);
const char *err_code_name(int code);

/* Returns from the calling function when `call` failed. Only for functions that hold nothing. */
#define TRY(call) do { int try_rc_ = (call); if (try_rc_ < 0) return try_rc_; } while (0)

/* Our own mistakes: always on, one condition each. Prints file, line, condition and aborts. */
#define CHECK(cond) do { if (!(cond)) check_failed(__FILE__, __LINE__, #cond); } while (0)
void check_failed(const char *file, int line, const char *cond) __attribute__((noreturn));

#endif
