#include "base/failpoint.h"

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const names[FAILPOINTS] = {
    "worker-join", "worker-lanes", "worker-reduce", "worker-contribute", "worker-pull", "worker-gather",
    "ps-join", "ps-store", "ps-prepared", "ps-apply", "ps-publish", "ps-copy", "ps-snapshot", "ps-part",
    "coordinator-start", "coordinator-append", "coordinator-commit", "coordinator-view", "coordinator-checkpoint",
    "agent-start", "agent-launch", "agent-manifest", "agent-export",
    "export-start", "export-write", "export-rename",
    "registry-stored", "registry-verified", "registry-moved", "registry-render",
};

/* The one process-wide state of the program: a failpoint must be reachable from any depth without a parameter in every signature,
 * and it changes nothing unless a test asks for it. */
struct armed { int signo; unsigned at; atomic_uint passes; char token[512]; };
static struct armed armed[FAILPOINTS];
static atomic_bool any_armed;

const char *failpoint_name(enum failpoint f) { return names[f]; }

static const char *arm(const char *state_dir, char *entry)
{
    char *action = strchr(entry, ':');
    if (!action)
        return "VIADUCT_FAILPOINT: an entry is name:action[:n]";
    *action++ = '\0';
    char *count = strchr(action, ':');
    if (count)
        *count++ = '\0';
    for (unsigned f = 0; f < FAILPOINTS; f++) {
        if (strcmp(names[f], entry) != 0)
            continue;
        struct armed *a = &armed[f];
        a->signo = strcmp(action, "kill") == 0 ? SIGKILL : strcmp(action, "stop") == 0 ? SIGSTOP : strcmp(action, "exit") == 0 ? -1 : 0;
        a->at = count ? (unsigned)strtoul(count, NULL, 10) : 1;
        snprintf(a->token, sizeof a->token, "%s/failpoint-%s-%s-%u", state_dir, entry, action, a->at);
        return a->signo ? NULL : "VIADUCT_FAILPOINT: the action is kill, stop or exit";
    }
    return "VIADUCT_FAILPOINT: unknown name; `viaduct doctor --json` lists them";
}

const char *failpoint_init(const char *state_dir)
{
    const char *text = getenv("VIADUCT_FAILPOINT");
    if (!text || !*text)
        return NULL;
    char copy[2048], *rest = copy;
    snprintf(copy, sizeof copy, "%s", text);
    for (char *entry; (entry = strsep(&rest, ","));) {
        const char *wrong = arm(state_dir, entry);
        if (wrong)
            return wrong;
    }
    atomic_store(&any_armed, true);
    return NULL;
}

void failpoint(enum failpoint f)
{
    if (!atomic_load_explicit(&any_armed, memory_order_relaxed))
        return;
    struct armed *a = &armed[f];
    if (!a->signo || atomic_fetch_add(&a->passes, 1) + 1 != a->at)
        return;
    int fd = open(a->token, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
    if (fd < 0)
        return;   /* fired before, in this run */
    dprintf(fd, "%d\n", (int)getpid());
    close(fd);
    if (a->signo < 0)
        _exit(1);
    kill(getpid(), a->signo);
}
