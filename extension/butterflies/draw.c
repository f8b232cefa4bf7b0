/* From factors to the image: layers from the back to the front, then the mean colour of each pixel. */
#include "butterflies/butterfly.h"
#include "butterflies/canvas.h"
#include "butterflies/palettes.h"
#include "butterflies/wing.h"

#define LINE 0.45 /* width of the dark line around each wing */

static void
dot(Canvas *canvas, const Mask *within, Point centre, double radius, int ink)
{
	Mask disc = mask_ellipse(centre, radius, radius), seen = mask_both(&disc, within);

	canvas_paint(canvas, &seen, ink);
}

static void
band(Canvas *canvas, const Wing *wing, const Mask *within, double inner, double outer)
{
	Mask to = wing_shrunk(wing, outer), from = wing_shrunk(wing, inner), stripe = mask_without(&to, &from);

	stripe = mask_both(&stripe, within);
	canvas_paint(canvas, &stripe, INK_ACCENT);
}

/* A vein is a thin triangle from the hinge to the margin. */
static void
vein(Canvas *canvas, const Wing *wing, const Mask *within, double t)
{
	Point end = wing_at(wing, t, 1), h = wing->hinge;
	Mask line = mask_polygon(
		(Point[]){{h.x, h.y - 0.2}, {end.x, end.y - 0.4}, {end.x + 0.3, end.y + 0.4}, {h.x + 0.1, h.y + 0.2}},
		4);

	line = mask_both(&line, within);
	canvas_paint(canvas, &line, INK_MARGIN);
}

static void
eye(Canvas *canvas, const Mask *within, Point centre, double radius)
{
	dot(canvas, within, centre, 1.4 * radius, INK_MARGIN);
	dot(canvas, within, centre, radius, INK_ACCENT);
	dot(canvas, within, centre, 0.5 * radius, INK_HEART);
}

/* A dark corner beyond a distance from the tip, with a row of pale dots. */
static void
dark_tip(Canvas *canvas, const LlmButterfly *b, const Wing *wing, const Mask *within)
{
	Point tip = wing_at(wing, 0, 1);

	dot(canvas, within, tip, (8.6 - 4 * b->mark_place + b->mark_size) * b->size, INK_MARGIN);
	for (int i = 0; i < 3; i++)
		dot(canvas, within, wing_at(wing, 0.02 + 0.21 * i, 0.8), 0.44 * b->mark_size * b->size, INK_ACCENT);
}

/* inner: the wing without its margin; lined: without the dark line around it. */
static void
paint_pattern(
	Canvas *canvas, const LlmButterfly *b, const Wing *wing, int base, const Mask *inner, const Mask *lined)
{
	double place = b->mark_place, size = b->mark_size * b->size;

	switch (b->pattern)
	{
		case LLM_BUTTERFLY_DOTS:
			for (int i = 0; i < 4; i++)
				dot(canvas, lined, wing_at(wing, 0.12 + 0.23 * i, 1 - b->margin / 2), 0.42 * size,
					INK_ACCENT);
			break;
		case LLM_BUTTERFLY_BAND:
			band(canvas, wing, inner, place, place + 0.1 * b->mark_size);
			break;
		case LLM_BUTTERFLY_SPOTS:
			dot(canvas, inner, wing_at(wing, 0.16, 0.7), 0.62 * size, INK_ACCENT);
			dot(canvas, inner, wing_at(wing, 0.68, 0.68), 0.62 * size, INK_ACCENT);
			dot(canvas, inner, wing_at(wing, 0.42, 0.42), 0.56 * size, INK_ACCENT);
			break;
		case LLM_BUTTERFLY_EYES:
			eye(canvas, inner, wing_at(wing, 0.4, place + 0.06), 1.1 * size);
			break;
		case LLM_BUTTERFLY_VEINS:
			for (int i = 0; i < 4; i++)
				vein(canvas, wing, inner, 0.1 + 0.25 * i);
			break;
		case LLM_BUTTERFLY_TIPS:
			if (base == INK_FORE)
				dark_tip(canvas, b, wing, lined);
			else
				eye(canvas, inner, wing_at(wing, 0.6, 0.66), 0.85 * size);
			break;
		case LLM_BUTTERFLY_PATTERNS:
			break;
	}
}

static void
paint_wing(Canvas *canvas, const LlmButterfly *b, const Wing *wing, int base)
{
	Mask all = wing_shrunk(wing, 1), lined = wing_inside(wing, LINE), inner;

	inner = wing_shrunk(wing, 1 - b->margin);
	inner = mask_both(&inner, &lined);
	lined = mask_both(&lined, &all);
	canvas_paint(canvas, &all, INK_MARGIN);
	canvas_paint(canvas, &inner, base);
	paint_pattern(canvas, b, wing, base, &inner, &lined);
}

/* Each is a parabola with a club at its end. */
static void
paint_antennae(Canvas *canvas, const LlmButterfly *b)
{
	enum
	{
		STEPS = 8
	};
	double s = b->size, y = -b->height;
	Point p[2 * (STEPS + 1)];
	Mask part;

	for (int i = 0; i <= STEPS; i++)
	{
		double t = (double) i / STEPS, x = b->antenna * (0.25 * t + 0.75 * t * t);

		p[i] = (Point){(x + 0.1) * s, y - (4.6 + 6 * t) * s};
		p[2 * STEPS + 1 - i] = (Point){(x + 0.75) * s, y - (4.6 + 6 * t) * s};
	}
	part = mask_polygon(p, 2 * (STEPS + 1));
	canvas_paint(canvas, &part, INK_BODY);
	part = mask_ellipse((Point){(b->antenna + 0.5) * s, y - 10.6 * s}, 0.7 * s, 0.7 * s);
	canvas_paint(canvas, &part, INK_BODY);
}

static void
paint_body(Canvas *canvas, const LlmButterfly *b)
{
	double s = b->size, y = -b->height;
	Mask part = mask_ellipse((Point){0, y + 2.2 * s}, 1.2 * s, 5.6 * s);

	canvas_paint(canvas, &part, INK_BODY);
	part = mask_ellipse((Point){0, y - 4.2 * s}, 1.35 * s, 1.4 * s);
	canvas_paint(canvas, &part, INK_BODY);
}

/*
 * glow[x] from 0 to 256: how much of its colour the base of one wing has from the other, which grows with the
 * square of the distance from the middle.
 */
static void
glow_row(const LlmButterfly *b, int y, int glow[CANVAS_HALF])
{
	int full = (int) (256 * b->glow), down = 2 * y + 1 - CANVAS_PIXELS; /* in half pixels */

	for (int x = 0; x < CANVAS_HALF; x++)
	{
		int square = (2 * x + 1) * (2 * x + 1) + down * down, edge = CANVAS_PIXELS * CANVAS_PIXELS;

		glow[x] = (square < edge ? square : edge) * full / edge;
	}
}

/* The mean colour of each pixel's 16 samples, in 256ths, rounded. */
static void
mix_row(const Canvas *canvas, const LlmButterfly *b, int y, uint8_t *row)
{
	const uint8_t(*colour)[3] = PALETTES[b->palette];
	int count[CANVAS_INKS][CANVAS_HALF], glow[CANVAS_HALF];

	canvas_row(canvas, y, count);
	glow_row(b, y, glow);
	for (int c = 0; c < 3; c++)
	{
		int sum[CANVAS_HALF], change = colour[INK_HIND][c] - colour[INK_FORE][c];

		for (int x = 0; x < CANVAS_HALF; x++)
			sum[x] = change * (count[INK_FORE][x] - count[INK_HIND][x]) * glow[x];
		for (int ink = 0; ink < CANVAS_INKS; ink++)
			for (int x = 0; x < CANVAS_HALF; x++)
				sum[x] += 256 * count[ink][x] * colour[ink][c];
		for (int x = 0; x < CANVAS_HALF; x++)
			row[(CANVAS_HALF + x) * 3 + c] = row[(CANVAS_HALF - 1 - x) * 3 + c] = (sum[x] + 2048) / 4096;
	}
}

void
llm_butterfly_draw(const LlmButterfly *b, uint8_t *out)
{
	Canvas canvas;
	Wing wing;

	canvas_clear(&canvas);
	wing_hind(b, &wing);
	paint_wing(&canvas, b, &wing, INK_HIND);
	wing_fore(b, &wing);
	paint_wing(&canvas, b, &wing, INK_FORE);
	paint_body(&canvas, b);
	paint_antennae(&canvas, b);
	for (int y = 0; y < CANVAS_PIXELS; y++)
		mix_row(&canvas, b, y, out + y * CANVAS_PIXELS * 3);
}

void
llm_butterfly_values(const LlmButterfly *b, float *out)
{
	uint8_t image[LLM_BUTTERFLY_VALUES];

	llm_butterfly_draw(b, image);
	for (int i = 0; i < LLM_BUTTERFLY_VALUES; i++)
		out[i] = image[i] / 127.5f - 1;
}
