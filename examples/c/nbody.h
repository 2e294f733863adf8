/* nbody.h - what nbody.c and its function say to each other. */
#ifndef NBODY_H
#define NBODY_H

#include <rfaas_function.h>

enum { NBODY_BAD_REQUEST = 1 };

typedef struct nbody_body {
    double x, y, z, mass;
} nbody_body;

typedef struct nbody_vector {
    double x, y, z;
} nbody_vector;

/* The bodies [begin, end) of n_bodies are asked for. */
typedef struct nbody_request {
    uint32_t n_bodies, begin, end, step;
    nbody_body bodies[];
} nbody_request;

typedef struct nbody_answer {
    uint32_t step, begin;
    nbody_vector accelerations[];
} nbody_answer;

int32_t nbody_accelerate(const void *in, uint64_t in_size, void *out, uint64_t *out_size, const rfaas_ctx *ctx);

#endif
