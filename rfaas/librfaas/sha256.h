/* sha256.h - SHA-256 (FIPS 180-4), by which functions and blobs are named (001 section 2). */
#ifndef RFAAS_SHA256_H
#define RFAAS_SHA256_H

#include <stddef.h>
#include <stdint.h>

enum { SHA256_BYTES = 32 };

void sha256(const void *data, size_t size_bytes, uint8_t digest[SHA256_BYTES]);

#endif
