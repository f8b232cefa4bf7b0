/*
 * The drawing surface: the right half of a square image, sampled four by four within each pixel. A mask holds
 * one bit for each sample, a row of samples in a word of 64 bits, so that shapes are combined by & and |.
 * Only integers and the four operations and square root of IEEE 754, which every machine computes to the
 * same bits.
 */
#ifndef LLM_BUTTERFLIES_CANVAS_H
#define LLM_BUTTERFLIES_CANVAS_H

#include "common/base.h"

#define CANVAS_PIXELS 32 /* height and width of an image */
#define CANVAS_HALF 16   /* pixels from the axis to the right edge */
#define CANVAS_SAMPLES 4 /* per pixel and direction */
#define CANVAS_ROWS (CANVAS_PIXELS * CANVAS_SAMPLES)

typedef struct Mask
{
	uint64_t row[CANVAS_ROWS];
} Mask;

/* In pixels: x to the right from the axis of symmetry, y down from the middle. */
typedef struct Point
{
	double x, y;
} Point;

/* The samples inside a closed polygon. */
extern Mask mask_polygon(const Point *p, int n);
extern Mask mask_ellipse(Point centre, double width, double height);
extern Mask mask_both(const Mask *a, const Mask *b);
extern Mask mask_without(const Mask *a, const Mask *b);

/* The image in layers: each sample has one of n inks. */
#define CANVAS_INKS 7
typedef struct Canvas
{
	Mask ink[CANVAS_INKS];
} Canvas;

/* Every sample in ink 0. */
extern void canvas_clear(Canvas *canvas);
/* Gives the samples of the mask this ink. */
extern void canvas_paint(Canvas *canvas, const Mask *mask, int ink);
/* count[ink][x]: how many of the 16 samples of pixel (y, x) have the ink. */
extern void canvas_row(const Canvas *canvas, int y, int count[CANVAS_INKS][CANVAS_HALF]);

#endif
