/*
 * A tensor as a picture.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/memutils.h"

#include "formats/picture.h"
#include "formats/png.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/tensor/tensor.h"

static bytea *
NewBytes(const LlmPicture *picture)
{
	uint64 size = VARHDRSZ + llm_png_size(picture->picture_width, picture->picture_height, picture->channels);
	bytea *result;

	if (!AllocSizeIsValid(size))
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						   errmsg("a picture of %d x %d pixels has %llu bytes, a value can have %zu",
							   picture->picture_height, picture->picture_width, (unsigned long long) size,
							   (Size) MaxAllocSize),
						   errhint("Draw fewer images, or set zoom to 1.")));
	ReserveResult(size, LLM_BYTES_SHOWN * size);
	result = palloc(size);
	SET_VARSIZE(result, size);
	return result;
}

PG_FUNCTION_INFO_V1(tensor_png);
Datum
tensor_png(PG_FUNCTION_ARGS)
{
	Tensor *t = PG_GETARG_TENSOR_SHAPE(0);
	LlmPicture picture = {.low = PG_GETARG_FLOAT4(1),
		.high = PG_GETARG_FLOAT4(2),
		.clip = PG_GETARG_BOOL(3),
		.columns = PG_GETARG_INT32(4),
		.zoom = PG_GETARG_INT32(5)};
	LlmError err = {0};
	LlmPng png;
	bytea *result;
	uint8 *row;

	LLM_CHECK(llm_picture_of(&picture, t->ndim, t->dims, &err), &err);
	t = PG_GETARG_TENSOR_REST(0, t);
	result = NewBytes(&picture);
	row = palloc((Size) picture.picture_width * picture.channels);
	llm_png_begin(
		&png, (uint8 *) VARDATA(result), picture.picture_width, picture.picture_height, picture.channels);
	for (int y = 0; y < picture.picture_height; y++)
	{
		CHECK_FOR_INTERRUPTS();
		LLM_CHECK(llm_picture_row(&picture, TENSOR_DATA(t), y, row, &err), &err);
		llm_png_row(&png, row);
	}
	llm_png_end(&png);
	PG_RETURN_BYTEA_P(result);
}
