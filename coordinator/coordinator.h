/* coordinator: decides. Public face: the process, the placement that a spec gives, and the plan a person reads. */
#ifndef VIADUCT_COORDINATOR_COORDINATOR_H
#define VIADUCT_COORDINATOR_COORDINATOR_H

#include <stdio.h>
#include "coordinator/core.h"
#include "jobs/jobs.h"

/* `viaduct coordinator --run DIR [--fresh]` */
int coordinator_main(int argc, char **argv);

/* Who gets what, from the spec alone, so that `plan`, `run` and a restarted coordinator agree: fills the slots, shards, sites, lanes of gangs, copies
 * and checkpoint replicas, the optimizer and all of plan but layout, rounds and samples. Lanes go to sites in proportion to ranks * threads. */
void placement_of(const struct job_spec *spec, struct core_config *config);

/* ---- the plan as people see it ---- */
struct run_plan;
/* Topology by hwloc, placement, memory per rank, bytes between sites per step, and the step time predicted from a probe of this machine made in the
 * call (lanes of synthetic samples through the real engine; well under a second). Reads no data but the header of data.train. */
int run_plan_make(const struct job_spec *spec, struct run_plan **out, struct err *err);
void run_plan_free(struct run_plan *p);
void run_plan_print(const struct run_plan *p, FILE *out);                 /* for a person, with reasons */
int run_plan_print_json(const struct run_plan *p, FILE *out);             /* plan.json */

#endif
