/* Butterflies: the same images everywhere, factors that show in pixels, and what measures accept and reject.
 */
#include <math.h>

#include "butterflies/limits.h"
#include "butterflies/measure.h"
#include "butterflies/palettes.h"
#include "kernels/random.h"
#include "test.h"

#define SIZE LLM_BUTTERFLY_SIZE
#define HASH 0xe5f6594deb7aa8e5u
#define GRAIN 0.04f /* standard deviation of the noise that lenient limits allow */

typedef uint8_t Image[SIZE][SIZE][3];
typedef float Values[SIZE][SIZE][3];

static LlmButterflyGallery *
new_gallery(void)
{
	LlmButterflyGallery *gallery = malloc(sizeof(*gallery));

	gallery->drawn = 0;
	while (gallery->drawn < GALLERY_IMAGES)
		llm_butterfly_gallery_draw(gallery, 999);
	return gallery;
}

static void
draw(int64_t seed, Image image)
{
	LlmButterfly b;

	llm_butterfly_factors((uint64_t) seed, &b);
	llm_butterfly_draw(&b, &image[0][0][0]);
}

static void
draw_values(int64_t seed, Values values)
{
	LlmButterfly b;

	llm_butterfly_factors((uint64_t) seed, &b);
	llm_butterfly_values(&b, &values[0][0][0]);
}

static LlmButterflyMeasure
measure(const LlmButterflyGallery *gallery, Values values)
{
	LlmButterflyMeasure m;

	llm_butterfly_measure(gallery, &values[0][0][0], &m);
	return m;
}

static void
add_grain(int64_t seed, Values values)
{
	LlmStream stream = llm_stream((uint64_t) seed, "grain", 0, 0);
	static float noise[LLM_BUTTERFLY_VALUES];

	llm_normal(&stream, 0, LLM_BUTTERFLY_VALUES, GRAIN, noise);
	for (int i = 0; i < LLM_BUTTERFLY_VALUES; i++)
		(&values[0][0][0])[i] += noise[i];
}

/* The left half of one image beside the right half of another. */
static void
half_and_half(int64_t left, int64_t right, Values values)
{
	Values other;

	draw_values(left, values);
	draw_values(right, other);
	for (int y = 0; y < SIZE; y++)
		memcpy(values[y][SIZE / 2], other[y][SIZE / 2], sizeof(values[y]) / 2);
}

/* ---- drawing ---- */

static void
images_are_fixed(void)
{
	uint64_t hash = 14695981039346656037u;

	for (int64_t seed = -500; seed < 1500; seed++)
	{
		Image image;

		draw(seed, image);
		for (int i = 0; i < LLM_BUTTERFLY_VALUES; i++)
			hash = (hash ^ (&image[0][0][0])[i]) * 1099511628211u;
		for (int y = 0; y < SIZE; y++)
			for (int x = 0; x < SIZE; x++)
				CHECK(memcmp(image[y][x], image[y][SIZE - 1 - x], 3) == 0);
	}
	/* The images must never change: models are trained on them. */
	if (hash != HASH)
		printf("     the butterflies have changed: hash %016llx\n", (unsigned long long) hash);
	CHECK(hash == HASH);
}

/* How many pixels have exactly this colour of the butterfly's palette. */
static int
pixels_of(const LlmButterfly *b, Image image, int ink)
{
	int count = 0;

	for (int y = 0; y < SIZE; y++)
		for (int x = 0; x < SIZE; x++)
			count += memcmp(image[y][x], PALETTES[b->palette][ink], 3) == 0;
	return count;
}

/* Pixels from the axis to the outermost pixel of the wings. */
static int
reach(Image image)
{
	int farthest = 0;

	for (int y = 0; y < SIZE; y++)
		for (int x = SIZE / 2; x < SIZE; x++)
			if (memcmp(image[y][x], PALETTES[0][INK_GROUND], 3) != 0 && x + 1 - SIZE / 2 > farthest)
				farthest = x + 1 - SIZE / 2;
	return farthest;
}

static void
factors_show_in_pixels(void)
{
	for (int64_t seed = 0; seed < 500; seed++)
	{
		LlmButterfly b, other;
		Image image, changed;

		llm_butterfly_factors((uint64_t) seed, &b);
		draw(seed, image);
		CHECK(pixels_of(&b, image, INK_BODY) >= 10 && pixels_of(&b, image, INK_GROUND) > 400);
		CHECK(pixels_of(&b, image, INK_MARGIN) > 0);
		CHECK((pixels_of(&b, image, INK_ACCENT) > 0) <= (b.pattern != LLM_BUTTERFLY_VEINS));
		CHECK(fabs(reach(image) - b.size * b.fore_reach) < 2.6);
		/* each factor alone changes the image */
		for (size_t at = offsetof(LlmButterfly, size); at < sizeof(b); at += sizeof(double))
		{
			other = b;
			*(double *) ((char *) &other + at) += 0.3;
			llm_butterfly_draw(&other, &changed[0][0][0]);
			/* veins and margins have no mark */
			CHECK(memcmp(image, changed, sizeof(image)) != 0 || at >= offsetof(LlmButterfly, mark_place));
		}
		other = b;
		other.palette = (b.palette + 1) % LLM_BUTTERFLY_PALETTES;
		llm_butterfly_draw(&other, &changed[0][0][0]);
		CHECK(memcmp(image, changed, sizeof(image)) != 0);
		other = b;
		other.pattern = (b.pattern + 1) % LLM_BUTTERFLY_PATTERNS;
		llm_butterfly_draw(&other, &changed[0][0][0]);
		CHECK(memcmp(image, changed, sizeof(image)) != 0);
	}
}

/* No two of the gallery's images are the same: compared by a hash in a table of twice their number. */
static void
seeds_differ(const LlmButterflyGallery *gallery)
{
	enum
	{
		SLOTS = 2 * GALLERY_IMAGES
	};
	static uint64_t slot[SLOTS];

	for (int i = 0; i < GALLERY_IMAGES; i++)
	{
		uint64_t hash = 14695981039346656037u, at;

		for (int j = 0; j < LLM_BUTTERFLY_VALUES / 2; j++)
			hash = (hash ^ gallery->half[i][j]) * 1099511628211u;
		for (at = hash % SLOTS; slot[at]; at = (at + 1) % SLOTS)
			CHECK(slot[at] != hash);
		slot[at] = hash;
	}
}

/* ---- measures ---- */

static double
distance(Values a, int64_t seed)
{
	Values drawn;
	double sum = 0;

	draw_values(seed, drawn);
	for (int i = 0; i < LLM_BUTTERFLY_VALUES; i++)
	{
		double d = (double) (&a[0][0][0])[i] - (&drawn[0][0][0])[i];

		sum += d * d;
	}
	return sqrt(sum / LLM_BUTTERFLY_VALUES);
}

/* In float64 and over whole images: that image is as far as the measure says, every seventh one no nearer. */
static void
nearest_is_the_nearest(const LlmButterflyGallery *gallery)
{
	for (int64_t seed = -3; seed < 0; seed++)
	{
		Values values;
		LlmButterflyMeasure m;

		half_and_half(seed, -seed, values);
		m = measure(gallery, values);
		CHECK(fabs(distance(values, m.nearest_seed) - m.nearest) < 1e-6);
		for (int i = 0; i < GALLERY_IMAGES; i += 7)
			CHECK(distance(values, i) > m.nearest - 1e-6);
	}
}

/* The square of 16 by 16 pixels in one corner, of a colour, on the background. */
static void
square(const uint8_t *colour, Values values)
{
	for (int y = 0; y < SIZE; y++)
		for (int x = 0; x < SIZE; x++)
			for (int c = 0; c < 3; c++)
				values[y][x][c] = (y < 16 && x < 16 ? colour[c] : PALETTES[0][INK_GROUND][c]) / 127.5f - 1;
}

/* Images of which each measure is known. */
static void
known_measures(const LlmButterflyGallery *gallery)
{
	Values values;
	LlmButterflyMeasure m;
	double apart = 0;

	square(PALETTES[4][INK_FORE], values);
	m = measure(gallery, values);
	for (int c = 0; c < 3; c++)
		apart += pow((PALETTES[4][INK_FORE][c] - PALETTES[0][INK_GROUND][c]) / 127.5, 2);
	CHECK(m.area == 0.25 && m.palette == 4 && m.colour < 1e-7 && m.flatness < 1e-7);
	CHECK(fabs(m.symmetry - sqrt(apart / 3 / 2)) <
		  1e-6);                           /* half of the pixels differ from their mirror image */
	CHECK(fabs(m.sharpness - 0.5) < 1e-6); /* a step changes once over one pixel, twice over two */
	CHECK(!m.lenient && !m.strict);
	draw_values(7, values);
	m = measure(gallery, values);
	CHECK(m.nearest == 0 && m.nearest_seed == 7 && m.outline == 1 && m.symmetry == 0);
	CHECK(!m.lenient && !m.strict); /* a copy */
	for (int i = 0; i < LLM_BUTTERFLY_VALUES; i++)
		(&values[0][0][0])[i] = PALETTES[0][INK_GROUND][i % 3] / 127.5f - 1 + 0.02f;
	m = measure(gallery, values);
	CHECK(m.area == 0 && m.palette == -1 && isnan(m.colour) && isnan(m.sharpness) && m.outline == 0);
	CHECK(fabs(m.flatness - 0.02) < 1e-6 && !m.lenient);
	values[3][4][1] = NAN;
	m = measure(gallery, values);
	CHECK(isnan(m.symmetry) && isnan(m.nearest) && m.palette == -1 && m.nearest_seed == -1 && !m.lenient);
	for (int i = 0; i < LLM_BUTTERFLY_VALUES; i++)
		(&values[0][0][0])[i] = i % 2 ? 3e38f : -3e38f;
	m = measure(gallery, values);
	CHECK(m.area == 1 && !m.lenient && !m.strict);
}

static void
blur(Values values)
{
	Values from;

	memcpy(from, values, sizeof(from));
	for (int y = 1; y + 1 < SIZE; y++)
		for (int x = 1; x + 1 < SIZE; x++)
			for (int c = 0; c < 3; c++)
			{
				float sum = 0;

				for (int i = -1; i <= 1; i++)
					for (int j = -1; j <= 1; j++)
						sum += from[y + i][x + j][c];
				values[y][x][c] = sum / 9;
			}
}

static void
mix(int64_t a, int64_t b, Values values)
{
	Values other;

	draw_values(a, values);
	draw_values(b, other);
	for (int i = 0; i < LLM_BUTTERFLY_VALUES; i++)
		(&values[0][0][0])[i] = 0.5f * ((&values[0][0][0])[i] + (&other[0][0][0])[i]);
}

static int
palette_of(int64_t seed)
{
	LlmButterfly b;

	llm_butterfly_factors((uint64_t) seed, &b);
	return b.palette;
}

/* Most held-out images pass, few altered ones do. */
static void
verdicts(const LlmButterflyGallery *gallery)
{
	int n = 40, held = 0, grained = 0, halves = 0, blurred = 0, mixed = 0, mixtures = 0, noise = 0;
	Values values;
	LlmButterflyMeasure m;

	for (int64_t seed = -n; seed < 0; seed++)
	{
		draw_values(seed, values);
		m = measure(gallery, values);
		held += m.strict;
		CHECK(m.palette == palette_of(seed));
		CHECK(m.lenient >= m.strict);
		add_grain(seed, values);
		grained += measure(gallery, values).lenient;
		half_and_half(seed, seed - n, values);
		halves += measure(gallery, values).lenient;
		draw_values(seed, values);
		blur(values);
		blurred += measure(gallery, values).lenient;
		if (palette_of(seed) != palette_of(seed - n))
		{
			mixtures++;
			mix(seed, seed - n, values);
			mixed += measure(gallery, values).lenient;
		}
		if (seed >= -5)
		{
			memset(values, 0, sizeof(values));
			for (int i = 0; i < 10; i++)
				add_grain(10 * seed + i, values);
			noise += measure(gallery, values).lenient;
		}
	}
	CHECK(held >= 32 && grained >= 32 && held + grained < 2 * n);
	CHECK(halves <= 2 && blurred == 0 && noise == 0 && mixed * 10 <= mixtures && mixtures > n / 2);
}

/* ---- limits ---- */

static int
ascending(const void *a, const void *b)
{
	double x = *(const double *) a, y = *(const double *) b;

	return (x > y) - (x < y);
}

/* NumPy's percentile: linear between the sorted values. */
static double
percentile(double *values, int n, double percent)
{
	double at = percent / 100 * (n - 1);
	int below = (int) at;

	qsort(values, n, sizeof(*values), ascending);
	return values[below] + (at - below) * (values[below + (below + 1 < n)] - values[below]);
}

#ifndef HELD_OUT
#define HELD_OUT 2000
#endif

/* A percentile of one measure, which is at this offset. */
static double
measured(const LlmButterflyMeasure *m, size_t offset, double percent)
{
	static double values[HELD_OUT];

	for (int i = 0; i < HELD_OUT; i++)
		memcpy(&values[i], (const char *) &m[i] + offset, sizeof(double));
	return percentile(values, HELD_OUT, percent);
}

static double
share_within(const LlmButterflyMeasure *m, const ButterflyLimits *limits)
{
	int count = 0;

	for (int i = 0; i < HELD_OUT; i++)
		count += butterfly_within(&m[i], limits);
	return 100.0 * count / HELD_OUT;
}

static void
print_one(const char *name, const ButterflyLimits *l)
{
	printf(
		"%s: symmetry %.3f colour %.4f outline %.3f area %.4f %.4f sharpness %.3f %.3f flatness %.3f nearest "
		"%.3f %.3f\n",
		name, l->symmetry, l->colour, l->outline, l->area[0], l->area[1], l->sharpness[0], l->sharpness[1],
		l->flatness, l->nearest[0], l->nearest[1]);
}

/* Derives the numbers of limits.h, and prints what passes them. */
static void
print_limits(const LlmButterflyGallery *gallery)
{
	static LlmButterflyMeasure held[HELD_OUT], grained[HELD_OUT];
	static double halves[HELD_OUT], mixed[HELD_OUT];
	ButterflyLimits strict = {.flatness = STRICT_LIMITS.flatness}, lenient;
	int mixtures = 0, passed = 0;
	Values values;

	for (int i = 0; i < HELD_OUT; i++)
	{
		int64_t seed = -1 - i, other = seed - HELD_OUT;

		draw_values(seed, values);
		held[i] = measure(gallery, values);
		add_grain(seed, values);
		grained[i] = measure(gallery, values);
		half_and_half(seed, other, values);
		halves[i] = butterfly_symmetry(&values[0][0][0]);
		if (palette_of(seed) != palette_of(other))
		{
			LlmButterflyMeasure m;

			mix(seed, other, values);
			butterfly_colour(&values[0][0][0], &m);
			mixed[mixtures++] = m.colour;
		}
	}
#define AT(measure, percent) measured(held, offsetof(LlmButterflyMeasure, measure), percent)
#define GRAINED_AT(measure) measured(grained, offsetof(LlmButterflyMeasure, measure), 99)
	strict.symmetry = percentile(halves, HELD_OUT, 1);
	strict.colour = AT(colour, 99);
	strict.outline = AT(outline, 1);
	for (int high = 0; high < 2; high++)
	{
		strict.area[high] = AT(area, high ? 99 : 1);
		strict.sharpness[high] = AT(sharpness, high ? 99 : 1);
		strict.nearest[high] = AT(nearest, high ? 99 : 1);
	}
	lenient = strict;
	lenient.colour = GRAINED_AT(colour);
	lenient.flatness = GRAINED_AT(flatness);
	lenient.sharpness[1] = GRAINED_AT(sharpness);
	print_one("strict", &strict);
	print_one("lenient", &lenient);
	for (int i = 0; i < mixtures; i++)
		passed += mixed[i] <= lenient.colour;
	printf(
		"pass: held out, strict %.1f %%; with noise, lenient %.1f %%; mixtures, by colour, lenient %.1f %%\n",
		share_within(held, &strict), share_within(grained, &lenient), 100.0 * passed / mixtures);
}

int
main(int argc, char **argv)
{
	LlmButterflyGallery *gallery = new_gallery();

	if (argc > 1 && strcmp(argv[1], "limits") == 0)
		print_limits(gallery);
	else
	{
		images_are_fixed();
		factors_show_in_pixels();
		seeds_differ(gallery);
		nearest_is_the_nearest(gallery);
		known_measures(gallery);
		verdicts(gallery);
	}
	free(gallery);
	return 0;
}
