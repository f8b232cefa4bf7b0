/* See measure.h. */
#include <math.h>

#include "butterflies/limits.h"
#include "butterflies/measure.h"
#include "butterflies/palettes.h"

#define SIZE LLM_BUTTERFLY_SIZE
#define FOREGROUND 0.12 /* distance from the background's colour from which a pixel is foreground */

/* The mean over the three colours of a product of differences: (a - origin) (b - origin). */
static double
product(const double *a, const double *b, const double *origin)
{
	double sum = 0;

	for (int c = 0; c < 3; c++)
		sum += (a[c] - origin[c]) * (b[c] - origin[c]);
	return sum / 3;
}

static void
palette_colour(int palette, int ink, double colour[3])
{
	for (int c = 0; c < 3; c++)
		colour[c] = PALETTES[palette][ink][c] / 127.5 - 1;
}

static double
from_ground(const float *pixel)
{
	double ground[3], p[3] = {pixel[0], pixel[1], pixel[2]};

	palette_colour(0, INK_GROUND, ground);
	return product(p, p, ground);
}

void
butterfly_outline(const float *image, Outline *outline)
{
	for (int y = 0; y < SIZE; y++)
	{
		outline->row[y] = 0;
		for (int x = 0; x < SIZE; x++, image += 3)
			outline->row[y] = outline->row[y] << 1 | (from_ground(image) > FOREGROUND * FOREGROUND);
	}
}

static double
area_of(const Outline *outline)
{
	int count = 0;

	for (int y = 0; y < SIZE; y++)
		count += __builtin_popcount(outline->row[y]);
	return (double) count / (SIZE * SIZE);
}

/* The background is what is no neighbour of the foreground, whose edges are mixtures. */
static double
flatness_of(const float *image, const Outline *outline)
{
	double sum = 0;
	int count = 0;

	for (int y = 0; y < SIZE; y++)
	{
		uint32_t near =
			outline->row[y] | (y > 0 ? outline->row[y - 1] : 0) | (y + 1 < SIZE ? outline->row[y + 1] : 0);

		near |= near << 1 | near >> 1;
		for (int x = 0; x < SIZE; x++, image += 3)
			if (!(near >> (SIZE - 1 - x) & 1))
			{
				sum += from_ground(image);
				count++;
			}
	}
	return count ? sqrt(sum / count) : NAN;
}

double
butterfly_symmetry(const float *image)
{
	double sum = 0;

	for (int y = 0; y < SIZE; y++, image += SIZE * 3)
		for (int x = 0; x < SIZE; x++)
			for (int c = 0; c < 3; c++)
			{
				double d = (double) image[x * 3 + c] - image[(SIZE - 1 - x) * 3 + c];

				sum += d * d;
			}
	return sqrt(sum / LLM_BUTTERFLY_VALUES);
}

/* The sum of the squared changes over some pixels to the right and down. */
static double
changes(const float *image, int step)
{
	double sum = 0;

	for (int y = 0; y < SIZE; y++)
		for (int x = 0; x < SIZE; x++, image += 3)
			for (int c = 0; c < 3; c++)
			{
				double right = x + step < SIZE ? (double) image[step * 3 + c] - image[c] : 0;
				double down = y + step < SIZE ? (double) image[step * SIZE * 3 + c] - image[c] : 0;

				sum += right * right + down * down;
			}
	return sum;
}

/* The squared distance of a point from the segment from a to b. */
static double
from_segment(const double *p, const double *a, const double *b)
{
	double length = product(b, b, a), along = product(p, b, a), nearest[3];
	double t = along <= 0 ? 0 : along >= length ? 1 : along / length;

	for (int c = 0; c < 3; c++)
		nearest[c] = a[c] + t * (b[c] - a[c]);
	return product(p, p, nearest);
}

/* The squared distance of a pixel from the mixtures of two colours of a palette. */
static double
from_mixtures(const float *pixel, double colour[CANVAS_INKS][3])
{
	double p[3] = {pixel[0], pixel[1], pixel[2]}, best = INFINITY;

	for (int i = 0; i < CANVAS_INKS; i++)
		for (int j = 0; j < i; j++)
		{
			double d = from_segment(p, colour[i], colour[j]);

			best = d < best ? d : best;
		}
	return best;
}

static double
from_palette(const float *image, const Outline *outline, int palette)
{
	double colour[CANVAS_INKS][3], sum = 0;
	int count = 0;

	for (int ink = 0; ink < CANVAS_INKS; ink++)
		palette_colour(palette, ink, colour[ink]);
	for (int y = 0; y < SIZE; y++)
		for (int x = 0; x < SIZE; x++, image += 3)
			if (outline->row[y] >> (SIZE - 1 - x) & 1)
			{
				sum += from_mixtures(image, colour);
				count++;
			}
	return sqrt(sum / count);
}

void
butterfly_colour(const float *image, LlmButterflyMeasure *m)
{
	Outline outline;

	butterfly_outline(image, &outline);
	m->palette = -1;
	m->colour = NAN;
	if (area_of(&outline) == 0)
		return;
	for (int palette = 0; palette < LLM_BUTTERFLY_PALETTES; palette++)
	{
		double d = from_palette(image, &outline, palette);

		if (m->palette < 0 || d < m->colour)
		{
			m->palette = palette;
			m->colour = d;
		}
	}
}

bool
butterfly_within(const LlmButterflyMeasure *m, const ButterflyLimits *limits)
{
	return m->symmetry <= limits->symmetry && m->colour <= limits->colour && m->outline >= limits->outline &&
		   m->area >= limits->area[0] && m->area <= limits->area[1] && m->sharpness >= limits->sharpness[0] &&
		   m->sharpness <= limits->sharpness[1] && m->flatness <= limits->flatness &&
		   m->nearest >= limits->nearest[0] && m->nearest <= limits->nearest[1];
}

static bool
is_finite(const float *image)
{
	bool finite = true;

	for (int i = 0; i < LLM_BUTTERFLY_VALUES; i++)
		finite &= image[i] - image[i] == 0;
	return finite;
}

void
llm_butterfly_measure(const LlmButterflyGallery *gallery, const float *image, LlmButterflyMeasure *m)
{
	Outline outline;
	double wide;

	*m = (LlmButterflyMeasure){NAN, -1, NAN, NAN, NAN, NAN, NAN, NAN, -1, false, false};
	if (!is_finite(image))
		return;
	butterfly_outline(image, &outline);
	wide = changes(image, 2);
	m->symmetry = butterfly_symmetry(image);
	butterfly_colour(image, m);
	m->outline = outline_best(gallery, &outline);
	m->area = area_of(&outline);
	m->sharpness = wide > 0 ? changes(image, 1) / wide : NAN;
	m->flatness = flatness_of(image, &outline);
	m->nearest = gallery_nearest(gallery, image, &m->nearest_seed);
	m->strict = butterfly_within(m, &STRICT_LIMITS);
	m->lenient = butterfly_within(m, &LENIENT_LIMITS);
}
