/*
 * A finished tokenizer as one block of memory: its tables one after another, each found by its offset from
 * the block's start. The word cache, which encoding writes to, is private to each user.
 */
#include "formats/bpe_internal.h"

#include <string.h>

#define ALIGN(size) (((size) + 63) & ~(size_t) 63)

typedef enum Section
{
	TOKENS,
	PAIRS,
	CHARS,
	TEXT,
	BYTES,
	MARKED,
	WHOLE,
	SECTIONS
} Section;

typedef struct BpeImage
{
	char name[sizeof(((LlmBpe *) NULL)->name)];
	uint64_t token_count, pair_count, pair_bits, char_bits, whole_bits, pattern, nfc;
	uint32_t byte_symbol[256];
	struct
	{
		uint64_t at, size; /* size is 0 if the section is absent */
	} sections[SECTIONS];
} BpeImage;

static BpeImage
image_of(const LlmBpe *bpe)
{
	size_t sizes[SECTIONS] = {[TOKENS] = bpe->token_count * sizeof(BpeToken),
		[PAIRS] = sizeof(BpePair) << bpe->pair_bits,
		[CHARS] = bpe->chars ? sizeof(BpeChar) << bpe->char_bits : 0,
		[TEXT] = bpe->text.size,
		[BYTES] = bpe->bytes.size,
		[MARKED] = bpe->marked.size,
		[WHOLE] = bpe->whole ? sizeof(uint32_t) << bpe->whole_bits : 0};
	BpeImage image = {.token_count = bpe->token_count,
		.pair_count = bpe->pair_count,
		.pair_bits = bpe->pair_bits,
		.char_bits = bpe->char_bits,
		.whole_bits = bpe->whole_bits,
		.pattern = (uint64_t) bpe->pattern,
		.nfc = bpe->nfc};
	uint64_t at = ALIGN(sizeof(image));

	memcpy(image.name, bpe->name, sizeof(image.name));
	memcpy(image.byte_symbol, bpe->byte_symbol, sizeof(image.byte_symbol));
	for (int i = 0; i < SECTIONS; i++)
	{
		image.sections[i].at = at;
		image.sections[i].size = sizes[i];
		at += ALIGN(sizes[i] + LLM_BPE_SLACK); /* decoding reads beyond a token's end */
	}
	return image;
}

uint64_t
llm_bpe_image_layout(void)
{
	uint64_t facts[] = {2, sizeof(BpeImage), sizeof(BpeToken), sizeof(BpePair), sizeof(BpeChar),
		llm_bpe_pair_place(UINT64_C(1) << 32 | 2, 30), LLM_BPE_SLACK};

	return llm_bpe_hash((const char *) facts, sizeof(facts));
}

size_t
llm_bpe_image_size(const LlmBpe *bpe)
{
	BpeImage image = image_of(bpe);

	return image.sections[SECTIONS - 1].at + ALIGN(image.sections[SECTIONS - 1].size + LLM_BPE_SLACK);
}

void
llm_bpe_image(const LlmBpe *bpe, void *out)
{
	const void *data[SECTIONS] = {[TOKENS] = bpe->tokens,
		[PAIRS] = bpe->pairs,
		[CHARS] = bpe->chars,
		[TEXT] = bpe->text.data,
		[BYTES] = bpe->bytes.data,
		[MARKED] = bpe->marked.data,
		[WHOLE] = bpe->whole};
	BpeImage image = image_of(bpe);

	memset(out, 0, llm_bpe_image_size(bpe));
	memcpy(out, &image, sizeof(image));
	for (int i = 0; i < SECTIONS; i++)
		if (image.sections[i].size > 0)
			memcpy((char *) out + image.sections[i].at, data[i], image.sections[i].size);
}

LlmBpe *
llm_bpe_of_image(const LlmAllocator *allocator, const void *block, LlmError *err)
{
	const BpeImage *image = block;
	LlmBpe *bpe = llm_bpe_new(allocator, "", err);
	char *data[SECTIONS];

	if (bpe == NULL)
		return NULL;
	for (int i = 0; i < SECTIONS; i++)
		data[i] = (char *) block + image->sections[i].at;
	bpe->borrowed = true;
	memcpy(bpe->name, image->name, sizeof(bpe->name));
	memcpy(bpe->byte_symbol, image->byte_symbol, sizeof(bpe->byte_symbol));
	bpe->token_count = image->token_count;
	bpe->pair_count = image->pair_count;
	bpe->pair_bits = (unsigned) image->pair_bits;
	bpe->char_bits = (unsigned) image->char_bits;
	bpe->whole_bits = (unsigned) image->whole_bits;
	bpe->pattern = (int) image->pattern;
	bpe->nfc = image->nfc != 0;
	bpe->tokens = (BpeToken *) data[TOKENS];
	bpe->pairs = (BpePair *) data[PAIRS];
	bpe->chars = image->sections[CHARS].size > 0 ? (BpeChar *) data[CHARS] : NULL;
	bpe->text = (BpeArray){data[TEXT], image->sections[TEXT].size, 0};
	bpe->bytes = (BpeArray){data[BYTES], image->sections[BYTES].size, 0};
	bpe->marked = (BpeArray){data[MARKED], image->sections[MARKED].size, 0};
	bpe->whole = image->sections[WHOLE].size > 0 ? (uint32_t *) data[WHOLE] : NULL;
	llm_bpe_index_marked(bpe);
	if (!llm_bpe_new_words(bpe, err))
	{
		llm_bpe_free(bpe);
		return NULL;
	}
	return bpe;
}
