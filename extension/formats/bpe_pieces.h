/* The counted pieces as bpe_pieces.c makes them and bpe_train.c reads them; see bpe_train.h. */
#ifndef LLM_FORMATS_BPE_PIECES_H
#define LLM_FORMATS_BPE_PIECES_H

#include <string.h>

#include "formats/bpe_internal.h"
#include "formats/bpe_train.h"

typedef struct BpePiece
{
	int64_t count;
	uint64_t hash;
	uint32_t at, size; /* its bytes */
} BpePiece;

struct LlmBpePieces
{
	const LlmAllocator *allocator;
	BpeArray bytes;    /* of all pieces, one behind the other */
	BpeArray pieces;   /* BpePiece */
	BpeArray specials; /* BpeSpecial */
	BpeArray special_bytes;
	uint32_t *table; /* indexes of pieces; LLM_BPE_NONE: free */
	unsigned bits;
};

extern LlmCode llm_bpe_train_no_memory(LlmError *err);

static inline uint64_t
llm_bpe_hash(const char *text, size_t size)
{
	uint64_t hash = size, word;

	for (; size >= 8; text += 8, size -= 8)
	{
		memcpy(&word, text, 8);
		hash = (hash ^ word) * UINT64_C(0x9e3779b97f4a7c15);
		hash ^= hash >> 32;
	}
	word = 0;
	memcpy(&word, text, size);
	return (hash ^ word) * UINT64_C(0x9e3779b97f4a7c15);
}

#endif
