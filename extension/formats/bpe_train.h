/*
 * Training a byte-level BPE on texts: count their distinct pieces, then repeatedly merge the pair of adjacent
 * tokens that is most frequent in them.
 *
 * Tokens are numbered in the order of creation: 0 to 255 are the bytes in GPT-2's order ('!' is 0), followed
 * by one for each merge. Among equally frequent pairs, the one with the smallest (left, right) numbers is
 * merged. A pair inside "aaa" counts at every position, overlapping ones too; merging goes from left to
 * right. The result does not depend on the order in which texts are added. No two merges produce the same
 * bytes: no merge has crossed the ends of a token where it is created, so what happened inside depends on its
 * bytes alone.
 */
#ifndef LLM_FORMATS_BPE_TRAIN_H
#define LLM_FORMATS_BPE_TRAIN_H

#include "formats/bpe.h"

/* ---- training data: the distinct pieces of the texts, and the count of each ---- */

typedef struct LlmBpePieces LlmBpePieces;

/* Returns NULL if there is no memory. */
extern LlmBpePieces *llm_bpe_pieces_new(const LlmAllocator *allocator, LlmError *err);
extern void llm_bpe_pieces_free(LlmBpePieces *pieces);
/* Call before any text is added: a special token's text, which ends the piece before it and is not itself
 * counted. */
extern LlmCode llm_bpe_pieces_special(LlmBpePieces *pieces, const char *text, size_t size, LlmError *err);
/* Adds a text (UTF-8; invalid bytes count as bytes), whose end is the end of a piece. stop may be NULL. */
extern LlmCode llm_bpe_pieces_add(
	LlmBpePieces *pieces, const char *text, size_t size, const LlmStop *stop, LlmError *err);
/* The number of distinct pieces. */
extern size_t llm_bpe_pieces_count(const LlmBpePieces *pieces);

/* ---- training ---- */

/* The longest token in bytes: a line of a thousand dashes is no word, and the index of a table has a size
 * limit. */
#define LLM_BPE_LONGEST 256

typedef struct LlmBpeLearned
{
	size_t token_count; /* fewer than requested if no pair occurs twice */
	size_t merge_count; /* token_count - 256: merge i makes token 256 + i */
	struct LlmBpeLearnedToken
	{
		size_t at, size; /* its bytes */
	} * tokens;
	struct LlmBpeLearnedMerge
	{
		uint32_t left, right;
	} * merges;
	const unsigned char *bytes;
	/* private */
	const LlmAllocator *allocator;
	void *memory[3];
	size_t memory_size[3];
} LlmBpeLearned;

/*
 * Trains until there are vocab_size tokens (at least 256) or no pair occurs twice. On failure everything is
 * freed; otherwise the caller frees the result. Whenever stop is asked, learned->merge_count is the number of
 * merges so far.
 */
extern LlmCode llm_bpe_learn(const LlmBpePieces *pieces, size_t vocab_size, LlmBpeLearned *learned,
	const LlmStop *stop, LlmError *err);
extern void llm_bpe_learned_free(LlmBpeLearned *learned);

#endif
