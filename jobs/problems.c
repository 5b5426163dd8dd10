/* Problems: collected, sorted by position, printed for people and for editors. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "jobs/tree.h"

char *job_text(struct job *job, const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    char *copy = arena_strdup(&job->arena, text);
    CHECK(copy != NULL);   /* the arena is sized for PROBLEMS_MAX of the longest texts */
    return copy;
}

static bool is_told(const struct problems *p, const struct tree *where, const char *path)
{
    for (uint32_t i = 0; where && i < p->own; i++) {
        const struct problem *q = &p->item[i];
        if (q->line == where->line && q->column == where->column && strcmp(q->file, where->file) == 0 && strcmp(q->path, path) == 0)
            return true;
    }
    return false;
}

void problem_at(struct job *job, const struct tree *where, const char *path, const char *hint, const char *fmt, ...)
{
    struct problems *p = &job->problems;
    char text[800];
    if (is_told(p, where, path))
        return;
    p->errors++;
    if (p->count == PROBLEMS_MAX)
        return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    text_plain(text);
    p->item[p->count++] = (struct problem){
        .level = PROBLEM_ERROR, .file = where ? where->file : "", .line = where ? where->line : 0, .column = where ? where->column : 0,
        .length = where ? where->length : 0, .path = job_text(job, "%s", path), .text = job_text(job, "%s", text), .hint = hint};
}

static unsigned edit_distance(const char *a, const char *b)
{
    unsigned row[66], n = (unsigned)strlen(b);
    if (n > 64 || strlen(a) > 64)
        return 99;
    for (unsigned j = 0; j <= n; j++)
        row[j] = j;
    for (unsigned i = 0; a[i]; i++) {
        unsigned diagonal = row[0];
        row[0] = i + 1;
        for (unsigned j = 0; j < n; j++) {
            unsigned best = MIN(diagonal + (a[i] != b[j]), MIN(row[j], row[j + 1]) + 1);
            diagonal = row[j + 1];
            row[j + 1] = best;
        }
    }
    return row[n];
}

const char *nearest_name(const char *text, const char *const *names, unsigned count)
{
    const char *best = NULL;
    unsigned length = (unsigned)strlen(text), limit = (length < 4 ? 1 : MAX(2u, length / 3)) + 1;
    for (unsigned i = 0; i < count; i++) {
        unsigned d = edit_distance(text, names[i]);
        if (d < limit && d < strlen(names[i])) {
            limit = d;
            best = names[i];
        }
    }
    return best;
}

void problems_print(const struct problems *p, FILE *out)
{
    for (uint32_t i = 0; i < p->count; i++) {
        const struct problem *q = &p->item[i];
        if (q->line)
            fprintf(out, "%s:%u:%u: ", q->file, q->line, q->column);
        else if (*q->file)
            fprintf(out, "%s: ", q->file);
        fprintf(out, "%s: %s%s%s\n", q->level == PROBLEM_ERROR ? "error" : "warning", *q->path ? q->path : "", *q->path ? ": " : "", q->text);
        if (q->source_line) {
            fprintf(out, "  %s\n  ", q->source_line);
            for (uint32_t c = 1; c < q->caret; c++)
                fputc(c <= strlen(q->source_line) && q->source_line[c - 1] == '\t' ? '\t' : ' ', out);
            for (uint32_t c = 0; c < MAX(q->shown, 1u); c++)
                fputc('^', out);
            fputc('\n', out);
        }
        if (q->hint)
            fprintf(out, "  %s\n", q->hint);
    }
    if (p->errors > p->count)
        fprintf(out, "error: %u more problems are not shown\n", p->errors - p->count);
}

void problems_print_json(const struct problems *p, FILE *out)
{
    char quoted[2200];
    fputc('[', out);
    for (uint32_t i = 0; i < p->count; i++) {
        const struct problem *q = &p->item[i];
        fprintf(out, "%s{\"severity\":\"%s\",\"file\":", i ? ",\n " : "", q->level == PROBLEM_ERROR ? "error" : "warning");
        json_quote(quoted, sizeof quoted, q->file);
        fprintf(out, "%s,\"line\":%u,\"column\":%u,\"length\":%u,\"path\":", quoted, q->line, q->column, q->length);
        json_quote(quoted, sizeof quoted, q->path);
        fprintf(out, "%s,\"message\":", quoted);
        json_quote(quoted, sizeof quoted, q->text);
        fprintf(out, "%s,\"hint\":", quoted);
        if (q->hint)
            json_quote(quoted, sizeof quoted, q->hint);
        fprintf(out, "%s}", q->hint ? quoted : "null");
    }
    fprintf(out, "]\n");
}
