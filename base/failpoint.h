/* Failpoints: named places where a test makes this process die, stop or fail. VIADUCT_FAILPOINT=name:action[:n][,...]: at the n-th pass
 * (default 1) of that name in a process, the action happens: kill (SIGKILL to itself), stop (SIGSTOP), exit (_exit(1)). Each entry fires once in a
 * run, whatever is relaunched: whoever creates its token file in the run's state folder first. Without the variable a pass costs one load. */
#ifndef VIADUCT_BASE_FAILPOINT_H
#define VIADUCT_BASE_FAILPOINT_H

enum failpoint {
    FAIL_WORKER_JOIN, FAIL_WORKER_LANES, FAIL_WORKER_REDUCE, FAIL_WORKER_CONTRIBUTE, FAIL_WORKER_PULL, FAIL_WORKER_GATHER,
    FAIL_PS_JOIN, FAIL_PS_STORE, FAIL_PS_PREPARED, FAIL_PS_APPLY, FAIL_PS_PUBLISH, FAIL_PS_COPY, FAIL_PS_SNAPSHOT, FAIL_PS_PART,
    FAIL_COORDINATOR_START, FAIL_COORDINATOR_APPEND, FAIL_COORDINATOR_COMMIT, FAIL_COORDINATOR_VIEW, FAIL_COORDINATOR_CHECKPOINT,
    FAIL_AGENT_START, FAIL_AGENT_LAUNCH, FAIL_AGENT_MANIFEST, FAIL_AGENT_EXPORT,
    FAIL_EXPORT_START, FAIL_EXPORT_WRITE, FAIL_EXPORT_RENAME,
    FAIL_REGISTRY_STORED, FAIL_REGISTRY_VERIFIED, FAIL_REGISTRY_MOVED, FAIL_REGISTRY_RENDER,
    FAILPOINTS
};
const char *failpoint_name(enum failpoint f);                /* "worker-join" */
/* Once, at the start of a role: state_dir holds the token files. Unknown names or actions: the text of what is wrong, else NULL. */
const char *failpoint_init(const char *state_dir);
void failpoint(enum failpoint f);

#endif
