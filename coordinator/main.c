/* `viaduct coordinator`: opens the log, replays it into the core, listens, runs, writes the report. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "coordinator/shell.h"

#define TICK_MS 100
#define DOOR_MS 50               /* between looks whether the front door is there */
#define SYNC_MS 100
#define REPORT_MS 2000
#define ROOM_BYTES 65536
#define ORPHAN_MS 10000
#define LEASE_MS 10000
#define RELAUNCH_MS 30000

static float learning_rate(const void *arg, const struct phases *phases, uint64_t round)
{
    uint64_t first;
    const struct phase *phase = phases_find(phases, round, &first);
    return (float)(phase->kind == PHASE_PRUNE ? job_prune_lr : job_lr)(arg, round - first, phase->end - first);
}

static uint64_t milliseconds(const char *name, uint64_t usual)
{
    const char *text = getenv(name);
    uint64_t v = text ? strtoull(text, NULL, 10) : 0;
    return v >= 500 && v <= 600000 ? v : usual;
}

/* ---- the log, replayed ---- */
static int take_blob(struct shell *s, const void *blob, size_t size, struct err *err)
{
    struct declaration d;
    TRY(declaration_decode(&d, blob, size, err));
    declaration_fini(&s->declaration);
    free(s->declaration_bytes);
    s->declaration = d;
    s->declaration_bytes = malloc(size);
    CHECK(s->declaration_bytes != NULL);
    memcpy(s->declaration_bytes, blob, size);
    s->declaration_size = size;
    snprintf(s->declared_by, sizeof s->declared_by, "the run so far");
    return 0;
}

static int visit(void *arg, const struct log_entry *e, const void *blob, size_t blob_size, struct err *err)
{
    struct shell *s = arg;
    if (e->kind == LOG_JOB && blob_size > 0)
        TRY(take_blob(s, blob, blob_size, err));
    history_entry(&s->history, e, 0);
    core_replay(s->core, e);
    return 0;
}

static int ignore(void *arg, const struct log_entry *e, const void *blob, size_t blob_size, struct err *err)
{
    (void)arg, (void)e, (void)blob, (void)blob_size, (void)err;
    return 0;
}

static int verify_log(const char *path, struct err *err)
{
    struct decision_log *db;
    TRY(decision_log_sqlite.open(path, &db, err));
    int rc = decision_log_sqlite.replay(db, ignore, NULL, err);
    decision_log_sqlite.close(db);
    return rc;
}

/* With the log lost, the newest checkpoint that verifies wins: a fresh start puts a damaged log aside and says so. */
static int put_damaged_log_aside(struct shell *s, const char *path, struct err *err)
{
    static const char *const suffixes[] = {"", "-wal", "-shm"};
    struct err why = ERR_INIT;
    int rc = verify_log(path, &why);
    if (rc != ERR_CORRUPT)
        return rc < 0 ? (*err = why, rc) : 0;
    for (unsigned i = 0; i < ARRAY_LEN(suffixes); i++) {
        char from[720], to[760];
        snprintf(from, sizeof from, "%s%s", path, suffixes[i]);
        snprintf(to, sizeof to, "%s.damaged-%llu%s", path, (unsigned long long)clock_now_ms(), suffixes[i]);
        if (rename(from, to) < 0 && errno != ENOENT)
            return err_errno(err, errno, "%s; it cannot be put aside as %s", why.text, to);
    }
    shell_event(s, "damaged", "coordinator", 0, "%s; put aside, the run goes on from its newest checkpoint", why.text);
    return 0;
}

static int open_log(struct shell *s, struct err *err)
{
    char path[700];
    uint64_t leader;
    snprintf(path, sizeof path, "%s/log/decisions.db", s->run.path);
    if (s->fresh)
        TRY(put_damaged_log_aside(s, path, err));
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
        TRY(shell_find_base(s, err));
    void *memory = aligned_alloc(16, core_size());
    s->out = malloc(sizeof *s->out);
    CHECK(memory && s->out);
    s->core = core_init(memory, &s->config);
    TRY(decision_log_sqlite.replay(s->db, visit, s, err));
    uint64_t base = s->config.checkpoint.have ? s->config.checkpoint.step : 0;
    s->ended.lost_steps = s->history.count > base ? s->history.count - base : 0;
    if (s->fresh)
        history_begin_at(&s->history, base);
    return 0;
}

/* A fresh start that died before its first view was logged is still one: nothing that an older log tells of lives. */
static void marker(const struct shell *s, char out[700]) { snprintf(out, 700, "%s/state/fresh", s->run.path); }

static int begin_fresh(struct shell *s, struct err *err)
{
    char path[700];
    marker(s, path);
    if (s->restarted) {
        s->fresh = access(path, F_OK) == 0;
        return 0;
    }
    s->fresh = true;
    TRY(fs_publish_file(&fs_real, path, "", 0, err));
    shell_stop_path(s, path);             /* of an earlier start */
    if (unlink(path) < 0 && errno != ENOENT)
        return err_errno(err, errno, "cannot remove %s", path);
    snprintf(path, sizeof path, "%s/export/result.json", s->run.path);   /* of an earlier end */
    return unlink(path) == 0 || errno == ENOENT ? 0 : err_errno(err, errno, "cannot remove %s", path);
}

/* Before anybody can join, so that no one has seen a view that a restart would take back. */
static int has_begun(struct shell *s, struct err *err)
{
    char path[700];
    marker(s, path);
    if (!s->fresh || s->ending)
        return 0;
    if (unlink(path) < 0)
        return err_errno(err, errno, "cannot remove %s", path);
    snprintf(path, sizeof path, "%s/state", s->run.path);
    return fs_fsync_dir(&fs_real, path, err);
}

/* Before anything is touched: who cannot have this run's socket is not its coordinator, and leaves its log and files alone. */
static int listen_all(struct shell *s, struct err *err)
{
    char address[ADDRESS_LIMIT], path[700];
    s->hello = (struct msg_hello){.version_min = FRAME_VERSION, .version_max = FRAME_VERSION, .features = FEATURE_TIMES | FEATURE_BRINGS | FEATURE_READY, .who = {.role = ROLE_COORDINATOR}};
    snprintf(s->hello.job, sizeof s->hello.job, "%s", s->run.job);
    snprintf(s->hello.build, sizeof s->hello.build, "%s", VIADUCT_VERSION);
    snprintf(address, sizeof address, "unix:%s/c", s->run.sockets);
    s->superseded = true;
    TRY(net_listen(s->loop, address, NULL, &s->hello, &shell_link_ops, s, &s->listen_unix, err));
    s->superseded = false;
    snprintf(path, sizeof path, "%s/state/tls", s->run.path);
    TRY(identity_load(path, "coordinator", ROLE_COORDINATOR, &s->identity, err));
    if (s->job.spec.coordinator_door)
        return 0;                         /* when that door is there: be_found */
    snprintf(address, sizeof address, "tls:%.140s", s->job.spec.listen);
    return net_listen(s->loop, address, s->identity, &s->hello, &shell_link_ops, s, &s->listen_tls, err);
}

/* Who listens at every address of its host is found at the one that it was told. */
static void address_for_others(const struct shell *s, char *out, size_t size)
{
    const char *at = s->listen_tls ? listener_address(s->listen_tls) : "";
    bool everywhere = strncmp(at, "tls:0.0.0.0:", 12) == 0 || strncmp(at, "tls:[::]:", 9) == 0;
    if (everywhere && s->host)
        snprintf(out, size, strchr(s->host, ':') ? "tls:[%s]%s" : "tls:%s%s", s->host, strrchr(at, ':'));
    else
        snprintf(out, size, "%s", at);
}

static int tell_addresses(const struct shell *s, struct err *err)
{
    char path[700], text[600], at[ADDRESS_LIMIT + 32];
    address_for_others(s, at, sizeof at);
    snprintf(path, sizeof path, "%s/state/coordinator.addr", s->run.path);
    snprintf(text, sizeof text, "%s%s%s\n", at, at[0] ? "\n" : "", listener_address(s->listen_unix));
    return fs_publish_file(&fs_real, path, text, strlen(text), err);
}

/* ERR_NOT_FOUND: the agent of that site has not opened its door yet. */
static int listen_at_door(struct shell *s, const char *site, struct err *err)
{
    char door[ADDRESS_LIMIT], passing[108], name[80];
    TRY(rundir_door_stands(&s->run, site, door, err));   /* who reads coordinator.addr is on this side of any router */
    rundir_door_socket(&s->run, shell_site(s, site), passing);
    snprintf(name, sizeof name, "coordinator.%s", s->run.job);
    const struct door_place place = {.address = door, .passing = passing, .name = name};
    TRY(net_listen_at_door(s->loop, &place, s->identity, &s->hello, &shell_link_ops, s, &s->listen_tls, err));
    return tell_addresses(s, err);
}

static void on_door_timer(void *arg)
{
    struct shell *s = arg;
    struct err err = ERR_INIT;
    int rc = s->ending ? 0 : listen_at_door(s, s->job.spec.coordinator_door, &err);
    if (rc == ERR_NOT_FOUND)
        return;
    timer_stop(s->door_timer);
    s->door_timer = NULL;
    if (rc == 0)
        return;
    shell_error(s, rc, err.text);
    log_error(&s->log, "%s", s->error);
    shell_end(s, err_exit_code(rc), 0);
}

/* From here on others find us: this machine's at once, agents, ranks and shards when the front door is there, if it is to be one. */
static int be_found(struct shell *s, struct err *err)
{
    TRY(tell_addresses(s, err));
    if (s->job.spec.coordinator_door)
        s->door_timer = timer_start(s->loop, 0, DOOR_MS, on_door_timer, s);
    return 0;
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
    if (s->ending)
        return;
    char text[120];
    snprintf(text, sizeof text, "viaduct run was gone and the run could not be saved within %d s; resume it", ORPHAN_MS / 1000);
    shell_error(s, ERR_TEMPORARY, text);
    log_error(&s->log, "%s", s->error);
    shell_end(s, err_exit_code(ERR_TEMPORARY), 0);
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
    if (fd <= STDERR_FILENO || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
        return err_set(err, ERR_USAGE, "VIADUCT_PARENT_FD=%s is no open descriptor", text);
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
        s->topology.sent_before[i] = topology_sent_before(s->run.path, s->job.spec.sites[i].name);
    }
    sha256_of(s->job.resolved_yaml, strlen(s->job.resolved_yaml), digest);
    hex_of(digest, sizeof digest, s->report.spec_sha256);
    return 0;
}

/* When the one before us last wrote its log: it died after that. */
static uint64_t last_written_ms(const struct shell *s)
{
    char path[700];
    struct stat st;
    struct timespec now;
    snprintf(path, sizeof path, "%s/log/decisions.db-wal", s->run.path);
    clock_gettime(CLOCK_REALTIME, &now);
    if (stat(path, &st) < 0)
        return s->started_ms;
    int64_t ago = (now.tv_sec - st.st_mtim.tv_sec) * 1000 + (now.tv_nsec - st.st_mtim.tv_nsec) / 1000000;
    return s->started_ms - MIN((uint64_t)MAX(ago, (int64_t)0), s->started_ms);
}

static void tell_start(struct shell *s, uint64_t died_ms)
{
    if (!s->restarted) {
        shell_event(s, "started", "coordinator", s->history.count, "pid %d", (int)getpid());
        if (!s->ended.who)
            return;
        shell_event(s, "started again", s->ended.who, s->history.count, "after: %s", s->ended.cause);
        restarts_died(s->restarts, s->ended.who, s->history.count + s->ended.lost_steps, s->ended.cause, s->started_ms - MIN(s->ended.ago_ms, s->started_ms));
        if (s->ended.lost_steps)
            restarts_lost(s->restarts, s->ended.lost_steps);
        return;
    }
    shell_event(s, "restarted", "coordinator", s->history.count, "pid %d, the log holds %llu steps", (int)getpid(), (unsigned long long)s->history.count);
    restarts_died(s->restarts, "coordinator", s->history.count, "killed or crashed", died_ms);
}

static int open_metrics(struct shell *s, struct err *err)
{
    char path[700];
    snprintf(path, sizeof path, "%s/metrics.jsonl", s->run.path);
    double newest = history_read_seconds(&s->history, path);
    s->seconds_before = MAX(newest, restarts_wall_before(s->restarts));
    return shell_metrics_rewrite(s, err);
}

static int begin(struct shell *s, struct err *err)
{
    core_start(s->core, loop_now_ms(s->loop), s->out);
    shell_run(s);
    TRY(has_begun(s, err));
    char path[700];
    shell_stop_path(s, path);
    if (access(path, F_OK) == 0)          /* the coordinator before this one died over it */
        shell_stop_asked(s);
    shell_report(s, "running");
    timer_start(s->loop, TICK_MS, TICK_MS, shell_tick, s);
    timer_start(s->loop, SYNC_MS, SYNC_MS, shell_sync, s);
    timer_start(s->loop, REPORT_MS, REPORT_MS, on_report_timer, s);
    return 0;
}

/* On a full disk the last report and the last words still find room: a file held for them, given up at the end. */
static void room_path(const struct shell *s, char out[700]) { snprintf(out, 700, "%s/state/room", s->run.path); }

static void give_room_up(const struct shell *s)
{
    char path[700];
    room_path(s, path);
    if (s->run.path[0] && !s->superseded)
        unlink(path);
}

static int keep_room(const struct shell *s, struct err *err)
{
    char path[700];
    room_path(s, path);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600), why = fd < 0 ? errno : fs_reserve(fd, ROOM_BYTES);
    if (fd >= 0)
        close(fd);
    return why ? err_errno(err, why, "cannot keep room for the report in %s", path) : 0;
}

static int set_up(struct shell *s, struct err *err)
{
    char path[700];
    snprintf(path, sizeof path, "%s/spec.yaml", s->run.path);
    TRY(job_load(&s->job, path, NULL, 0, false, err));
    TRY(loop_new(&s->loop, err));
    s->started_ms = loop_now_ms(s->loop);
    uint64_t died_ms = last_written_ms(s);
    TRY(open_files(s, err));
    TRY(listen_all(s, err));
    TRY(keep_room(s, err));
    TRY(begin_fresh(s, err));
    TRY(open_log(s, err));
    failpoint(FAIL_COORDINATOR_START);
    tell_start(s, died_ms);
    TRY(open_metrics(s, err));
    TRY(be_found(s, err));
    shell_scrape_open(s);
    TRY(loop_on_signal(s->loop, SIGTERM, on_term, s, err));
    TRY(loop_on_signal(s->loop, SIGINT, on_term, s, err));
    TRY(watch_parent(s, err));
    return begin(s, err);
}

static int parse(struct shell *s, int argc, char **argv, struct err *err)
{
    const char *run = NULL;
    s->restarted = true;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--run") == 0 && i + 1 < argc)
            run = argv[++i];
        else if (strcmp(argv[i], "--fresh") == 0)
            s->restarted = false;
        else if (strcmp(argv[i], "--host") == 0 && i + 1 < argc)
            s->host = argv[++i];
        else if (strcmp(argv[i], "--ended") == 0 && i + 3 < argc) {   /* what the start before this one fell to */
            s->ended.who = argv[++i];
            s->ended.cause = argv[++i];
            s->ended.ago_ms = strtoull(argv[++i], NULL, 10);
        } else
            return err_set(err, ERR_USAGE, "unknown argument '%s'", argv[i]);
    }
    if (!run)
        return err_set(err, ERR_USAGE, "--run DIR is needed; `viaduct run` starts the coordinator by itself");
    return rundir_open(&s->run, run, err);
}

/* The last line of events.jsonl, then the report. */
static void tell_end(struct shell *s)
{
    const char *outcome = shell_outcome(s), *status = strcmp(outcome, "running") == 0 ? "stopped" : outcome;
    uint64_t steps = s->history.count, kept = s->report.have_checkpoint ? s->report.checkpoint_step : 0;
    bool failed = strcmp(status, "failed") == 0;
    if (!s->superseded)
        shell_event(s, status, "coordinator", steps, "%s", failed ? s->error : kept ? s->report.checkpoint_path : "no checkpoint");
    if (failed)
        restarts_unmended(s->restarts, steps > kept ? steps - kept : 0);
    shell_report(s, status);
    shell_scrape_end(s, status);
}

static void tear_down(struct shell *s)
{
    if (s->loop)
        loop_free(s->loop);
    if (s->db)
        decision_log_sqlite.close(s->db);
    if (s->events)
        fclose(s->events);
    shell_metrics_close(s);
    restarts_close(s->restarts);
    identity_free(s->identity);
    identity_free(s->web);
    declaration_fini(&s->declaration);
    free(s->declaration_bytes);
    history_free(&s->history);
    free(s->wan);
    free(s->core);
    free(s->out);
    job_fini(&s->job);
    log_close(&s->log);
}

static int start(struct shell *s, int argc, char **argv, struct err *err)
{
    char path[700];
    TRY(parse(s, argc, argv, err));
    snprintf(path, sizeof path, "%s/log/coordinator.jsonl", s->run.path);
    if (log_open(&s->log, path, "coordinator", s->run.job) < 0)
        return err_set(err, ERR_IO, "cannot write %s", path);
    snprintf(path, sizeof path, "%s/state", s->run.path);
    const char *wrong = failpoint_init(path);
    if (wrong)
        return err_set(err, ERR_USAGE, "%s", wrong);
    return set_up(s, err);
}

int coordinator_main(int argc, char **argv)
{
    struct err err = ERR_INIT;
    struct shell *s = calloc(1, sizeof *s);
    CHECK(s != NULL);
    int rc = start(s, argc, argv, &err);
    if (rc == 0) {
        loop_run(s->loop);
    } else {
        s->exit_code = err_exit_code(rc);
        shell_error(s, rc, err.text);
    }
    give_room_up(s);
    shell_metrics_write(s, true);
    if (s->restarts)
        tell_end(s);
    if (s->error[0])
        fprintf(stderr, "viaduct: coordinator: %s\n", s->error);
    tear_down(s);
    int code = s->exit_code;
    free(s);
    return code;
}
