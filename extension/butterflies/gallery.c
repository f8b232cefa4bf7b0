/* The machine's own images, the most similar outline and the nearest image. */
#include <math.h>
#include <string.h>

#include "butterflies/measure.h"

#define SIZE LLM_BUTTERFLY_SIZE
#define ROW (SIZE / 2 * 3) /* values in a row of a half */
#define LANES 16           /* partial sums, which the compiler may compute as vectors */

void
llm_butterfly_gallery_draw(LlmButterflyGallery *gallery, int n)
{
	for (; n > 0 && gallery->drawn < GALLERY_IMAGES; n--, gallery->drawn++)
	{
		LlmButterfly b;
		uint8_t image[LLM_BUTTERFLY_VALUES];

		llm_butterfly_factors((uint64_t) gallery->drawn, &b);
		llm_butterfly_draw(&b, image);
		for (int y = 0; y < SIZE; y++)
			memcpy(gallery->half[gallery->drawn] + y * ROW, image + (2 * y + 1) * ROW, ROW);
		if (gallery->drawn < GALLERY_OUTLINES)
		{
			float values[LLM_BUTTERFLY_VALUES];

			llm_butterfly_values(&b, values);
			butterfly_outline(values, &gallery->outline[gallery->drawn]);
		}
	}
}

double
outline_best(const LlmButterflyGallery *gallery, const Outline *outline)
{
	double best = 0;

	for (int i = 0; i < GALLERY_OUTLINES; i++)
	{
		const Outline *other = &gallery->outline[i];
		int both = 0, either = 0;

		for (int y = 0; y < SIZE; y++)
		{
			both += __builtin_popcount(outline->row[y] & other->row[y]);
			either += __builtin_popcount(outline->row[y] | other->row[y]);
		}
		if (both > best * either)
			best = (double) both / either;
	}
	return best;
}

/* The right half, (32,16,3), of the mean of an image and its mirror image, from 0 to 255. */
static void
symmetric_half(const float *image, float *half)
{
	for (int y = 0; y < SIZE; y++, image += SIZE * 3)
		for (int x = SIZE / 2; x < SIZE; x++)
			for (int c = 0; c < 3; c++)
				*half++ = 63.75f * (image[x * 3 + c] + image[(SIZE - 1 - x) * 3 + c]) + 127.5f;
}

/* The squared difference between an image and its symmetric part. */
static double
asymmetry(const float *image)
{
	double sum = 0;

	for (int y = 0; y < SIZE; y++, image += SIZE * 3)
		for (int x = 0; x < SIZE / 2; x++)
			for (int c = 0; c < 3; c++)
			{
				double d = (double) image[x * 3 + c] - image[(SIZE - 1 - x) * 3 + c];

				sum += 0.5 * d * d;
			}
	return sum;
}

/*
 * The sum of squared differences, or some sum above limit where that is exceeded early. It begins in the
 * middle of the image, where butterflies differ most.
 */
static float
squares_below(const float *half, const uint8_t *drawn, float limit)
{
	float lane[LANES] = {0}, sum = 0;

	for (int y = 0; y < SIZE && sum <= limit; y++)
	{
		int row = (y + SIZE / 4) % SIZE * ROW;

		for (int i = row; i < row + ROW; i += LANES)
			for (int j = 0; j < LANES; j++)
			{
				float d = half[i + j] - drawn[i + j];

				lane[j] += d * d;
			}
		sum = 0;
		for (int j = 0; j < LANES; j++)
			sum += lane[j];
	}
	return sum;
}

/*
 * Halves suffice: what an image differs from the mean of itself and its mirror image, it differs from every
 * symmetric image.
 */
double
gallery_nearest(const LlmButterflyGallery *gallery, const float *image, int *seed)
{
	float half[LLM_BUTTERFLY_VALUES / 2], best = INFINITY;

	symmetric_half(image, half);
	*seed = 0;
	for (int i = 0; i < GALLERY_IMAGES; i++)
	{
		float sum = squares_below(half, gallery->half[i], best);

		if (sum < best)
		{
			best = sum;
			*seed = i;
		}
	}
	return sqrt((2 * best / (127.5 * 127.5) + asymmetry(image)) / LLM_BUTTERFLY_VALUES);
}
