/* A model's configuration as JSON: what parses prints to something that parses to the same. */
#include <stdlib.h>
#include <string.h>

#include "model/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err e = ERR_INIT;
    struct model_config a, b;
    char one[2048], two[2048], *text = malloc(size + 1);
    memcpy(text, data, size);
    text[size] = '\0';
    if (model_config_parse(text, &a, &e) == 0 && model_config_print(&a, one, sizeof one) < (int)sizeof one) {
        if (model_config_parse(one, &b, &e) == 0) {
            model_config_print(&b, two, sizeof two);
            CHECK(strcmp(one, two) == 0);
        }
    }
    free(text);
    return 0;
}
