/* See canvas.h. */
#include <math.h>
#include <string.h>

#include "butterflies/canvas.h"

/* The first row or column of samples whose middle is not before this place, in samples from the edge. */
static int
first_sample(double place, int limit)
{
	double at = place + 0.5;

	return at < 0 ? 0 : at >= limit ? limit : (int) at;
}

/* The samples of a row at x and to the right of it. */
static uint64_t
right_of(double x)
{
	int column = first_sample(x * CANVAS_SAMPLES, 64);

	return column == 64 ? 0 : ~(uint64_t) 0 << column;
}

static int
first_row(double y)
{
	return first_sample((y + CANVAS_HALF) * CANVAS_SAMPLES, CANVAS_ROWS);
}

static double
row_middle(int row)
{
	return (row + 0.5) / CANVAS_SAMPLES - CANVAS_HALF;
}

/* Each edge flips what is to its right: inside remains what was flipped an odd number of times. */
Mask
mask_polygon(const Point *p, int n)
{
	Mask mask;

	memset(&mask, 0, sizeof(mask));
	for (int i = 0; i < n; i++)
	{
		Point a = p[i], b = p[i + 1 < n ? i + 1 : 0];
		Point top = a.y < b.y ? a : b, bottom = a.y < b.y ? b : a;
		int last = first_row(bottom.y);
		double slope = bottom.y > top.y ? (bottom.x - top.x) / (bottom.y - top.y) : 0;

		for (int row = first_row(top.y); row < last; row++)
			mask.row[row] ^= right_of(top.x + slope * (row_middle(row) - top.y));
	}
	return mask;
}

Mask
mask_ellipse(Point centre, double width, double height)
{
	Mask mask;
	int last = first_row(centre.y + height);

	memset(&mask, 0, sizeof(mask));
	for (int row = first_row(centre.y - height); row < last; row++)
	{
		double v = (row_middle(row) - centre.y) / height;
		double half = v * v < 1 ? width * sqrt(1 - v * v) : 0;

		mask.row[row] = right_of(centre.x - half) & ~right_of(centre.x + half);
	}
	return mask;
}

Mask
mask_both(const Mask *a, const Mask *b)
{
	Mask mask;

	for (int row = 0; row < CANVAS_ROWS; row++)
		mask.row[row] = a->row[row] & b->row[row];
	return mask;
}

Mask
mask_without(const Mask *a, const Mask *b)
{
	Mask mask;

	for (int row = 0; row < CANVAS_ROWS; row++)
		mask.row[row] = a->row[row] & ~b->row[row];
	return mask;
}

void
canvas_clear(Canvas *canvas)
{
	memset(canvas, 0, sizeof(*canvas));
	memset(&canvas->ink[0], 0xff, sizeof(Mask));
}

void
canvas_paint(Canvas *canvas, const Mask *mask, int ink)
{
	for (int i = 0; i < CANVAS_INKS; i++)
		for (int row = 0; row < CANVAS_ROWS; row++)
			canvas->ink[i].row[row] &= ~mask->row[row];
	for (int row = 0; row < CANVAS_ROWS; row++)
		canvas->ink[ink].row[row] |= mask->row[row];
}

/* Bits counted in groups of four, each group a pixel's samples of one row; even and odd groups apart, since
 * a sum of four rows needs five bits. */
void
canvas_row(const Canvas *canvas, int y, int count[CANVAS_INKS][CANVAS_HALF])
{
	for (int ink = 0; ink < CANVAS_INKS; ink++)
	{
		uint64_t even = 0, odd = 0;

		for (int i = 0; i < CANVAS_SAMPLES; i++)
		{
			uint64_t bits = canvas->ink[ink].row[y * CANVAS_SAMPLES + i];

			bits -= bits >> 1 & 0x5555555555555555u;
			bits = (bits & 0x3333333333333333u) + (bits >> 2 & 0x3333333333333333u);
			even += bits & 0x0f0f0f0f0f0f0f0fu;
			odd += bits >> 4 & 0x0f0f0f0f0f0f0f0fu;
		}
		for (int x = 0; x < CANVAS_HALF; x += 2)
		{
			count[ink][x] = even >> 4 * x & 0xff;
			count[ink][x + 1] = odd >> 4 * x & 0xff;
		}
	}
}
