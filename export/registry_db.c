/* The registry's database. A rollback journal, not a WAL: a registry may lie on a file system that several hosts share, where a WAL cannot be used, who only
 * reads needs no right to write, and one change a promote costs nothing. synchronous=EXTRA: what is committed is on the disk, its journal's end too. */
#include "export/registry_db.h"

#include <math.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

#define SCHEMA_VERSION 1
#define BUSY_MS 30000

struct registry_db { sqlite3 *db; char path[PATH_MAX]; };

static int fail(struct registry_db *d, const char *what, struct err *err)
{
    int rc = sqlite3_errcode(d->db) & 0xff;
    int code = rc == SQLITE_CORRUPT || rc == SQLITE_NOTADB ? ERR_CORRUPT : rc == SQLITE_BUSY || rc == SQLITE_LOCKED ? ERR_TEMPORARY
               : rc == SQLITE_READONLY || rc == SQLITE_PERM || rc == SQLITE_AUTH || rc == SQLITE_CANTOPEN ? ERR_DENIED : ERR_IO;
    return err_set(err, code, "cannot %s the registry %s: %s%s", what, d->path, sqlite3_errmsg(d->db),
                   code == ERR_TEMPORARY ? "; another process holds it, try again" : "");
}

static int run(struct registry_db *d, const char *sql, const char *what, struct err *err)
{
    return sqlite3_exec(d->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : fail(d, what, err);
}

/* types: t text, i int64_t, one letter a parameter. */
static int prepare(struct registry_db *d, sqlite3_stmt **out, struct err *err, const char *sql, const char *types, ...)
{
    va_list ap;
    if (sqlite3_prepare_v2(d->db, sql, -1, out, NULL) != SQLITE_OK)
        return fail(d, "read", err);
    va_start(ap, types);
    for (int i = 1; *types; types++, i++)
        if (*types == 't')
            sqlite3_bind_text(*out, i, va_arg(ap, const char *), -1, SQLITE_TRANSIENT);
        else
            sqlite3_bind_int64(*out, i, va_arg(ap, int64_t));
    va_end(ap);
    return 0;
}

/* For what returns no row. */
static int finish(struct registry_db *d, sqlite3_stmt *s, struct err *err)
{
    int rc = sqlite3_step(s) == SQLITE_DONE ? 0 : fail(d, "write", err);
    sqlite3_finalize(s);
    return rc;
}

static void column_text(sqlite3_stmt *s, int i, char *out, size_t size)
{
    const unsigned char *text = sqlite3_column_text(s, i);
    snprintf(out, size, "%s", text ? (const char *)text : "");
}

/* ---- rows ---- */
static void row_bind(sqlite3_stmt *s, const struct field *fields, unsigned count, const void *row)
{
    for (unsigned i = 0; i < count; i++) {
        const void *at = (const char *)row + fields[i].at;
        int n = (int)i + 1;
        switch (fields[i].type) {
        case FIELD_TEXT: *(const char *)at ? sqlite3_bind_text(s, n, at, -1, SQLITE_TRANSIENT) : sqlite3_bind_null(s, n); break;
        case FIELD_INTEGER: *(const int64_t *)at ? sqlite3_bind_int64(s, n, *(const int64_t *)at) : sqlite3_bind_null(s, n); break;
        case FIELD_NUMBER: sqlite3_bind_int64(s, n, *(const int64_t *)at); break;
        case FIELD_REAL: isnan(*(const double *)at) ? sqlite3_bind_null(s, n) : sqlite3_bind_double(s, n, *(const double *)at); break;
        }
    }
}

static void row_read(sqlite3_stmt *s, const struct field *fields, unsigned count, void *row)
{
    for (unsigned i = 0; i < count; i++) {
        void *at = (char *)row + fields[i].at;
        int n = (int)i;
        switch (fields[i].type) {
        case FIELD_TEXT: column_text(s, n, at, fields[i].size); break;
        case FIELD_INTEGER:
        case FIELD_NUMBER: *(int64_t *)at = sqlite3_column_int64(s, n); break;
        case FIELD_REAL: *(double *)at = sqlite3_column_type(s, n) == SQLITE_NULL ? NAN : sqlite3_column_double(s, n); break;
        }
    }
}

static void add_columns(struct page *p, const struct field *fields, unsigned count, bool types)
{
    static const char *const type[] = {" TEXT", " INTEGER", " INTEGER NOT NULL", " REAL"};   /* by enum field_type */
    for (unsigned i = 0; i < count; i++)
        page_add(p, "%s\"%s\"%s", i ? ", " : "", fields[i].name, types ? type[fields[i].type] : "");
}

static int insert(struct registry_db *d, const char *table, const struct field *fields, unsigned count, const void *row, const char *chain, struct err *err)
{
    struct page p = {0};
    sqlite3_stmt *s = NULL;
    page_add(&p, "INSERT INTO %s (", table);
    add_columns(&p, fields, count, false);
    page_add(&p, "%s) VALUES (?", chain ? ", chain" : "");
    for (unsigned i = 1; i < count + (chain ? 1 : 0); i++)
        page_add(&p, ", ?");
    page_add(&p, ")");
    int rc = p.failed ? err_set(err, ERR_NO_MEMORY, "no memory for the registry") : prepare(d, &s, err, p.at, "");
    page_free(&p);
    if (rc < 0)
        return rc;
    row_bind(s, fields, count, row);
    if (chain)
        sqlite3_bind_text(s, (int)count + 1, chain, -1, SQLITE_STATIC);
    return finish(d, s, err);
}

/* SELECT of all fields of a table, and `more` ones, with what follows FROM. */
static int select_rows(struct registry_db *d, const struct field *fields, unsigned count, const char *more, const char *from, sqlite3_stmt **out, struct err *err)
{
    struct page p = {0};
    page_add(&p, "SELECT ");
    add_columns(&p, fields, count, false);
    page_add(&p, "%s FROM %s", more, from);
    int rc = p.failed ? err_set(err, ERR_NO_MEMORY, "no memory for the registry") : prepare(d, out, err, p.at, "");
    page_free(&p);
    return rc;
}

/* Rows are read to the end before a visitor sees one: an open SELECT keeps every writer waiting, and a visitor takes its time with files, or with a pager. */
struct rows { char *at; size_t size, count, room; };

static void *rows_add(struct rows *r)
{
    if (r->count == r->room) {
        r->room = r->room ? 2 * r->room : 8;
        r->at = realloc(r->at, r->room * r->size);
        CHECK(r->at != NULL);
    }
    return memset(r->at + r->size * r->count++, 0, r->size);
}

/* What the last step returned, and the statement's end. */
static int rows_end(struct registry_db *d, sqlite3_stmt *s, int step, int rc, struct err *err)
{
    if (rc == 0 && step != SQLITE_DONE)
        rc = fail(d, "read", err);
    sqlite3_finalize(s);
    return rc;
}

/* ---- open ---- */
/* Versions and lines stay as they were written, whoever holds the file open with whatever program. */
static const char tables[] =
    "CREATE UNIQUE INDEX version_number ON version (model, version);"
    "CREATE UNIQUE INDEX version_of_run ON version (model, job, sha256);"
    "CREATE TABLE alias (model TEXT NOT NULL, name TEXT NOT NULL, depth INTEGER NOT NULL, moves INTEGER NOT NULL, rendered INTEGER NOT NULL, PRIMARY KEY (model, name));"
    "CREATE TABLE standing (model TEXT NOT NULL, alias TEXT NOT NULL, depth INTEGER NOT NULL, version INTEGER NOT NULL, PRIMARY KEY (model, alias, depth));"
    "CREATE TRIGGER audit_kept BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END;"
    "CREATE TRIGGER audit_stays BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END;"
    "CREATE TRIGGER version_kept BEFORE DELETE ON version BEGIN SELECT RAISE(ABORT, 'a version stays'); END;"
    "CREATE TRIGGER version_stays BEFORE UPDATE ON version BEGIN SELECT RAISE(ABORT, 'a version stays'); END;"
    "PRAGMA user_version=1;";

static int create_tables(struct registry_db *d, struct err *err)
{
    struct page p = {0};
    page_add(&p, "CREATE TABLE version (");
    add_columns(&p, version_fields, VERSION_FIELDS, true);
    page_add(&p, "); CREATE TABLE audit (");
    add_columns(&p, audit_fields, AUDIT_FIELDS, true);
    page_add(&p, ", chain TEXT NOT NULL, PRIMARY KEY (position));%s", tables);
    int rc = p.failed ? err_set(err, ERR_NO_MEMORY, "no memory for the registry") : run(d, p.at, "create", err);
    page_free(&p);
    return rc;
}

static int schema(struct registry_db *d, int64_t *out, struct err *err)
{
    sqlite3_stmt *s;
    TRY(prepare(d, &s, err, "PRAGMA user_version", ""));
    int rc = sqlite3_step(s) == SQLITE_ROW ? 0 : fail(d, "read", err);
    *out = sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    return rc;
}

static int set_up(struct registry_db *d, struct err *err)
{
    int64_t have;
    sqlite3_busy_timeout(d->db, BUSY_MS);
    TRY(run(d, "PRAGMA journal_mode=DELETE; PRAGMA synchronous=EXTRA; PRAGMA trusted_schema=OFF;", "open", err));
    TRY(schema(d, &have, err));
    if (have == 0) {                 /* new; or another process is just making it */
        TRY(registry_db_begin(d, err));
        TRY(schema(d, &have, err));
        if (have == 0)
            TRY(create_tables(d, err));
        TRY(registry_db_commit(d, err));
        have = SCHEMA_VERSION;
    }
    return have == SCHEMA_VERSION ? 0 : err_set(err, ERR_CONFLICT, "the registry %s has version %lld, this program writes %d: use a newer program", d->path,
                                                (long long)have, SCHEMA_VERSION);
}

int registry_db_open(const char *path, bool create, struct registry_db **out, struct err *err)
{
    struct registry_db *d = calloc(1, sizeof *d);
    CHECK(d != NULL);
    snprintf(d->path, sizeof d->path, "%s", path);
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | (create ? SQLITE_OPEN_CREATE : 0);
    int rc = sqlite3_open_v2(path, &d->db, flags, NULL) == SQLITE_OK ? 0 : fail(d, "open", err);
    if (rc == 0)
        rc = set_up(d, err);
    if (rc < 0) {
        registry_db_close(d);
        return rc;
    }
    *out = d;
    return 0;
}

void registry_db_close(struct registry_db *d)
{
    if (d)
        sqlite3_close(d->db);        /* ends a transaction that is open */
    free(d);
}

bool registry_db_read_only(const struct registry_db *d) { return sqlite3_db_readonly(d->db, "main") == 1; }
int registry_db_begin(struct registry_db *d, struct err *err) { return run(d, "BEGIN IMMEDIATE", "lock", err); }

int registry_db_commit(struct registry_db *d, struct err *err)
{
    int rc = run(d, "COMMIT", "write", err);
    if (rc < 0)
        registry_db_abandon(d);
    return rc;
}

void registry_db_abandon(struct registry_db *d)
{
    if (!sqlite3_get_autocommit(d->db))
        sqlite3_exec(d->db, "ROLLBACK", NULL, NULL, NULL);
}

/* ---- versions ---- */
static int one_version(struct registry_db *d, sqlite3_stmt *s, struct registry_version *out, bool *found, struct err *err)
{
    int step = sqlite3_step(s);
    *found = step == SQLITE_ROW;
    if (*found)
        row_read(s, version_fields, VERSION_FIELDS, out);
    int rc = step == SQLITE_ROW || step == SQLITE_DONE ? 0 : fail(d, "read", err);
    sqlite3_finalize(s);
    return rc;
}

int registry_db_same(struct registry_db *d, const struct registry_version *v, struct registry_version *out, bool *found, struct err *err)
{
    sqlite3_stmt *s;
    TRY(select_rows(d, version_fields, VERSION_FIELDS, "", "version WHERE model = ?1 AND job IS ?2 AND sha256 = ?3", &s, err));
    sqlite3_bind_text(s, 1, v->model, -1, SQLITE_STATIC);
    if (*v->job)
        sqlite3_bind_text(s, 2, v->job, -1, SQLITE_STATIC);
    sqlite3_bind_text(s, 3, v->sha256, -1, SQLITE_STATIC);
    return one_version(d, s, out, found, err);
}

int registry_db_first(struct registry_db *d, const char *model, struct registry_version *out, bool *found, struct err *err)
{
    sqlite3_stmt *s;
    TRY(select_rows(d, version_fields, VERSION_FIELDS, "", "version WHERE model = ?1 ORDER BY version LIMIT 1", &s, err));
    sqlite3_bind_text(s, 1, model, -1, SQLITE_STATIC);
    return one_version(d, s, out, found, err);
}

int registry_db_next(struct registry_db *d, const char *model, int64_t *version, struct err *err)
{
    sqlite3_stmt *s;
    TRY(prepare(d, &s, err, "SELECT coalesce(max(n), 0) + 1 FROM (SELECT version AS n FROM version WHERE model = ?1 UNION "
                "SELECT \"to\" FROM audit WHERE model = ?1 AND action = 'register')", "t", model));
    int rc = sqlite3_step(s) == SQLITE_ROW ? 0 : fail(d, "read", err);
    *version = sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    return rc;
}

int registry_db_version(struct registry_db *d, const char *model, int64_t version, struct registry_version *out, struct err *err)
{
    sqlite3_stmt *s;
    bool found;
    int64_t next;
    TRY(select_rows(d, version_fields, VERSION_FIELDS, "", "version WHERE model = ?1 AND version = ?2", &s, err));
    sqlite3_bind_text(s, 1, model, -1, SQLITE_STATIC);
    sqlite3_bind_int64(s, 2, version);
    TRY(one_version(d, s, out, &found, err));
    if (found)
        return 0;
    TRY(registry_db_next(d, model, &next, err));
    return next == 1 ? err_set(err, ERR_NOT_FOUND, "the registry %s has no model '%s'; `viaduct models ls` lists them", d->path, model)
                     : err_set(err, ERR_NOT_FOUND, "model '%s' has no version %lld; its versions are 1 to %lld", model, (long long)version, (long long)next - 1);
}

int registry_db_insert(struct registry_db *d, const struct registry_version *v, struct err *err)
{
    return insert(d, "version", version_fields, VERSION_FIELDS, v, NULL, err);
}

int registry_db_versions(struct registry_db *d, const char *model,
                         int (*visit)(void *arg, const struct registry_version *v, const char *aliases, struct err *err), void *arg, struct err *err)
{
    static const char aliases[] = ", (SELECT group_concat(name, ',') FROM (SELECT a.name FROM alias a JOIN standing s ON s.model = a.model AND s.alias = a.name AND "
                                  "s.depth = a.depth WHERE a.model = v.model AND s.version = v.version ORDER BY a.name))";
    struct listed { struct registry_version v; char *aliases; } *one;
    struct rows all = {.size = sizeof *one};
    sqlite3_stmt *s;
    int step;
    TRY(select_rows(d, version_fields, VERSION_FIELDS, aliases, "version v WHERE ?1 IS NULL OR model = ?1 ORDER BY model, version", &s, err));
    if (model)
        sqlite3_bind_text(s, 1, model, -1, SQLITE_STATIC);
    while ((step = sqlite3_step(s)) == SQLITE_ROW) {
        const char *names = (const char *)sqlite3_column_text(s, VERSION_FIELDS);
        one = rows_add(&all);
        row_read(s, version_fields, VERSION_FIELDS, &one->v);
        one->aliases = strdup(names ? names : "");
        CHECK(one->aliases != NULL);
    }
    int rc = rows_end(d, s, step, 0, err);
    one = (struct listed *)(void *)all.at;
    for (size_t i = 0; i < all.count; i++) {
        if (rc == 0)
            rc = visit(arg, &one[i].v, one[i].aliases, err);
        free(one[i].aliases);
    }
    free(all.at);
    return rc;
}

/* ---- aliases ---- */
#define STANDING "SELECT a.model, a.name, s.version, (SELECT version FROM standing p WHERE p.model = a.model AND p.alias = a.name AND p.depth = a.depth - 1), a.depth, " \
                 "a.moves, a.rendered FROM alias a JOIN standing s ON s.model = a.model AND s.alias = a.name AND s.depth = a.depth "

static void read_standing(sqlite3_stmt *s, struct standing *out)
{
    column_text(s, 0, out->alias.model, sizeof out->alias.model);
    column_text(s, 1, out->alias.name, sizeof out->alias.name);
    out->alias.version = sqlite3_column_int64(s, 2);
    out->alias.previous = sqlite3_column_int64(s, 3);
    out->depth = sqlite3_column_int64(s, 4);
    out->moves = sqlite3_column_int64(s, 5);
    out->rendered = sqlite3_column_int64(s, 6);
}

static int one_standing(struct registry_db *d, sqlite3_stmt *s, struct standing *out, bool *found, struct err *err)
{
    int step = sqlite3_step(s);
    *found = step == SQLITE_ROW;
    if (*found)
        read_standing(s, out);
    int rc = step == SQLITE_ROW || step == SQLITE_DONE ? 0 : fail(d, "read", err);
    sqlite3_finalize(s);
    return rc;
}

int registry_db_standing(struct registry_db *d, const char *model, const char *alias, struct standing *out, struct err *err)
{
    sqlite3_stmt *s;
    bool found;
    *out = (struct standing){0};
    snprintf(out->alias.model, sizeof out->alias.model, "%s", model);
    snprintf(out->alias.name, sizeof out->alias.name, "%s", alias);
    TRY(prepare(d, &s, err, STANDING "WHERE a.model = ?1 AND a.name = ?2", "tt", model, alias));
    return one_standing(d, s, out, &found, err);
}

int registry_db_behind(struct registry_db *d, struct standing *at, bool *found, struct err *err)
{
    sqlite3_stmt *s;
    TRY(prepare(d, &s, err, STANDING "WHERE a.moves <> a.rendered AND (a.model, a.name) > (?1, ?2) ORDER BY a.model, a.name LIMIT 1", "tt", at->alias.model, at->alias.name));
    return one_standing(d, s, at, found, err);
}

int registry_db_standings(struct registry_db *d, const char *model, int (*visit)(void *arg, const struct standing *s, struct err *err), void *arg, struct err *err)
{
    struct rows all = {.size = sizeof(struct standing)};
    sqlite3_stmt *s;
    int step;
    TRY(prepare(d, &s, err, STANDING "WHERE ?1 IS NULL OR a.model = ?1 ORDER BY a.model, a.name", "t", model));
    while ((step = sqlite3_step(s)) == SQLITE_ROW)
        read_standing(s, rows_add(&all));
    int rc = rows_end(d, s, step, 0, err);
    for (size_t i = 0; i < all.count && rc == 0; i++)
        rc = visit(arg, (struct standing *)(void *)(all.at + i * all.size), err);
    free(all.at);
    return rc;
}

/* Where an alias stands is a stack: a promote puts a version on top, a rollback takes the top away. */
int registry_db_move(struct registry_db *d, const struct standing *was, int64_t to, bool back, struct err *err)
{
    const char *model = was->alias.model, *name = was->alias.name;
    struct standing now;
    sqlite3_stmt *s;
    TRY(registry_db_standing(d, model, name, &now, err));
    if (now.moves != was->moves)
        return err_set(err, ERR_CONFLICT, "alias '%s' of model '%s' was moved by another at the same time and stands at version %lld now; look at it, then try again", name,
                       model, (long long)now.alias.version);
    TRY(back ? prepare(d, &s, err, "DELETE FROM standing WHERE model = ?1 AND alias = ?2 AND depth = ?3", "tti", model, name, now.depth)
             : prepare(d, &s, err, "INSERT INTO standing VALUES (?1, ?2, ?3, ?4)", "ttii", model, name, now.depth + 1, to));
    TRY(finish(d, s, err));
    TRY(prepare(d, &s, err, "INSERT INTO alias VALUES (?1, ?2, ?3, ?4, 0) ON CONFLICT DO UPDATE SET depth = ?3, moves = ?4", "ttii", model, name,
                back ? now.depth - 1 : now.depth + 1, now.moves + 1));
    return finish(d, s, err);
}

int registry_db_rendered(struct registry_db *d, const struct standing *st, struct err *err)
{
    sqlite3_stmt *s;
    TRY(prepare(d, &s, err, "UPDATE alias SET rendered = ?3 WHERE model = ?1 AND name = ?2", "tti", st->alias.model, st->alias.name, st->moves));
    return finish(d, s, err);
}

/* ---- the log ---- */
static int chain_of(const char *before, const struct registry_audit *a, char out[SHA256_HEX], struct err *err)
{
    uint8_t sha256[SHA256_BYTES];
    struct page p = {0};
    page_add(&p, "%s{", before);
    row_json(audit_fields, AUDIT_FIELDS, a, &p);
    page_add(&p, "}");
    if (!p.failed)
        sha256_of(p.at, p.used, sha256);
    int rc = p.failed ? err_set(err, ERR_NO_MEMORY, "no memory for the audit log") : 0;
    page_free(&p);
    if (rc == 0)
        hex_of(sha256, sizeof sha256, out);
    return rc;
}

int registry_db_audit_add(struct registry_db *d, struct registry_audit *a, struct err *err)
{
    char before[SHA256_HEX] = "";
    sqlite3_stmt *s;
    TRY(prepare(d, &s, err, "SELECT position, chain FROM audit ORDER BY position DESC LIMIT 1", ""));
    int step = sqlite3_step(s);
    if (step == SQLITE_ROW)
        column_text(s, 1, before, sizeof before);
    a->position = (step == SQLITE_ROW ? sqlite3_column_int64(s, 0) : 0) + 1;
    sqlite3_finalize(s);
    if (step != SQLITE_ROW && step != SQLITE_DONE)
        return fail(d, "read", err);
    time_text(a->at);
    TRY(chain_of(before, a, a->chain, err));
    return insert(d, "audit", audit_fields, AUDIT_FIELDS, a, a->chain, err);
}

/* Lines cut from the end break no chain: but then aliases, with all that lies below where they stand, and versions are not those that the lines make. */
static int check_against_audit(struct registry_db *d, struct err *err)
{
    static const char sql[] =
        "WITH line AS (SELECT model, alias, \"to\", position, sum(iif(action = 'promote', 1, -1)) OVER (PARTITION BY model, alias ORDER BY position) AS depth FROM audit "
        "WHERE alias IS NOT NULL), "
        "now AS (SELECT model, alias, depth, count(*) AS moves, max(position) FROM line GROUP BY model, alias), "
        "stack AS (SELECT l.model, l.alias, l.depth, l.\"to\", max(l.position) FROM line l JOIN now n USING (model, alias) WHERE l.depth <= n.depth GROUP BY 1, 2, 3), "
        "wanted AS (SELECT 'stack', model, alias, depth, \"to\" FROM stack UNION SELECT 'alias', model, alias, depth, moves FROM now UNION "
        "SELECT 'version', model, \"to\", \"to\", reason FROM audit WHERE action = 'register'), "
        "found AS (SELECT 'stack', model, alias, depth, version FROM standing UNION SELECT 'alias', model, name, depth, moves FROM alias UNION "
        "SELECT 'version', model, version, version, 'sha256 ' || sha256 FROM version) "
        "SELECT * FROM (SELECT * FROM wanted EXCEPT SELECT * FROM found) UNION SELECT * FROM (SELECT * FROM found EXCEPT SELECT * FROM wanted)";
    sqlite3_stmt *s;
    TRY(prepare(d, &s, err, sql, ""));
    int step = sqlite3_step(s);
    int rc = step == SQLITE_DONE ? 0 : step != SQLITE_ROW ? fail(d, "read", err)
             : err_set(err, ERR_CORRUPT, "'%s' of model '%s' is not what the audit log of %s says: lines are missing, or the registry was changed without it; put back a copy whose head "
                       "is known",
                       (const char *)sqlite3_column_text(s, 2), (const char *)sqlite3_column_text(s, 1), d->path);
    sqlite3_finalize(s);
    return rc;
}

int registry_db_audit(struct registry_db *d, int (*visit)(void *arg, const struct registry_audit *a, struct err *err), void *arg, char head[SHA256_HEX], struct err *err)
{
    struct rows all = {.size = sizeof(struct registry_audit)};
    struct registry_audit *a;
    sqlite3_stmt *s;
    char chain[SHA256_HEX] = "";
    size_t good = 0;
    int step = SQLITE_DONE, rc = 0;
    TRY(select_rows(d, audit_fields, AUDIT_FIELDS, ", chain", "audit ORDER BY position", &s, err));
    while (rc == 0 && (step = sqlite3_step(s)) == SQLITE_ROW) {
        a = rows_add(&all);
        row_read(s, audit_fields, AUDIT_FIELDS, a);
        column_text(s, AUDIT_FIELDS, a->chain, sizeof a->chain);
        rc = chain_of(chain, a, chain, err);
        if (rc == 0 && (a->position != (int64_t)all.count || strcmp(chain, a->chain) != 0))
            rc = err_set(err, ERR_CORRUPT, "line %lld of the audit log of %s does not verify: it, or one before it, was changed; put back a copy whose head is known",
                         (long long)a->position, d->path);
        good += rc == 0;
    }
    rc = rows_end(d, s, step, rc, err);
    if (rc == 0)
        rc = check_against_audit(d, err);
    a = (struct registry_audit *)(void *)all.at;
    struct err stopped = ERR_INIT;
    int seen = 0;
    for (size_t i = 0; i < good && visit && seen == 0; i++)   /* also of a damaged log: those before the damage */
        seen = visit(arg, &a[i], &stopped);
    free(all.at);
    if (rc == 0)
        memcpy(head, chain, SHA256_HEX);
    if (rc == 0 && seen < 0)
        *err = stopped;
    return rc < 0 ? rc : seen;
}
