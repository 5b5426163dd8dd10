/* Rules over several keys, filling struct job_spec, the resolved text. */
#ifndef VIADUCT_JOBS_CHECK_H
#define VIADUCT_JOBS_CHECK_H

#include "jobs/tree.h"

bool scalar_number(const struct tree *t, double *out);
bool scalar_bool(const struct tree *t, bool *out);
bool scalar_steps(const struct tree *t, double *out);
bool scalar_address(const struct tree *t);
bool scalar_word(const struct tree *t);
bool scalar_duration(const struct tree *t, double *seconds);
/* "line 7", "the command line" or "the default": where a value stands. */
const char *line_of(struct job *job, const struct tree *t);
/* Keys of Slurm at sites that are `via: slurm`, and only there. */
void read_slurm(struct job *job, const struct tree *list);

/* Cross-field rules are looked at as far as the single values allow; the spec is filled when there is no problem at all. */
void check_whole(struct job *job, const struct tree *root, bool check_files);
/* Existence and header of the data files, as far as the spec names them. */
void check_data_files(struct job *job, const struct tree *root);
/* job->resolved_yaml from the filled spec. */
void resolve_text(struct job *job);

#endif
