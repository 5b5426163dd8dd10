/* The table of keys as text: what a value may be, in words. */
#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "jobs/keys.h"

static void limits(char *out, size_t size, const char *what, const struct key *k)
{
    char least[NUMBER_TEXT_BYTES], most[NUMBER_TEXT_BYTES];
    number_text(least, k->min);
    number_text(most, k->max);
    if (k->min == k->max)
        snprintf(out, size, "%s", least);
    else if (k->max >= 1e6)
        snprintf(out, size, k->exclusive_min ? "%s above %s" : "%s, at least %s", what, least);
    else
        snprintf(out, size, k->exclusive_min ? "%s above %s, at most %s" : "%s from %s to %s", what, least, most);
}

/* "a|b|c" as "a, b or c". */
static void choices(char *out, size_t size, const char *words)
{
    size_t n = 0;
    while (*words && n < size) {
        size_t length = strcspn(words, "|");
        const char *rest = words + length;
        n += (size_t)snprintf(out + n, size - n, "%.*s%s", (int)length, words, !*rest ? "" : strchr(rest + 1, '|') ? ", " : " or ");
        words = rest + (*rest == '|');
    }
}

static void takes(char *out, size_t size, const struct key *k)
{
    switch (k->type) {
    case KEY_MAP: snprintf(out, size, "a map"); break;
    case KEY_LIST: snprintf(out, size, "a list of %.0f to %.0f", k->min, k->max); break;
    case KEY_NAME: snprintf(out, size, "a name: small letters, digits, dashes"); break;
    case KEY_ADDRESS: snprintf(out, size, "HOST:PORT"); break;
    case KEY_PATH: snprintf(out, size, "a file"); break;
    case KEY_INT: limits(out, size, "a whole number", k); break;
    case KEY_NUMBER: limits(out, size, "a number", k); break;
    case KEY_BOOL: snprintf(out, size, "true or false"); break;
    case KEY_ENUM: choices(out, size, k->choices ? k->choices : ""); break;
    case KEY_STEPS: limits(out, size, "steps, like 200 or `200 steps`", k); break;
    case KEY_INTS: snprintf(out, size, k->min < k->max ? "a list of %.0f to %.0f whole numbers" : "a list of %.0f whole numbers", k->min, k->max); break;
    case KEY_WORD: snprintf(out, size, "a word"); break;
    case KEY_DURATION: snprintf(out, size, "a duration, like 90m, 12h, 2d or D-HH:MM:SS"); break;
    }
}

bool job_key(unsigned index, struct job_key *out)
{
    const struct key *k = keys;
    while (k->path && index--)
        k++;
    if (!k->path)
        return false;
    bool whole = k->later && strcmp(k->later, "*") == 0;
    *out = (struct job_key){.path = k->path, .doc = k->doc, .fallback = k->fallback, .choices = k->choices, .later = whole ? NULL : k->later,
                            .refused = whole ? "not in this version" : k->refused, .required = k->required, .map = k->type == KEY_MAP, .file = k->type == KEY_PATH,
                            .yes_no = k->type == KEY_BOOL};
    takes(out->takes, sizeof out->takes, k);
    return true;
}
