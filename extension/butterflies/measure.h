/*
 * How far an image is from what the machine can draw, and how near to an image that it has drawn. Machine
 * images of held-out seeds (negative ones) set the limits, see limits.h.
 */
#ifndef LLM_BUTTERFLIES_MEASURE_H
#define LLM_BUTTERFLIES_MEASURE_H

#include "butterflies/butterfly.h"

#define GALLERY_OUTLINES 4000 /* outlines of the seeds from 0 on */
#define GALLERY_IMAGES 20000  /* images of the seeds from 0 on */

/* Foreground pixels: row by row, the leftmost pixel in the highest bit. */
typedef struct Outline
{
	uint32_t row[LLM_BUTTERFLY_SIZE];
} Outline;

/* The machine's own images; the caller allocates it and sets drawn to 0. */
typedef struct LlmButterflyGallery
{
	int drawn;
	Outline outline[GALLERY_OUTLINES];
	uint8_t half[GALLERY_IMAGES][LLM_BUTTERFLY_VALUES / 2]; /* (32,16,3), the right half */
} LlmButterflyGallery;

/* Distances are root mean squares over the three colours, which go from -1 to 1. NaN: undefined. */
typedef struct LlmButterflyMeasure
{
	double symmetry;  /* distance between the image and its mirror image */
	int palette;      /* the palette nearest to the foreground's colours; -1 without foreground */
	double colour;    /* distance of the foreground from mixtures of two colours of that palette */
	double outline;   /* intersection over union of the foreground with the most similar of the outlines */
	double area;      /* share of pixels in the foreground */
	double sharpness; /* squared change over one pixel / over two: 0.25 a ramp, 0.5 steps, 1 noise */
	double flatness;  /* distance of the background from its colour */
	double nearest;   /* distance to the most similar image of the gallery */
	int nearest_seed; /* the seed of that image; -1 if undefined */
	bool lenient;     /* within the limits of the machine's images with grain */
	bool strict;      /* within the limits of the machine's images */
} LlmButterflyMeasure;

/* Draws the next n images of the gallery, or fewer at its end. */
extern void llm_butterfly_gallery_draw(LlmButterflyGallery *gallery, int n);
/* All of an image (32,32,3); the gallery is complete. */
extern void llm_butterfly_measure(
	const LlmButterflyGallery *gallery, const float *image, LlmButterflyMeasure *m);

/* Parts of it. */
struct ButterflyLimits;
extern bool butterfly_within(const LlmButterflyMeasure *m, const struct ButterflyLimits *limits);
extern double butterfly_symmetry(const float *image);
/* Sets palette and colour. */
extern void butterfly_colour(const float *image, LlmButterflyMeasure *m);
extern void butterfly_outline(const float *image, Outline *outline);
extern double outline_best(const LlmButterflyGallery *gallery, const Outline *outline);
extern double gallery_nearest(const LlmButterflyGallery *gallery, const float *image, int *seed);

#endif
