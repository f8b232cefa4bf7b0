/*
 * GPT-2's tokenizer: byte-level byte pair encoding.
 *
 *   text --pattern--> pieces --bytes--> symbols --merges, lowest rank first--> tokens --> ids
 *
 * Reading order: bpe_scan.c (pieces), bpe_merge.c (merges), bpe_encode.c (the two together, and the word
 * cache), bpe_vocab.c (building the tables they use), bpe_files.c (vocab.json and merges.txt), bpe_image.c
 * (the tables as one block that processes can share).
 *
 * A token has an id, the bytes it represents, and a text form in which each byte is one printable character
 * (a space is 'Ġ'), so that merges can be written as text. Internally, tokens are numbered 0, 1, … in the
 * order of their ids, which may have gaps; that number is called a symbol.
 */
#ifndef LLM_FORMATS_BPE_H
#define LLM_FORMATS_BPE_H

#include "common/base.h"

/* A tokenizer. Encoding writes to its word cache: use it from one thread at a time. */
typedef struct LlmBpe LlmBpe;

/* ---- building: new, every token, every merge, finish ---- */

/* name is used in messages. Returns NULL if there is no memory. */
extern LlmBpe *llm_bpe_new(const LlmAllocator *allocator, const char *name, LlmError *err);
extern void llm_bpe_free(LlmBpe *bpe);
extern LlmCode llm_bpe_add_token(LlmBpe *bpe, int32_t id, const char *text, size_t text_size,
	const char *bytes, size_t size, LlmError *err);
/*
 * Says of the token added last that llm_bpe_encode finds its bytes in a text as they are, before the text is
 * cut into pieces: always, or for a special token only where the caller allows it.
 */
extern void llm_bpe_mark(LlmBpe *bpe, bool special);
/* left and right are text forms; they and their concatenation must be tokens. Merges may be added in any
 * order. */
extern LlmCode llm_bpe_add_merge(LlmBpe *bpe, int32_t rank, const char *left, size_t left_size,
	const char *right, size_t right_size, LlmError *err);
extern LlmCode llm_bpe_finish(LlmBpe *bpe, LlmError *err);

/* How tokenizers differ from GPT-2's, apart from their tokens and merges. */
typedef struct LlmBpeRules
{
	const char *pattern; /* by which a text is cut into pieces: one of the names in bpe_scan.c */
	bool whole;          /* a piece that is a token is encoded as it, whatever merges would make of it */
	bool nfc;            /* for callers: texts are in Unicode's normal form C before they are encoded */
} LlmBpeRules;

/* Call before llm_bpe_finish; without a call the rules are GPT-2's. */
extern LlmCode llm_bpe_set_rules(LlmBpe *bpe, const LlmBpeRules *rules, LlmError *err);
extern LlmBpeRules llm_bpe_rules(const LlmBpe *bpe);

/* ---- a finished tokenizer as one block of memory, usable at any address that is a multiple of 64 ---- */

/* A number that changes with the layout of such blocks. */
extern uint64_t llm_bpe_image_layout(void);
extern size_t llm_bpe_image_size(const LlmBpe *bpe);
extern void llm_bpe_image(const LlmBpe *bpe, void *out);
/*
 * The tokenizer of a block, which is only read and must exist until llm_bpe_free. NULL if there is no memory.
 */
extern LlmBpe *llm_bpe_of_image(const LlmAllocator *allocator, const void *block, LlmError *err);

/* ---- encoding ---- */

/* A growing list of ids, which may start in a buffer of the caller (owned false) of that capacity. */
typedef struct LlmBpeIds
{
	int32_t *ids;
	size_t count, capacity;
	bool owned;
	const LlmAllocator *allocator;
} LlmBpeIds;

extern void llm_bpe_ids_free(LlmBpeIds *ids);

/*
 * Appends the ids of text (UTF-8; invalid bytes are encoded as bytes). If special, the text of a special
 * token such as <|endoftext|> becomes that token; that of other marked tokens always does. stop may be NULL.
 * A failed call may have appended some ids.
 */
extern LlmCode llm_bpe_encode(LlmBpe *bpe, const char *text, size_t size, bool special, LlmBpeIds *out,
	const LlmStop *stop, LlmError *err);

/*
 * Writes the bytes of the tokens one after another; returns their number. out needs LLM_BPE_SLACK further
 * bytes; NULL only measures. Stops at the first id that is no token, in which case *done < count.
 */
#define LLM_BPE_SLACK 16
extern size_t llm_bpe_decode(const LlmBpe *bpe, const int32_t *ids, size_t count, char *out, size_t *done);

/* The end of the piece of text that starts at byte `at` < size, by GPT-2's pattern; *stop as above, SIZE_MAX
 * if it requested a stop. */
extern size_t llm_bpe_piece_end(const char *text, size_t size, size_t at, const LlmStop *stop);
/* The same by this tokenizer's pattern. */
extern size_t llm_bpe_own_piece_end(
	const LlmBpe *bpe, const char *text, size_t size, size_t at, const LlmStop *stop);
/*
 * The start of the first marked token from byte `at` on, and its symbol; size and UINT32_MAX if there is
 * none.
 */
extern LlmCode llm_bpe_find_marked(const LlmBpe *bpe, const char *text, size_t size, bool special, size_t at,
	size_t *start, uint32_t *symbol, const LlmStop *stop, LlmError *err);

/* ---- inspection ---- */

typedef struct LlmBpeToken
{
	int32_t id;
	const char *text; /* its text form */
	size_t text_size;
	const unsigned char *bytes;
	size_t size;
	bool special; /* marked so, or has the form <|…|> and no merge produces it */
} LlmBpeToken;

extern const char *llm_bpe_name(const LlmBpe *bpe);
extern size_t llm_bpe_count(const LlmBpe *bpe);
extern LlmBpeToken llm_bpe_token(const LlmBpe *bpe, uint32_t symbol);
/* Finds the symbol of an id; false if no token has this id. */
extern bool llm_bpe_find(const LlmBpe *bpe, int32_t id, uint32_t *symbol);

/* The symbols of a piece before any merge; symbols has room for size of them. */
extern LlmCode llm_bpe_symbols(
	const LlmBpe *bpe, const char *piece, size_t size, uint32_t *symbols, size_t *count, LlmError *err);

/* The definition: applies the merge of lowest rank, the leftmost if several have it. False if no merge
 * applies. */
typedef struct LlmBpeMerge
{
	int32_t rank;
	uint32_t left, right, result;
	size_t at; /* index of the result among the remaining symbols */
} LlmBpeMerge;
extern bool llm_bpe_merge_once(const LlmBpe *bpe, uint32_t *symbols, size_t *count, LlmBpeMerge *merge);

/* ---- the text form, and the two files ---- */

/* Converts bytes to text form, at most two bytes each, so out needs room for 2 * size. Returns the length. */
extern size_t llm_bpe_to_text(const unsigned char *bytes, size_t size, char *out);
/* Converts a text form to bytes (out has room for size); false if a character is none of the 256. */
extern bool llm_bpe_from_text(const char *text, size_t size, unsigned char *out, size_t *length);

/*
 * Reads vocab.json, {"text form": id, …}: adds every token to a new tokenizer; llm_bpe_finish then checks
 * them. If a token of one character is none of the 256 (a plain space, for example), the vocabulary is one of
 * plain characters: its tokens represent their own UTF-8, whose text form they are given.
 */
extern LlmCode llm_bpe_read_vocab(
	LlmBpe *bpe, const char *file, const void *data, size_t size, const LlmStop *stop, LlmError *err);

/* merges.txt: one "left right" per line, lowest rank first; a first line "#version…" and blank lines are
 * skipped. */
typedef struct LlmBpeMergeFile
{
	const char *file;    /* for messages */
	const LlmStop *stop; /* set by callers that read a long file; NULL by default */
	const char *data;
	size_t size, at, line;
	int32_t rank; /* of the last merge */
	const char *left, *right;
	size_t left_size, right_size;
} LlmBpeMergeFile;
extern LlmBpeMergeFile llm_bpe_merge_file(const char *file, const void *data, size_t size);
/* Reads the next merge; left is NULL at the end. */
extern LlmCode llm_bpe_next_merge(LlmBpeMergeFile *merges, LlmError *err);

#endif
