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
    {"init", "[NAME]", "writes a short working spec to stdout", "viaduct init > job.yaml\n  viaduct init mnist > mnist.yaml", NULL, verb_init, false},
    {"validate", "SPEC [key.path=value ...] [--json]", "finds all problems of a spec in one pass",
     "viaduct validate job.yaml\n  viaduct validate job.yaml train.batch=512 --json", NULL, verb_validate, false},
    {"plan", "SPEC [--worker PROGRAM] [--json] [key.path=value ...]", "layout, memory per rank, predicted step time, bytes between sites, and why",
     "viaduct plan job.yaml\n  viaduct plan job.yaml 'sites=[{name: a, via: local, ranks: 2}]' --json", NULL, verb_plan, false},
    {"run", "SPEC [--dir RUN] [--resume] [--site NAME] [--worker PROGRAM] [key.path=value ...]", "trains, then exports; under mpirun that world is a site's gang",
     "viaduct run job.yaml\n  viaduct run job.yaml --resume train.epochs=10",
     "--dir RUN         the run directory, default runs/NAME; it must be empty, or continued with --resume\n"
     "  --resume          goes on from the newest checkpoint that verifies; sites, ranks, threads, checkpoint, export and later steps may change\n"
     "  --site NAME       under mpirun: the site whose gang that world is, default the first\n"
     "  --worker PROGRAM  a trainer of your own as the ranks of every site (client/viaduct.h)\n"
     "  key.path=value    any key of the spec, as YAML: train.batch=512, 'sites=[{name: a, via: local, ranks: 2}]', export=null\n"
     "  Ctrl-C saves a checkpoint and stops, also while it exports; twice ends at once", verb_run, false},
    {"submit", "SPEC [--dir RUN] [--json] [key.path=value ...]", "submits a job to Slurm: the spec's sites that are `via: slurm`",
     "viaduct submit job.yaml\n  viaduct submit job.yaml --dir runs/first --json", NULL, verb_submit, false},
    {"slurm", "render SPEC [--site NAME] [--dir RUN] [key.path=value ...]", "prints the batch script that submit would submit",
     "viaduct slurm render job.yaml\n  viaduct slurm render job.yaml > job.sh && sbatch --test-only job.sh", NULL, verb_slurm, false},
    {"status", "RUN [--json]", "where a run stands", "viaduct status runs/fashion-mnist\n  viaduct status runs/fashion-mnist --json",
     "--json            running: phase, step, loss, rates, sites; over: status, step, error, checkpoint, final, and the command that resumes", verb_status, false},
    {"top", "RUN [--once]", "a run on the whole terminal: steps, loss, where the time goes, sites, events",
     "viaduct top runs/fashion-mnist\n  viaduct top runs/fashion-mnist --once", NULL, verb_top, false},
    {"logs", "RUN [-f] [--who ROLE SITE/I] [--level L] [--json]", "the logs of all its processes as one, by time",
     "viaduct logs runs/fashion-mnist --level warn\n  viaduct logs runs/fashion-mnist -f --who worker onprem/0", NULL, verb_logs, false},
    {"stop", "RUN", "saves a checkpoint and ends a run", "viaduct stop runs/fashion-mnist\n  viaduct stop runs/fashion-mnist && viaduct run job.yaml --resume",
     "Waits for the end: 0 stopped or completed, 75 still saving after 30 s, 6 it was not running", verb_stop, false},
    {"join", "HOST:PORT --site NAME --token FILE [--dir DIR] [data.train.images=FILE ...]", "brings this machine into a running job as a site",
     "viaduct join trainer.example.org:7000 --site edge --token edge.token\n  viaduct join 10.0.0.1:7000 --site edge --token edge.token data.train.images=/data/images.gz", NULL, verb_join, false},
    {"token", "RUN --site NAME", "makes a token, good once, with which a machine joins", "viaduct token runs/fashion-mnist --site edge\n  scp $(viaduct token runs/fashion-mnist --site edge) edge:", NULL, verb_token, false},
    {"drain", "RUN --site NAME", "sends a site that joined away in good order", "viaduct drain runs/fashion-mnist --site edge\n  viaduct drain runs/fashion-mnist --site edge && viaduct status runs/fashion-mnist", NULL, verb_drain, false},
    {"report", "RUN", "writes the page RUN/report.html anew", "viaduct report runs/fashion-mnist\n  viaduct report runs/killed && xdg-open runs/killed/report.html",
     NULL, verb_report, false},
    {"eval", "MODEL --data SPEC [--json] [key.path=value ...]", "loss and accuracy of a checkpoint or an exported ONNX file by our own engine",
     "viaduct eval runs/fashion-mnist/export/float/model.onnx --data job.yaml\n  viaduct eval runs/fashion-mnist --data job.yaml --json",
     "MODEL             a run (its newest checkpoint that verifies), a checkpoint folder, or an ONNX file that viaduct wrote\n"
     "  --data SPEC       its data.eval is measured on; a run has its own\n"
     "  --json            {accuracy, loss, model, samples}", verb_eval, false},
    {"export", "RUN [key.path=value ...] [--json] | CKPT [--out DIR] [--json]", "the post-training stage alone: quantizes and gates as the run's spec says",
     "viaduct export runs/fashion-mnist export.gate.max_drop=0.002\n  viaduct export runs/fashion-mnist/ckpt/cloud/step-00000200 --out exported",
     "RUN               newest checkpoint that verifies: evaluates, writes RUN/export anew, renews result.json and report.json; the run must not be running\n"
     "  CKPT              a checkpoint folder: writes model.onnx and model.safetensors into --out DIR (default exported)\n"
     "  --out DIR         files only, into that folder; nothing of the run changes\n"
     "  --json            {files, model}", verb_export, false},
    {"models", "ls [MODEL] | show MODEL [VERSION] [--audit] | register RUN [--model NAME] | promote MODEL VERSION | rollback MODEL | verify [--registry DIR] [--json]",
     "the registry: versions of models, and which of them is served",
     "viaduct models register runs/fashion-mnist && viaduct models promote fashion-mnist 1 --reason 'first one'\n  viaduct models rollback fashion-mnist --expect 2",
     "ls [MODEL]        versions with accuracy, aliases and where they come from; verifies the audit log\n"
     "  show MODEL        its aliases and versions; with VERSION all that is known of one; --audit: who moved what, when and why\n"
     "  register RUN      what RUN/export holds becomes the next version; once, however often it is said. --model NAME: default the job's,\n"
     "                    or export.model of its spec\n"
     "  promote           moves an alias to a version, once its file verifies, and renders what servers read\n"
     "  rollback          moves it back to where it stood before\n"
     "  verify            every file against the database, and the audit log\n"
     "  --registry DIR    default models; of register: export.registry of the run's spec\n"
     "  --alias NAME      default champion; another one is served as MODEL.NAME\n"
     "  --expect N        only if the alias stands at version N (0: nowhere); else exit 6 says where it stands\n"
     "  --reason TEXT     kept in the audit log", verb_models, false},
    {"bench", "train SPEC [--steps N] [--threads T] [--full] [--json] [key.path=value ...] | allreduce [--ranks R] [--hosts H] [--mib N] [--apart] [--json]",
     "measures this machine: training in one process, in-site sums", "viaduct bench train job.yaml --full --threads 2 --json\n  viaduct bench allreduce --ranks 2 --mib 64",
     "train SPEC        one process trains: --steps N after a warm-up (default 50), --threads T (default 1), --full: the whole spec, evaluation, hash\n"
     "  allreduce         in-site sums against the memory limit: --ranks R (default 2), --hosts H (default 1), --mib N (default 64), --apart: sums made outside the weights\n"
     "  --json            the same as one object", verb_bench, false},
    {"ckpt", "ls RUN | show CKPT | verify CKPT|RUN [--json]", "checkpoints: list, look into, check every byte",
     "viaduct ckpt ls runs/fashion-mnist\n  viaduct ckpt verify runs/fashion-mnist/ckpt/onprem/step-00000200",
     "ls RUN          every checkpoint of a run, newest first: site, step, generation, published or unfinished, folder\n"
     "  show CKPT       step, position in the data, optimizer, tensors, parts with their SHA-256\n"
     "  verify CKPT|RUN reads every byte and compares it with the manifest; of a run: each published checkpoint. Exit 3 names the damaged part\n"
     "  --json          ls: one list; show: the manifest; verify: one object a line\n"
     "  CKPT is a folder like RUN/ckpt/SITE/step-00000200", verb_ckpt, false},
    {"doctor", "[--json]", "what this machine has and what is missing", "viaduct doctor\n  viaduct doctor --json", NULL, verb_doctor, false},
    {"schema", "", "JSON Schema of the spec", "viaduct schema > viaduct.schema.json\n  viaduct schema | jq .properties", NULL, verb_schema, false},
    {"version", "[--json]", "version and build", "viaduct version\n  viaduct version --json", NULL, verb_version, false},
    {"coordinator", "", "", "", NULL, coordinator_main, true},
    {"agent", "", "", "", NULL, agent_main, true},
    {"worker", "", "", "", NULL, worker_main, true},
    {"ps", "", "", "", NULL, ps_main, true},
    {NULL, NULL, NULL, NULL, NULL, NULL, false},
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
            printf("viaduct %s %s\n  %s\n", v->name, v->arguments, v->does);
            if (v->details)
                printf("\n  %s\n", v->details);
            printf("\nexamples:\n  %s\n", v->examples);
            return 0;
        }
        return v->main(argc - 1, argv + 1);
    }
    return unknown_verb(name);
}
