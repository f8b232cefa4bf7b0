/* Float images as pixels of 8 bits: one image, or several side by side. */
#ifndef LLM_FORMATS_PICTURE_H
#define LLM_FORMATS_PICTURE_H

#include "common/base.h"

typedef struct LlmPicture
{
	/* set by the caller */
	double low, high; /* the values of black and of white (or full colour) */
	bool clip;        /* draw values beyond them as the nearer of the two */
	int columns;      /* images in a row */
	int zoom;         /* pixels per value, in each direction */
	/* set by llm_picture_of */
	int n, height, width, channels; /* of each image */
	bool planes;                    /* the channels are planes, one after the other */
	int picture_height, picture_width;
} LlmPicture;

/*
 * From the shape (H,W), (H,W,C) or (C,H,W) or, for several images, (N,H,W,C) or (N,C,H,W), where C is 1 or 3.
 * Where both the first and the last could be the channels, the last is.
 */
extern LlmCode llm_picture_of(LlmPicture *p, int ndim, const int *dims, LlmError *err);
/* Row y of the picture's pixels. A value out of range is an error that names its place. */
extern LlmCode llm_picture_row(const LlmPicture *p, const float *values, int y, uint8_t *row, LlmError *err);

#endif
