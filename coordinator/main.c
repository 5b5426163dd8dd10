/* `viaduct coordinator`: opens the log, replays it into the core, listens, runs, writes the report. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "coordinator/shell.h"

#define TICK_MS 100
#define SYNC_MS 100
#define REPORT_MS 2000
#define ORPHAN_MS 10000
#define LEASE_MS 10000
#define RELAUNCH_MS 30000

static float learning_rate(const void *arg, uint64_t round, uint64_t rounds)
{
    return (float)job_lr(arg, round, rounds);
}

static uint64_t milliseconds(const char *name, uint64_t usual)
{
    const char *text = getenv(name);
    uint64_t v = text ? strtoull(text, NULL, 10) : 0;
    return v >= 500 && v <= 600000 ? v : usual;
}

/* ---- the log, replayed ---- */
static int visit(void *arg, const struct log_entry *e, const void *blob, size_t blob_size, struct err *err)
{
    struct shell *s = arg;
    if (e->kind == LOG_JOB && blob_size > 0) {
        struct declaration d;
        TRY(declaration_decode(&d, blob, blob_size, err));
        declaration_fini(&s->declaration);
        free(s->declaration_bytes);
        s->declaration = d;
        s->declaration_bytes = malloc(blob_size);
        CHECK(s->declaration_bytes != NULL);
        memcpy(s->declaration_bytes, blob, blob_size);
        s->declaration_size = blob_size;
    } else if (e->kind == LOG_COMMIT && e->u.record.round == s->history.count) {
        history_commit(&s->history, &e->u.record, 0);
    } else if (e->kind == LOG_CHECKPOINT) {
        history_checkpoint(&s->history, e->u.checkpoint.step, e->position);
    } else if (e->kind == LOG_VIEW) {
        if (e->u.view.generation != s->generation)
            history_cut(&s->history, e->u.view.base);
        s->generation = e->u.view.generation;
    }
    core_replay(s->core, e);
    return 0;
}

struct finding { struct shell *s; unsigned damaged; char first[600]; };

static void on_damaged(void *arg, const char *text)
{
    struct finding *f = arg;
    if (f->damaged++ == 0)
        snprintf(f->first, sizeof f->first, "%s", text);
    shell_event(f->s, "damaged", "coordinator", 0, "%s", text);
}

/* A fresh start begins at the newest checkpoint that verifies, under any site's folder. */
static int find_base(struct shell *s, struct err *err)
{
    char root[700];
    struct finding f = {.s = s};
    struct ckpt_found found;
    struct ckpt_manifest m;
    snprintf(root, sizeof root, "%s/ckpt", s->run.path);
    int rc = ckpt_newest(&fs_real, root, &found, &m, on_damaged, &f, err);
    if (rc == ERR_NOT_FOUND && f.damaged)
        return err_set(err, ERR_NOT_FOUND, "the only copies of this run's checkpoints are damaged; first: %s. Bring back a copy of that folder, or start anew in another --dir",
                       f.first);
    if (rc == ERR_NOT_FOUND)
        return 0;
    if (rc < 0)
        return rc;
    s->config.checkpoint.have = true;
    s->config.checkpoint.step = m.meta.step;
    s->config.checkpoint.generation = m.meta.generation;
    s->config.checkpoint.view = m.meta.view;
    s->config.checkpoint.pass = m.meta.pass;
    s->config.checkpoint.first = m.meta.position;
    s->report.have_checkpoint = true;
    s->report.checkpoint_step = m.meta.step;
    snprintf(s->report.checkpoint_path, sizeof s->report.checkpoint_path, "ckpt/%s/step-%08llu", found.site, (unsigned long long)found.step);
    for (uint32_t i = 0; i < s->job.spec.site_count; i++)
        if (strcmp(s->job.spec.sites[i].name, found.site) == 0)
            s->report.checkpoint_sites = 1ull << i;
    shell_event(s, "resumed", "coordinator", m.meta.step, "from %s", s->report.checkpoint_path);
    ckpt_manifest_fini(&m);
    return 0;
}

static int open_log(struct shell *s, struct err *err)
{
    char path[700];
    uint64_t leader;
    snprintf(path, sizeof path, "%s/log/decisions.db", s->run.path);
    TRY(decision_log_sqlite.open(path, &s->db, err));
    TRY(decision_log_sqlite.take_over(s->db, &leader, err));
    placement_of(&s->job.spec, &s->config);
    s->config.has_export = true;          /* it evaluates and hashes in every case */
    s->config.lease_ms = milliseconds("VIADUCT_LEASE_MS", LEASE_MS);
    s->config.relaunch_ms = milliseconds("VIADUCT_RELAUNCH_MS", RELAUNCH_MS);
    s->config.lr = learning_rate;
    s->config.lr_arg = &s->job.spec.optimizer;
    s->config.fresh = s->fresh;
    if (s->fresh)
        TRY(find_base(s, err));
    void *memory = aligned_alloc(16, core_size());
    s->out = malloc(sizeof *s->out);
    CHECK(memory && s->out);
    s->core = core_init(memory, &s->config);
    TRY(decision_log_sqlite.replay(s->db, visit, s, err));
    if (s->fresh)
        history_cut(&s->history, s->config.checkpoint.have ? s->config.checkpoint.step : 0);
    return 0;
}

static int listen_at(struct shell *s, struct err *err)
{
    char address[ADDRESS_LIMIT], path[700], text[400];
    s->hello = (struct msg_hello){.version_min = FRAME_VERSION, .version_max = FRAME_VERSION, .who = {.role = ROLE_COORDINATOR}};
    snprintf(s->hello.job, sizeof s->hello.job, "%s", s->run.job);
    snprintf(s->hello.build, sizeof s->hello.build, "%s", VIADUCT_VERSION);
    snprintf(path, sizeof path, "%s/state/tls", s->run.path);
    TRY(identity_load(path, "coordinator", ROLE_COORDINATOR, &s->identity, err));
    snprintf(address, sizeof address, "tls:%.140s", s->job.spec.listen);
    TRY(net_listen(s->loop, address, s->identity, &s->hello, &shell_link_ops, s, &s->listen_tls, err));
    snprintf(address, sizeof address, "unix:%s/c", s->run.sockets);
    TRY(net_listen(s->loop, address, NULL, &s->hello, &shell_link_ops, s, &s->listen_unix, err));
    snprintf(path, sizeof path, "%s/state/coordinator.addr", s->run.path);
    snprintf(text, sizeof text, "%s\n%s\n", listener_address(s->listen_tls), listener_address(s->listen_unix));
    return fs_publish_file(&fs_real, path, text, strlen(text), err);
}

/* ---- signals, parent ---- */
static void on_term(void *arg, int signo)
{
    (void)signo;
    shell_stop_asked(arg);
}

static void on_orphaned(void *arg)
{
    struct shell *s = arg;
    if (!s->ending)
        log_error(&s->log, "viaduct run is gone and the run could not be saved within %d s", ORPHAN_MS / 1000);
    shell_end(s, 75, 0);
}

static void on_parent_line(void *arg, const char *line)
{
    struct shell *s = arg;
    if (line)
        return;
    log_warn(&s->log, "viaduct run is gone: a checkpoint, then the end");
    shell_stop_asked(s);
    timer_start(s->loop, ORPHAN_MS, 0, on_orphaned, s);
}

static int watch_parent(struct shell *s, struct err *err)
{
    const char *text = getenv("VIADUCT_PARENT_FD");
    if (!text || !*text)
        return 0;
    int fd = (int)strtol(text, NULL, 10);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    return loop_read_lines(s->loop, fd, on_parent_line, s, err);
}

static void on_report_timer(void *arg)
{
    struct shell *s = arg;
    if (!s->ending)
        shell_report(s, "running");
}

/* ---- start ---- */
static int open_files(struct shell *s, struct err *err)
{
    char path[700];
    snprintf(path, sizeof path, "%s/events.jsonl", s->run.path);
    s->events = fopen(path, "ae");
    if (!s->events)
        return err_errno(err, errno, "cannot write %s", path);
    s->restarts = restarts_open(s->run.path, true);
    uint8_t digest[SHA256_BYTES];
    s->report.name = s->job.spec.name;
    s->report.samples_per_second = s->report.train_loss = s->report.epochs = NAN;
    s->report.site_count = s->job.spec.site_count;
    s->report.lanes = s->job.spec.lanes;
    for (uint32_t i = 0; i < s->job.spec.site_count; i++) {
        s->report.site[i].name = s->job.spec.sites[i].name;
        s->report.site[i].ranks = s->job.spec.sites[i].ranks;
    }
    sha256_of(s->job.resolved_yaml, strlen(s->job.resolved_yaml), digest);
    hex_of(digest, sizeof digest, s->report.spec_sha256);
    return 0;
}

static int set_up(struct shell *s, struct err *err)
{
    char path[700];
    snprintf(path, sizeof path, "%s/spec.yaml", s->run.path);
    TRY(job_load(&s->job, path, NULL, 0, false, err));
    TRY(loop_new(&s->loop, err));
    s->started_ms = loop_now_ms(s->loop);
    TRY(open_files(s, err));
    TRY(open_log(s, err));
    failpoint(FAIL_COORDINATOR_START);
    if (!s->fresh) {
        shell_event(s, "restarted", "coordinator", core_round(s->core), "the log holds %llu steps", (unsigned long long)core_round(s->core));
        restarts_died(s->restarts, "coordinator", core_round(s->core), "killed or crashed", s->started_ms);
        restarts_back(s->restarts, "coordinator", s->started_ms);
    } else {
        shell_event(s, "started", "coordinator", core_round(s->core), "pid %d", (int)getpid());
    }
    snprintf(path, sizeof path, "%s/metrics.jsonl", s->run.path);
    TRY(history_write_metrics(&s->history, path, &s->metrics, err));
    TRY(listen_at(s, err));
    TRY(loop_on_signal(s->loop, SIGTERM, on_term, s, err));
    TRY(loop_on_signal(s->loop, SIGINT, on_term, s, err));
    TRY(watch_parent(s, err));
    core_start(s->core, loop_now_ms(s->loop), s->out);
    shell_run(s, loop_now_ms(s->loop));
    shell_report(s, "running");
    timer_start(s->loop, TICK_MS, TICK_MS, shell_tick, s);
    timer_start(s->loop, SYNC_MS, SYNC_MS, shell_sync, s);
    timer_start(s->loop, REPORT_MS, REPORT_MS, on_report_timer, s);
    return 0;
}

static int parse(struct shell *s, int argc, char **argv, struct err *err)
{
    const char *run = NULL;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--run") == 0 && i + 1 < argc)
            run = argv[++i];
        else if (strcmp(argv[i], "--fresh") == 0)
            s->fresh = true;
        else
            return err_set(err, ERR_USAGE, "unknown argument '%s'", argv[i]);
    }
    if (!run)
        return err_set(err, ERR_USAGE, "--run DIR is needed; `viaduct run` starts the coordinator by itself");
    return rundir_open(&s->run, run, err);
}

static const char *final_status(const struct shell *s)
{
    if (core_phase(s->core) == CORE_FAILED || s->exit_code != 0)
        return "failed";
    return core_plan(s->core)->rounds > 0 && core_round(s->core) >= core_plan(s->core)->rounds ? "completed" : "stopped";
}

static void tear_down(struct shell *s)
{
    if (s->loop)
        loop_free(s->loop);
    if (s->db)
        decision_log_sqlite.close(s->db);
    if (s->events)
        fclose(s->events);
    if (s->metrics)
        fclose(s->metrics);
    restarts_close(s->restarts);
    identity_free(s->identity);
    declaration_fini(&s->declaration);
    free(s->declaration_bytes);
    free(s->history.round);
    free(s->wan);
    free(s->core);
    free(s->out);
    job_fini(&s->job);
    log_close(&s->log);
}

int coordinator_main(int argc, char **argv)
{
    struct err err = ERR_INIT;
    struct shell *s = calloc(1, sizeof *s);
    CHECK(s != NULL);
    int rc = parse(s, argc, argv, &err);
    if (rc == 0) {
        char path[700];
        snprintf(path, sizeof path, "%s/log/coordinator.jsonl", s->run.path);
        log_open(&s->log, path, "coordinator", s->run.job);
        snprintf(path, sizeof path, "%s/state", s->run.path);
        const char *wrong = failpoint_init(path);
        rc = wrong ? err_set(&err, ERR_USAGE, "%s", wrong) : set_up(s, &err);
    }
    if (rc == 0) {
        loop_run(s->loop);
        shell_report(s, final_status(s));
    } else {
        fprintf(stderr, "viaduct: coordinator: %s\n", err.text);
        s->exit_code = err_exit_code(rc);
    }
    tear_down(s);
    int code = s->exit_code;
    free(s);
    return code;
}
