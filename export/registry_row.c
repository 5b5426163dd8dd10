#include <math.h>
#include <stddef.h>
#include <stdlib.h>

#include "base/base.h"
#include "export/registry_db.h"

#define TEXT(of, n) {#n, FIELD_TEXT, offsetof(struct of, n), sizeof ((struct of *)NULL)->n}
#define INTEGER(of, n) {#n, FIELD_INTEGER, offsetof(struct of, n), 0}
#define NUMBER(of, n) {#n, FIELD_NUMBER, offsetof(struct of, n), 0}
#define REAL(of, n) {#n, FIELD_REAL, offsetof(struct of, n), 0}

#define V registry_version
const struct field version_fields[VERSION_FIELDS] = {
    TEXT(V, model), NUMBER(V, version), TEXT(V, kind), TEXT(V, sha256), NUMBER(V, bytes),
    REAL(V, accuracy), REAL(V, accuracy_float), REAL(V, drop), REAL(V, low95), REAL(V, max_drop),
    NUMBER(V, channels), NUMBER(V, height), NUMBER(V, width), NUMBER(V, classes),
    TEXT(V, run), TEXT(V, job), TEXT(V, commit), NUMBER(V, step), NUMBER(V, generation),
    TEXT(V, spec_sha256), TEXT(V, data_sha256), TEXT(V, weights_sha256), TEXT(V, exported_sha256), INTEGER(V, parent), TEXT(V, created),
};

#define A registry_audit
const struct field audit_fields[AUDIT_FIELDS] = {
    NUMBER(A, position), TEXT(A, at), TEXT(A, action), TEXT(A, model), TEXT(A, alias), INTEGER(A, from), INTEGER(A, to),
    NUMBER(A, uid), TEXT(A, user), TEXT(A, host), TEXT(A, reason),
};

void row_json(const struct field *fields, unsigned count, const void *row, struct page *p)
{
    for (unsigned i = 0; i < count; i++) {
        const struct field *f = &fields[i];
        const void *at = (const char *)row + f->at;
        page_add(p, "%s\"%s\":", i ? "," : "", f->name);
        switch (f->type) {
        case FIELD_TEXT:
            if (*(const char *)at)
                page_quote(p, at);
            else
                page_add(p, "null");
            break;
        case FIELD_REAL: page_number(p, true, *(const double *)at); break;
        case FIELD_INTEGER:
        case FIELD_NUMBER:
            if (f->type == FIELD_INTEGER && *(const int64_t *)at == 0)
                page_add(p, "null");
            else
                page_add(p, "%lld", (long long)*(const int64_t *)at);
            break;
        }
    }
}

static void print(const struct field *fields, unsigned count, const void *row, FILE *out)
{
    struct page p = {0};
    row_json(fields, count, row, &p);
    fputs(p.failed ? "" : p.at, out);
    page_free(&p);
}

void registry_version_json(const struct registry_version *v, FILE *out) { print(version_fields, VERSION_FIELDS, v, out); }

void registry_audit_json(const struct registry_audit *a, FILE *out)
{
    print(audit_fields, AUDIT_FIELDS, a, out);
    fprintf(out, ",\"chain\":\"%s\"", a->chain);
}
