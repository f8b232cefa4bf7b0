/*
 * Decoding suspends only between symbols, when the window is full of bytes not yet read by the caller; so the
 * state kept between calls is the bit buffer, the tables and the kind of the current block.
 */
#include "formats/inflate.h"

#include <string.h>

enum
{
	BLOCK_HEADER,
	STORED_BLOCK,
	CODED_BLOCK,
	FINISHED
};

#define HISTORY 32768 /* the farthest a copy may reach back */
#define MASK (LLM_INFLATE_WINDOW - 1)
#define FAST_MASK ((1u << LLM_HUFFMAN_FAST_BITS) - 1)
#define END_OF_BLOCK 256

static const uint16_t length_base[29] = {3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51,
	59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
static const uint8_t length_extra[29] = {
	0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
static const uint16_t distance_base[30] = {1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257,
	385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
static const uint8_t distance_extra[30] = {
	0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13};

void
llm_inflate_init(LlmInflate *inflate)
{
	inflate->bits = 0;
	inflate->bit_count = 0;
	inflate->input_at = inflate->input_size = 0;
	inflate->input_ended = false;
	inflate->state = BLOCK_HEADER;
	inflate->last_block = false;
	inflate->written = inflate->taken = 0;
}

size_t
llm_inflate_unused(const LlmInflate *inflate)
{
	return inflate->input_size - inflate->input_at + (size_t) inflate->bit_count / 8;
}

static LlmCode
corrupt(LlmInflate *inflate, const char *what, LlmError *err)
{
	return llm_fail(err, LLM_FORMAT, "%s: the compressed data are damaged after %llu bytes: %s",
		inflate->name, (unsigned long long) inflate->written, what);
}

static LlmCode
refill_input(LlmInflate *inflate, LlmError *err)
{
	LlmCode code =
		inflate->fill(inflate->context, inflate->input, sizeof(inflate->input), &inflate->input_size, err);

	inflate->input_at = 0;
	if (code != LLM_OK)
		inflate->input_size = 0;
	inflate->input_ended = inflate->input_size == 0;
	return code;
}

/* Fills the buffer to at least 56 bits, or to the end of the input. */
static LlmCode
refill(LlmInflate *inflate, LlmError *err)
{
	while (inflate->bit_count <= 56 && !inflate->input_ended)
	{
		size_t left = inflate->input_size - inflate->input_at;
		LlmCode code;

		if (left >= 8)
		{
			uint64_t word;

			memcpy(&word, inflate->input + inflate->input_at, sizeof(word));
			inflate->bits |= word << inflate->bit_count;
			inflate->input_at += (size_t) (63 - inflate->bit_count) / 8;
			inflate->bit_count |= 56;
			inflate->bits &= UINT64_MAX >> (64 - inflate->bit_count);
			return LLM_OK;
		}
		if (left > 0)
		{
			inflate->bits |= (uint64_t) inflate->input[inflate->input_at++] << inflate->bit_count;
			inflate->bit_count += 8;
		}
		else if ((code = refill_input(inflate, err)) != LLM_OK)
			return code;
	}
	return LLM_OK;
}

/*
 * Consumes count <= 32 bits. The caller has refilled the buffer; too few bits mean that the data end early.
 */
static inline bool
take_bits(LlmInflate *inflate, int count, uint32_t *value)
{
	if (inflate->bit_count < count)
		return false;
	*value = (uint32_t) (inflate->bits & ((UINT64_C(1) << count) - 1));
	inflate->bits >>= count;
	inflate->bit_count -= count;
	return true;
}

/* The next symbol; -1 for an invalid code, or if the data end within it. */
static inline int
decode(LlmInflate *inflate, const LlmHuffman *huffman)
{
	uint16_t entry = huffman->fast[inflate->bits & FAST_MASK];
	int length = entry & 15, code = 0, first = 0, index = 0;

	if (length == 0)
	{
		/* Codes of one length are consecutive numbers; code - first is the index among them. */
		for (length = 1; length <= LLM_HUFFMAN_MAX_BITS; length++)
		{
			code |= (int) (inflate->bits >> (length - 1) & 1);
			if (code - first < huffman->count[length])
				break;
			index += huffman->count[length];
			first = (first + huffman->count[length]) << 1;
			code <<= 1;
		}
		if (length > LLM_HUFFMAN_MAX_BITS)
			return -1;
		entry = (uint16_t) (huffman->symbol[index + code - first] << 4);
	}
	if (length > inflate->bit_count)
		return -1;
	inflate->bits >>= length;
	inflate->bit_count -= length;
	return entry >> 4;
}

/* Reads the two codes of a block with its own tables: their lengths are encoded themselves. */
static LlmCode
read_tables(LlmInflate *inflate, LlmError *err)
{
	static const uint8_t order[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
	uint8_t lengths[286 + 30] = {0};
	uint32_t literal_count, distance_count, code_count, bits, repeat;
	LlmCode code;
	uint32_t at = 0;

	if (!take_bits(inflate, 5, &literal_count) || !take_bits(inflate, 5, &distance_count) ||
		!take_bits(inflate, 4, &code_count))
		return corrupt(inflate, "they end early", err);
	literal_count += 257;
	distance_count += 1;
	if (literal_count > 286 || distance_count > 30)
		return corrupt(inflate, "too many code lengths", err);
	for (uint32_t i = 0; i < code_count + 4; i++)
	{
		if ((code = refill(inflate, err)) != LLM_OK)
			return code;
		if (!take_bits(inflate, 3, &bits))
			return corrupt(inflate, "they end early", err);
		lengths[order[i]] = (uint8_t) bits;
	}
	if (!llm_huffman_build(&inflate->literals, lengths, 19))
		return corrupt(inflate, "the code of the code lengths is no Huffman code", err);

	memset(lengths, 0, 19);
	while (at < literal_count + distance_count)
	{
		int symbol;
		uint8_t value = 0;

		if ((code = refill(inflate, err)) != LLM_OK)
			return code;
		symbol = decode(inflate, &inflate->literals);
		if (symbol < 0)
			return corrupt(inflate, "a code length is not in its code", err);
		if (symbol < 16)
		{
			lengths[at++] = (uint8_t) symbol;
			continue;
		}
		if (symbol == 16 && at == 0)
			return corrupt(inflate, "nothing to repeat", err);
		if (symbol == 16)
			value = lengths[at - 1];
		if (!take_bits(inflate, symbol == 16 ? 2 : symbol == 17 ? 3 : 7, &repeat))
			return corrupt(inflate, "they end early", err);
		repeat += symbol == 18 ? 11 : 3;
		if (repeat > literal_count + distance_count - at)
			return corrupt(inflate, "too many code lengths", err);
		memset(lengths + at, value, repeat);
		at += repeat;
	}
	if (lengths[END_OF_BLOCK] == 0)
		return corrupt(inflate, "a block without an end", err);
	if (!llm_huffman_build(&inflate->literals, lengths, (int) literal_count) ||
		!llm_huffman_build(&inflate->distances, lengths + literal_count, (int) distance_count))
		return corrupt(inflate, "the code lengths make no Huffman code", err);
	return LLM_OK;
}

static void
fixed_tables(LlmInflate *inflate)
{
	uint8_t lengths[288];

	for (int s = 0; s < 288; s++)
		lengths[s] = s < 144 ? 8 : s < 256 ? 9 : s < 280 ? 7 : 8;
	llm_huffman_build(&inflate->literals, lengths, 288);
	memset(lengths, 5, 32);
	llm_huffman_build(
		&inflate->distances, lengths, 32); /* 30 and 31 complete the code and are rejected when they occur */
}

static LlmCode
read_block_header(LlmInflate *inflate, LlmError *err)
{
	uint32_t last, kind, sizes;

	if (inflate->last_block)
	{
		inflate->state = FINISHED;
		return LLM_OK;
	}
	if (!take_bits(inflate, 1, &last) || !take_bits(inflate, 2, &kind))
		return corrupt(inflate, "they end early", err);
	inflate->last_block = last != 0;
	inflate->state = CODED_BLOCK;
	if (kind == 1)
		fixed_tables(inflate);
	else if (kind == 2)
		return read_tables(inflate, err);
	else if (kind == 3)
		return corrupt(inflate, "a block of an unknown kind", err);
	else
	{
		LlmCode code;

		inflate->bits >>= inflate->bit_count & 7; /* stored bytes start at a byte boundary */
		inflate->bit_count &= ~7;
		if ((code = refill(inflate, err)) != LLM_OK)
			return code;
		if (!take_bits(inflate, 32, &sizes))
			return corrupt(inflate, "they end early", err);
		if ((sizes & 0xffff) != (~sizes >> 16 & 0xffff))
			return corrupt(inflate, "a stored block whose two sizes differ", err);
		inflate->stored_left = sizes & 0xffff;
		inflate->state = STORED_BLOCK;
	}
	return LLM_OK;
}

/* The number of bytes that may be decoded now without overwriting bytes that the caller has not read. */
static inline uint64_t
room(const LlmInflate *inflate)
{
	return LLM_INFLATE_WINDOW - HISTORY - (inflate->written - inflate->taken);
}

static LlmCode
copy_stored(LlmInflate *inflate, LlmError *err)
{
	while (inflate->stored_left > 0 && room(inflate) > 0)
	{
		uint32_t byte;
		LlmCode code = refill(inflate, err);

		if (code != LLM_OK)
			return code;
		if (!take_bits(inflate, 8, &byte))
			return corrupt(inflate, "they end early", err);
		inflate->window[inflate->written++ & MASK] = (unsigned char) byte;
		inflate->stored_left--;
	}
	if (inflate->stored_left == 0)
		inflate->state = BLOCK_HEADER;
	return LLM_OK;
}

/* Copies length bytes from distance back, byte by byte, because source and target may overlap. */
static LlmCode
copy_back(LlmInflate *inflate, int symbol, LlmError *err)
{
	uint32_t extra, length, distance;
	int code;

	if (symbol > 285 || !take_bits(inflate, length_extra[symbol - 257], &extra))
		return corrupt(inflate, "a copy without a length", err);
	length = length_base[symbol - 257] + extra;
	code = decode(inflate, &inflate->distances);
	if (code < 0 || code > 29 || !take_bits(inflate, distance_extra[code], &extra))
		return corrupt(inflate, "a copy without a distance", err);
	distance = distance_base[code] + extra;
	if (distance > inflate->written)
		return corrupt(inflate, "a copy from before the beginning", err);
	for (uint32_t i = 0; i < length; i++, inflate->written++)
		inflate->window[inflate->written & MASK] = inflate->window[(inflate->written - distance) & MASK];
	return LLM_OK;
}

/*
 * Decodes literals with short codes as long as enough bits are buffered. The state is kept in local
 * variables: a byte stored into the window might alias any of it, and the compiler would reload everything at
 * each step.
 */
static inline void
copy_literals(LlmInflate *inflate)
{
	uint64_t bits = inflate->bits, written = inflate->written;
	int count = inflate->bit_count;

	while (count >= LLM_HUFFMAN_FAST_BITS)
	{
		uint16_t entry = inflate->literals.fast[bits & FAST_MASK];

		if (entry == 0 || entry >> 4 >= END_OF_BLOCK)
			break;
		inflate->window[written++ & MASK] = (unsigned char) (entry >> 4);
		bits >>= entry & 15;
		count -= entry & 15;
	}
	inflate->bits = bits;
	inflate->bit_count = count;
	inflate->written = written;
}

static LlmCode
decode_symbols(LlmInflate *inflate, LlmError *err)
{
	while (room(inflate) >= 64 + 258) /* at most one literal per buffered bit, then the longest copy */
	{
		LlmCode code = refill(inflate, err);
		int symbol;

		if (code != LLM_OK)
			return code;
		copy_literals(inflate);
		/* A length (15 + 5 bits) and a distance (15 + 13) must be there before they are decoded. */
		if (inflate->bit_count < 48 && (code = refill(inflate, err)) != LLM_OK)
			return code;
		symbol = decode(inflate, &inflate->literals);
		if (symbol < 0)
			return corrupt(inflate, "no symbol has this code", err);
		if (symbol < END_OF_BLOCK)
			inflate->window[inflate->written++ & MASK] = (unsigned char) symbol;
		else if (symbol == END_OF_BLOCK)
		{
			inflate->state = BLOCK_HEADER;
			return LLM_OK;
		}
		else if ((code = copy_back(inflate, symbol, err)) != LLM_OK)
			return code;
	}
	return LLM_OK;
}

static size_t
give_out(LlmInflate *inflate, unsigned char *out, size_t capacity)
{
	size_t given = 0;

	while (given < capacity && inflate->taken < inflate->written)
	{
		size_t at = inflate->taken & MASK, run = LLM_INFLATE_WINDOW - at;

		if (run > inflate->written - inflate->taken)
			run = inflate->written - inflate->taken;
		if (run > capacity - given)
			run = capacity - given;
		memcpy(out + given, inflate->window + at, run);
		given += run;
		inflate->taken += run;
	}
	return given;
}

LlmCode
llm_inflate_read(LlmInflate *inflate, void *out, size_t capacity, size_t *size, LlmError *err)
{
	*size = 0;
	for (;;)
	{
		LlmCode code;

		*size += give_out(inflate, (unsigned char *) out + *size, capacity - *size);
		if (*size == capacity || inflate->state == FINISHED)
			return LLM_OK;
		if ((code = refill(inflate, err)) != LLM_OK)
			return code;
		code = inflate->state == BLOCK_HEADER   ? read_block_header(inflate, err)
			   : inflate->state == STORED_BLOCK ? copy_stored(inflate, err)
												: decode_symbols(inflate, err);
		if (code != LLM_OK)
			return code;
	}
}
