/* How an agent begins and ends: arguments, spec, what an agent before it left, sockets, signals, timers. */
#include "agent/agent.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/agent_private.h"

#define RETRY_MS 200
#define HEARTBEAT_MS 1000

static int watch_parent(struct agent *a, struct err *err)
{
    const char *text = getenv("VIADUCT_PARENT_FD");
    if (!text || !*text)
        return 0;
    int fd = (int)strtol(text, NULL, 10);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    return loop_read_lines(a->loop, fd, agent_parent_line, a, err);
}

static int find_node(struct agent *a, const struct core_config *placed, struct err *err)
{
    uint16_t first[HOSTS_LIMIT + 1];
    a->nodes = (uint16_t)a->job.spec.sites[a->site_index].nodes;
    if (a->node >= a->nodes)
        return err_set(err, ERR_USAGE, "--node %u: site '%s' has nodes 0 to %u", a->node, a->site, a->nodes - 1u);
    placement_nodes(placed->plan.lanes, &placed->gang[a->site_index], a->nodes, first);
    a->first_rank = first[a->node];
    a->end_rank = first[a->node + 1];
    return 0;
}

static int read_spec(struct agent *a, struct err *err)
{
    char path[600];
    struct core_config *placed = calloc(1, sizeof *placed);
    CHECK(placed != NULL);
    snprintf(path, sizeof path, "%s/spec.yaml", a->run.path);
    int rc = job_load(&a->job, path, NULL, 0, false, err);
    unsigned i = 0;
    while (rc == 0 && i < a->job.spec.site_count && strcmp(a->job.spec.sites[i].name, a->site) != 0)
        i++;
    if (rc == 0 && i == a->job.spec.site_count)
        rc = err_set(err, ERR_USAGE, "%s has no site named '%s'", path, a->site);
    if (rc == 0) {
        a->site_index = (uint8_t)i;
        placement_of(&a->job.spec, placed);   /* the plan's message comes after the first launch */
        a->embedded = placed->plan.embedded;
        rc = find_node(a, placed, err);
    }
    free(placed);
    return rc;
}

/* A site that is `via: join` may be the job of another cluster. */
static bool in_slurm_job(const struct agent *a)
{
    return a->job.spec.sites[a->site_index].via == VIA_SLURM || (agent_is_visiting() && slurm_environment_read().inside);
}

static int take_over(struct agent *a, struct err *err)
{
    struct children *c = &a->children;
    const char *own = getenv("VIADUCT_WORKER");
    *c = (struct children){.loop = a->loop, .log = &a->log, .run_dir = a->run.path, .site = a->site, .worker_program = own && *own ? own : NULL,
                           .ignore_term = in_slurm_job(a), .host = a->node, .hosts = a->nodes, .ended = agent_child_ended, .arg = a};
    if (a->job.spec.sites[a->site_index].via == VIA_MPIRUN && !a->external_gang) {
        TRY(slurm_find("mpirun", a->mpirun, sizeof a->mpirun, err));
        c->mpirun = a->mpirun;
    }
    snprintf(c->record_path, sizeof c->record_path, "%s/state/agent-%s.children", a->run.path, a->name);
    snprintf(c->socket_path, sizeof c->socket_path, a->node ? "%s/a-%u.%u" : "%s/a-%u", a->run.sockets, a->site_index, a->node);
    TRY(door_open(c->socket_path, &a->door, err));
    const struct job_site *site = &a->job.spec.sites[a->site_index];
    const char *wanted = a->node || agent_is_visiting() ? NULL : a->door_wanted ? a->door_wanted : site->door;   /* nobody dials a visiting site */
    TRY(front_open(a->loop, &a->log, &a->run, a->site, a->site_index, (struct front_place){wanted, site->door_address}, &a->front, err));   /* before any launch */
    TRY(children_init(c, err));
    if (a->external_gang)
        TRY(world_open(a->loop, a->run.path, a->site, agent_world_gone, a, &a->world, err));
    segments_sweep(a->run.job, a->site, agent_own_host(a), agent_gang_lives, a);
    return 0;
}

static int set_up(struct agent *a, struct err *err)
{
    char path[600];
    if (rundir_start_token(&a->run, a->start_token) < 0)
        a->start_token[0] = '\0';   /* a visiting site has a folder of its own, and its token is its fence */
    TRY(read_spec(a, err));
    TRY(loop_new(&a->loop, err));
    snprintf(path, sizeof path, "%s/state/tls", a->run.path);
    TRY(identity_load(path, a->site, ROLE_AGENT, &a->identity, err));
    a->hello = (struct msg_hello){.version_min = FRAME_VERSION, .version_max = FRAME_VERSION, .who = {.role = ROLE_AGENT, .site = a->site_index, .index = a->node}};
    snprintf(a->hello.job, sizeof a->hello.job, "%s", a->run.job);
    snprintf(a->hello.build, sizeof a->hello.build, "%s", VIADUCT_VERSION);
    if (a->node == 0)
        TRY(publisher_open(a->loop, &a->log, a->run.path, a->site, a->site_index, &a->job.spec, agent_published, a, &a->publisher, err));
    TRY(take_over(a, err));
    TRY(loop_on_signal(a->loop, SIGTERM, agent_term, a, err));
    TRY(loop_on_signal(a->loop, SIGINT, agent_term, a, err));
    TRY(loop_on_signal(a->loop, SIGUSR1, agent_drain, a, err));
    TRY(watch_parent(a, err));
    timer_start(a->loop, 0, RETRY_MS, agent_tick, a);
    timer_start(a->loop, HEARTBEAT_MS, HEARTBEAT_MS, agent_beat, a);
    return 0;
}

static int read_node(struct agent *a, const char *text, struct err *err)
{
    char *end;
    unsigned long n = strtoul(text, &end, 10);
    if (!*text || *end || n >= HOSTS_LIMIT)
        return err_set(err, ERR_USAGE, "--node is '%s', not the number of a host of the site, from 0", text);
    a->node = (uint16_t)n;
    return 0;
}

static int parse(struct agent *a, int argc, char **argv, struct err *err)
{
    const char *run = NULL;
    a->door_wanted = getenv("VIADUCT_DOOR");
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--run") == 0 && i + 1 < argc)
            run = argv[++i];
        else if (strcmp(argv[i], "--site") == 0 && i + 1 < argc)
            a->site = argv[++i];
        else if (strcmp(argv[i], "--door") == 0 && i + 1 < argc)
            a->door_wanted = argv[++i];
        else if (strcmp(argv[i], "--node") == 0 && i + 1 < argc)
            TRY(read_node(a, argv[++i], err));
        else if (strcmp(argv[i], "--external-gang") == 0)
            a->external_gang = true;
        else
            return err_set(err, ERR_USAGE, "unknown argument '%s'", argv[i]);
    }
    if (!run || !a->site)
        return err_set(err, ERR_USAGE, "--run DIR and --site NAME are needed; `viaduct run` starts agents by itself");
    snprintf(a->name, sizeof a->name, a->node ? "%.64s.%u" : "%.64s", a->site, a->node);
    return rundir_open(&a->run, run, err);
}

static int start(struct agent *a, struct err *err)
{
    char path[640], who[80];
    snprintf(path, sizeof path, "%s/log/agent-%s.jsonl", a->run.path, a->name);
    snprintf(who, sizeof who, a->node ? "agent %.64s/%u" : "agent %.64s", a->site, a->node);
    log_open(&a->log, path, who, a->run.job);
    snprintf(path, sizeof path, "%s/state", a->run.path);
    const char *wrong = failpoint_init(path);
    if (wrong)
        return err_set(err, ERR_USAGE, "%s", wrong);
    failpoint(FAIL_AGENT_START);
    return set_up(a, err);
}

int agent_main(int argc, char **argv)
{
    struct err err = ERR_INIT;
    struct agent *a = calloc(1, sizeof *a);
    CHECK(a != NULL);
    int rc = parse(a, argc, argv, &err);
    if (rc == 0)
        rc = start(a, &err);
    if (rc == 0) {
        loop_run(a->loop);
        if (a->sent_away)
            fprintf(stderr, "viaduct: agent: the run has failed, or goes on without this site because its processes failed\n");
    } else {
        fprintf(stderr, "viaduct: agent: %s\n", err.text);
        a->exit_code = err_exit_code(rc);
    }
    publisher_close(a->publisher);
    door_close(a->door);
    front_close(a->front);
    world_close(a->world);
    if (a->loop)
        loop_free(a->loop);
    identity_free(a->identity);
    job_fini(&a->job);
    log_close(&a->log);
    int code = a->exit_code;
    free(a);
    return code;
}
