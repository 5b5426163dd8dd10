/* The decision log: a table of operations over a store. The store of this version is SQLite in the run directory (write-ahead log); the appends of
 * an older leader are refused by the store itself, so two leaders can never both append. See docs/decisions/0002. */
#ifndef VIADUCT_COORDINATOR_LOG_H
#define VIADUCT_COORDINATOR_LOG_H

#include "base/err.h"
#include "coordinator/core.h"

struct decision_log;

struct decision_log_ops {
    /* Creates or opens. A damaged store is ERR_CORRUPT that names it. */
    int (*open)(const char *path, struct decision_log **out, struct err *err);
    void (*close)(struct decision_log *l);
    /* Makes this process the leader: its number is one higher than any before it, durable at return. Older leaders' appends fail from now on. */
    int (*take_over)(struct decision_log *l, uint64_t *leader, struct err *err);
    /* Appends one entry; *position is where. ERR_CONFLICT when a newer leader has taken over, and nothing is written. Without `sync` the entry survives the
     * death of this process at once, and the loss of the machine after the next sync. blob: bytes stored beside (the layout), may be NULL. */
    int (*append)(struct decision_log *l, const struct log_entry *entry, const void *blob, size_t blob_size, bool sync, uint64_t *position, struct err *err);
    /* Everything appended so far is durable at return; *below: position after the last durable entry. */
    int (*sync)(struct decision_log *l, uint64_t *below, struct err *err);
    /* Calls visit for every entry in order; its nonzero return ends the replay with that value. An entry that does not verify is ERR_CORRUPT with its
     * position named. */
    int (*replay)(struct decision_log *l, int (*visit)(void *arg, const struct log_entry *entry, const void *blob, size_t blob_size, struct err *err),
                  void *arg, struct err *err);
};
extern const struct decision_log_ops decision_log_sqlite;

/* Entry <-> bytes, by the message codecs. */
bool log_entry_encode(const struct log_entry *e, struct writer *w);
bool log_entry_decode(enum log_kind kind, struct reader *r, struct log_entry *e);

#endif
