/*
 * GPT-2's tokenizer: byte-level byte pair encoding.
 *
 *   text --pattern--> pieces --bytes--> symbols --merges, lowest rank first--> tokens --> ids
 *
 * Reading order: bpe_scan.c (pieces), bpe_merge.c (merges), bpe_encode.c (the two together, and the word
 * cache), bpe_vocab.c (building the tables they use), bpe_files.c (vocab.json and merges.txt), bpe_image.c
 * (the tables as one block that processes can share).
 *
 * A token has an id, the bytes it stands for, and a text form in which each byte is one printable character
 * (a space is 'Ġ'), so that merges can be written down. Inside, tokens are numbered 0, 1, … in the order of
 * their ids, which may have gaps; that number is called a symbol.
 */
#ifndef LLM_FORMATS_BPE_H
#define LLM_FORMATS_BPE_H

#include "common/base.h"

/* One tokenizer. Encoding writes into its word cache: one thread at a time. */
typedef struct LlmBpe LlmBpe;

/* ---- building: new, every token, every merge, finish ---- */

/* name is the tokenizer's, for messages. NULL: no memory. */
extern LlmBpe *llm_bpe_new(const LlmAllocator *allocator, const char *name, LlmError *err);
extern void llm_bpe_free(LlmBpe *bpe);
extern LlmCode llm_bpe_add_token(LlmBpe *bpe, int32_t id, const char *text, size_t text_size,
	const char *bytes, size_t size, LlmError *err);
/* left and right are text forms; they and their concatenation must be tokens. Merges may come in any order.
 */
extern LlmCode llm_bpe_add_merge(LlmBpe *bpe, int32_t rank, const char *left, size_t left_size,
	const char *right, size_t right_size, LlmError *err);
extern LlmCode llm_bpe_finish(LlmBpe *bpe, LlmError *err);

/* ---- a finished tokenizer as one block of memory, good at any address that is a multiple of 64 ---- */

/* Changes whenever such blocks do. */
extern uint64_t llm_bpe_image_layout(void);
extern size_t llm_bpe_image_size(const LlmBpe *bpe);
extern void llm_bpe_image(const LlmBpe *bpe, void *out);
/* The tokenizer of a block, which is only read and must stay until llm_bpe_free. NULL: no memory. */
extern LlmBpe *llm_bpe_of_image(const LlmAllocator *allocator, const void *block, LlmError *err);

/* ---- encoding ---- */

/* A growing list of ids. ids may begin as the caller's own room (owned false) of that capacity. */
typedef struct LlmBpeIds
{
	int32_t *ids;
	size_t count, capacity;
	bool owned;
	const LlmAllocator *allocator;
} LlmBpeIds;

extern void llm_bpe_ids_free(LlmBpeIds *ids);

/*
 * Appends the ids of text (UTF-8; broken bytes are encoded as bytes). With special, the text of a special
 * token such as <|endoftext|> becomes that token. stop may be NULL. A failed call may leave ids appended.
 */
extern LlmCode llm_bpe_encode(LlmBpe *bpe, const char *text, size_t size, bool special, LlmBpeIds *out,
	const LlmStop *stop, LlmError *err);

/*
 * The bytes of ids, one token behind the other; returns how many. out, with LLM_BPE_SLACK bytes of room
 * beyond them, may be NULL to measure. Stops at the first id that is no token: *done < count tells.
 */
#define LLM_BPE_SLACK 16
extern size_t llm_bpe_decode(const LlmBpe *bpe, const int32_t *ids, size_t count, char *out, size_t *done);

/* Where the piece of text that starts at byte `at` < size ends; *stop as above, SIZE_MAX when it said so. */
extern size_t llm_bpe_piece_end(const char *text, size_t size, size_t at, const LlmStop *stop);

/* ---- looking inside ---- */

typedef struct LlmBpeToken
{
	int32_t id;
	const char *text; /* its text form */
	size_t text_size;
	const unsigned char *bytes;
	size_t size;
	bool special; /* looks like <|…|> and no merge makes it */
} LlmBpeToken;

extern const char *llm_bpe_name(const LlmBpe *bpe);
extern size_t llm_bpe_count(const LlmBpe *bpe);
extern LlmBpeToken llm_bpe_token(const LlmBpe *bpe, uint32_t symbol);
/* The symbol of an id; false when no token has it. */
extern bool llm_bpe_find(const LlmBpe *bpe, int32_t id, uint32_t *symbol);

/* The symbols that a piece starts as, before any merge; symbols has room for size of them. */
extern LlmCode llm_bpe_symbols(
	const LlmBpe *bpe, const char *piece, size_t size, uint32_t *symbols, size_t *count, LlmError *err);

/* The plain rule: applies the merge of lowest rank, the leftmost of equals. False: none applies any more. */
typedef struct LlmBpeMerge
{
	int32_t rank;
	uint32_t left, right, result;
	size_t at; /* index of the result among the symbols that are left */
} LlmBpeMerge;
extern bool llm_bpe_merge_once(const LlmBpe *bpe, uint32_t *symbols, size_t *count, LlmBpeMerge *merge);

/* ---- the text form, and the two files ---- */

/* Bytes to text form: at most two bytes each, so out has room for 2 * size. Returns the length. */
extern size_t llm_bpe_to_text(const unsigned char *bytes, size_t size, char *out);
/* Text form to bytes (out has room for size); false when a character is none of the 256. */
extern bool llm_bpe_from_text(const char *text, size_t size, unsigned char *out, size_t *length);

/*
 * vocab.json, {"text form": id, …}: adds every token to a new tokenizer; llm_bpe_finish then checks them.
 * Where a token of one character is none of the 256 (a plain space, say), the vocabulary is one of plain
 * characters: its tokens stand for their own UTF-8, and get the text form of that.
 */
extern LlmCode llm_bpe_read_vocab(
	LlmBpe *bpe, const char *file, const void *data, size_t size, const LlmStop *stop, LlmError *err);

/* merges.txt: "left right" a line, the lowest rank first; a first line "#version…" and blank lines aside. */
typedef struct LlmBpeMergeFile
{
	const char *file;    /* for messages */
	const LlmStop *stop; /* to be set by whoever reads a long file; NULL */
	const char *data;
	size_t size, at, line;
	int32_t rank; /* of the last merge */
	const char *left, *right;
	size_t left_size, right_size;
} LlmBpeMergeFile;
extern LlmBpeMergeFile llm_bpe_merge_file(const char *file, const void *data, size_t size);
/* Reads the next merge; at the end left is NULL. */
extern LlmCode llm_bpe_next_merge(LlmBpeMergeFile *merges, LlmError *err);

#endif
