/* Loading: text to tree, variables and overrides, then one walk that checks every value against its key. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "jobs/check.h"
#include "jobs/keys.h"
#include "jobs/tree.h"

#define VALUE_MAX 1000                /* bytes of a value whose variables are filled in */
#define LINE_SHOWN 160u               /* characters of an offending line */
#define LINE_BEFORE 100u              /* of them before the problem */

/* ---- scalars (YAML 1.2 core schema) ---- */
bool scalar_number(const struct tree *t, double *out)
{
    if (t->kind != TREE_SCALAR || !t->plain || !*t->text)
        return false;
    const char *p = t->text + (*t->text == '-' || *t->text == '+');
    bool digits = false;
    for (; isdigit((unsigned char)*p); p++)
        digits = true;
    if (*p == '.')
        for (p++; isdigit((unsigned char)*p); p++)
            digits = true;
    if (digits && (*p == 'e' || *p == 'E')) {
        p += 1 + (p[1] == '-' || p[1] == '+');
        digits = isdigit((unsigned char)*p);
        while (isdigit((unsigned char)*p))
            p++;
    }
    if (!digits || *p)
        return false;
    *out = strtod(t->text, NULL);
    return isfinite(*out);
}

bool scalar_bool(const struct tree *t, bool *out)
{
    static const char *const yes[] = {"true", "True", "TRUE"}, *const no[] = {"false", "False", "FALSE"};
    for (unsigned i = 0; t->kind == TREE_SCALAR && t->plain && i < 3; i++) {
        if (strcmp(t->text, yes[i]) == 0)
            return *out = true;
        if (strcmp(t->text, no[i]) == 0)
            return !(*out = false);
    }
    return false;
}

/* A string by YAML's core schema: plain numbers and booleans are none. */
static bool is_text(const struct tree *t)
{
    double v;
    bool b;
    return t->kind == TREE_SCALAR && !scalar_number(t, &v) && !scalar_bool(t, &b);
}

static bool is_name(const char *s)
{
    size_t n = strlen(s);
    if (n < 1 || n > 63 || !(islower((unsigned char)*s) || isdigit((unsigned char)*s)))
        return false;
    for (size_t i = 0; i < n; i++)
        if (!(islower((unsigned char)s[i]) || isdigit((unsigned char)s[i]) || s[i] == '-'))
            return false;
    return true;
}

static bool in_choices(const char *choices, const char *text)
{
    size_t n = strlen(text);
    for (const char *p = choices; p && *p;) {
        size_t k = strcspn(p, "|");
        if (k == n && strncmp(p, text, n) == 0)
            return true;
        p += k + (p[k] == '|');
    }
    return false;
}

static const char *nearest_choice(struct job *job, const char *choices, const char *text)
{
    char copy[200], *rest = copy;
    const char *names[16];
    unsigned n = 0;
    snprintf(copy, sizeof copy, "%s", choices);
    for (char *c; n < 16 && (c = strsep(&rest, "|"));)
        names[n++] = c;
    const char *near = nearest_name(text, names, n);
    return near ? job_text(job, "did you mean '%s'?", near) : NULL;
}

/* What would be a number or a truth without its quotes. */
static bool is_quoted(const struct tree *t)
{
    struct tree bare = *t;
    bare.plain = true;
    return !t->plain && !is_text(&bare);
}

static void describe(const struct tree *t, char *out, size_t size)
{
    if (t->kind == TREE_MAP)
        snprintf(out, size, "a map");
    else if (t->kind == TREE_LIST)
        snprintf(out, size, "a list");
    else
        snprintf(out, size, is_quoted(t) ? "the text '%.60s' in quotes" : "'%.60s'", t->text);
}

static void wrong_type(struct job *job, const struct tree *t, const char *path, const char *wanted)
{
    char found[80];
    describe(t, found, sizeof found);
    problem_at(job, t, path, NULL, "%s is needed here, not %s", wanted, found);
}

/* ---- one value ---- */
static void check_range(struct job *job, const struct key *k, const struct tree *t, const char *path, double v)
{
    if (k->exclusive_min ? v <= k->min : v < k->min)
        problem_at(job, t, path, NULL, "%.15g is too small; %s %.15g", v, k->exclusive_min ? "it must be greater than" : "the least is", k->min);
    else if (v > k->max)
        problem_at(job, t, path, NULL, "%.15g is too large; the most is %.15g", v, k->max);
}

static void check_int(struct job *job, const struct key *k, const struct tree *t, const char *path)
{
    double v;
    if (!scalar_number(t, &v) || v != floor(v) || strpbrk(t->text, ".eE"))
        wrong_type(job, t, path, "a whole number");
    else
        check_range(job, k, t, path, v);
}

bool scalar_steps(const struct tree *t, double *out)
{
    if (scalar_number(t, out))
        return *out == floor(*out) && !strpbrk(t->text, ".eE");
    char *end;
    if (t->kind != TREE_SCALAR || !isdigit((unsigned char)t->text[0]))
        return false;
    *out = (double)strtoull(t->text, &end, 10);
    while (*end == ' ')
        end++;
    return strcmp(end, "steps") == 0 || strcmp(end, "step") == 0;
}

static void check_ints(struct job *job, const struct key *k, const struct tree *t, const char *path)
{
    const struct tree *one[1] = {t};
    bool list = t->kind == TREE_LIST;
    if (!list && strcmp(k->path, "model.hidden") != 0) {
        wrong_type(job, t, path, "a list of whole numbers");
        return;
    }
    uint32_t n = list ? t->count : 1;
    if (n < k->min || n > k->max)
        problem_at(job, t, path, NULL, k->min == k->max ? "%.0f numbers are needed, not %u" : "at least %.0f number is needed and at most 8, not %u", k->min, n);
    for (uint32_t i = 0; i < n; i++) {
        const struct tree *item = list ? t->item[i] : one[0];
        double v;
        if (!scalar_number(item, &v) || v != floor(v) || strpbrk(item->text, ".eE"))
            wrong_type(job, item, path, "a whole number");
        else if (v < 1 || v > 65536)
            problem_at(job, item, path, NULL, "%.15g is out of limits; 1 to 65536 are allowed", v);
    }
}

static void check_enum(struct job *job, const struct key *k, const struct tree *t, const char *path)
{
    if (t->kind != TREE_SCALAR) {
        char wanted[160];
        snprintf(wanted, sizeof wanted, "one of %s", k->choices);
        wrong_type(job, t, path, wanted);
    } else if (in_choices(k->later, t->text)) {
        problem_at(job, t, path, NULL, "'%s' is not in this version; it does %s", t->text, k->choices);
    } else if (!in_choices(k->choices, t->text)) {
        problem_at(job, t, path, nearest_choice(job, k->choices, t->text), "'%.60s' is not known; allowed: %s", t->text, k->choices);
    }
}

/* HOST:PORT; what hosts there are is a matter of each key. */
bool scalar_address(const struct tree *t)
{
    const char *colon = is_text(t) ? strrchr(t->text, ':') : NULL;
    size_t digits = colon ? strspn(colon + 1, "0123456789") : 0;
    return colon && colon != t->text && digits >= 1 && digits <= 5 && !colon[1 + digits] && (colon[1] != '0' || digits == 1) && strtoul(colon + 1, NULL, 10) <= 65535;
}

/* Letters, digits and a few signs: nothing that ends a line, a word or a quotation wherever it is written. */
bool scalar_word(const struct tree *t)
{
    double v;
    bool b, number = scalar_number(t, &v);
    if (t->kind != TREE_SCALAR || (number && (v < 0 || v > WORD_NUMBER_MAX || v != floor(v) || strpbrk(t->text, ".eE+-"))) || (!number && scalar_bool(t, &b)))
        return false;
    size_t n = strspn(t->text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.,:=+@%/*()&|[]-");
    return n >= 1 && n <= WORD_MAX && !t->text[n] && isalnum((unsigned char)t->text[0]);
}

/* 90s, 15m, 12h, 2d, or [D-]HH:MM:SS. */
bool scalar_duration(const struct tree *t, double *seconds)
{
    static const struct { char unit; double seconds; unsigned digits; } units[] = {{'s', 1, 9}, {'m', 60, 7}, {'h', 3600, 5}, {'d', 86400, 4}};
    unsigned d = 0, h, m, s;
    int end = 0;
    if (t->kind != TREE_SCALAR || !isdigit((unsigned char)t->text[0]))
        return false;
    size_t digits = strspn(t->text, "0123456789");
    for (unsigned i = 0; i < ARRAY_LEN(units); i++)
        if (t->text[digits] == units[i].unit && !t->text[digits + 1] && digits <= units[i].digits && t->text[0] != '0') {
            *seconds = strtod(t->text, NULL) * units[i].seconds;
            return true;
        }
    const char *clock = t->text[digits] == '-' && digits <= 3 ? t->text + digits + 1 : t->text;
    if (clock != t->text)
        d = (unsigned)strtoul(t->text, NULL, 10);
    size_t hours = strspn(clock, "0123456789");
    if (hours < 1 || hours > 2 || sscanf(clock, "%2u:%2u:%2u%n", &h, &m, &s, &end) != 3 || clock[end] || (size_t)end != hours + 6 || m > 59 || s > 59)
        return false;
    *seconds = d * 86400.0 + h * 3600.0 + m * 60.0 + s;
    return true;
}

static void check_map(struct job *job, const struct tree *t, const char *path, const char *key_path);

static void check_value(struct job *job, const struct key *k, const struct tree *t, const char *path)
{
    double v;
    bool b;
    if (k->later && strcmp(k->later, "*") == 0) {
        problem_at(job, t, path, NULL, "not in this version; remove it");
        return;
    }
    if (k->refused) {
        problem_at(job, t, path, NULL, "not allowed here: %s", k->refused);
        return;
    }
    if (tree_is_null(t) && !k->required && k->path[strlen(k->path) - 1] != ']')
        return;   /* back to its default */
    if (tree_is_null(t)) {
        problem_at(job, t, path, NULL, "a value is needed here: %s", k->doc);
        return;
    }
    switch (k->type) {
    case KEY_MAP: check_map(job, t, path, k->path); break;
    case KEY_LIST:
        if (t->kind != TREE_LIST) {
            wrong_type(job, t, path, "a list");
        } else {
            if (t->count < k->min || t->count > k->max)
                problem_at(job, t, path, NULL, "%u entries; %.0f to %.0f are allowed", t->count, k->min, k->max);
            for (uint32_t i = 0; i < t->count; i++)
                check_value(job, key_find(job_text(job, "%s[]", k->path)), t->item[i], job_text(job, "%s[%u]", path, i));
        }
        break;
    case KEY_NAME:
        if (!is_text(t))
            wrong_type(job, t, path, "a name (in quotes, if it is a number)");
        else if (!is_name(t->text))
            problem_at(job, t, path, NULL, "'%.70s' is no name: small letters, digits and dashes, starting with a letter or digit, at most 63", t->text);
        break;
    case KEY_ADDRESS:
        if (!scalar_address(t))
            wrong_type(job, t, path, "HOST:PORT, with a port from 0 to 65535,");
        break;
    case KEY_PATH:
        if (!is_text(t) || !*t->text)
            wrong_type(job, t, path, "a file's path");
        break;
    case KEY_INT: check_int(job, k, t, path); break;
    case KEY_NUMBER:
        if (!scalar_number(t, &v))
            wrong_type(job, t, path, "a number");
        else
            check_range(job, k, t, path, v);
        break;
    case KEY_BOOL:
        if (!scalar_bool(t, &b))
            wrong_type(job, t, path, "true or false");
        break;
    case KEY_ENUM: check_enum(job, k, t, path); break;
    case KEY_STEPS:
        if (!scalar_steps(t, &v))
            wrong_type(job, t, path, "a number of steps, like '200 steps',");
        else
            check_range(job, k, t, path, v);
        break;
    case KEY_INTS: check_ints(job, k, t, path); break;
    case KEY_WORD:
        if (!scalar_word(t))
            wrong_type(job, t, path, "a word of letters, digits and _.,:=+@%/*()&|[]- that begins with a letter or digit");
        break;
    case KEY_DURATION:
        if (!scalar_duration(t, &v))
            wrong_type(job, t, path, "a duration, like 90s, 15m, 12h, 2d or D-HH:MM:SS,");
        break;
    }
}

static const struct key *child_of(const char *key_path, const char *name, const struct key **children, unsigned count)
{
    (void)key_path;
    for (unsigned i = 0; i < count; i++)
        if (strcmp(key_last(children[i]), name) == 0)
            return children[i];
    return NULL;
}

/* The full path of the key with the nearest last word: right word, wrong place. */
static const char *nearest_path(const char *name)
{
    const char *words[256];
    unsigned n = 0;
    for (const struct key *k = keys; k->path && n < ARRAY_LEN(words); k++)
        words[n++] = key_last(k);
    const char *near = nearest_name(name, words, n);
    for (const struct key *k = keys; near && k->path; k++)
        if (strcmp(key_last(k), near) == 0)
            return k->path;
    return NULL;
}

static void check_map(struct job *job, const struct tree *t, const char *path, const char *key_path)
{
    const struct key *children[KEY_CHILDREN_MAX];
    const char *names[KEY_CHILDREN_MAX];
    unsigned n = key_children(key_path, children, KEY_CHILDREN_MAX);
    if (t->kind != TREE_MAP) {
        wrong_type(job, t, path, "a map of keys");
        return;
    }
    for (unsigned i = 0; i < n; i++)
        names[i] = key_last(children[i]);
    for (uint32_t i = 0; i < t->count; i++) {
        const char *name = t->key[i]->text;
        if (!name)
            continue;   /* a key that is no word is told of by the parser */
        const char *child_path = *path ? job_text(job, "%s.%s", path, name) : name;
        const struct key *k = child_of(key_path, name, children, n);
        if (!k) {
            const char *near = nearest_name(name, names, n), *elsewhere = near ? NULL : nearest_path(name);
            problem_at(job, t->key[i], child_path, near || elsewhere ? job_text(job, "did you mean '%s'?", near ? near : elsewhere) : NULL,
                       "unknown key '%.60s'", name);
        } else {
            check_value(job, k, t->item[i], child_path);
        }
    }
    for (unsigned i = 0; i < n; i++)
        if (children[i]->required && !tree_get(t, names[i]))
            problem_at(job, t, *path ? job_text(job, "%s.%s", path, names[i]) : names[i], NULL, "the key '%s' is missing: %s", names[i], children[i]->doc);
}

/* ---- variables ---- */
static void expand(struct job *job, struct tree *t, const char *path)
{
    char below[200], out[VALUE_MAX + 1];
    for (uint32_t i = 0; i < t->count; i++) {
        if (t->kind == TREE_MAP)
            snprintf(below, sizeof below, "%.100s%s%.80s", path, *path ? "." : "", t->key[i]->text ? t->key[i]->text : "");
        else
            snprintf(below, sizeof below, "%.150s[%u]", path, i);
        expand(job, t->item[i], below);
    }
    if (t->kind != TREE_SCALAR || !strchr(t->text, '$'))
        return;
    size_t n = 0;
    for (const char *p = t->text; *p && n < VALUE_MAX;) {
        if (p[0] == '$' && p[1] == '$') {
            out[n++] = '$';
            p += 2;
        } else if (p[0] == '$' && p[1] == '{') {
            char name[128];
            size_t k = strcspn(p + 2, ":}");
            const char *fallback = p[2 + k] == ':' && p[3 + k] == '-' ? p + 4 + k : NULL, *end = strchr(p, '}');
            if (!end || k == 0 || k >= sizeof name || (p[2 + k] == ':' && !fallback)) {
                problem_at(job, t, path, NULL, "write ${NAME} or ${NAME:-default}; a dollar sign is $$");
                return;
            }
            snprintf(name, sizeof name, "%.*s", (int)k, p + 2);
            const char *value = getenv(name);
            if (!value && !fallback) {
                problem_at(job, t, path, NULL, "the environment has no variable %s; set it, or write ${%s:-default}", name, name);
                return;
            }
            int wrote = snprintf(out + n, sizeof out - n, "%.*s", value ? (int)strlen(value) : (int)(end - fallback), value ? value : fallback);
            n = MIN(n + (size_t)wrote, (size_t)VALUE_MAX);
            p = end + 1;
        } else {
            out[n++] = *p++;
        }
    }
    out[n] = '\0';
    if (n == VALUE_MAX)
        problem_at(job, t, path, NULL, "with its variables filled in it is longer than %d bytes", VALUE_MAX - 1);
    else
        t->text = job_text(job, "%s", out);
}

/* ---- overrides ---- */
static bool put(struct job *job, struct tree *map, const char *name, struct tree *value)
{
    for (uint32_t i = 0; i < map->count; i++)
        if (map->key[i]->text && strcmp(map->key[i]->text, name) == 0) {
            map->item[i] = value;
            return true;
        }
    struct tree **keys_grown = arena_alloc(&job->arena, (map->count + 1) * sizeof *keys_grown, 8);
    struct tree **items = arena_alloc(&job->arena, (map->count + 1) * sizeof *items, 8), *key = arena_alloc(&job->arena, sizeof *key, 8);
    if (!keys_grown || !items || !key || map->count >= TREE_ITEMS_MAX)
        return false;
    if (map->count) {
        memcpy(keys_grown, map->key, map->count * sizeof *items);
        memcpy(items, map->item, map->count * sizeof *items);
    }
    *key = (struct tree){.kind = TREE_SCALAR, .text = job_text(job, "%s", name), .file = value->file, .plain = true};
    keys_grown[map->count] = key;
    items[map->count++] = value;
    map->key = keys_grown;
    map->item = items;
    return true;
}

static void drop(struct tree *map, const char *name)
{
    for (uint32_t i = 0; map && map->kind == TREE_MAP && i < map->count; i++)
        if (map->key[i]->text && strcmp(map->key[i]->text, name) == 0) {
            memmove(&map->key[i], &map->key[i + 1], (map->count - i - 1) * sizeof map->key[0]);
            memmove(&map->item[i], &map->item[i + 1], (map->count - i - 1) * sizeof map->item[0]);
            map->count--;
            return;
        }
}

static void override_one(struct job *job, struct tree *root, const char *text)
{
    const char *eq = strchr(text, '=');
    struct tree at = {.file = "command line"};
    if (!eq || eq == text || eq - text > 200) {
        problem_at(job, &at, text, NULL, "an override is key.path=value");
        return;
    }
    uint32_t before = job->problems.count;
    struct tree *value = tree_parse(job, "command line", eq + 1, strlen(eq + 1), false);
    for (uint32_t i = before; i < job->problems.count; i++)   /* of which one, a text without lines cannot say */
        job->problems.item[i].path = text_plain(job_text(job, "%s", text));
    if (!value) {
        if (eq[1] != '\0')
            return;
        value = arena_alloc(&job->arena, sizeof *value, 8);
        CHECK(value != NULL);
        *value = (struct tree){.kind = TREE_SCALAR, .plain = true, .text = "", .file = "command line"};
    }
    char path[256], *rest = path;
    snprintf(path, sizeof path, "%.*s", (int)(eq - text), text);
    struct tree *here = root;
    for (char *part; (part = strsep(&rest, "."));) {
        bool last = !rest;
        if (here->kind == TREE_LIST) {
            char *end;
            unsigned long i = strtoul(part, &end, 10);
            if (*end || !*part || i >= here->count) {
                problem_at(job, &at, text, NULL, "'%s' is no index of this list of %u entries (they count from 0)", part, here->count);
                return;
            }
            if (last)
                here->item[i] = value;
            here = here->item[i];
        } else if (here->kind == TREE_MAP && last) {
            if (!put(job, here, part, value))
                return;
        } else if (here->kind == TREE_MAP) {
            struct tree *next = tree_get(here, part);
            if (!next || tree_is_null(next)) {
                next = arena_alloc(&job->arena, sizeof *next, 8);
                CHECK(next != NULL);
                *next = (struct tree){.kind = TREE_MAP, .file = "command line"};
                if (!put(job, here, part, next))
                    return;
            }
            here = next;
        } else {
            problem_at(job, &at, text, NULL, "'%.*s' is a value, without keys below it", (int)(part - path - 1), text);
            return;
        }
    }
    if (strncmp(text, "train.epochs=", 13) == 0 && !tree_is_null(value))
        drop(tree_get(root, "train"), "steps");
    if (strncmp(text, "train.steps=", 12) == 0 && !tree_is_null(value))
        drop(tree_get(root, "train"), "epochs");
}

/* ---- whole ---- */
static int by_position(const void *a, const void *b)
{
    const struct problem *x = a, *y = b;
    if (x->line != y->line)
        return x->line < y->line ? -1 : 1;
    if (x->column != y->column)
        return x->column < y->column ? -1 : 1;
    return strcmp(x->path, y->path);
}

/* Behind `count` characters of a line, which may be of several bytes each. */
static size_t skip(const char *line, size_t size, size_t at, uint32_t count)
{
    for (; count && at < size; count--)
        for (at++; at < size && ((unsigned char)line[at] & 0xc0) == 0x80; at++)
            ;
    return at;
}

/* Of a long line only what is around the problem. */
static void show_line(struct job *job, struct problem *p, const char *line, size_t size)
{
    uint32_t skipped = p->column > LINE_SHOWN ? p->column - LINE_BEFORE : 0;
    size -= size && line[size - 1] == '\r';
    size_t from = skip(line, size, 0, skipped), to = skip(line, size, from, LINE_SHOWN);
    p->source_line = text_plain(job_text(job, "%s%.*s%s", from ? "..." : "", (int)(to - from), line + from, to < size ? "..." : ""));
    p->caret = p->column - skipped + (from ? 3 : 0);
    p->shown = MIN(p->length, LINE_SHOWN + 1 - (p->column - skipped));
}

static void attach_lines(struct job *job, const char *file, const char *text, size_t size)
{
    for (uint32_t i = 0; i < job->problems.count; i++) {
        struct problem *p = &job->problems.item[i];
        if (!p->line || strcmp(p->file, file) != 0)
            continue;
        const char *at = text, *end = text + size;
        for (uint32_t line = 1; line < p->line && at; line++) {
            at = memchr(at, '\n', (size_t)(end - at));
            at = at ? at + 1 : NULL;
        }
        if (at && at < end) {
            const char *stop = memchr(at, '\n', (size_t)(end - at));
            show_line(job, p, at, (size_t)((stop ? stop : end) - at));
        }
    }
    qsort(job->problems.item, job->problems.count, sizeof job->problems.item[0], by_position);
}

int job_load_text(struct job *job, const char *file, const char *text, size_t size, const char *const *overrides, unsigned override_count,
                  bool check_files, struct err *err)
{
    memset(job, 0, sizeof *job);
    TRY(arena_init(&job->arena, SPEC_ARENA_BYTES, err));
    const char *name = job_text(job, "%s", file);
    struct tree *root = tree_parse(job, name, text, size, true);
    if (!root && !job->problems.count)
        problem_at(job, NULL, "", NULL, "%s is empty; `viaduct init` writes a working spec", name);
    if (root && root->kind != TREE_MAP)
        problem_at(job, root, "", NULL, "a job spec is a map of keys; `viaduct init` writes a working one");
    if (root && root->kind == TREE_MAP) {   /* a key that stands twice stops no other check */
        for (unsigned i = 0; i < override_count; i++)
            override_one(job, root, overrides[i]);
        expand(job, root, "");
        job->problems.own = job->problems.count;
        check_map(job, root, "", "");
        job->problems.own = job->problems.count;
        check_whole(job, root, check_files);
    }
    attach_lines(job, name, text, size);
    if (job->problems.errors)
        return err_set(err, ERR_USAGE, "%s has %u problem%s", name, job->problems.errors, job->problems.errors == 1 ? "" : "s");
    return 0;
}

/* "-" is standard input; a pipe (/dev/stdin, <(command)) has no size before its end. */
static int read_spec(const char *file, void **text, size_t *size, struct err *err)
{
    struct stat st;
    bool standard_input = strcmp(file, "-") == 0;
    if (!standard_input && (stat(file, &st) < 0 || S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)))
        return fs_read_file(&fs_real, file, TREE_BYTES_MAX, text, size, err);
    int fd = standard_input ? STDIN_FILENO : open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_errno(err, errno, "cannot open %s", file);
    int rc = fs_read_stream(fd, standard_input ? "<stdin>" : file, TREE_BYTES_MAX, text, size, err);
    if (!standard_input)
        close(fd);
    return rc;
}

int job_load(struct job *job, const char *file, const char *const *overrides, unsigned override_count, bool check_files, struct err *err)
{
    void *text = NULL;
    size_t size = 0;
    memset(job, 0, sizeof *job);
    TRY(read_spec(file, &text, &size, err));
    int rc = job_load_text(job, strcmp(file, "-") == 0 ? "<stdin>" : file, text, size, overrides, override_count, check_files, err);
    free(text);
    return rc;
}

void job_fini(struct job *job)
{
    if (job->arena.memory)
        arena_fini(&job->arena);
}
