#include "formats/crc32.h"

#include <string.h>

void
llm_crc32_init(LlmCrc32 *crc)
{
	for (uint32_t byte = 0; byte < 256; byte++)
	{
		uint32_t value = byte;

		for (int bit = 0; bit < 8; bit++)
			value = value >> 1 ^ (value & 1 ? 0xedb88320u : 0);
		crc->table[0][byte] = value;
	}
	for (int k = 1; k < 8; k++)
		for (uint32_t byte = 0; byte < 256; byte++)
		{
			uint32_t before = crc->table[k - 1][byte];

			crc->table[k][byte] = before >> 8 ^ crc->table[0][before & 0xff];
		}
	crc->value = 0;
}

void
llm_crc32_add(LlmCrc32 *crc, const void *bytes, size_t size)
{
	const unsigned char *p = bytes;
	const uint32_t(*t)[256] = (const uint32_t(*)[256]) crc->table;
	uint32_t value = ~crc->value;

	for (; size >= 8; p += 8, size -= 8)
	{
		uint64_t word;

		memcpy(&word, p, sizeof(word));
		word ^= value;
		value = t[7][word & 0xff] ^ t[6][word >> 8 & 0xff] ^ t[5][word >> 16 & 0xff] ^
				t[4][word >> 24 & 0xff] ^ t[3][word >> 32 & 0xff] ^ t[2][word >> 40 & 0xff] ^
				t[1][word >> 48 & 0xff] ^ t[0][word >> 56];
	}
	for (; size > 0; p++, size--)
		value = value >> 8 ^ t[0][(value ^ *p) & 0xff];
	crc->value = ~value;
}
