/* A text that grows while it is written. */
#ifndef VIADUCT_EXPORT_PAGE_H
#define VIADUCT_EXPORT_PAGE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

struct page { char *at; size_t size, used; bool failed; };   /* failed: out of memory, once and for all; freed by page_free */
void page_add(struct page *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void page_quote(struct page *p, const char *s);              /* as a JSON string */
void page_escape(struct page *p, const char *s);             /* for HTML */
void page_number(struct page *p, bool have, double v);       /* null when there is none or it is not finite */
int page_publish(struct page *p, const char *dir, const char *name, struct err *err);   /* as DIR/NAME, whole or not at all; frees it */
void page_free(struct page *p);

#endif
