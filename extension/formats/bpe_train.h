/*
 * Learning a byte-level BPE from texts: count their distinct pieces, then merge, again and again, the pair of
 * neighbouring tokens that stands most often in them.
 *
 * Tokens are numbered as they are made: 0 to 255 are the bytes in GPT-2's order ('!' is 0), then one for each
 * merge. Of pairs that are equally frequent the one of the smallest (left, right) numbers is merged. A pair
 * inside "aaa" counts at every position, overlapping ones too; merging goes from left to right. The order in
 * which texts are added changes nothing. No two merges make the same bytes: where a token is made, no merge
 * has crossed its ends, so what happened inside depends on its bytes alone.
 */
#ifndef LLM_FORMATS_BPE_TRAIN_H
#define LLM_FORMATS_BPE_TRAIN_H

#include "formats/bpe.h"

/* ---- what is learned from: the distinct pieces of texts and how often each stands in them ---- */

typedef struct LlmBpePieces LlmBpePieces;

/* NULL: no memory. */
extern LlmBpePieces *llm_bpe_pieces_new(const LlmAllocator *allocator, LlmError *err);
extern void llm_bpe_pieces_free(LlmBpePieces *pieces);
/* Before any text: a special token's text, which ends the piece before it and is not learned from. */
extern LlmCode llm_bpe_pieces_special(LlmBpePieces *pieces, const char *text, size_t size, LlmError *err);
/* A text (UTF-8; broken bytes count as bytes); its end ends a piece. stop may be NULL. */
extern LlmCode llm_bpe_pieces_add(
	LlmBpePieces *pieces, const char *text, size_t size, const LlmStop *stop, LlmError *err);
/* How many distinct pieces there are. */
extern size_t llm_bpe_pieces_count(const LlmBpePieces *pieces);

/* ---- what is learned ---- */

/* No token is longer, in bytes: a line of a thousand dashes is no word, and a table's index has a limit. */
#define LLM_BPE_LONGEST 256

typedef struct LlmBpeLearned
{
	size_t token_count; /* fewer than asked for when no pair repeats */
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
 * Learns until there are vocab_size (at least 256) tokens or no pair stands twice. What failed is freed;
 * otherwise the caller frees it.
 */
extern LlmCode llm_bpe_learn(const LlmBpePieces *pieces, size_t vocab_size, LlmBpeLearned *learned,
	const LlmStop *stop, LlmError *err);
extern void llm_bpe_learned_free(LlmBpeLearned *learned);

#endif
