/* See picture.h. */
#include <stdio.h>
#include <string.h>

#include "formats/picture.h"

#define LONGEST_SIDE 32767 /* pixels; what programs that show pictures accept */
#define EMPTY 255          /* where the last row has fewer images */

static bool
are_channels(int n)
{
	return n == 1 || n == 3;
}

static LlmCode
set_shape(LlmPicture *p, int ndim, const int *dims, LlmError *err)
{
	int channels = ndim == 2 ? 1 : 0, first = ndim == 4, place = first;

	if (ndim == 3 || ndim == 4)
	{
		p->planes = !are_channels(dims[ndim - 1]);
		channels = dims[p->planes ? first : ndim - 1];
		place = first + p->planes;
	}
	if (!are_channels(channels))
	{
		char shape[LLM_MAX_DIMS * 12 + 1] = "";
		size_t used = 0;

		for (int i = 0; i < ndim; i++)
			used += snprintf(shape + used, sizeof(shape) - used, "%s%d", i ? "," : "", dims[i]);
		llm_fail(err, LLM_SHAPE, "a tensor of shape (%s) is no image", shape);
		return llm_hint(err,
			"An image has the shape (height,width), (height,width,channels) or (channels,height,width), "
			"several images have one more dimension in front; there are 1 or 3 channels.");
	}
	p->n = ndim == 4 ? dims[0] : 1;
	p->height = dims[place];
	p->width = dims[place + 1];
	p->channels = channels;
	if (p->n > 0 && p->height > 0 && p->width > 0)
		return LLM_OK;
	return llm_fail(err, LLM_SHAPE,
		"%d images of %d x %d pixels cannot be drawn: a picture needs at least one pixel", p->n, p->height,
		p->width);
}

static LlmCode
set_size(LlmPicture *p, LlmError *err)
{
	int across = p->columns < p->n ? p->columns : p->n, down = (p->n - 1) / across + 1;
	double width = (double) across * p->width * p->zoom, height = (double) down * p->height * p->zoom;

	if (width > LONGEST_SIDE || height > LONGEST_SIDE)
	{
		llm_fail(err, LLM_LIMIT, "the picture would have %.0f x %.0f pixels, each side may have %d", height,
			width, LONGEST_SIDE);
		return llm_hint(err, "Draw fewer images, or set columns and zoom.");
	}
	p->picture_width = (int) width;
	p->picture_height = (int) height;
	return LLM_OK;
}

LlmCode
llm_picture_of(LlmPicture *p, int ndim, const int *dims, LlmError *err)
{
	if (p->columns < 1 || p->zoom < 1)
		return llm_fail(
			err, LLM_INVALID, "columns is %d and zoom is %d, both must be at least 1", p->columns, p->zoom);
	if (!(p->low < p->high && p->high - p->low < 1e38))
	{
		char low[32], high[32];

		llm_fail(err, LLM_INVALID, "low is %s and high is %s, expected two finite numbers, low below high",
			llm_decimal(p->low, low), llm_decimal(p->high, high));
		return llm_hint(err, "low is drawn black, high is drawn white.");
	}
	if (set_shape(p, ndim, dims, err) != LLM_OK)
		return err->code;
	return set_size(p, err);
}

/* Names the value and its place: image 2, row 0, column 5. */
static LlmCode
out_of_range(const LlmPicture *p, float value, int64_t pixel, LlmError *err)
{
	char number[32], low[32], high[32], image[32] = "";

	if (p->n > 1)
		snprintf(image, sizeof(image), "image %d, ", (int) (pixel / p->width / p->height));
	llm_fail(err, LLM_RANGE, "the value %s (%srow %d, column %d) is outside the range from %s to %s",
		llm_decimal(value, number), image, (int) (pixel / p->width % p->height), (int) (pixel % p->width),
		llm_decimal(p->low, low), llm_decimal(p->high, high));
	if (value != value)
		return llm_hint(err, "NaN has no colour; look for the step that made it.");
	return llm_hint(err, "clip => true draws it as the nearer end; low and high set another range.");
}

/* 0 … 255, rounded; values up to half a level out of range are rounding errors of the image's maker. */
static LlmCode
level_of(const LlmPicture *p, float value, int64_t pixel, uint8_t *level, LlmError *err)
{
	double share = (value - p->low) / (p->high - p->low) * 255 + 0.5;

	if (!(share >= 0 && share <= 256) && (value != value || !p->clip))
		return out_of_range(p, value, pixel, err);
	*level = share < 0 ? 0 : share > 255 ? 255 : (uint8_t) share;
	return LLM_OK;
}

LlmCode
llm_picture_row(const LlmPicture *p, const float *values, int y, uint8_t *row, LlmError *err)
{
	int down = y / p->zoom / p->height, image_y = y / p->zoom % p->height;
	int64_t plane = (int64_t) p->height * p->width;

	memset(row, EMPTY, (size_t) p->picture_width * p->channels);
	for (int column = 0; column < p->columns && (int64_t) down * p->columns + column < p->n; column++)
	{
		int64_t image = (int64_t) down * p->columns + column;

		for (int x = 0; x < p->width; x++)
		{
			int64_t place = (int64_t) image_y * p->width + x, pixel = image * plane + place;
			uint8_t levels[3];

			for (int c = 0; c < p->channels; c++)
			{
				int64_t at = p->planes ? (image * p->channels + c) * plane + place : pixel * p->channels + c;

				if (level_of(p, values[at], pixel, &levels[c], err) != LLM_OK)
					return err->code;
			}
			for (int i = 0; i < p->zoom; i++, row += p->channels)
				memcpy(row, levels, p->channels);
		}
	}
	return LLM_OK;
}
