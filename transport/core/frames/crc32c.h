/* crc32c.h - CRC-32C (Castagnoli), the checksum of frame headers.
 *
 * Polynomial 0x1EDC6F41 reflected, initial value and final xor 0xFFFFFFFF (RFC 3720 appendix B.4).
 * Must not allocate, lock or call the system: it lies on the hot path.
 */
#ifndef RFAAS_CRC32C_H
#define RFAAS_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Checksum of `size_bytes` bytes at `data`, continuing from `crc` (0 to begin): for any split of a message,
 * crc32c(b, crc32c(a, 0)) equals crc32c(ab, 0). `data` may be NULL when `size_bytes` is 0. */
uint32_t rfaas_crc32c(const void *data, size_t size_bytes, uint32_t crc);

/* The same result from the tables alone, whatever the CPU offers; tests hold the two against each other. */
uint32_t rfaas_crc32c_portable(const void *data, size_t size_bytes, uint32_t crc);

#endif
