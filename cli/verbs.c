/* The table of verbs: what each takes, does and ends with. Help, usage errors, completion and the man page are made of it. */
#include <string.h>

#include "agent/agent.h"
#include "base/base.h"
#include "cli/cli.h"
#include "coordinator/coordinator.h"
#include "ps/ps.h"
#include "worker/worker.h"

#define JSON_OPTION(text) {"--json", .help = text}

const struct verb verbs[] = {
    {"init", "[NAME]", "writes a short working spec for this machine",
     .more = "It goes to stdout, or with --out into a file that must not exist. Nothing is asked; what the files of DIR say about pictures and classes goes into the spec.",
     .options = {{"--family", "NAME", "family of models, default cnn", .choices = "cnn|mlp"},
                 {"--data", "DIR", "folder with train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, each plain or .gz; "
                                   "default Fashion-MNIST as Debian installs it", TAKES_DIR},
                 {"--sites", "N", "sites, default 1", TAKES_NUMBER},
                 {"--via", "LAUNCHER", "how their processes start, default local", .choices = "local|mpirun|slurm|join"},
                 {"--out", "FILE", "writes there instead of to stdout", TAKES_FILE}},
     .exits = "4 no data in --data DIR|6 the file of --out exists",
     .examples = {"viaduct init > job.yaml", "viaduct init mnist --sites 2 --data /data/mnist --out mnist.yaml"}, .main = verb_init},

    {"validate", "SPEC", "finds all problems of a spec in one pass", .takes = TAKES_SPEC, .overrides = true,
     .more = "Each problem has file, line, column, what is allowed and the nearest name. Data files at local sites are looked at. SPEC - is what standard input has.",
     .options = {JSON_OPTION("the same list as JSON")}, .exits = "2 the spec has errors|4 no such file",
     .examples = {"viaduct validate job.yaml", "viaduct validate job.yaml train.batch=512 --json"}, .main = verb_validate},

    {"plan", "SPEC", "layout, memory per rank, predicted step time, bytes between sites, and why", .takes = TAKES_SPEC, .overrides = true,
     .options = {JSON_OPTION("the plan as JSON, as in RUN/plan.json"), {"--worker", "PROGRAM", "plans for a trainer of your own", TAKES_FILE}}, .exits = "2 the spec has errors",
     .examples = {"viaduct plan job.yaml", "viaduct plan job.yaml 'sites=[{name: a, via: local, ranks: 2}]' --json"}, .main = verb_plan},

    {"run", "SPEC", "trains, then exports; under mpirun that world is a site's gang", .takes = TAKES_SPEC, .overrides = true,
     .more = "Ctrl-C saves a checkpoint and stops, also while it exports; twice ends at once. A run that did not complete says the line that resumes it.",
     .options = {{"--dir", "RUN", "the run directory, default runs/NAME; it must be empty, or continued with --resume", TAKES_RUN},
                 {"--resume", .help = "goes on from the newest checkpoint that verifies; sites, ranks, threads, checkpoint, export and later steps may change"},
                 {"--site", "NAME", "under mpirun: the site whose gang that world is, default the first; with --coordinator: a site of `via: join`", TAKES_SITE},
                 {"--coordinator", "HOST:PORT", "this is a site of a run that lives there; with --site and --token, under mpirun or without", TAKES_TEXT},
                 {"--token", "FILE", "what that run or `viaduct token` wrote for the site, good once; the same folder again needs no other", TAKES_FILE},
                 {"--external-gang", "NAME", "the ranks of this site were started by mpirun", .hidden = true},
                 {"--ranks", "N", "... so many, of a site that joins", .hidden = true},
                 {"--worker", "PROGRAM", "a trainer of your own as the ranks of every site (client/viaduct.h)", TAKES_FILE}},
     .exits = "2 invalid spec|3 the job failed|4 the only checkpoint is lost, or no such site|5 the token was refused|6 the directory is in use or not empty|"
              "75 the coordinator was unreachable, or a rank of an MPI world died",
     .examples = {"viaduct run job.yaml", "viaduct run job.yaml --resume train.epochs=10",
                  "viaduct run job.yaml --site edge --coordinator trainer.example.org:7000 --token edge.token"}, .main = verb_run},

    {"submit", "SPEC", "submits a job to Slurm: the spec's sites that are `via: slurm`", .takes = TAKES_SPEC, .overrides = true,
     .options = {{"--dir", "RUN", "the run directory, on a file system that all nodes see; default runs/NAME", TAKES_RUN}, JSON_OPTION("job number, script and run directory")},
     .exits = "2 invalid spec|4 no sbatch|6 the run is running|75 Slurm is out of reach",
     .examples = {"viaduct submit job.yaml", "viaduct submit job.yaml --dir runs/first --json"}, .main = verb_submit},

    {"slurm", "render SPEC", "prints the batch script that submit would submit", .nouns = "render", .takes = TAKES_SPEC, .overrides = true,
     .options = {{"--site", "NAME", "a site that is `via: join`: the script of the job that becomes it, on another cluster", TAKES_SITE},
                 {"--dir", "RUN", "the run directory, default runs/NAME; of a site that joins: its own, default runs/join-SITE", TAKES_RUN},
                 {"--token", "FILE", "where the token of a site that joins will lie", TAKES_FILE}},
     .exits = "2 invalid spec",
     .examples = {"viaduct slurm render job.yaml > job.sh && sbatch --test-only job.sh", "viaduct slurm render job.yaml --site cloud --token cloud.token --dir /scratch/cloud > cloud.sh"}, .main = verb_slurm},

    {"status", "RUN", "where a run stands", .takes = TAKES_RUN,
     .options = {JSON_OPTION("running: phase, step, loss, rates, sites; over: status, step, error, checkpoint, final, and the command that resumes")},
     .exits = "4 no run there|75 its coordinator does not answer",
     .examples = {"viaduct status runs/fashion-mnist", "viaduct status runs/fashion-mnist --json"}, .main = verb_status},

    {"top", "RUN", "a run on the whole terminal: steps, loss, where the time goes, sites, events", .takes = TAKES_RUN,
     .options = {{"--once", .help = "prints it once, for a pipe or a file"}}, .exits = "4 no run there",
     .examples = {"viaduct top runs/fashion-mnist", "viaduct top runs/fashion-mnist --once"}, .main = verb_top},

    {"logs", "RUN", "the logs of all its processes as one, by time", .takes = TAKES_RUN,
     .options = {{"--follow", .letter = 'f', .help = "goes on with what comes"},
                 {"--who", "ROLE SITE/I", "one process, one role or one site: worker onprem/0, ps, onprem", TAKES_TEXT},
                 {"--level", "LEVEL", "this level and worse", .choices = "error|warn|info|debug|trace"}, JSON_OPTION("one object a line")},
     .exits = "4 no run, or no such process",
     .examples = {"viaduct logs runs/fashion-mnist --level warn", "viaduct logs runs/fashion-mnist -f --who worker onprem/0"}, .main = verb_logs},

    {"stop", "RUN", "saves a checkpoint and ends a run", .takes = TAKES_RUN, .exits = "0 stopped or completed|6 it was not running|75 still saving after 30 s",
     .examples = {"viaduct stop runs/fashion-mnist", "viaduct stop runs/fashion-mnist && viaduct run job.yaml --resume"}, .main = verb_stop},

    {"join", "HOST:PORT", "brings this machine into a running job as a site", .takes = TAKES_TEXT, .overrides = true,
     .more = "The machine needs no open port. Where its data lies elsewhere, data.* says so; other keys are the run's. Ctrl-C leaves in good order.",
     .options = {{"--site", "NAME", "a site of `via: join` of that run", TAKES_TEXT, .required = true},
                 {"--token", "FILE", "what `viaduct run` or `viaduct token` wrote, good once", TAKES_FILE, .required = true},
                 {"--dir", "DIR", "this machine's part of the run, default runs/join-NAME; the same folder again needs no new token", TAKES_DIR}},
     .exits = "0 the run is over, or this machine has left|5 the token or the certificate was refused|75 the coordinator was out of reach",
     .examples = {"viaduct join trainer.example.org:7000 --site edge --token edge.token",
                  "viaduct join 10.0.0.1:7000 --site edge --token edge.token data.train.images=/data/images.gz"}, .main = verb_join},

    {"token", "RUN", "makes a token, good once, with which a machine joins", .takes = TAKES_RUN,
     .options = {{"--site", "NAME", "the site that it will be", TAKES_SITE, .required = true}}, .exits = "4 no such site",
     .examples = {"viaduct token runs/fashion-mnist --site edge", "viaduct token runs/fashion-mnist --site edge | xargs -I FILE scp FILE edge:"}, .main = verb_token},

    {"drain", "RUN", "sends a site that joined away in good order", .takes = TAKES_RUN, .options = {{"--site", "NAME", "which", TAKES_SITE, .required = true}},
     .exits = "4 no such site|6 the run is not running|75 the coordinator does not answer",
     .examples = {"viaduct drain runs/fashion-mnist --site edge", "viaduct drain runs/fashion-mnist --site edge && viaduct status runs/fashion-mnist"}, .main = verb_drain},

    {"report", "RUN", "writes the page RUN/report.html anew", .takes = TAKES_RUN, .exits = "4 no run there",
     .examples = {"viaduct report runs/fashion-mnist", "viaduct report runs/killed && xdg-open runs/killed/report.html"}, .main = verb_report},

    {"eval", "MODEL", "loss and accuracy of a checkpoint or an exported ONNX file by our own engine", .takes = TAKES_MODEL, .overrides = true,
     .more = "MODEL is a run (its newest checkpoint that verifies), a checkpoint folder, or an ONNX file that viaduct wrote.",
     .options = {{"--data", "SPEC", "its data.eval is measured on; a run has its own", TAKES_SPEC}, JSON_OPTION("{accuracy, loss, model, samples}")},
     .exits = "3 the file is damaged|4 no such model",
     .examples = {"viaduct eval runs/fashion-mnist/export/float/model.onnx --data job.yaml", "viaduct eval runs/fashion-mnist --data job.yaml --json"}, .main = verb_eval},

    {"export", "RUN|CKPT", "the post-training stage alone: quantizes and gates as the run's spec says", .takes = TAKES_MODEL, .overrides = true,
     .more = "RUN: the newest checkpoint that verifies is evaluated, RUN/export written anew, result.json and report.json renewed. CKPT, a checkpoint folder: model.onnx and "
             "model.safetensors are written into --out DIR. Of the spec export.* (but export.prune, which is training) and data.* may be said anew.",
     .options = {{"--out", "DIR", "files only, into that folder, default exported; nothing of the run changes", TAKES_DIR}, JSON_OPTION("{files, model}")},
     .exits = "3 the gate failed, or the checkpoint is damaged|4 no checkpoint|6 the run is running",
     .examples = {"viaduct export runs/fashion-mnist export.gate.max_drop=0.002", "viaduct export runs/fashion-mnist/ckpt/cloud/step-00000200 --out exported"}, .main = verb_export},

    {"bench", "train SPEC | allreduce", "measures this machine: training in one process, in-site sums", .nouns = "train|allreduce", .takes = TAKES_SPEC, .overrides = true,
     .options = {{"--steps", "N", "train: steps after a warm-up, default 50", TAKES_NUMBER}, {"--threads", "T", "train: default 1", TAKES_NUMBER},
                 {"--full", .help = "train: the whole spec, evaluation, hash"}, {"--ranks", "R", "allreduce: default 2", TAKES_NUMBER},
                 {"--hosts", "H", "allreduce: hosts that the ranks are on, default 1", TAKES_NUMBER}, {"--mib", "N", "allreduce: default 64", TAKES_NUMBER},
                 {"--apart", .help = "allreduce: sums made outside the weights"}, JSON_OPTION("the same as one object")},
     .exits = "2 invalid spec|3 the loss is not finite",
     .examples = {"viaduct bench train job.yaml --full --threads 2 --json", "viaduct bench allreduce --ranks 2 --mib 64"}, .main = verb_bench},

    {"ckpt", "ls RUN | show CKPT | verify CKPT|RUN", "checkpoints: list, look into, check every byte", .nouns = "ls|show|verify", .takes = TAKES_CKPT,
     .more = "ls RUN: every checkpoint of a run, newest first: site, step, generation, published or unfinished, folder. show CKPT: step, position in the data, optimizer, tensors, "
             "parts with their SHA-256. verify CKPT|RUN: reads every byte and compares it with the manifest; of a run: each published checkpoint. CKPT is a folder like "
             "RUN/ckpt/SITE/step-00000200.",
     .options = {JSON_OPTION("ls: one list; show: the manifest; verify: one object a line")}, .exits = "3 damaged, the part is named|4 no such checkpoint",
     .examples = {"viaduct ckpt ls runs/fashion-mnist", "viaduct ckpt verify runs/fashion-mnist/ckpt/onprem/step-00000200"}, .main = verb_ckpt},

    {"models", "ls [MODEL] | show MODEL [VERSION] | register RUN | promote MODEL VERSION | rollback MODEL | verify", "the registry: versions of models, and which of them is served",
     .nouns = "ls|show|register|promote|rollback|verify", .takes = TAKES_TEXT,
     .more = "ls: versions with accuracy, aliases and where they come from. show: a model's aliases and versions; with VERSION all that is known of one. register: what RUN/export holds "
             "becomes the next version, once, however often it is said. promote: moves an alias to a version, once its file verifies, and renders what servers read. rollback: moves it back "
             "to where it stood before. verify: every file against the database. All of them look at the audit log. docs/manual/serving.md has the rest.",
     .options = {{"--registry", "DIR", "default models; of register: export.registry of the run's spec", .takes = TAKES_DIR},
                 {"--model", "NAME", "register: its name, default export.model of the run's spec, else the job's", .takes = TAKES_TEXT},
                 {"--alias", "NAME", "default champion; another one is served as MODEL.NAME", .takes = TAKES_TEXT},
                 {"--expect", "N", "promote, rollback: only if the alias stands at version N (0: nowhere)", .takes = TAKES_NUMBER},
                 {"--reason", "TEXT", "promote, rollback: kept in the audit log", .takes = TAKES_TEXT},
                 {"--audit", .help = "show: who moved what, when and why"},
                 JSON_OPTION("the same as JSON")},
     .exits = "3 damaged, or the gate failed|4 no such registry, model or version|5 not yours to change|6 the alias stands elsewhere, the verb says where",
     .examples = {"viaduct models register runs/fashion-mnist && viaduct models promote fashion-mnist 1 --reason 'first one'", "viaduct models rollback fashion-mnist --expect 2"},
     .main = verb_models},

    {"doctor", "", "what this machine has, what is missing, and how to get it", .options = {JSON_OPTION("the same, and the names of failpoints")},
     .exits = "0 nothing that every run needs is missing|1 something is",
     .examples = {"viaduct doctor", "viaduct doctor --json"}, .main = verb_doctor},

    {"schema", "", "JSON Schema of the spec",
     .options = {JSON_OPTION("the same: it is JSON already"), {"--man", .help = "the man page viaduct-spec(5) instead"}, {"--markdown", .help = "docs/manual/spec.md instead"}},
     .examples = {"viaduct schema > viaduct.schema.json", "viaduct schema --man | man -l -"}, .main = verb_schema},

    {"completion", "bash|zsh|fish", "prints what makes a shell complete verbs, options, runs and keys of the spec", .nouns = "bash|zsh|fish",
     .examples = {"viaduct completion bash > ~/.local/share/bash-completion/completions/viaduct", "viaduct completion fish > ~/.config/fish/completions/viaduct.fish"},
     .main = verb_completion},

    {"help", "[VERB]", "this list, or a verb's page", .takes = TAKES_VERB, .options = {{"--man", .help = "the man page viaduct(1) instead"}},
     .examples = {"viaduct help run", "viaduct help --man | man -l -"}, .main = verb_help},

    {"version", "", "version and build", .options = {JSON_OPTION("{version, frame_version, spec}")}, .examples = {"viaduct version", "viaduct version --json"}, .main = verb_version},

    {"complete", .main = verb_complete, .role = true},
    {"coordinator", .main = coordinator_main, .role = true},
    {"agent", .main = agent_main, .role = true},
    {"worker", .main = worker_main, .role = true},
    {"ps", .main = ps_main, .role = true},
    {.name = NULL},
};

const struct verb *verb_find(const char *name)
{
    for (const struct verb *v = verbs; v->name; v++)
        if (strcmp(v->name, name) == 0)
            return v;
    return NULL;
}
