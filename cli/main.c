/* The program's entry: finds the verb, or says which one was meant. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "agent/agent.h"
#include "base/base.h"
#include "cli/cli.h"
#include "coordinator/coordinator.h"
#include "export/export.h"
#include "ps/ps.h"
#include "worker/worker.h"

const struct verb verbs[] = {
    {"init", "[NAME]", "writes a short working spec to stdout", "viaduct init > job.yaml\n  viaduct init mnist > mnist.yaml", verb_init, false},
    {"validate", "SPEC [key.path=value ...] [--json]", "finds all problems of a spec in one pass",
     "viaduct validate job.yaml\n  viaduct validate job.yaml train.batch=512 --json", verb_validate, false},
    {"plan", "SPEC [--json] [key.path=value ...]", "layout, memory per rank, predicted step time, bytes between sites, and why",
     "viaduct plan job.yaml\n  viaduct plan job.yaml 'sites=[{name: a, via: local, ranks: 2}]' --json", verb_plan, false},
    {"run", "SPEC [--dir RUN] [--resume] [--site NAME] [--worker PROGRAM] [key.path=value ...]", "trains, then exports; under mpirun that world is a site's gang",
     "viaduct run job.yaml\n  viaduct run job.yaml --resume train.epochs=10", verb_run, false},
    {"submit", "SPEC [--dir RUN] [--json] [key.path=value ...]", "submits a job to Slurm: the spec's sites that are `via: slurm`",
     "viaduct submit job.yaml\n  viaduct submit job.yaml --dir runs/first --json", verb_submit, false},
    {"slurm", "render SPEC [--site NAME] [--dir RUN] [key.path=value ...]", "prints the batch script that submit would submit",
     "viaduct slurm render job.yaml\n  viaduct slurm render job.yaml > job.sh && sbatch --test-only job.sh", verb_slurm, false},
    {"status", "RUN [--json]", "where a run stands", "viaduct status runs/fashion-mnist\n  viaduct status runs/fashion-mnist --json", verb_status, false},
    {"top", "RUN [--once]", "a run on the whole terminal: steps, loss, where the time goes, sites, events",
     "viaduct top runs/fashion-mnist\n  viaduct top runs/fashion-mnist --once", verb_top, false},
    {"logs", "RUN [-f] [--who ROLE SITE/I] [--level L] [--json]", "the logs of all its processes as one, by time",
     "viaduct logs runs/fashion-mnist --level warn\n  viaduct logs runs/fashion-mnist -f --who worker onprem/0", verb_logs, false},
    {"stop", "RUN", "saves a checkpoint and ends a run", "viaduct stop runs/fashion-mnist\n  viaduct stop runs/fashion-mnist && viaduct run job.yaml --resume", verb_stop, false},
    {"report", "RUN", "writes the page RUN/report.html anew", "viaduct report runs/fashion-mnist\n  viaduct report runs/killed && xdg-open runs/killed/report.html",
     verb_report, false},
    {"join", "HOST:PORT --site NAME --token FILE [--dir DIR] [data.train.images=FILE ...]", "brings this machine into a running job as a site",
     "viaduct join trainer.example.org:7000 --site edge --token edge.token\n  viaduct join 10.0.0.1:7000 --site edge --token edge.token data.train.images=/data/images.gz", verb_join, false},
    {"token", "RUN --site NAME", "makes a token, good once, with which a machine joins", "viaduct token runs/fashion-mnist --site edge\n  scp $(viaduct token runs/fashion-mnist --site edge) edge:", verb_token, false},
    {"drain", "RUN --site NAME", "sends a site that joined away in good order", "viaduct drain runs/fashion-mnist --site edge\n  viaduct drain runs/fashion-mnist --site edge && viaduct status runs/fashion-mnist", verb_drain, false},
    {"eval", "MODEL --data SPEC [--json]", "loss and accuracy of a checkpoint or an exported ONNX file by our own engine",
     "viaduct eval runs/fashion-mnist/export/float/model.onnx --data job.yaml\n  viaduct eval runs/fashion-mnist --data job.yaml --json", verb_eval, false},
    {"export", "RUN [key.path=value ...] | CKPT [--out DIR]", "the post-training stage alone: quantizes and gates as the run's spec says",
     "viaduct export runs/fashion-mnist export.gate.max_drop=0.002\n  viaduct export runs/fashion-mnist/ckpt/cloud/step-00000200 --out exported", verb_export, false},
    {"bench", "train SPEC [--steps N] [--threads T] [--full] [key.path=value ...] | allreduce [--ranks R] [--hosts H] [--mib N] [--apart]",
     "measures this machine: training in one process, in-site sums", "viaduct bench train job.yaml --full --threads 2 --json\n  viaduct bench allreduce --ranks 2 --mib 64", verb_bench, false},
    {"ckpt", "ls RUN | show CKPT | verify CKPT|RUN [--json]", "checkpoints: list, look into, check every byte",
     "viaduct ckpt ls runs/fashion-mnist\n  viaduct ckpt verify runs/fashion-mnist/ckpt/onprem/step-00000200", verb_ckpt, false},
    {"doctor", "[--json]", "what this machine has and what is missing", "viaduct doctor\n  viaduct doctor --json", verb_doctor, false},
    {"schema", "", "JSON Schema of the spec", "viaduct schema > viaduct.schema.json\n  viaduct schema | jq .properties", verb_schema, false},
    {"version", "[--json]", "version and build", "viaduct version\n  viaduct version --json", verb_version, false},
    {"coordinator", "", "", "", coordinator_main, true},
    {"agent", "", "", "", agent_main, true},
    {"worker", "", "", "", worker_main, true},
    {"ps", "", "", "", ps_main, true},
    {NULL, NULL, NULL, NULL, NULL, false},
};

static void print_help(FILE *out)
{
    fprintf(out, "viaduct " VIADUCT_VERSION ": trains one model across several sites as if they were one machine\n\n"
                 "  viaduct init > job.yaml && viaduct validate job.yaml\n"
                 "  viaduct run job.yaml\n\nverbs:\n");
    for (const struct verb *v = verbs; v->name; v++)
        if (!v->role)
            fprintf(out, "  %-10s %s\n", v->name, v->does);
    fprintf(out, "\nviaduct VERB --help shows its arguments and examples. Exit codes: 0 ok, 1 failure, 2 usage or invalid spec,\n"
                 "3 the job failed, 4 not found, 5 not allowed, 6 conflict, 75 temporary, 128+n signal.\n");
}

static int unknown_verb(const char *name)
{
    const char *names[64];
    unsigned count = 0;
    for (const struct verb *v = verbs; v->name && count < ARRAY_LEN(names); v++)
        if (!v->role)
            names[count++] = v->name;
    const char *nearest = nearest_name(name, names, count);
    fprintf(stderr, "viaduct: unknown verb '%s'", name);
    if (nearest)
        fprintf(stderr, "; did you mean '%s'?", nearest);
    fprintf(stderr, "\nviaduct --help lists the verbs\n");
    return 2;
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    if (argc < 2) {
        print_help(stderr);
        return 2;
    }
    const char *name = argv[1];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || (strcmp(name, "help") == 0 && argc == 2)) {
        print_help(stdout);
        return 0;
    }
    if (strcmp(name, "--version") == 0)
        name = "version";
    bool help = strcmp(name, "help") == 0;
    if (help)
        name = argv[2];
    for (const struct verb *v = verbs; v->name; v++) {
        if (strcmp(v->name, name) != 0)
            continue;
        for (int i = 2; i < argc && !v->role && !help; i++)
            help = strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0;
        if (help && !v->role) {
            printf("viaduct %s %s\n  %s\n\nexamples:\n  %s\n", v->name, v->arguments, v->does, v->examples);
            return 0;
        }
        return v->main(argc - 1, argv + 1);
    }
    return unknown_verb(name);
}
