/*
 * Where the operations on images read, for the reference executor and for the formulas in float64: one
 * element is looked up at a time.
 */
#ifndef IMAGE_INDEX_H
#define IMAGE_INDEX_H

#include "engine/graph.h"

/* A convolution of an image x (B,C,H,W) by a weight w (OC,C/groups,KH,KW), as the node's attributes say. */
typedef struct ConvIndex
{
	const int *x, *w;
	int stride, groups, above, left, below, right;
} ConvIndex;

static inline ConvIndex
conv_index(const LlmNode *node, const int *x, const int *w)
{
	const LlmAttr *pad = llm_attr(node, "padding");
	int all = (int) llm_attr_number(node, "padding", 0);
	ConvIndex c = {x, w, (int) llm_attr_number(node, "stride", 1), (int) llm_attr_number(node, "groups", 1),
		all, all, all, all};

	if (pad && pad->kind == LLM_ATTR_LIST)
	{
		c.above = (int) pad->items[0].number;
		c.below = (int) pad->items[1].number;
		c.left = (int) pad->items[2].number;
		c.right = (int) pad->items[3].number;
	}
	return c;
}

/*
 * The place in x that element k = (channel,row,column) of weight o reads for the output pixel at[] =
 * (b,o,i,j); -1: a zero of the padding.
 */
static inline long
conv_place(const ConvIndex *c, const int *at, int k)
{
	int channel = at[1] / (c->w[0] / c->groups) * c->w[1] + k / (c->w[2] * c->w[3]);
	int row = at[2] * c->stride + k / c->w[3] % c->w[2] - c->above;
	int column = at[3] * c->stride + k % c->w[3] - c->left;

	if (row < 0 || row >= c->x[2] || column < 0 || column >= c->x[3])
		return -1;
	return (((long) at[0] * c->x[1] + channel) * c->x[2] + row) * c->x[3] + column;
}

#endif
