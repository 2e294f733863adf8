/* nbody_kernel.c - the function of nbody.c that runs on harvested cores: gravity on some bodies by all. */
#include <math.h>
#include <string.h>

#include "nbody.h"

#define SOFTENING_SQUARED 1e-4

int32_t nbody_accelerate(const void *in, uint64_t in_size, void *out, uint64_t *out_size, const rfaas_ctx *ctx)
{
    (void)ctx;
    const nbody_request *request = in; /* buffers begin on a multiple of 64 */
    nbody_answer *answer = out;
    if (in_size < sizeof *request || in_size != sizeof *request + request->n_bodies * sizeof(nbody_body) ||
        request->begin > request->end || request->end > request->n_bodies)
        return NBODY_BAD_REQUEST;
    uint64_t needed = sizeof *answer + (request->end - request->begin) * sizeof(nbody_vector);
    if (needed > *out_size) {
        *out_size = needed; /* the caller is told how much room there should have been */
        return 0;
    }
    answer->step = request->step;
    answer->begin = request->begin;
    for (uint32_t i = request->begin; i < request->end; i++) {
        const nbody_body *self = &request->bodies[i];
        double x = 0, y = 0, z = 0;
        for (uint32_t j = 0; j < request->n_bodies; j++) {
            const nbody_body *other = &request->bodies[j];
            double dx = other->x - self->x, dy = other->y - self->y, dz = other->z - self->z;
            double squared = dx * dx + dy * dy + dz * dz + SOFTENING_SQUARED;
            double pull = other->mass / (squared * sqrt(squared));
            x += pull * dx;
            y += pull * dy;
            z += pull * dz;
        }
        answer->accelerations[i - request->begin] = (nbody_vector){x, y, z};
    }
    *out_size = needed;
    return 0;
}
