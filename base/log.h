/* Log: one JSON object a line to a file, and short text to stderr for warnings and errors. Passed down, never global.
 * Log once, where an error is finally handled; below that, wrap. */
#ifndef VIADUCT_BASE_LOG_H
#define VIADUCT_BASE_LOG_H

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG, LOG_TRACE };

struct log {
    pthread_mutex_t lock;
    FILE *file;                  /* NULL: none */
    enum log_level file_level, stderr_level;
    char who[64];                /* "worker onprem/0" */
    char job[40];
};

/* path NULL: stderr only. Appends; lines are written whole. Environment VIADUCT_LOG=debug: every message of the protocol too. */
int log_open(struct log *l, const char *path, const char *who, const char *job);
void log_close(struct log *l);
void log_at(struct log *l, enum log_level level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* A warning of what strangers can cause as often as they like: told, and then at most every 10 s, with how often it was not. */
struct log_few { uint64_t quiet_until_ms, untold; };
void log_warn_few(struct log *l, struct log_few *few, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
#define log_error(l, ...) log_at((l), LOG_ERROR, __VA_ARGS__)
#define log_warn(l, ...) log_at((l), LOG_WARN, __VA_ARGS__)
#define log_info(l, ...) log_at((l), LOG_INFO, __VA_ARGS__)
#define log_debug(l, ...) log_at((l), LOG_DEBUG, __VA_ARGS__)

/* Bytes that a terminal would obey or cannot show (control characters but tab and newline, broken UTF-8) become '?', in place; returns s. */
char *text_plain(char *s);
/* Appends s as a JSON string with quotes; returns bytes needed, as snprintf. Broken UTF-8 becomes '?'. */
int json_quote(char *out, size_t size, const char *s);
/* A finite number with the fewest digits that read back as the same one, as YAML 1.1, YAML 1.2 and JSON take it: 0.9, 1.0e-08, 1000000. */
#define NUMBER_TEXT_BYTES 32
void number_text(char out[NUMBER_TEXT_BYTES], double v);
/* The same of a float: 0.01, where its value as a double would be 0.00999999978. */
void number_text_float(char out[NUMBER_TEXT_BYTES], float v);
/* JSON text again, with every real written so. */
void json_print_short(FILE *out, const char *text);
/* RFC 3339 UTC with milliseconds, e.g. 2026-11-24T12:00:00.123Z; out >= 32. */
void time_text(char *out);

#endif
