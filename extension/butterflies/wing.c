/* See wing.h. An outline is three cubic Bezier curves; waves and the tail stretch the rim away from the
 * hinge. */
#include <math.h>

#include "butterflies/wing.h"

static Point
towards(Point a, Point b, double share)
{
	return (Point){a.x + (b.x - a.x) * share, a.y + (b.y - a.y) * share};
}

/* n points from a towards d, without d (de Casteljau's construction). */
static Point *
curve(Point *out, Point a, Point b, Point c, Point d, int n)
{
	for (int i = 0; i < n; i++)
	{
		double t = (double) i / n;
		Point ab = towards(a, b, t), bc = towards(b, c, t), cd = towards(c, d, t);

		*out++ = towards(towards(ab, bc, t), towards(bc, cd, t), t);
	}
	return out;
}

/* 0 at both ends of [0,1], 1 in the middle, flat at the ends. */
static double
bump(double t)
{
	double s = t <= 0 || t >= 1 ? 0 : 4 * t * (1 - t);

	return s * s;
}

/* 0 at integers, 1 half way between them. */
static double
wave(double t)
{
	double part = t - (int) t;

	return 4 * part * (1 - part);
}

/* Moves an outline's point towards another, or away from it if length is negative. */
static void
move(Point *p, Point other, double length)
{
	double x = other.x - p->x, y = other.y - p->y;

	*p = towards(*p, other, length / sqrt(x * x + y * y));
}

static void
shape_rim(Wing *wing, int waves, double scallop, double tail)
{
	for (int i = 0; i < WING_RIM; i++)
	{
		double t = (double) i / WING_RIM;

		move(&wing->outline[WING_STEPS + i], wing->hinge,
			-scallop * (wave(t * waves) - 0.5) - tail * bump((t - 0.56) / 0.26));
	}
}

/* From the butterfly's own coordinates, in which the largest has size 1, to those of the canvas. */
static void
place(const LlmButterfly *b, Wing *wing)
{
	for (int i = 0; i < WING_POINTS; i++)
	{
		wing->outline[i].x *= b->size;
		wing->outline[i].y = wing->outline[i].y * b->size - b->height;
	}
	wing->hinge.x *= b->size;
	wing->hinge.y = wing->hinge.y * b->size - b->height;
}

void
wing_fore(const LlmButterfly *b, Wing *wing)
{
	double r = b->fore_round, x = b->fore_reach, y = -b->fore_lift;
	Point hinge = {0, -2}, tip = {x - 1.2 * r, y + 0.8 * r}, corner = {x * (0.7 + 0.06 * r), 1};
	Point *p = wing->outline;

	wing->hinge = hinge;
	p = curve(p, hinge, (Point){1.5, -6}, (Point){tip.x * 0.55, y - 1.4 * r - 0.4}, tip, WING_STEPS);
	p = curve(p, tip, (Point){tip.x + 0.8 + 2.6 * r, tip.y + 1.6 + 1.2 * r},
		(Point){corner.x + 0.4 + 2.6 * r, corner.y - 4.5}, corner, WING_RIM);
	curve(p, corner, (Point){corner.x - 2, corner.y + 1.6}, (Point){3, 2}, (Point){0, 1}, WING_STEPS);
	shape_rim(wing, 4, b->scallop, 0);
	place(b, wing);
}

void
wing_hind(const LlmButterfly *b, Wing *wing)
{
	double r = b->hind_round, x = b->hind_reach, y = b->hind_drop;
	Point hinge = {0, 0}, shoulder = {x - 1, 2}, corner = {3.4 + r, y - 1.2};
	Point *p = wing->outline;

	wing->hinge = hinge;
	p = curve(p, hinge, (Point){3, -3}, (Point){x - 3, -2}, shoulder, WING_STEPS);
	p = curve(p, shoulder, (Point){x + 1 + 1.2 * r, 5.5 + 0.8 * r},
		(Point){corner.x + 3 + 2.4 * r, y + 0.8 + 0.6 * r}, corner, WING_RIM);
	curve(p, corner, (Point){corner.x - 2, y - 2.2}, (Point){0.6, 6.5}, (Point){0, 4}, WING_STEPS);
	shape_rim(wing, 4, b->scallop, b->tail);
	place(b, wing);
}

Point
wing_at(const Wing *wing, double t, double share)
{
	int i = (int) (t * WING_RIM + 0.5);

	return towards(wing->hinge, wing->outline[WING_STEPS + i], share);
}

Mask
wing_shrunk(const Wing *wing, double share)
{
	Point p[WING_POINTS];

	for (int i = 0; i < WING_POINTS; i++)
		p[i] = towards(wing->hinge, wing->outline[i], share);
	return mask_polygon(p, WING_POINTS);
}

Mask
wing_inside(const Wing *wing, double width)
{
	Point p[WING_POINTS], middle = {0, 0};

	for (int i = 0; i < WING_POINTS; i++)
	{
		middle.x += wing->outline[i].x / WING_POINTS;
		middle.y += wing->outline[i].y / WING_POINTS;
	}
	for (int i = 0; i < WING_POINTS; i++)
	{
		p[i] = wing->outline[i];
		move(&p[i], middle, width);
	}
	return mask_polygon(p, WING_POINTS);
}
