/* Protocol buffers on the wire, both ways, without a schema compiler: ONNX and TensorBoard need few and stable fields.
 * (Protocol Buffers encoding: varint, 64-bit, length-delimited, 32-bit.) Messages are written inside out into growing buffers; the reader walks one
 * message's fields over bounded bytes and never allocates. */
#ifndef VIADUCT_BASE_PROTOBUF_H
#define VIADUCT_BASE_PROTOBUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct pb { uint8_t *data; size_t size, capacity; bool failed; };   /* failed: out of memory, once and for all */
void pb_free(struct pb *b);
void pb_uint(struct pb *b, uint32_t field, uint64_t v);
void pb_float(struct pb *b, uint32_t field, float v);
void pb_double(struct pb *b, uint32_t field, double v);
void pb_bytes(struct pb *b, uint32_t field, const void *p, size_t n);
void pb_string(struct pb *b, uint32_t field, const char *s);
/* Appends the message and frees it. */
void pb_message(struct pb *b, uint32_t field, struct pb *inner);

enum pb_wire { PB_VARINT = 0, PB_FIXED64 = 1, PB_BYTES = 2, PB_FIXED32 = 5 };
struct pb_reader { const uint8_t *data; size_t size, pos; bool bad; };
struct pb_field { uint32_t number; enum pb_wire wire; uint64_t value; const uint8_t *bytes; size_t size; };
struct pb_reader pb_over(const void *data, size_t size);
/* false at the end or when bad: look at bad. */
bool pb_next(struct pb_reader *r, struct pb_field *f);

#endif
