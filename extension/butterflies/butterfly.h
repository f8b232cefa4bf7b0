/*
 * Butterflies drawn by rule: images with a known answer. A seed determines the factors, the factors determine
 * the image, to the last bit on every machine.
 */
#ifndef LLM_BUTTERFLY_H
#define LLM_BUTTERFLY_H

#include "common/base.h"

#define LLM_BUTTERFLY_SIZE 32
#define LLM_BUTTERFLY_VALUES (LLM_BUTTERFLY_SIZE * LLM_BUTTERFLY_SIZE * 3)
#define LLM_BUTTERFLY_PALETTES 8

typedef enum LlmButterflyPattern
{
	LLM_BUTTERFLY_DOTS,  /* a row of dots in the margin */
	LLM_BUTTERFLY_BAND,  /* a band across each wing */
	LLM_BUTTERFLY_SPOTS, /* three spots on each wing */
	LLM_BUTTERFLY_EYES,  /* a ringed spot on each wing */
	LLM_BUTTERFLY_VEINS, /* dark veins from the body to the margin */
	LLM_BUTTERFLY_TIPS,  /* dark tips with a pale bar */
	LLM_BUTTERFLY_PATTERNS
} LlmButterflyPattern;

extern const char *const llm_butterfly_palette_names[LLM_BUTTERFLY_PALETTES];
extern const char *const llm_butterfly_pattern_names[LLM_BUTTERFLY_PATTERNS];

/* What a seed determines; lengths in pixels. */
typedef struct LlmButterfly
{
	int palette;
	LlmButterflyPattern pattern;
	double size;       /* of the whole, 1 is the largest */
	double height;     /* of the body's middle above the image's middle */
	double fore_reach; /* how far the tip of the forewing is from the axis, times size */
	double fore_lift;  /* how far it is above the body, times size */
	double fore_round; /* 0: pointed tip and hollow outer edge, 1: round */
	double hind_reach; /* how far the hindwing is from the axis, times size */
	double hind_drop;  /* how far its lower end is below the body, times size */
	double hind_round; /* 0: triangular, 1: round */
	double tail;       /* length of the hindwing's tail, 0 for none */
	double scallop;    /* depth of the waves of the outer edge, 0 for none */
	double margin;     /* width of the dark margin as a share of the wing */
	double glow;       /* how much the base turns into the other wing's colour towards the margin */
	double mark_place; /* where a band or spot is: share of the way from body to margin */
	double mark_size;  /* its size */
	double antenna;    /* how far the antennae spread, times size */
} LlmButterfly;

extern void llm_butterfly_factors(uint64_t seed, LlmButterfly *b);
/* out (32,32,3): rows from top to bottom; red, green and blue from 0 to 255. */
extern void llm_butterfly_draw(const LlmButterfly *b, uint8_t *out);
/* The same as a network reads it, from -1 to 1. */
extern void llm_butterfly_values(const LlmButterfly *b, float *out);

#endif
