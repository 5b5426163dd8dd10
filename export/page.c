#include "export/page.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "export/parts.h"

static bool room(struct page *p, size_t n)
{
    size_t want = p->size ? p->size : 4096;
    while (!p->failed && want - p->used <= n)
        want *= 2;
    if (p->failed || want == p->size)
        return !p->failed;
    char *grown = realloc(p->at, want);
    p->failed = !grown;
    if (grown) {
        p->at = grown;
        p->size = want;
    }
    return grown != NULL;
}

void page_add(struct page *p, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, again);
    va_end(again);
    if (n >= 0 && room(p, (size_t)n)) {
        vsnprintf(p->at + p->used, p->size - p->used, fmt, ap);
        p->used += (size_t)n;
    }
    va_end(ap);
}

void page_quote(struct page *p, const char *s)
{
    int n = json_quote(NULL, 0, s);
    if (n < 0 || !room(p, (size_t)n))
        return;
    json_quote(p->at + p->used, p->size - p->used, s);
    p->used += (size_t)n;
}

void page_escape(struct page *p, const char *s)
{
    for (; *s; s++)
        if (strchr("<>&\"'", *s))
            page_add(p, "&#%d;", *s);
        else
            page_add(p, "%c", *s);
}

void page_number(struct page *p, bool have, double v)
{
    if (have && isfinite(v))
        page_add(p, "%.17g", v);
    else
        page_add(p, "null");
}

int page_publish(struct page *p, const char *dir, const char *name, struct err *err)
{
    char path[PATH_MAX];
    int rc = path_in(dir, name, path, err);
    if (rc == 0)
        rc = p->failed ? err_set(err, ERR_NO_MEMORY, "no memory for %s", path) : fs_publish_file(&fs_real, path, p->at, p->used, err);
    page_free(p);
    return rc;
}

void page_free(struct page *p)
{
    free(p->at);
    *p = (struct page){0};
}
