/*
 * The limits of measures: percentiles over 2,000 images of held-out seeds, printed by
 * `extension/test/c/build/plain/test_butterfly limits`. Where only one side is bad, the 99th (or 1st)
 * percentile; else the 1st and the 99th. Symmetry: the 1st percentile of images whose halves come from two
 * butterflies. Strict flatness is no percentile, since the machine's background is exact, but four levels of
 * 255. Lenient limits of colour, flatness and sharpness are those of the same images with normal noise of
 * 0.04.
 */
#ifndef LLM_BUTTERFLIES_LIMITS_H
#define LLM_BUTTERFLIES_LIMITS_H

typedef struct ButterflyLimits
{
	double symmetry, colour, outline, area[2], sharpness[2], flatness, nearest[2];
} ButterflyLimits;

static const ButterflyLimits STRICT_LIMITS = {
	.symmetry = 0.294,
	.colour = 0.0267,
	.outline = 0.917,
	.area = {0.3359, 0.5157},
	.sharpness = {0.432, 0.606},
	.flatness = 0.03,
	.nearest = {0.110, 0.274},
};

static const ButterflyLimits LENIENT_LIMITS = {
	.symmetry = 0.294,
	.colour = 0.0375,
	.outline = 0.917,
	.area = {0.3359, 0.5157},
	.sharpness = {0.432, 0.612},
	.flatness = 0.042,
	.nearest = {0.110, 0.274},
};

#endif
