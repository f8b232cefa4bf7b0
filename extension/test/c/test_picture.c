/* Pictures: pixels from values, and a PNG file of exactly the announced size that holds them. */
#include <math.h>

#include "formats/picture.h"
#include "formats/png.h"
#include "test.h"

static uint32_t
word_at(const uint8_t *bytes)
{
	return (uint32_t) bytes[0] << 24 | bytes[1] << 16 | bytes[2] << 8 | bytes[3];
}

/* The blocks of the file's zlib stream, put together: rows with a filter byte each. */
static size_t
unstored(const uint8_t *block, uint8_t *out)
{
	size_t size, total = 0;
	bool last;

	do
	{
		last = block[0];
		size = block[1] | block[2] << 8;
		CHECK((size ^ 0xffff) == (block[3] | (size_t) block[4] << 8));
		memcpy(out + total, block + 5, size);
		total += size;
		block += 5 + size;
	} while (!last);
	return total;
}

/* Sizes around those of a stored block, 65535 bytes. */
static void
files(void)
{
	static const uint32_t sizes[][3] = {{1, 1, 1}, {1, 1, 3}, {65534, 1, 1}, {65535, 1, 1}, {1, 40000, 1},
		{254, 257, 1}, {255, 256, 1}, {97, 500, 3}, {32767, 5, 3}};

	for (int i = 0; i < (int) (sizeof(sizes) / sizeof(*sizes)); i++)
	{
		uint32_t width = sizes[i][0], height = sizes[i][1], row_bytes = width * sizes[i][2];
		size_t size = llm_png_size(width, height, sizes[i][2]);
		uint8_t *file = malloc(size), *row = malloc(row_bytes),
				*read = malloc((size_t) height * (row_bytes + 1));
		LlmPng png;
		LlmCrc32 crc;

		llm_png_begin(&png, file, width, height, sizes[i][2]);
		for (uint32_t y = 0; y < height; y++)
		{
			for (uint32_t x = 0; x < row_bytes; x++)
				row[x] = x * 7 + y * 13;
			llm_png_row(&png, row);
		}
		llm_png_end(&png);
		CHECK(png.out == file + size && png.left == 0);
		CHECK(memcmp(file, "\x89PNG\r\n\x1a\n", 8) == 0 &&
			  memcmp(file + size - 8, "IEND\xae\x42\x60\x82", 8) == 0);
		CHECK(word_at(file + 16) == width && word_at(file + 20) == height);
		CHECK(word_at(file + 33) == size - 57 && memcmp(file + 37, "IDAT", 4) == 0);
		llm_crc32_init(&crc);
		llm_crc32_add(&crc, file + 37, size - 57 + 4);
		CHECK(word_at(file + size - 16) == crc.value);
		CHECK(unstored(file + 43, read) == (size_t) height * (row_bytes + 1));
		for (uint32_t y = 0; y < height; y++)
		{
			CHECK(read[(size_t) y * (row_bytes + 1)] == 0);
			for (uint32_t x = 0; x < row_bytes; x++)
				CHECK(read[(size_t) y * (row_bytes + 1) + 1 + x] == (uint8_t) (x * 7 + y * 13));
		}
		free(file);
		free(row);
		free(read);
	}
}

/* Three images of 1 x 2 in two columns, each value four pixels. */
static void
grids(void)
{
	static const float values[] = {-1, 1, 0, -0.5f, 0.5f, 1};
	static const uint8_t rows[4][8] = {{0, 0, 255, 255, 128, 128, 64, 64}, {0, 0, 255, 255, 128, 128, 64, 64},
		{191, 191, 255, 255, 255, 255, 255, 255}, {191, 191, 255, 255, 255, 255, 255, 255}};
	LlmPicture p = {.low = -1, .high = 1, .columns = 2, .zoom = 2};
	LlmError err;
	uint8_t *row = malloc(8);

	CHECK_OK(llm_picture_of(&p, 4, (int[]){3, 1, 2, 1}, &err), err);
	CHECK(p.picture_width == 8 && p.picture_height == 4);
	for (int y = 0; y < 4; y++)
	{
		CHECK_OK(llm_picture_row(&p, values, y, row, &err), err);
		CHECK(memcmp(row, rows[y], 8) == 0);
	}
	free(row);
}

static void
ranges(void)
{
	LlmPicture p = {.low = 0, .high = 255, .columns = 8, .zoom = 1};
	float values[6] = {0, -0.4f, 255.4f, 1, 2, 300};
	uint8_t row[6];
	LlmError err;

	CHECK_OK(llm_picture_of(&p, 3, (int[]){1, 2, 3}, &err), err);
	CHECK_FAILS(llm_picture_row(&p, values, 0, row, &err), LLM_RANGE,
		"the value 300 (row 0, column 1) is outside the range from 0 to 255", err);
	p.clip = true;
	CHECK_OK(llm_picture_row(&p, values, 0, row, &err), err);
	CHECK(row[0] == 0 && row[1] == 0 && row[2] == 255 && row[3] == 1 && row[5] == 255);
	values[4] = -INFINITY;
	CHECK_OK(llm_picture_row(&p, values, 0, row, &err), err);
	CHECK(row[4] == 0);
	values[4] = NAN;
	CHECK_FAILS(llm_picture_row(&p, values, 0, row, &err), LLM_RANGE, "NaN", err);
}

static void
shapes(void)
{
	static const int huge[] = {2147483647, 2147483647, 2147483647, 3};
	LlmPicture p = {.low = -1, .high = 1, .columns = 2147483647, .zoom = 2147483647};
	LlmError err;

	CHECK_FAILS(llm_picture_of(&p, 4, huge, &err), LLM_LIMIT, "each side may have 32767", err);
	CHECK_FAILS(llm_picture_of(&p, 1, huge, &err), LLM_SHAPE, "(2147483647) is no image", err);
	CHECK_FAILS(llm_picture_of(&p, 0, huge, &err), LLM_SHAPE, "()", err);
	CHECK_FAILS(llm_picture_of(&p, 3, huge, &err), LLM_SHAPE, "is no image", err);
	CHECK_FAILS(llm_picture_of(&p, 3, (int[]){0, 2, 3}, &err), LLM_SHAPE, "at least one pixel", err);
	p.high = -1;
	CHECK_FAILS(llm_picture_of(&p, 2, huge, &err), LLM_INVALID, "low below high", err);
	p.high = NAN;
	CHECK_FAILS(llm_picture_of(&p, 2, huge, &err), LLM_INVALID, "high is NaN", err);
	p.high = INFINITY;
	CHECK_FAILS(llm_picture_of(&p, 2, huge, &err), LLM_INVALID, "high is Infinity", err);
	p.zoom = 0;
	CHECK_FAILS(llm_picture_of(&p, 2, huge, &err), LLM_INVALID, "at least 1", err);
}

int
main(void)
{
	files();
	grids();
	ranges();
	shapes();
	return 0;
}
