/* See png.h. PNG is RFC 2083; its pixels are a zlib stream (RFC 1950) of stored blocks (RFC 1951). */
#include <string.h>

#include "formats/png.h"

#define BLOCK 65535 /* bytes in a stored block */
#define BLOCK_HEAD 5
#define ZLIB_HEAD 2
#define ZLIB_END 4 /* the Adler-32 checksum */
#define CHUNK 12   /* length, name, checksum */
#define HEADER 13  /* bytes in the chunk IHDR */

static const uint8_t SIGNATURE[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};

static uint64_t
pixel_bytes(uint32_t width, uint32_t height, int channels)
{
	return height * (1 + (uint64_t) width * channels);
}

static uint64_t
zlib_size(uint64_t bytes)
{
	return ZLIB_HEAD + bytes + (bytes + BLOCK - 1) / BLOCK * BLOCK_HEAD + ZLIB_END;
}

uint64_t
llm_png_size(uint32_t width, uint32_t height, int channels)
{
	return sizeof(SIGNATURE) + 3 * CHUNK + HEADER + zlib_size(pixel_bytes(width, height, channels));
}

static void
put(LlmPng *png, const void *bytes, size_t size)
{
	memcpy(png->out, bytes, size);
	llm_crc32_add(&png->crc, bytes, size);
	png->out += size;
}

static void
put_word(LlmPng *png, uint32_t word)
{
	put(png, (uint8_t[]){word >> 24, word >> 16, word >> 8, word}, 4);
}

static void
begin_chunk(LlmPng *png, const char *name, uint32_t size)
{
	put_word(png, size);
	png->crc.value = 0; /* the checksum leaves the length out */
	put(png, name, 4);
}

static void
end_chunk(LlmPng *png)
{
	put_word(png, png->crc.value);
}

void
llm_png_begin(LlmPng *png, uint8_t *out, uint32_t width, uint32_t height, int channels)
{
	png->out = out;
	png->left = pixel_bytes(width, height, channels);
	png->in_block = 0;
	png->row_bytes = width * channels;
	png->adler[0] = 1;
	png->adler[1] = 0;
	llm_crc32_init(&png->crc);
	put(png, SIGNATURE, sizeof(SIGNATURE));
	begin_chunk(png, "IHDR", HEADER);
	put_word(png, width);
	put_word(png, height);
	/* depth, colour type, then the only methods there are of compression, filter and interlace */
	put(png, (uint8_t[]){8, channels == 3 ? 2 : 0, 0, 0, 0}, 5);
	end_chunk(png);
	begin_chunk(png, "IDAT", (uint32_t) zlib_size(png->left));
	put(png, (uint8_t[]){0x78, 0x01}, ZLIB_HEAD);
}

/* The head of a stored block: whether it is the last, its size, and the size's complement. */
static void
begin_block(LlmPng *png)
{
	uint32_t size = png->left < BLOCK ? (uint32_t) png->left : BLOCK, not = ~size;

	put(png, (uint8_t[]){size == png->left, size, size >> 8, not, not >> 8}, BLOCK_HEAD);
	png->in_block = size;
}

static void
add_adler(LlmPng *png, const uint8_t *bytes, uint32_t size)
{
	for (uint32_t i = 0; i < size; i++)
	{
		png->adler[0] = (png->adler[0] + bytes[i]) % 65521;
		png->adler[1] = (png->adler[1] + png->adler[0]) % 65521;
	}
}

static void
put_pixels(LlmPng *png, const uint8_t *bytes, uint32_t size)
{
	add_adler(png, bytes, size);
	while (size > 0)
	{
		uint32_t n;

		if (png->in_block == 0)
			begin_block(png);
		n = size < png->in_block ? size : png->in_block;
		put(png, bytes, n);
		png->in_block -= n;
		png->left -= n;
		bytes += n;
		size -= n;
	}
}

void
llm_png_row(LlmPng *png, const uint8_t *row)
{
	put_pixels(png, (uint8_t[]){0}, 1); /* no filter */
	put_pixels(png, row, png->row_bytes);
}

void
llm_png_end(LlmPng *png)
{
	put_word(png, png->adler[1] << 16 | png->adler[0]);
	end_chunk(png);
	begin_chunk(png, "IEND", 0);
	end_chunk(png);
}
