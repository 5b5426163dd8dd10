/* coordinator: decides. Public face: the process, the placement that a spec gives, and the plan a person reads. */
#ifndef VIADUCT_COORDINATOR_COORDINATOR_H
#define VIADUCT_COORDINATOR_COORDINATOR_H

#include <stdio.h>
#include "ckpt/ckpt.h"
#include "coordinator/core.h"
#include "jobs/jobs.h"

/* `viaduct coordinator --run DIR [--fresh] [--host ADDRESS]`; --host: where other hosts reach this one when it listens at every address */
int coordinator_main(int argc, char **argv);

/* The checkpoint that a resume of this run, which is over, begins at when it verifies, which the resume does itself: its parts are there, and the log has not taken it back.
 * ERR_NOT_FOUND: none; ERR_CORRUPT: damaged ones only. */
int coordinator_base(const char *run_dir, struct ckpt_found *out, struct err *err);

/* Who gets what, from the spec alone, so that `plan`, `run` and a restarted coordinator agree: fills the slots, shards, sites, lanes of gangs, copies
 * and checkpoint replicas, the optimizer and all of plan but layout, rounds and samples. Lanes go to sites in proportion to ranks * threads. */
void placement_of(const struct job_spec *spec, struct core_config *config);
/* Where the ranks of a gang lie: node n of `nodes` holds ranks first[n] to first[n + 1] - 1. Contiguous, as even as possible, and among those the cut whose
 * nodes hold the fewest maximal lane-tree nodes, which is what they send each other. nodes <= ranks. */
void placement_nodes(unsigned lanes, const struct view_gang *gang, unsigned nodes, uint16_t first[HOSTS_LIMIT + 1]);

/* ---- machines that become a site (`via: join`) ---- */
/* What a visitor writes behind `viaduct join`: coordinator.address, with the coordinator's name when it stands behind a front door. out: ADDRESS_LIMIT. */
const char *enrol_address(const struct job_spec *spec, const char *job, char *out);
struct enrol_token { char job[40], site[64], secret[80]; unsigned index; };
/* RUN/state/tokens/SITE.token, 0600: good once, and the only one that is good. path: where it lies. another: in place of one that nobody has used yet; else that one
 * stays, because somebody may be on the way with it. */
int enrol_make_token(const char *run_dir, const char *job, const struct job_spec *spec, unsigned site, bool another, char path[700], struct err *err);
/* ERR_DENIED when it is not the newest one of the site or was used; else it is used now. */
int enrol_spend(const char *run_dir, const char *site, const char *secret, struct err *err);
/* Puts the token's certificate into dir/state/tls, so that identity_load(.., ROLE_JOIN, ..) finds it. */
int enrol_read_token(const char *path, const char *dir, struct enrol_token *out, struct err *err);
/* What a site's processes need of a run directory, as the payload of MSG_ENROLLED; *out: malloc. */
int enrol_pack(const char *run_dir, const char *site, void **out, size_t *size, struct err *err);
/* A folder in which state/job stands has them all. */
int enrol_unpack(const char *dir, const char *site, const void *image, size_t size, struct err *err);

/* ---- the plan as people see it ---- */
struct run_plan;
/* Topology by hwloc, placement, memory per rank, bytes between sites per step, and the step time predicted from a probe of this machine made in the
 * call (lanes of synthetic samples through the real engine; well under a second). Reads no data but the header of data.train. */
int run_plan_make(const struct job_spec *spec, struct run_plan **out, struct err *err);
void run_plan_free(struct run_plan *p);
void run_plan_print(const struct run_plan *p, FILE *out);                 /* for a person, with reasons */
int run_plan_print_json(const struct run_plan *p, FILE *out);             /* plan.json */

#endif
