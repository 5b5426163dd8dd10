#include "jobs/tree.h"

#include <stdlib.h>
#include <string.h>
#include <yaml.h>

struct parser { struct job *job; yaml_parser_t yaml; const char *file, *text; bool positions; uint32_t nodes; bool failed; };

static struct tree *node_of(struct parser *p, enum tree_kind kind, const yaml_event_t *e)
{
    struct tree *t = arena_alloc(&p->job->arena, sizeof *t, 8);
    if (!t || ++p->nodes > TREE_NODES_MAX) {
        problem_at(p->job, NULL, "", NULL, "%s has more than %d values; a job spec is short", p->file, TREE_NODES_MAX);
        p->failed = true;
        return NULL;
    }
    t->kind = kind;
    t->file = p->file;
    if (p->positions) {
        t->line = (uint32_t)e->start_mark.line + 1;
        t->column = (uint32_t)e->start_mark.column + 1;
        uint64_t length = e->end_mark.line == e->start_mark.line ? e->end_mark.column - e->start_mark.column : 1;
        t->length = length ? (uint32_t)length : 1;
    }
    return t;
}

static void refuse(struct parser *p, const yaml_event_t *e, const char *text)
{
    struct tree at = {.file = p->file};
    if (p->positions) {
        at.line = (uint32_t)e->start_mark.line + 1;
        at.column = (uint32_t)e->start_mark.column + 1;
        at.length = 1;
    }
    problem_at(p->job, &at, "", NULL, "%s", text);
    p->failed = true;
}

/* Of a byte that libyaml cannot read: it gives the offset alone, and has counted no lines up to there. */
static struct tree position_of(const struct parser *p)
{
    struct tree at = {.file = p->file, .line = 1, .column = 1, .length = 1};
    for (size_t i = 0; i < p->yaml.problem_offset; i++) {
        at.column = p->text[i] == '\n' ? 1 : at.column + (((unsigned char)p->text[i] & 0xc0) != 0x80);
        at.line += p->text[i] == '\n';
    }
    return at;
}

static bool next(struct parser *p, yaml_event_t *e)
{
    if (p->failed)
        return false;
    if (yaml_parser_parse(&p->yaml, e))
        return true;
    struct tree at = {.file = p->file};
    if (p->positions && p->yaml.error == YAML_READER_ERROR) {
        at = position_of(p);
    } else if (p->positions) {
        at.line = (uint32_t)p->yaml.problem_mark.line + 1;
        at.column = (uint32_t)p->yaml.problem_mark.column + 1;
        at.length = 1;
    }
    problem_at(p->job, &at, "", NULL, "this is not YAML: %s%s%s", p->yaml.problem ? p->yaml.problem : "unreadable", p->yaml.context ? ", " : "",
               p->yaml.context ? p->yaml.context : "");
    p->failed = true;
    return false;
}

static struct tree *parse_node(struct parser *p, const yaml_event_t *first, unsigned depth);

static bool push(struct parser *p, struct tree *t, struct tree *key, struct tree *item)
{
    if (t->count == TREE_ITEMS_MAX) {
        problem_at(p->job, t, "", NULL, "more than %d entries", TREE_ITEMS_MAX);
        return !(p->failed = true);
    }
    if (t->count % 16 == 0) {   /* grow by copying: the arena is freed whole */
        size_t n = t->count + 16;
        struct tree **items = arena_alloc(&p->job->arena, n * sizeof *items, 8), **keys = arena_alloc(&p->job->arena, n * sizeof *keys, 8);
        if (!items || !keys)
            return !(p->failed = true);
        if (t->count) {
            memcpy(items, t->item, t->count * sizeof *items);
            memcpy(keys, t->key, t->count * sizeof *keys);
        }
        t->item = items;
        t->key = keys;
    }
    t->key[t->count] = key;
    t->item[t->count++] = item;
    return true;
}

static void parse_items(struct parser *p, struct tree *t, yaml_event_type_t end, unsigned depth)
{
    for (;;) {
        yaml_event_t e;
        if (!next(p, &e))
            return;
        if (e.type == end) {
            yaml_event_delete(&e);
            return;
        }
        struct tree *key = NULL, *item = parse_node(p, &e, depth + 1);
        yaml_event_delete(&e);
        if (t->kind == TREE_MAP && item) {
            key = item;
            if (key->kind != TREE_SCALAR)
                problem_at(p->job, key, "", NULL, "a key must be a plain word");
            if (!next(p, &e))
                return;
            item = parse_node(p, &e, depth + 1);
            yaml_event_delete(&e);
            for (uint32_t i = 0; item && i < t->count; i++)
                if (key->kind == TREE_SCALAR && t->key[i]->kind == TREE_SCALAR && strcmp(t->key[i]->text, key->text) == 0) {
                    problem_at(p->job, key, key->text, NULL, p->positions ? "key '%.60s' stands twice in this map, first in line %u" : "key '%.60s' stands twice in this map",
                               key->text, t->key[i]->line);
                    item = NULL;
                    key = NULL;
                    break;
                }
            if (!key)
                continue;
        }
        if (p->failed || !item || !push(p, t, key, item))
            return;
    }
}

static bool is_utf8(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (s[i] == 0)
            return false;
    return true;   /* libyaml refuses what is not UTF-8 */
}

static struct tree *parse_node(struct parser *p, const yaml_event_t *e, unsigned depth)
{
    if (depth > TREE_DEPTH_MAX) {
        refuse(p, e, "nested deeper than 32 levels");
        return NULL;
    }
    struct tree *t = NULL;
    if (e->type == YAML_SCALAR_EVENT) {
        if (e->data.scalar.tag || e->data.scalar.anchor || !is_utf8((const char *)e->data.scalar.value, e->data.scalar.length)) {
            refuse(p, e, "tags, anchors and NUL characters are not used in job specs; write the value out");
            return NULL;
        }
        t = node_of(p, TREE_SCALAR, e);
        if (t) {
            t->plain = e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
            t->text = arena_strdup(&p->job->arena, (const char *)e->data.scalar.value);
            p->failed = p->failed || !t->text;
        }
    } else if (e->type == YAML_MAPPING_START_EVENT || e->type == YAML_SEQUENCE_START_EVENT) {
        bool map = e->type == YAML_MAPPING_START_EVENT;
        if (map ? e->data.mapping_start.tag || e->data.mapping_start.anchor : e->data.sequence_start.tag || e->data.sequence_start.anchor) {
            refuse(p, e, "tags and anchors are not used in job specs; write the value out");
            return NULL;
        }
        t = node_of(p, map ? TREE_MAP : TREE_LIST, e);
        if (t) {
            t->length = 1;
            parse_items(p, t, map ? YAML_MAPPING_END_EVENT : YAML_SEQUENCE_END_EVENT, depth);
        }
    } else if (e->type == YAML_ALIAS_EVENT) {
        refuse(p, e, "aliases are not used in job specs; write the value out");
    }
    return p->failed ? NULL : t;
}

static struct tree *parse_document(struct parser *p)
{
    struct tree *root = NULL;
    for (;;) {
        yaml_event_t e;
        if (!next(p, &e))
            return NULL;
        yaml_event_type_t type = e.type;
        if (type == YAML_DOCUMENT_START_EVENT && root)
            refuse(p, &e, "a job spec is one document; remove everything from this '---' on");
        else if (type != YAML_STREAM_START_EVENT && type != YAML_DOCUMENT_START_EVENT && type != YAML_DOCUMENT_END_EVENT && type != YAML_STREAM_END_EVENT)
            root = parse_node(p, &e, 0);
        yaml_event_delete(&e);
        if (type == YAML_STREAM_END_EVENT || p->failed)
            return p->failed ? NULL : root;
    }
}

struct tree *tree_parse(struct job *job, const char *file, const char *text, size_t size, bool positions)
{
    static const char byte_order_mark[] = "\xef\xbb\xbf";   /* some editors put it first */
    size_t skipped = size >= 3 && memcmp(text, byte_order_mark, 3) == 0 ? 3 : 0;
    struct parser p = {.job = job, .file = file, .text = text + skipped, .positions = positions};
    if (size > TREE_BYTES_MAX) {
        problem_at(job, NULL, "", NULL, "%s holds %zu bytes, at most %u are allowed", file, size, TREE_BYTES_MAX);
        return NULL;
    }
    if (!yaml_parser_initialize(&p.yaml))
        return NULL;
    yaml_parser_set_input_string(&p.yaml, (const unsigned char *)text + skipped, size - skipped);
    yaml_parser_set_encoding(&p.yaml, YAML_UTF8_ENCODING);
    struct tree *root = parse_document(&p);
    yaml_parser_delete(&p.yaml);
    return root;
}

bool tree_is_null(const struct tree *t)
{
    return t->kind == TREE_SCALAR && t->plain &&
           (t->text[0] == '\0' || strcmp(t->text, "null") == 0 || strcmp(t->text, "~") == 0 || strcmp(t->text, "Null") == 0 || strcmp(t->text, "NULL") == 0);
}

struct tree *tree_get(const struct tree *map, const char *key)
{
    for (uint32_t i = 0; map && map->kind == TREE_MAP && i < map->count; i++)
        if (map->key[i]->kind == TREE_SCALAR && strcmp(map->key[i]->text, key) == 0)
            return map->item[i];
    return NULL;
}
