/* The log over SQLite. In WAL mode with synchronous=NORMAL a commit writes its pages to the WAL at once and syncs nothing, so it survives the death
 * of the process; checkpoints of the WAL sync in the right order. A sync point is an fdatasync of the WAL file. After a power cut SQLite's own frame
 * checksums end the WAL at the last whole commit: the log is then shorter, never torn. */
#include "coordinator/log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checksum.h"

#define SCHEMA_VERSION 2              /* 2: phases in the plan, thresholds in records */
#define BUSY_MS 5000

struct decision_log {
    sqlite3 *db;
    sqlite3_stmt *insert;
    int wal_fd;
    uint64_t leader, next;            /* next: position after the last entry that this process knows */
    char path[PATH_MAX];
    uint8_t body[MSG_BODY_MAX];
};

static int fail(struct decision_log *l, const char *what, struct err *err)
{
    int rc = sqlite3_errcode(l->db);
    int code = rc == SQLITE_CORRUPT || rc == SQLITE_NOTADB ? ERR_CORRUPT : ERR_IO;
    return err_set(err, code, "cannot %s the decision log %s: %s", what, l->path, sqlite3_errmsg(l->db));
}

static int run(struct decision_log *l, const char *sql, const char *what, struct err *err)
{
    return sqlite3_exec(l->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : fail(l, what, err);
}

static int number(struct decision_log *l, const char *sql, uint64_t *out, struct err *err)
{
    sqlite3_stmt *s;
    if (sqlite3_prepare_v2(l->db, sql, -1, &s, NULL) != SQLITE_OK)
        return fail(l, "read", err);
    int rc = sqlite3_step(s);
    if (rc == SQLITE_ROW)
        *out = (uint64_t)sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    return rc == SQLITE_ROW ? 0 : fail(l, "read", err);
}

static int set_up(struct decision_log *l, struct err *err)
{
    uint64_t version = 0;
    TRY(run(l, "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;", "open", err));
    TRY(number(l, "PRAGMA user_version", &version, err));
    if (version > SCHEMA_VERSION)
        return err_set(err, ERR_CONFLICT, "the decision log %s has version %llu, this program writes %d: use a newer program", l->path,
                       (unsigned long long)version, SCHEMA_VERSION);
    if (version > 0 && version < SCHEMA_VERSION)
        return err_set(err, ERR_CORRUPT, "the decision log %s has version %llu, of an earlier program; this one reads %d", l->path, (unsigned long long)version,
                       SCHEMA_VERSION);
    TRY(run(l, "BEGIN IMMEDIATE;"
               "CREATE TABLE IF NOT EXISTS entry (position INTEGER PRIMARY KEY, leader INTEGER NOT NULL, kind INTEGER NOT NULL, body BLOB NOT NULL, blob BLOB,"
               " sum INTEGER NOT NULL);"
               "CREATE TABLE IF NOT EXISTS leader (one INTEGER PRIMARY KEY CHECK (one = 1), number INTEGER NOT NULL);"
               "INSERT OR IGNORE INTO leader VALUES (1, 0);"
               "PRAGMA user_version=2; COMMIT;", "create", err));
    TRY(number(l, "SELECT coalesce(max(position) + 1, 0) FROM entry", &l->next, err));
    static const char insert[] = "INSERT INTO entry SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE (SELECT number FROM leader) = ?2";
    if (sqlite3_prepare_v3(l->db, insert, -1, SQLITE_PREPARE_PERSISTENT, &l->insert, NULL) != SQLITE_OK)
        return fail(l, "open", err);
    char wal[PATH_MAX];
    snprintf(wal, sizeof wal, "%.*s-wal", PATH_MAX - 8, l->path);
    l->wal_fd = open(wal, O_RDONLY | O_CLOEXEC);
    return l->wal_fd < 0 ? err_errno(err, errno, "cannot open %s", wal) : 0;
}

static void log_close_sqlite(struct decision_log *l)
{
    if (!l)
        return;
    sqlite3_finalize(l->insert);
    sqlite3_close(l->db);
    if (l->wal_fd >= 0)
        close(l->wal_fd);
    free(l);
}

static int log_open_sqlite(const char *path, struct decision_log **out, struct err *err)
{
    struct decision_log *l = calloc(1, sizeof *l);
    if (!l)
        return err_set(err, ERR_NO_MEMORY, "no memory for the decision log");
    l->wal_fd = -1;
    snprintf(l->path, sizeof l->path, "%s", path);
    int rc = sqlite3_open_v2(path, &l->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL) == SQLITE_OK ? 0 : fail(l, "open", err);
    if (rc == 0) {
        sqlite3_busy_timeout(l->db, BUSY_MS);
        rc = set_up(l, err);
    }
    if (rc < 0) {
        log_close_sqlite(l);
        return rc;
    }
    *out = l;
    return 0;
}

static int sync_wal(struct decision_log *l, struct err *err)
{
    /* After a failed sync the pages may be gone from the cache: what was appended is not durable, and never will be by trying again. */
    return fdatasync(l->wal_fd) == 0 ? 0 : err_errno(err, errno, "cannot sync the decision log %s", l->path);
}

static int log_sync_sqlite(struct decision_log *l, uint64_t *below, struct err *err)
{
    uint64_t upto = l->next;
    TRY(sync_wal(l, err));
    *below = upto;
    return 0;
}

static int log_take_over(struct decision_log *l, uint64_t *leader, struct err *err)
{
    TRY(run(l, "BEGIN IMMEDIATE; UPDATE leader SET number = number + 1; COMMIT;", "lead", err));
    TRY(sync_wal(l, err));
    TRY(number(l, "SELECT number FROM leader", &l->leader, err));
    TRY(number(l, "SELECT coalesce(max(position) + 1, 0) FROM entry", &l->next, err));
    *leader = l->leader;
    return 0;
}

static int64_t sum_of(uint64_t position, int kind, const void *body, size_t body_size, const void *blob, size_t blob_size)
{
    uint64_t seed = position << 8 | (uint64_t)kind;
    return (int64_t)xxh64_of(blob_size ? blob : "", blob_size, xxh64_of(body, body_size, seed));
}

static int log_append(struct decision_log *l, const struct log_entry *entry, const void *blob, size_t blob_size, bool sync, uint64_t *position, struct err *err)
{
    struct writer w = writer_over(l->body, sizeof l->body);
    CHECK(log_entry_encode(entry, &w));
    sqlite3_reset(l->insert);
    sqlite3_bind_int64(l->insert, 1, (int64_t)l->next);
    sqlite3_bind_int64(l->insert, 2, (int64_t)l->leader);
    sqlite3_bind_int(l->insert, 3, (int)entry->kind);
    sqlite3_bind_blob64(l->insert, 4, l->body, w.pos, SQLITE_STATIC);
    sqlite3_bind_blob64(l->insert, 5, blob, blob_size, SQLITE_STATIC);
    sqlite3_bind_int64(l->insert, 6, sum_of(l->next, (int)entry->kind, l->body, w.pos, blob, blob_size));
    int rc = sqlite3_step(l->insert);
    bool wrote = rc == SQLITE_DONE && sqlite3_changes(l->db) == 1;
    int failed = rc != SQLITE_DONE ? fail(l, "append to", err) : 0;
    sqlite3_reset(l->insert);
    if (failed < 0)
        return failed;
    if (!wrote)
        return err_set(err, ERR_CONFLICT, "a newer coordinator leads this job; this one (number %llu) may write no more", (unsigned long long)l->leader);
    if (sync)
        TRY(sync_wal(l, err));
    *position = l->next++;
    return 0;
}

static int read_entry(struct decision_log *l, sqlite3_stmt *s, uint64_t want, struct log_entry *e, struct err *err)
{
    uint64_t position = (uint64_t)sqlite3_column_int64(s, 0);
    int kind = sqlite3_column_int(s, 1);
    const void *body = sqlite3_column_blob(s, 2), *blob = sqlite3_column_blob(s, 3);
    size_t body_size = (size_t)sqlite3_column_bytes(s, 2), blob_size = (size_t)sqlite3_column_bytes(s, 3);
    struct reader r = reader_over(body ? body : "", body_size);
    if (position != want || sum_of(position, kind, body ? body : "", body_size, blob, blob_size) != sqlite3_column_int64(s, 4) ||
        !log_entry_decode((enum log_kind)kind, &r, e))
        return err_set(err, ERR_CORRUPT, "entry %llu of the decision log %s does not verify; move the file away and resume from the newest checkpoint",
                       (unsigned long long)want, l->path);
    e->position = position;
    return 0;
}

static int log_replay(struct decision_log *l, int (*visit)(void *arg, const struct log_entry *entry, const void *blob, size_t blob_size, struct err *err),
                      void *arg, struct err *err)
{
    sqlite3_stmt *s;
    struct log_entry *e = malloc(sizeof *e);
    if (!e || sqlite3_prepare_v2(l->db, "SELECT position, kind, body, blob, sum FROM entry ORDER BY position", -1, &s, NULL) != SQLITE_OK) {
        free(e);
        return e ? fail(l, "read", err) : err_set(err, ERR_NO_MEMORY, "no memory to read the decision log");
    }
    int rc = 0, step;
    uint64_t want = 0;
    while (rc == 0 && (step = sqlite3_step(s)) == SQLITE_ROW) {
        rc = read_entry(l, s, want++, e, err);
        if (rc == 0)
            rc = visit(arg, e, sqlite3_column_blob(s, 3), (size_t)sqlite3_column_bytes(s, 3), err);
    }
    if (rc == 0 && step != SQLITE_DONE)
        rc = fail(l, "read", err);
    sqlite3_finalize(s);
    free(e);
    return rc;
}

const struct decision_log_ops decision_log_sqlite = {log_open_sqlite, log_close_sqlite, log_take_over, log_append, log_sync_sqlite, log_replay};
