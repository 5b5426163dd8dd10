/* `viaduct init`: a short spec that works on this machine, from what lies there. It is loaded before it is written, so that what comes out is valid. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "cli/cli.h"
#include "data/data.h"

#define FASHION_MNIST "/usr/share/datasets/fashion-mnist"
#define LANES 8                       /* the default of train.lanes, which init leaves out */

struct found { char path[4][PATH_MAX + 64]; bool eval; };

static bool find_file(const char *dir, const char *set, const char *what, unsigned dims, char *path, size_t size)
{
    for (unsigned i = 0; i < 4; i++) {
        snprintf(path, size, "%s/%s-%s%cidx%u-ubyte%s", dir, set, what, i < 2 ? '-' : '.', dims, i % 2 ? "" : ".gz");
        if (access(path, R_OK) == 0)
            return true;
    }
    return false;
}

/* Files of a folder: false when the training set is not whole. */
static bool find_files(const char *dir, struct found *f)
{
    bool images = find_file(dir, "train", "images", 3, f->path[0], sizeof f->path[0]), labels = find_file(dir, "train", "labels", 1, f->path[1], sizeof f->path[1]);
    f->eval = find_file(dir, "t10k", "images", 3, f->path[2], sizeof f->path[2]) && find_file(dir, "t10k", "labels", 1, f->path[3], sizeof f->path[3]);
    return images && labels;
}

/* The size of the pictures and the number of classes, out of the files. */
static int look_into(const char *dir, struct found *f, struct job_init *what, struct err *err)
{
    char whole[PATH_MAX];
    struct dataset d;
    if (!realpath(dir, whole))
        return err_errno(err, errno, "%s", dir);
    if (!find_files(whole, f))
        return err_set(err, ERR_NOT_FOUND, "%s holds no train-images-idx3-ubyte and train-labels-idx1-ubyte, plain or .gz; any other names can be written into the spec", dir);
    TRY(dataset_open_idx(&d, f->path[0], f->path[1], 0, 0, 0, 0, err));
    what->classes = d.classes;
    what->height = d.height;
    what->width = d.width;
    dataset_close(&d);
    return 0;
}

static int find_data(const char *dir, struct found *f, struct job_init *what, struct err *err)
{
    if (dir)
        TRY(look_into(dir, f, what, err));
    else if (!find_files(FASHION_MNIST, f)) {
        static const char *const names[] = {"train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"};
        for (unsigned i = 0; i < ARRAY_LEN(names); i++)
            snprintf(f->path[i], sizeof f->path[i], FASHION_MNIST "/%s-ubyte.gz", names[i]);
        f->eval = true;
        fprintf(stderr, "viaduct init: Fashion-MNIST, which the spec names, is not installed: apt-get install dataset-fashion-mnist, or give --data DIR\n");
    }
    for (unsigned i = 0; i < 2; i++) {
        what->train[i] = f->path[i];
        what->eval[i] = f->eval ? f->path[2 + i] : NULL;
    }
    return 0;
}

static int choose(const struct args *a, const char *option, int *index, struct err *err)
{
    const char *given = args_value(a, option), *choices = args_choices(a, option), *rest = choices;
    char word[40];
    *index = 0;
    for (int i = 0; given && words_next(&rest, word, sizeof word); i++)
        if (strcmp(word, given) == 0)
            return *index = i, 0;
    return given ? err_set(err, ERR_USAGE, "%s '%s' is not known; allowed: %s", option, given, choices) : 0;
}

static int settle_sites(const struct args *a, struct job_init *what, struct err *err)
{
    static const enum job_via launchers[] = {VIA_LOCAL, VIA_MPIRUN, VIA_SLURM, VIA_JOIN};   /* in the order of the option's choices */
    int via;
    uint64_t sites;
    cpu_set_t set;
    TRY(choose(a, "--via", &via, err));
    what->via = launchers[via];
    sites = what->via == VIA_JOIN ? 2 : 1;
    TRY(args_number(a, "--sites", SITES_MAX, &sites, err));
    if (what->via == VIA_MPIRUN && sites > 1)
        return err_set(err, ERR_USAGE, "one world of mpirun is one site: leave --sites out");
    if (what->via == VIA_JOIN && sites < 2)
        return err_set(err, ERR_USAGE, "a machine joins a site that is there: --sites must be 2 or more");
    unsigned cores = sched_getaffinity(0, sizeof set, &set) == 0 ? (unsigned)CPU_COUNT(&set) : 1, here = what->via == VIA_LOCAL ? (unsigned)sites : 1;
    what->sites = (unsigned)sites;
    what->ranks = MAX(1u, MIN(cores / here, (unsigned)(LANES / sites)));
    return 0;
}

/* Whole and valid, or an error; *text: malloc. */
static int make(const struct job_init *what, char **text, size_t *size, struct err *err)
{
    struct job *job = calloc(1, sizeof *job);
    FILE *out = open_memstream(text, size);
    CHECK(job != NULL && out != NULL);
    job_init_print(out, what);
    fclose(out);
    int rc = job_load_text(job, "the new spec", *text, *size, NULL, 0, false, err);
    if (job->problems.count)
        rc = err_set(err, ERR_USAGE, "%s: %s", job->problems.item[0].path, job->problems.item[0].text);
    job_fini(job);
    free(job);
    return rc;
}

static int write_new(const char *path, const char *text, size_t size, struct err *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        return errno == EEXIST ? err_set(err, ERR_CONFLICT, "%s exists; choose another --out, or move it away", path) : err_errno(err, errno, "%s", path);
    bool written = write(fd, text, size) == (ssize_t)size;
    written = close(fd) == 0 && written;
    return written ? 0 : err_errno(err, errno, "cannot write %s", path);
}

int verb_init(int argc, char **argv)
{
    struct args a;
    struct err err = ERR_INIT;
    struct job_init what = {.classes = 10, .height = 28, .width = 28};
    char host[256] = "localhost", *text = NULL;
    size_t size = 0;
    int family = 0;
    struct found *f = calloc(1, sizeof *f);
    CHECK(f != NULL);
    int rc = args_parse(&a, argc, argv, &err);
    if (rc == 0 && (a.positional_count > 1 || a.override_count))
        rc = args_usage(&a, &err);
    if (rc == 0)
        rc = choose(&a, "--family", &family, &err);
    if (rc == 0)
        rc = settle_sites(&a, &what, &err);
    if (rc == 0)
        rc = find_data(args_value(&a, "--data"), f, &what, &err);
    if (rc == 0) {
        gethostname(host, sizeof host - 1);
        what.host = host;
        what.name = a.positional_count ? a.positional[0] : "my-job";
        what.family = family ? "mlp" : "cnn";
        rc = make(&what, &text, &size, &err);
    }
    const char *out = args_value(&a, "--out");
    if (rc == 0 && out)
        rc = write_new(out, text, size, &err);
    else if (rc == 0)
        fwrite(text, 1, size, stdout);
    free(text);
    free(f);
    return rc < 0 ? cli_fail("init", &err) : 0;
}
