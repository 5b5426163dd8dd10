/* The table of keys: the one place that says what a spec may hold. Loader, defaults, schema and documentation read it. */
#ifndef VIADUCT_JOBS_KEYS_H
#define VIADUCT_JOBS_KEYS_H

#include "jobs/jobs.h"

enum key_type { KEY_MAP, KEY_LIST, KEY_NAME, KEY_ADDRESS, KEY_PATH, KEY_INT, KEY_NUMBER, KEY_BOOL, KEY_ENUM, KEY_STEPS, KEY_INTS, KEY_WORD, KEY_DURATION };

struct key {
    const char *path;                 /* "train.optimizer.lr"; list elements: "sites[].name" */
    enum key_type type;
    double min, max;                  /* of numbers; of the element count in lists */
    bool exclusive_min;               /* greater than min */
    bool required, nullable;          /* nullable: `null` has a meaning of its own */
    const char *fallback;             /* default as it would be written; NULL: none, or derived */
    const char *choices;              /* enum: "a|b|c" that this version does */
    const char *refused;              /* the whole key, for ever: why */
    const char *later;                /* choices of the contract that are not in this version; "*": the whole key */
    const char *doc;
};
#define KEY_CHILDREN_MAX 96
#define WORD_MAX 120                  /* bytes of a KEY_WORD */
#define WORD_NUMBER_MAX 1e15          /* one that is a whole number */
extern const struct key keys[];       /* ends with path NULL */

const struct key *key_find(const char *path);
/* Direct children of a path ("" is the root); names[i] points behind the last dot. Returns their number. */
unsigned key_children(const char *path, const struct key **out, unsigned max);
const char *key_last(const struct key *k);

#endif
