/* The counted pieces, produced by bpe_pieces.c and read by bpe_train.c; see bpe_train.h. */
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
	BpeArray bytes;    /* of all pieces, one after another */
	BpeArray pieces;   /* BpePiece */
	BpeArray specials; /* BpeSpecial */
	BpeArray special_bytes;
	BpeStarts starts; /* of the special tokens */
	uint32_t *table;  /* indexes of pieces; LLM_BPE_NONE: free */
	unsigned bits;
};

extern LlmCode llm_bpe_train_no_memory(LlmError *err);

#endif
