/*
 * Memory of a tokenizer: growing arrays, and hash tables with a power of two of entries; and quoting for
 * messages.
 */
#include "formats/bpe_internal.h"

#include <stdio.h>
#include <string.h>

#include "formats/unicode.h"

BpeQuote
llm_bpe_quote(const char *text, size_t size)
{
	BpeQuote quote;
	const unsigned char *bytes = (const unsigned char *) text;
	size_t length = 0;

	for (size_t at = 0; at < size;)
	{
		int step = llm_utf8_read(bytes + at, size - at).length;

		if (length > sizeof(quote.text) - 8)
		{
			length += (size_t) sprintf(quote.text + length, "...");
			break;
		}
		length += llm_utf8_repair(bytes + at, (size_t) step, quote.text + length);
		at += (size_t) step;
	}
	quote.text[length] = '\0';
	return quote;
}

bool
llm_bpe_reserve(const LlmAllocator *allocator, BpeArray *array, size_t size)
{
	size_t capacity = array->capacity < 256 ? 256 : array->capacity;
	char *data;

	if (size <= array->capacity)
		return true;
	while (capacity < size)
		capacity += capacity / 2;
	if ((data = allocator->alloc(allocator->context, capacity)) == NULL)
		return false;
	if (array->size > 0)
		memcpy(data, array->data, array->size);
	if (array->data != NULL)
		allocator->release(allocator->context, array->data, array->capacity);
	array->data = data;
	array->capacity = capacity;
	return true;
}

void
llm_bpe_release(const LlmAllocator *allocator, BpeArray *array)
{
	if (array->data != NULL)
		allocator->release(allocator->context, array->data, array->capacity);
	*array = (BpeArray){0};
}

void *
llm_bpe_new_table(LlmBpe *bpe, unsigned bits, size_t entry, int fill)
{
	void *table = bpe->allocator->alloc(bpe->allocator->context, entry << bits);

	if (table != NULL)
		memset(table, fill, entry << bits);
	return table;
}

void
llm_bpe_release_table(LlmBpe *bpe, void *table, unsigned bits, size_t entry)
{
	if (table != NULL)
		bpe->allocator->release(bpe->allocator->context, table, entry << bits);
}

unsigned
llm_bpe_table_bits(size_t count)
{
	unsigned bits = 4;

	while (((size_t) 1 << bits) < 2 * count)
		bits++;
	return bits;
}
