/* The Slurm job that a run lives in: what its environment and scontrol say, why a start ended, how often it may start again. */
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"
#include "slurm/slurm.h"

struct slurm_environment slurm_environment_read(void)
{
    struct slurm_environment e = {0};
    const char *job = getenv("SLURM_JOB_ID"), *restart = getenv("SLURM_RESTART_COUNT"), *het = getenv("SLURM_HET_SIZE"), *node = getenv("SLURMD_NODENAME");
    e.job = job ? strtoull(job, NULL, 10) : 0;
    e.inside = e.job > 0;
    e.restart = restart ? (uint32_t)strtoul(restart, NULL, 10) : 0;
    e.heterogeneous = het && strtoul(het, NULL, 10) > 1;
    if (node && *node)
        snprintf(e.node, sizeof e.node, "%.63s", node);
    else if (gethostname(e.node, sizeof e.node) < 0)
        snprintf(e.node, sizeof e.node, "unknown");
    e.node[sizeof e.node - 1] = '\0';
    return e;
}

/* ---- states ---- */
static const char *const state_names[SLURM_STATES] = {
    "UNKNOWN", "PENDING", "RUNNING", "SUSPENDED", "COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE",
    "OUT_OF_MEMORY", "COMPLETING", "CONFIGURING", "RESIZING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "REVOKED", "SIGNALING",
};

enum slurm_state slurm_state_of(const char *text)
{
    size_t n = strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_");
    for (unsigned s = 1; n && s < SLURM_STATES; s++)
        if (strlen(state_names[s]) == n && strncmp(state_names[s], text, n) == 0)
            return (enum slurm_state)s;
    return SLURM_UNKNOWN;
}

const char *slurm_state_name(enum slurm_state state) { return state_names[state < SLURM_STATES ? state : SLURM_UNKNOWN]; }

/* ---- scontrol -o show job ---- */
/* The value of " Key=": up to the next blank. */
static bool value_of(const char *text, const char *key, char *out, size_t size)
{
    size_t n = strlen(key);
    for (const char *p = text; (p = strstr(p, key)); p += n)
        if ((p == text || p[-1] == ' ' || p[-1] == '\n') && p[n] == '=') {
            snprintf(out, size, "%.*s", (int)strcspn(p + n + 1, " \n"), p + n + 1);
            return true;
        }
    return false;
}

static int64_t time_of(const char *text)
{
    struct tm t = {.tm_isdst = -1};
    char *end = strptime(text, "%Y-%m-%dT%H:%M:%S", &t);
    return end && !*end ? (int64_t)mktime(&t) : 0;
}

void slurm_job_parse(const char *text, struct slurm_job *out)
{
    char value[128];
    *out = (struct slurm_job){0};
    out->known = value_of(text, "JobState", value, sizeof value);
    if (out->known)
        out->state = slurm_state_of(value);
    if (value_of(text, "Restarts", value, sizeof value))
        out->restarts = (uint32_t)strtoul(value, NULL, 10);
    if (value_of(text, "EndTime", value, sizeof value))
        out->end_s = time_of(value);
    if (value_of(text, "PreemptTime", value, sizeof value))
        out->preempt_s = time_of(value);
    out->time_limit_reason = value_of(text, "Reason", value, sizeof value) && strcmp(value, "TimeLimit") == 0;
}

void slurm_node_address(const char *text, char *out, size_t size)
{
    if (!value_of(text, "NodeAddr", out, size))
        out[0] = '\0';
}

/* ---- causes ---- */
static const char *const cause_names[CAUSES] = {"time_limit", "preemption", "node_failure", "job_failure", "cancelled", "none"};
static const char *const cause_texts[CAUSES] = {"time limit", "preemption", "node failure", "job failure", "cancelled", "an end without a word"};

_Static_assert((int)CAUSE_TIME_LIMIT == (int)RETRY_TIME_LIMIT && (int)CAUSE_PREEMPTION == (int)RETRY_PREEMPTION &&
               (int)CAUSE_NODE_FAILURE == (int)RETRY_NODE_FAILURE && (int)CAUSE_JOB_FAILURE == (int)RETRY_JOB_FAILURE, "budgets are counted by cause");

const char *slurm_cause_word(enum slurm_cause cause) { return cause_names[cause < CAUSES ? cause : CAUSE_NONE]; }
const char *slurm_cause_text(enum slurm_cause cause) { return cause_texts[cause < CAUSES ? cause : CAUSE_NONE]; }

enum slurm_cause slurm_why_term(const struct slurm_job *job, bool warned, int64_t planned_end_s, int64_t now_s)
{
    static const struct { enum slurm_state state; enum slurm_cause cause; } certain[] = {
        {SLURM_PREEMPTED, CAUSE_PREEMPTION}, {SLURM_TIMEOUT, CAUSE_TIME_LIMIT}, {SLURM_NODE_FAIL, CAUSE_NODE_FAILURE}, {SLURM_BOOT_FAIL, CAUSE_NODE_FAILURE},
        {SLURM_CANCELLED, CAUSE_CANCELLED}, {SLURM_DEADLINE, CAUSE_CANCELLED},
    };
    for (unsigned i = 0; i < ARRAY_LEN(certain); i++)
        if (job->state == certain[i].state)
            return certain[i].cause;
    if (job->preempt_s)                   /* in its grace time, or ending after it; its end was moved to that */
        return CAUSE_PREEMPTION;
    if (warned || job->time_limit_reason || (planned_end_s && now_s >= planned_end_s))
        return CAUSE_TIME_LIMIT;
    return CAUSE_CANCELLED;               /* a person: scancel says it by this signal alone */
}

enum slurm_cause slurm_why_silent(enum slurm_state accounted)
{
    switch (accounted) {
    case SLURM_PREEMPTED: return CAUSE_PREEMPTION;
    case SLURM_TIMEOUT: return CAUSE_TIME_LIMIT;
    case SLURM_CANCELLED: case SLURM_DEADLINE: return CAUSE_CANCELLED;
    case SLURM_FAILED: case SLURM_OUT_OF_MEMORY: case SLURM_COMPLETED: return CAUSE_JOB_FAILURE;
    default: return CAUSE_NODE_FAILURE;   /* whatever ends a batch script so that it cannot say a word */
    }
}

/* ---- the book ---- */
static bool read_start(const char *line, struct slurm_book *b)
{
    unsigned long long job;
    unsigned restart;
    char node[64];
    long long at;
    if (sscanf(line, "start %llu %u %63s %lld", &job, &restart, node, &at) != 4)
        return false;
    if (job != b->job && !b->resubmitted)   /* somebody submitted it again: budgets begin anew */
        memset(b->used, 0, sizeof b->used);
    b->resubmitted = false;
    b->starts++;
    b->job = job;
    b->restart = restart;
    b->open = true;
    b->last_s = at;
    return true;
}

static bool read_end(const char *line, struct slurm_book *b)
{
    char name[32];
    long long at;
    if (strcmp(line, "resubmitted") == 0 && b->starts > 0 && !b->open)
        return b->resubmitted = true;
    if (sscanf(line, "end %31s %lld", name, &at) != 2)
        return false;
    unsigned c = 0;
    while (c < CAUSES && strcmp(cause_names[c], name) != 0)
        c++;
    if (c == CAUSES)
        return false;
    b->open = false;
    b->last = (enum slurm_cause)c;
    b->last_s = at;
    if (c < RETRIES)
        b->used[c]++;
    return true;
}

int slurm_book_parse(const char *text, struct slurm_book *out, struct err *err)
{
    struct slurm_book b = {.last = CAUSE_NONE};
    unsigned number = 1;
    for (const char *line = text; *line; number++) {
        size_t n = strcspn(line, "\n");
        char copy[200];
        if (n >= sizeof copy || b.starts > SLURM_STARTS_MAX)
            return err_set(err, ERR_CORRUPT, "line %u is too long, or there are more than %d starts", number, SLURM_STARTS_MAX);
        if (!line[n])                     /* the host died while it wrote, or its disk was full */
            break;
        snprintf(copy, sizeof copy, "%.*s", (int)n, line);
        if (!read_start(copy, &b) && !read_end(copy, &b))
            return err_set(err, ERR_CORRUPT, "line %u is no start and no end", number);
        line += n + 1;
    }
    *out = b;
    return 0;
}

bool slurm_may_retry(const struct slurm_book *book, enum slurm_cause cause, const uint32_t retries[RETRIES])
{
    return (unsigned)cause < RETRIES && book->used[cause] < retries[cause];
}
