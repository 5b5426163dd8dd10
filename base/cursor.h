/* Cursors: the only way bytes from outside become fields. Little-endian. A reader that runs past its end or meets a
 * limit turns bad and stays bad, returning zeros; callers check once, with cursor_ok, after reading everything. */
#ifndef VIADUCT_BASE_CURSOR_H
#define VIADUCT_BASE_CURSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct reader { const uint8_t *data; size_t size, pos; bool bad; };
struct writer { uint8_t *data; size_t size, pos; bool bad; };   /* size: capacity; pos: bytes written */

struct reader reader_over(const void *data, size_t size);
struct writer writer_over(void *data, size_t size);

uint8_t get_u8(struct reader *r);
uint16_t get_u16(struct reader *r);
uint32_t get_u32(struct reader *r);
uint64_t get_u64(struct reader *r);
float get_f32(struct reader *r);
double get_f64(struct reader *r);
/* A view into the data, or NULL (bad). */
const uint8_t *get_bytes(struct reader *r, size_t n);
/* u16 length, bytes; copied with terminator into out; bad when longer than out_size-1 or holding a NUL. */
void get_str(struct reader *r, char *out, size_t out_size);
/* A count that must be <= limit; bad and 0 otherwise. */
uint32_t get_count(struct reader *r, uint32_t limit);
static inline size_t reader_left(const struct reader *r) { return r->bad ? 0 : r->size - r->pos; }
static inline bool reader_done(const struct reader *r) { return !r->bad && r->pos == r->size; }

void put_u8(struct writer *w, uint8_t v);
void put_u16(struct writer *w, uint16_t v);
void put_u32(struct writer *w, uint32_t v);
void put_u64(struct writer *w, uint64_t v);
void put_f32(struct writer *w, float v);
void put_f64(struct writer *w, double v);
void put_bytes(struct writer *w, const void *p, size_t n);
void put_str(struct writer *w, const char *s);

#endif
