#include "base/log.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/base.h"

#define FEW_MS 10000

static const char *const level_name[] = {"error", "warn", "info", "debug", "trace"};

void time_text(char *out)
{
    struct timespec now;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    size_t n = strftime(out, 24, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out + n, 8, ".%03ldZ", now.tv_nsec / 1000000 % 1000);
}

/* Bytes of the UTF-8 character at p, 0 when it is none. */
static unsigned utf8_length(const unsigned char *p)
{
    unsigned n = p[0] < 0x80 ? 1 : p[0] >= 0xc2 && p[0] <= 0xdf ? 2 : (p[0] & 0xf0) == 0xe0 ? 3 : p[0] >= 0xf0 && p[0] <= 0xf4 ? 4 : 0;
    for (unsigned i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    bool overlong = (p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xf0 && p[1] < 0x90);
    bool outside = (p[0] == 0xed && p[1] > 0x9f) || (p[0] == 0xf4 && p[1] > 0x8f);   /* surrogates; beyond the last code point */
    return overlong || outside ? 0 : n;
}

char *text_plain(char *s)
{
    for (unsigned char *p = (unsigned char *)s; *p;) {
        unsigned n = utf8_length(p);
        bool control = (*p < 0x20 && *p != '\t' && *p != '\n') || *p == 0x7f || (*p == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0);
        if (n == 0 || control)
            *p = '?';
        p += n == 0 || control ? 1 : n;
    }
    return s;
}

int json_quote(char *out, size_t size, const char *s)
{
    size_t n = 0;
#define PUT(c) do { if (n + 1 < size) out[n] = (char)(c); n++; } while (0)
    PUT('"');
    unsigned length;
    for (const unsigned char *p = (const unsigned char *)s; *p; p += length) {
        char esc[8];
        length = utf8_length(p);
        if (length == 0)
            snprintf(esc, sizeof esc, "?");
        else if (*p == '"' || *p == '\\')
            snprintf(esc, sizeof esc, "\\%c", *p);
        else if (*p == '\n')
            snprintf(esc, sizeof esc, "\\n");
        else if (*p < 0x20 || *p == 0x7f)
            snprintf(esc, sizeof esc, "\\u%04x", *p);
        else
            snprintf(esc, sizeof esc, "%.*s", (int)length, (const char *)p);
        length = MAX(length, 1u);
        for (const char *e = esc; *e; e++)
            PUT(*e);
    }
    PUT('"');
#undef PUT
    if (size)
        out[n < size ? n : size - 1] = '\0';
    return (int)n;
}

/* YAML 1.1 takes 1e-08 for text. */
static void add_point(char out[NUMBER_TEXT_BYTES])
{
    char *e = strchr(out, 'e');
    if (!e || strchr(out, '.'))
        return;
    memmove(e + 2, e, strlen(e) + 1);
    memcpy(e, ".0", 2);
}

void number_text(char out[NUMBER_TEXT_BYTES], double v)
{
    if (v < 1e15 && v > -1e15 && v == (double)(int64_t)v) {
        snprintf(out, NUMBER_TEXT_BYTES, "%lld", (long long)v);
        return;
    }
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(out, NUMBER_TEXT_BYTES, "%.*g", digits, v);
        if (strtod(out, NULL) == v)
            break;
    }
    add_point(out);
}

void number_text_float(char out[NUMBER_TEXT_BYTES], float v)
{
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(out, NUMBER_TEXT_BYTES, "%.*g", digits, (double)v);
        if (strtof(out, NULL) == v)
            break;
    }
    add_point(out);
}

void json_print_short(FILE *out, const char *text)
{
    char number[NUMBER_TEXT_BYTES];
    for (bool quoted = false; *text;) {
        size_t n = quoted ? 0 : strspn(text, "0123456789+-.eE");
        if (n > 0 && isdigit((unsigned char)text[n - 1]) && memchr(text, '.', n)) {
            number_text(number, strtod(text, NULL));
            fputs(number, out);
            text += n;
            continue;
        }
        n = MAX(n, (size_t)1);
        if (quoted && *text == '\\')
            n = 2;
        else if (*text == '"')
            quoted = !quoted;
        fwrite(text, 1, n, out);
        text += n;
    }
}

int log_open(struct log *l, const char *path, const char *who, const char *job)
{
    const char *wanted = getenv("VIADUCT_LOG");
    *l = (struct log){.file_level = wanted && strcmp(wanted, "debug") == 0 ? LOG_DEBUG : LOG_INFO, .stderr_level = LOG_WARN};
    pthread_mutex_init(&l->lock, NULL);
    snprintf(l->who, sizeof l->who, "%s", who);
    snprintf(l->job, sizeof l->job, "%s", job ? job : "");
    if (path && !(l->file = fopen(path, "ae")))
        return -errno;
    return 0;
}

void log_close(struct log *l)
{
    if (l->file)
        fclose(l->file);
    l->file = NULL;
    pthread_mutex_destroy(&l->lock);
}

void log_at(struct log *l, enum log_level level, const char *fmt, ...)
{
    if (!l || (level > l->stderr_level && (!l->file || level > l->file_level)))
        return;
    char text[1024], quoted[2100], stamp[32];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    time_text(stamp);
    pthread_mutex_lock(&l->lock);
    if (l->file && level <= l->file_level) {
        json_quote(quoted, sizeof quoted, text);
        fprintf(l->file, "{\"@timestamp\":\"%s\",\"log.level\":\"%s\",\"service.name\":\"%s\",\"job\":\"%s\",\"message\":%s}\n", stamp,
                level_name[level], l->who, l->job, quoted);
        fflush(l->file);
    }
    if (level <= l->stderr_level)
        fprintf(stderr, "viaduct: %s: %s: %s\n", l->who, level_name[level], text);
    pthread_mutex_unlock(&l->lock);
}

void log_warn_few(struct log *l, struct log_few *few, const char *fmt, ...)
{
    char text[1000], more[60] = "";
    uint64_t now = clock_now_ms();
    va_list ap;
    if (now < few->quiet_until_ms) {
        few->untold++;
        return;
    }
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (few->untold)
        snprintf(more, sizeof more, " (%llu more since this was last said)", (unsigned long long)few->untold);
    log_warn(l, "%s%s", text, more);
    *few = (struct log_few){.quiet_until_ms = now + FEW_MS};
}
