#include "formats/huffman.h"

#include <string.h>

bool
llm_huffman_build(LlmHuffman *huffman, const uint8_t *lengths, int count)
{
	uint16_t first[LLM_HUFFMAN_MAX_BITS + 2] = {0};
	uint32_t next_code[LLM_HUFFMAN_MAX_BITS + 2] = {0};
	int left = 1, used = 0;

	memset(huffman->count, 0, sizeof(huffman->count));
	memset(huffman->fast, 0, sizeof(huffman->fast));
	for (int s = 0; s < count; s++)
		huffman->count[lengths[s]]++;
	huffman->count[0] = 0;
	for (int length = 1; length <= LLM_HUFFMAN_MAX_BITS; length++)
	{
		left = left * 2 - huffman->count[length];
		if (left < 0)
			return false; /* more codes than the bits can distinguish */
		used += huffman->count[length];
		first[length + 1] = (uint16_t) (first[length] + huffman->count[length]);
		next_code[length + 1] = (next_code[length] + huffman->count[length]) << 1;
	}
	/* A code with gaps is legal only when it has at most one symbol. */
	if (left > 0 && (used > 1 || used != huffman->count[1]))
		return false;

	for (int s = 0; s < count; s++)
	{
		int length = lengths[s];
		uint32_t code, reversed = 0;

		if (length == 0)
			continue;
		huffman->symbol[first[length]++] = (uint16_t) s;
		code = next_code[length]++;
		if (length > LLM_HUFFMAN_FAST_BITS)
			continue;
		for (int bit = 0; bit < length; bit++)
			reversed |= (code >> bit & 1) << (length - 1 - bit);
		for (; reversed < 1u << LLM_HUFFMAN_FAST_BITS; reversed += 1u << length)
			huffman->fast[reversed] = (uint16_t) (s << 4 | length);
	}
	return true;
}
