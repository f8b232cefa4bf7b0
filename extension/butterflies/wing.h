/* Outlines of wings. */
#ifndef LLM_BUTTERFLIES_WING_H
#define LLM_BUTTERFLIES_WING_H

#include "butterflies/butterfly.h"
#include "butterflies/canvas.h"

#define WING_STEPS 12 /* of the front and the inner edge */
#define WING_RIM 36   /* of the outer edge */
#define WING_POINTS (2 * WING_STEPS + WING_RIM)

/* A closed polygon from the hinge along the front edge to the tip, down the outer edge (the rim), and back.
 */
typedef struct Wing
{
	Point hinge;
	Point outline[WING_POINTS];
} Wing;

extern void wing_fore(const LlmButterfly *b, Wing *wing);
extern void wing_hind(const LlmButterfly *b, Wing *wing);
/* The point of the rim at t from 0 (front) to 1 (back), moved to this share of the way from the hinge. */
extern Point wing_at(const Wing *wing, double t, double share);
/* The wing's outline shrunk to this share towards the hinge. */
extern Mask wing_shrunk(const Wing *wing, double share);
/* What is left if a line of this width follows the outline inside. */
extern Mask wing_inside(const Wing *wing, double width);

#endif
