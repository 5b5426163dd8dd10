/* JSON Schema (draft 7) from the table of keys. */
#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "jobs/keys.h"

static void print_key(FILE *out, const struct key *k, unsigned indent);

static void print_children(FILE *out, const char *path, unsigned indent)
{
    const struct key *children[KEY_CHILDREN_MAX];
    unsigned n = key_children(path, children, KEY_CHILDREN_MAX), printed = 0;
    fprintf(out, "\"type\": \"object\", \"additionalProperties\": false, \"properties\": {");
    for (unsigned i = 0; i < n; i++) {
        if (children[i]->refused || (children[i]->later && strcmp(children[i]->later, "*") == 0))
            continue;
        fprintf(out, "%s\n%*s\"%s\": ", printed++ ? "," : "", (int)indent, "", key_last(children[i]));
        print_key(out, children[i], indent + 2);
    }
    fprintf(out, "}, \"required\": [");
    for (unsigned i = 0, r = 0; i < n; i++)
        if (children[i]->required)
            fprintf(out, "%s\"%s\"", r++ ? ", " : "", key_last(children[i]));
    fprintf(out, "]");
}

static void print_choices(FILE *out, const char *choices)
{
    fprintf(out, "\"enum\": [");
    for (const char *p = choices; *p;) {
        size_t n = strcspn(p, "|");
        fprintf(out, "%s\"%.*s\"", p == choices ? "" : ", ", (int)n, p);
        p += n + (p[n] == '|');
    }
    fprintf(out, "]");
}

static void print_limits(FILE *out, const struct key *k)
{
    char least[NUMBER_TEXT_BYTES], most[NUMBER_TEXT_BYTES];
    number_text(least, k->min);
    number_text(most, k->max);
    fprintf(out, ", \"%s\": %s, \"maximum\": %s", k->exclusive_min ? "exclusiveMinimum" : "minimum", least, most);
}

static void print_type(FILE *out, const struct key *k, unsigned indent)
{
    char item[200];
    switch (k->type) {
    case KEY_MAP: print_children(out, k->path, indent); break;
    case KEY_LIST:
        snprintf(item, sizeof item, "%s[]", k->path);
        fprintf(out, "\"type\": \"array\", \"minItems\": %.0f, \"maxItems\": %.0f, \"items\": ", k->min, k->max);
        print_key(out, key_find(item), indent + 2);
        break;
    case KEY_NAME: fprintf(out, "\"type\": \"string\", \"pattern\": \"^[a-z0-9][a-z0-9-]{0,62}$\""); break;
    case KEY_ADDRESS:
        fprintf(out, "\"type\": \"string\", \"pattern\": \"^.+:(0|[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])$\"");
        break;
    case KEY_PATH: fprintf(out, "\"type\": \"string\", \"minLength\": 1"); break;
    case KEY_INT: fprintf(out, "\"type\": \"integer\""); print_limits(out, k); break;
    case KEY_NUMBER: fprintf(out, "\"type\": \"number\""); print_limits(out, k); break;
    case KEY_BOOL: fprintf(out, "\"type\": \"boolean\""); break;
    case KEY_ENUM: print_choices(out, k->choices); break;
    case KEY_STEPS:
        fprintf(out, "\"anyOf\": [{\"type\": \"integer\", \"minimum\": %.0f, \"maximum\": %.0f}, {\"type\": \"string\", \"pattern\": \"^[0-9]{1,12} *steps?$\"}]",
                k->min, k->max);
        break;
    case KEY_WORD:
        fprintf(out, "\"anyOf\": [{\"type\": \"integer\", \"minimum\": 0, \"maximum\": %.0f}, {\"type\": \"string\", \"pattern\": "
                     "\"^[A-Za-z0-9][][A-Za-z0-9_.,:=+@%%/*()&|-]{0,%d}$\"}]", WORD_NUMBER_MAX, WORD_MAX - 1);
        break;
    case KEY_DURATION:
        fprintf(out, "\"type\": \"string\", \"pattern\": "
                     "\"^([1-9][0-9]{0,8}s|[1-9][0-9]{0,6}m|[1-9][0-9]{0,4}h|[1-9][0-9]{0,3}d|([0-9]{1,3}-)?[0-9]{1,2}:[0-5][0-9]:[0-5][0-9])$\"");
        break;
    case KEY_INTS:
        fprintf(out, "\"type\": \"array\", \"minItems\": %.0f, \"maxItems\": %.0f, \"items\": {\"type\": \"integer\", \"minimum\": 1, \"maximum\": 65536}", k->min,
                k->max);
        break;
    }
}

static void print_key(FILE *out, const struct key *k, unsigned indent)
{
    char doc[300];
    json_quote(doc, sizeof doc, k->doc);
    fprintf(out, "{\"description\": %s, ", doc);
    if (!k->required && !strchr(k->path, ']'))   /* null puts a key back to its default */
        fprintf(out, "\"anyOf\": [{\"type\": \"null\"}, {");
    else if (!k->required && k->path[strlen(k->path) - 1] != ']')
        fprintf(out, "\"anyOf\": [{\"type\": \"null\"}, {");
    else
        fprintf(out, "\"allOf\": [{");
    if (strcmp(k->path, "model.hidden") == 0)
        fprintf(out, "\"anyOf\": [{\"type\": \"integer\", \"minimum\": 1, \"maximum\": 65536}, {");
    print_type(out, k, indent);
    if (strcmp(k->path, "model.hidden") == 0)
        fprintf(out, "}]");
    fprintf(out, "}]}");
}

void job_schema_print(FILE *out)
{
    fprintf(out, "{\"$schema\": \"http://json-schema.org/draft-07/schema#\", \"title\": \"Viaduct job spec v1\", ");
    print_children(out, "", 2);
    fprintf(out, ",\n  \"if\": {\"required\": [\"export\"], \"properties\": {\"export\": {\"type\": \"object\", \"required\": [\"quantize\"], "
                 "\"properties\": {\"quantize\": {\"type\": \"object\"}}}}},\n"
                 "  \"then\": {\"properties\": {\"data\": {\"required\": [\"eval\"], \"properties\": {\"eval\": {\"type\": \"object\"}}}}}}\n");
}
