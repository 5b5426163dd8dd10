#include "jobs/keys.h"

#include <string.h>

#define BIG 1e15
const struct key keys[] = {
    {"viaduct", KEY_ENUM, .required = true, .choices = "v1", .doc = "version of this format"},
    {"name", KEY_NAME, .required = true, .doc = "name of the job: small letters, digits and dashes; names the run directory"},

    {"model", KEY_MAP, .required = true, .doc = "what is trained"},
    {"model.family", KEY_ENUM, .required = true, .choices = "mlp|cnn", .later = "resnet|vit|gpt|onnx", .doc = "family of models"},
    {"model.classes", KEY_INT, 2, 256, .required = true, .doc = "number of classes"},
    {"model.input", KEY_INTS, 3, 3, .required = true, .doc = "shape of a sample: [channels, height, width]"},
    {"model.channels", KEY_INTS, 1, 8, .doc = "cnn: output channels of each convolution stage, default [24, 48]"},
    {"model.hidden", KEY_INTS, 1, 8, .doc = "widths of the hidden dense layers, default [128]; one number is a list of one"},
    {"model.norm", KEY_ENUM, .choices = "batch|none", .fallback = "batch", .doc = "cnn: normalization after each convolution"},
    {"model.file", KEY_PATH, .later = "*", .doc = "ONNX file to train"},

    {"data", KEY_MAP, .required = true, .doc = "what it is trained on"},
    {"data.train", KEY_MAP, .required = true, .doc = "training set"},
    {"data.train.format", KEY_ENUM, .choices = "idx", .later = "hdf5|tokens|text|jpeg", .fallback = "idx", .doc = "file format"},
    {"data.train.images", KEY_PATH, .required = true, .doc = "IDX file of images, plain or gzip"},
    {"data.train.labels", KEY_PATH, .required = true, .doc = "IDX file of labels, plain or gzip"},
    {"data.eval", KEY_MAP, .doc = "held-out set for loss and accuracy"},
    {"data.eval.format", KEY_ENUM, .choices = "idx", .later = "hdf5|tokens|text|jpeg", .fallback = "idx", .doc = "file format"},
    {"data.eval.images", KEY_PATH, .required = true, .doc = "IDX file of images, plain or gzip"},
    {"data.eval.labels", KEY_PATH, .required = true, .doc = "IDX file of labels, plain or gzip"},
    {"data.augment", KEY_ENUM, .choices = "none", .fallback = "none", .doc = "augmentation of training samples"},
    {"data.residency", KEY_LIST, 1, SITES_MAX, .doc = "sites that may read the data, default all"},
    {"data.residency[]", KEY_NAME, .doc = "a site's name"},

    {"train", KEY_MAP, .doc = "how it is trained"},
    {"train.epochs", KEY_NUMBER, 0, 1e6, .exclusive_min = true, .doc = "passes over the training set; or steps"},
    {"train.steps", KEY_INT, 1, 1e12, .doc = "steps in all; or epochs"},
    {"train.batch", KEY_INT, 1, 1048576, .fallback = "256", .doc = "global batch: samples a step over all sites"},
    {"train.lanes", KEY_INT, 1, 64, .fallback = "8", .doc = "micro-batch slots of the global batch; never derived from ranks"},
    {"train.optimizer", KEY_MAP, .doc = "optimizer and learning rate schedule"},
    {"train.optimizer.name", KEY_ENUM, .choices = "sgd|adamw", .fallback = "adamw", .doc = "optimizer"},
    {"train.optimizer.lr", KEY_NUMBER, 0, 1e6, .exclusive_min = true, .fallback = "1e-3", .doc = "highest learning rate"},
    {"train.optimizer.weight_decay", KEY_NUMBER, 0, 1e6, .fallback = "0", .doc = "decay, on all parameters"},
    {"train.optimizer.beta1", KEY_NUMBER, 0, 0.999999, .fallback = "0.9", .doc = "adamw"},
    {"train.optimizer.beta2", KEY_NUMBER, 0, 0.9999999, .fallback = "0.999", .doc = "adamw"},
    {"train.optimizer.eps", KEY_NUMBER, 0, 1, .exclusive_min = true, .fallback = "1e-8", .doc = "adamw"},
    {"train.optimizer.momentum", KEY_NUMBER, 0, 0.999999, .fallback = "0", .doc = "sgd"},
    {"train.optimizer.nesterov", KEY_BOOL, .fallback = "false", .doc = "sgd"},
    {"train.optimizer.schedule", KEY_ENUM, .choices = "constant|linear|cosine|step", .fallback = "constant", .doc = "course of the learning rate"},
    {"train.optimizer.final", KEY_NUMBER, 0, 1, .fallback = "0", .doc = "linear, cosine: rate at the last step as a fraction of lr"},
    {"train.optimizer.factor", KEY_NUMBER, 0, 1, .exclusive_min = true, .fallback = "0.1", .doc = "step: the rate is multiplied by this"},
    {"train.optimizer.every", KEY_INT, 1, 1e12, .fallback = "1000", .doc = "step: ... after each so many steps"},
    {"train.optimizer.warmup", KEY_INT, 0, 1e12, .fallback = "0", .doc = "steps of warm-up: lr * (step + 1) / warmup"},
    {"train.optimizer.clip", KEY_NUMBER, 0, 1e12, .fallback = "0", .doc = "largest global norm of the gradient; 0: off"},
    {"train.loss", KEY_ENUM, .choices = "cross_entropy", .later = "mse|bce", .fallback = "cross_entropy", .doc = "on the model's first output"},
    {"train.precision", KEY_ENUM, .choices = "fp32", .later = "bf16", .fallback = "fp32", .doc = "arithmetic"},
    {"train.seed", KEY_INT, 0, BIG, .fallback = "1", .doc = "names every random number of the run"},
    {"train.deterministic", KEY_BOOL, .fallback = "true", .doc = "same weights for any number of ranks, threads and sites"},

    {"coordinator", KEY_MAP, .doc = "the process that decides"},
    {"coordinator.listen", KEY_ADDRESS, .fallback = "127.0.0.1:0", .doc = "HOST:PORT; port 0 takes a free one; default for several Slurm nodes: 0.0.0.0:0"},
    {"coordinator.address", KEY_ADDRESS, .doc = "HOST:PORT that other hosts dial; required for several sites that are not local"},
    {"coordinator.door", KEY_NAME, .doc = "site by whose front door it is reached, instead of a port of its own"},
    {"coordinator.metrics", KEY_ADDRESS, .doc = "HOST:PORT of metrics for Prometheus, default none; port 0 takes a free one; plain HTTP on loopback, else TLS with the run's certificates"},
    {"coordinator.log", KEY_ENUM, .choices = "sqlite", .later = "etcd", .fallback = "sqlite", .doc = "where decisions are kept"},

    {"sites", KEY_LIST, 1, SITES_MAX, .doc = "sites, default one local site with one rank"},
    {"sites[]", KEY_MAP, .doc = "a site: nodes joined by a fast network, one failure domain"},
    {"sites[].name", KEY_NAME, .required = true, .doc = "name, unique"},
    {"sites[].via", KEY_ENUM, .choices = "local|mpirun|slurm|join", .fallback = "local", .doc = "how its processes start"},
    {"sites[].ranks", KEY_INT, 1, RANKS_MAX, .fallback = "1", .doc = "worker processes of the whole site, over all its nodes"},
    {"sites[].threads", KEY_INT, 1, 64, .fallback = "1", .doc = "lanes that a rank computes at the same time"},
    {"sites[].ps_shards", KEY_INT, 0, 16, .doc = "parameter-server processes, default 1 at several sites, 0 at one"},
    {"sites[].door", KEY_ADDRESS, .doc = "HOST:PORT of the site's front door, which others dial: one TLS port for all its processes; port 0 takes a free one, default none"},
    {"sites[].door_address", KEY_ADDRESS, .doc = "HOST:PORT by which others reach that door, behind a router that translates addresses or forwards a port; default: door"},
    {"sites[].nodes", KEY_INT, 1, RANKS_MAX, .fallback = "1", .doc = "slurm: hosts of the site; its ranks lie on them evenly, its shards on the first"},
    {"sites[].time", KEY_DURATION, .doc = "slurm, join: time limit, like 90m, 12h, 2d or D-HH:MM:SS; default: the partition's"},
    {"sites[].partition", KEY_WORD, .doc = "slurm, join: partition, default: Slurm's"},
    {"sites[].account", KEY_WORD, .doc = "slurm, join: account that is charged, default: Slurm's"},
    {"sites[].slurm", KEY_MAP, .doc = "slurm: what else sbatch is told for this site, and how its end is met; join: likewise, of a job on another cluster that joins (slurm render --site)"},
    {"sites[].slurm.drain", KEY_DURATION, .doc = "a checkpoint is saved so long before the time limit, then the job is requeued; default 2m, at most half of the time"},
    {"sites[].slurm.retries", KEY_MAP, .doc = "how often the job is started again, by cause; at the first Slurm site, and at one that joins"},
    {"sites[].slurm.retries.time_limit", KEY_INT, 0, 1000000, .fallback = "1000", .doc = "... after its time limit"},
    {"sites[].slurm.retries.preemption", KEY_INT, 0, 1000000, .fallback = "1000", .doc = "... after another job took its nodes"},
    {"sites[].slurm.retries.node_failure", KEY_INT, 0, 1000000, .fallback = "10", .doc = "... after a node died"},
    {"sites[].slurm.retries.job_failure", KEY_INT, 0, 1000000, .fallback = "0", .doc = "... after the run itself failed"},
    {"sites[].slurm.qos", KEY_WORD, .doc = "sbatch: quality of service"},
    {"sites[].slurm.reservation", KEY_WORD, .doc = "sbatch: reservation"},
    {"sites[].slurm.constraint", KEY_WORD, .doc = "sbatch: features that its nodes must have"},
    {"sites[].slurm.exclude", KEY_WORD, .doc = "sbatch: nodes that it must not get"},
    {"sites[].slurm.nodelist", KEY_WORD, .doc = "sbatch: nodes that it must get"},
    {"sites[].slurm.mem", KEY_WORD, .doc = "sbatch: memory a node, like 64G"},
    {"sites[].slurm.mem-per-cpu", KEY_WORD, .doc = "sbatch: memory a core"},
    {"sites[].slurm.mem-per-gpu", KEY_WORD, .doc = "sbatch: memory a GPU"},
    {"sites[].slurm.gres", KEY_WORD, .doc = "sbatch: generic resources a node, like gpu:2"},
    {"sites[].slurm.gpus-per-node", KEY_WORD, .doc = "sbatch: GPUs a node"},
    {"sites[].slurm.gpu-freq", KEY_WORD, .doc = "sbatch: clock of the GPUs"},
    {"sites[].slurm.licenses", KEY_WORD, .doc = "sbatch: licenses"},
    {"sites[].slurm.comment", KEY_WORD, .doc = "sbatch: a word for accounting"},
    {"sites[].slurm.wckey", KEY_WORD, .doc = "sbatch: a key for accounting"},
    {"sites[].slurm.begin", KEY_WORD, .doc = "sbatch: not before this time"},
    {"sites[].slurm.deadline", KEY_WORD, .doc = "sbatch: not after this time"},
    {"sites[].slurm.dependency", KEY_WORD, .doc = "sbatch: jobs that it waits for, like afterok:12"},
    {"sites[].slurm.mail-type", KEY_WORD, .doc = "sbatch: events that are mailed"},
    {"sites[].slurm.mail-user", KEY_WORD, .doc = "sbatch: who gets the mail"},
    {"sites[].slurm.switches", KEY_WORD, .doc = "sbatch: most leaf switches"},
    {"sites[].slurm.tmp", KEY_WORD, .doc = "sbatch: temporary disk a node"},
    {"sites[].slurm.hint", KEY_WORD, .doc = "sbatch: how cores are bound"},
    {"sites[].slurm.network", KEY_WORD, .doc = "sbatch: network of the nodes"},
    {"sites[].slurm.profile", KEY_WORD, .doc = "sbatch: what Slurm records"},
    {"sites[].slurm.acctg-freq", KEY_WORD, .doc = "sbatch: how often Slurm records it"},
    {"sites[].slurm.cpus-per-task", KEY_INT, 1, 4096, .doc = "sbatch: cores a node, default ranks * threads a node"},
    {"sites[].slurm.nice", KEY_INT, 0, 2147483645, .doc = "sbatch: lowered priority"},
    {"sites[].slurm.priority", KEY_INT, 1, 2147483645, .doc = "sbatch: priority"},
    {"sites[].slurm.cores-per-socket", KEY_INT, 1, 1024, .doc = "sbatch: cores a socket"},
    {"sites[].slurm.sockets-per-node", KEY_INT, 1, 1024, .doc = "sbatch: sockets a node"},
    {"sites[].slurm.threads-per-core", KEY_INT, 1, 16, .doc = "sbatch: hardware threads a core"},
    {"sites[].slurm.core-spec", KEY_INT, 0, 1024, .doc = "sbatch: cores left to the system"},
    {"sites[].slurm.exclusive", KEY_BOOL, .doc = "sbatch: no other jobs on its nodes"},
    {"sites[].slurm.contiguous", KEY_BOOL, .doc = "sbatch: nodes that lie together"},
    {"sites[].slurm.spread-job", KEY_BOOL, .doc = "sbatch: nodes that lie apart"},
    {"sites[].slurm.job-name", KEY_WORD, .refused = "it is the spec's name"},
    {"sites[].slurm.nodes", KEY_WORD, .refused = "write it at the site, beside `via`"},
    {"sites[].slurm.time", KEY_WORD, .refused = "write it at the site, beside `via`"},
    {"sites[].slurm.partition", KEY_WORD, .refused = "write it at the site, beside `via`"},
    {"sites[].slurm.account", KEY_WORD, .refused = "write it at the site, beside `via`"},
    {"sites[].slurm.ntasks", KEY_WORD, .refused = "a node has one task, its agent, which starts the ranks"},
    {"sites[].slurm.ntasks-per-node", KEY_WORD, .refused = "a node has one task, its agent, which starts the ranks"},
    {"sites[].slurm.mpi", KEY_WORD, .refused = "a node has one task, its agent, which starts the ranks"},
    {"sites[].slurm.output", KEY_WORD, .refused = "what the script prints lies in the run directory"},
    {"sites[].slurm.error", KEY_WORD, .refused = "what the script prints lies in the run directory"},
    {"sites[].slurm.open-mode", KEY_WORD, .refused = "what the script prints must be appended after a requeue"},
    {"sites[].slurm.input", KEY_WORD, .refused = "nothing is read from it"},
    {"sites[].slurm.requeue", KEY_WORD, .refused = "a run that is requeued resumes, so it always may be"},
    {"sites[].slurm.no-requeue", KEY_WORD, .refused = "a run that is requeued resumes; set slurm.retries to 0"},
    {"sites[].slurm.no-kill", KEY_WORD, .refused = "Slurm ends the job when a node dies, and the run resumes"},
    {"sites[].slurm.signal", KEY_WORD, .refused = "the run is saved before its time limit: set slurm.drain"},
    {"sites[].slurm.array", KEY_WORD, .refused = "one job spec is one run"},
    {"sites[].slurm.wrap", KEY_WORD, .refused = "the script is made by viaduct"},
    {"sites[].slurm.chdir", KEY_WORD, .refused = "the script names whole paths"},
    {"sites[].slurm.export", KEY_WORD, .refused = "the script needs the environment that it was submitted from"},
    {"sites[].slurm.export-file", KEY_WORD, .refused = "the script needs the environment that it was submitted from"},
    {"sites[].slurm.get-user-env", KEY_WORD, .refused = "the script needs the environment that it was submitted from"},
    {"sites[].slurm.clusters", KEY_WORD, .refused = "the Slurm sites of a run are one job on one cluster"},
    {"sites[].slurm.uid", KEY_WORD, .refused = "a run belongs to who submits it"},
    {"sites[].slurm.gid", KEY_WORD, .refused = "a run belongs to who submits it"},
    {"sites[].slurm.test-only", KEY_WORD, .refused = "use `viaduct slurm render SPEC | sbatch --test-only`"},
    {"sites[].slurm.parsable", KEY_WORD, .refused = "it belongs to the command line"},
    {"sites[].slurm.wait", KEY_WORD, .refused = "it belongs to the command line"},
    {"sites[].slurm.hold", KEY_WORD, .refused = "it belongs to the command line"},
    {"sites[].slurm.bcast", KEY_WORD, .refused = "it belongs to srun"},
    {"sites[].slurm.gpus", KEY_WORD, .refused = "say what each node gets: gpus-per-node or gres"},

    {"parallel", KEY_ENUM, .choices = "auto", .fallback = "auto", .doc = "data parallel in this version"},
    {"sync", KEY_MAP, .doc = "how gradients meet"},
    {"sync.inside", KEY_ENUM, .choices = "allreduce", .later = "ps", .fallback = "allreduce", .doc = "inside a site"},
    {"sync.between", KEY_MAP, .doc = "between sites"},
    {"sync.between.mode", KEY_ENUM, .choices = "sync", .later = "ssp|async|local", .fallback = "sync", .doc = "when a round closes"},
    {"sync.between.codec", KEY_ENUM, .choices = "none", .later = "bf16|int8|int4|top-k", .fallback = "none", .doc = "compression"},

    {"checkpoint", KEY_MAP, .doc = "durable state"},
    {"checkpoint.every", KEY_STEPS, 1, 1e12, .fallback = "1000 steps", .doc = "one each so many steps, and one at the last"},
    {"checkpoint.keep", KEY_INT, 1, 1000, .fallback = "3", .doc = "newest ones that stay at each site"},
    {"checkpoint.replicas", KEY_INT, 1, SITES_MAX, .doc = "sites that must hold it before it is durable, default min(2, sites)"},
    {"checkpoint.ram_every", KEY_INT, 1, 1000000, .fallback = "1", .doc = "commits between copies in memory"},

    {"export", KEY_MAP, .nullable = true, .doc = "what is made of the trained model; null: nothing"},
    {"export.to", KEY_LIST, 1, 3, .doc = "formats, default [onnx, safetensors]"},
    {"export.to[]", KEY_ENUM, .choices = "onnx|safetensors|triton", .doc = "format; triton: a model repository with the best published model"},
    {"export.registry", KEY_PATH, .doc = "folder of the registry that the published model becomes a version in, seen from the first site; default: not registered"},
    {"export.model", KEY_NAME, .doc = "its name there, default the job's"},
    {"export.prune", KEY_MAP, .doc = "magnitude pruning with fine-tuning, a phase of its own after training; without it: none"},
    {"export.prune.sparsity", KEY_NUMBER, 0, 0.99, .exclusive_min = true, .fallback = "0.8", .doc = "share of the weights of convolutions and dense layers that become zero"},
    {"export.prune.epochs", KEY_NUMBER, 0, 1e6, .exclusive_min = true, .fallback = "1", .doc = "passes over the training set while pruning and after it"},
    {"export.quantize", KEY_MAP, .doc = "8-bit integers; needs data.eval, on which the gate is decided"},
    {"export.quantize.scheme", KEY_ENUM, .choices = "static", .later = "dynamic|weight-only", .fallback = "static",
     .doc = "static: ranges of values from training images"},
    {"export.quantize.images", KEY_INT, 16, 100000, .fallback = "1024", .doc = "training images that ranges are measured on, chosen by train.seed"},
    {"export.quantize.calibration", KEY_ENUM, .choices = "mse|percentile|entropy|minmax", .fallback = "mse", .doc = "how a range is cut"},
    {"export.gate", KEY_MAP, .doc = "what the quantized model must hold to be published"},
    {"export.gate.max_drop", KEY_NUMBER, -1, 1, .fallback = "0.005", .doc = "largest drop of accuracy below the float model, with 95 % confidence"},
    {.path = NULL},
};

const struct key *key_find(const char *path)
{
    for (const struct key *k = keys; k->path; k++)
        if (strcmp(k->path, path) == 0)
            return k;
    return NULL;
}

const char *key_last(const struct key *k)
{
    const char *dot = strrchr(k->path, '.');
    return dot ? dot + 1 : k->path;
}

unsigned key_children(const char *path, const struct key **out, unsigned max)
{
    unsigned n = 0;
    size_t length = strlen(path);
    for (const struct key *k = keys; k->path && n < max; k++) {
        const char *rest = k->path;
        if (length) {
            if (strncmp(k->path, path, length) != 0 || k->path[length] != '.')
                continue;
            rest += length + 1;
        }
        if (!strchr(rest, '.') && !strstr(rest, "[]"))
            out[n++] = k;
    }
    return n;
}
