/*
 * The checksum of ZIP members (CRC-32, reflected polynomial 0xEDB88320), computed eight bytes per step.
 */
#ifndef LLM_FORMATS_CRC32_H
#define LLM_FORMATS_CRC32_H

#include "common/base.h"

typedef struct LlmCrc32
{
	uint32_t table[8][256]; /* table[k][b]: the contribution of byte b when k more bytes follow it */
	uint32_t value;         /* of the bytes so far */
} LlmCrc32;

extern void llm_crc32_init(LlmCrc32 *crc);
extern void llm_crc32_add(LlmCrc32 *crc, const void *bytes, size_t size);

#endif
