/*
 * llm_butterfly_measure: how far images are from what the machine can draw.
 */
#include "postgres.h"

#include <math.h>

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "butterflies/measure.h"
#include "src/base/memory.h"
#include "src/tensor/tensor.h"

#define DRAWN_AT_ONCE 100 /* images between two checks for a cancel request */

/* The number of images. */
static int
CheckShape(const Tensor *t)
{
	const int *dims = t->dims + (t->ndim == 4);

	if ((t->ndim != 3 && t->ndim != 4) || dims[0] != LLM_BUTTERFLY_SIZE || dims[1] != LLM_BUTTERFLY_SIZE ||
		dims[2] != 3)
		ereport(ERROR,
			(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				errmsg("llm_butterfly_measure expects images of shape (32,32,3) or (n,32,32,3), not %s",
					TensorShape(t)),
				errhint("Rows, columns and colours: reshape and transpose bring an image into this order.")));
	return t->ndim == 4 ? t->dims[0] : 1;
}

/* Drawn at the statement's first call, and kept for its other rows. */
static const LlmButterflyGallery *
Gallery(FmgrInfo *function)
{
	LlmButterflyGallery *gallery = function->fn_extra;

	if (gallery == NULL)
	{
		ReserveMemory(sizeof(*gallery));
		gallery = MemoryContextAlloc(function->fn_mcxt, sizeof(*gallery));
		gallery->drawn = 0;
		while (gallery->drawn < GALLERY_IMAGES)
		{
			CHECK_FOR_INTERRUPTS();
			llm_butterfly_gallery_draw(gallery, DRAWN_AT_ONCE);
		}
		function->fn_extra = gallery;
	}
	return gallery;
}

static void
PutRow(ReturnSetInfo *result, int image, const LlmButterflyMeasure *m)
{
	double number[] = {m->symmetry, m->colour, m->outline, m->area, m->sharpness, m->flatness, m->nearest};
	Datum values[12] = {Int32GetDatum(image), BoolGetDatum(m->lenient), BoolGetDatum(m->strict)};
	bool nulls[12] = {0};

	for (int i = 0; i < lengthof(number); i++)
	{
		values[3 + i] = Float8GetDatum(number[i]);
		nulls[3 + i] = isnan(number[i]);
	}
	nulls[10] = m->nearest_seed < 0;
	values[10] = Int64GetDatum(m->nearest_seed);
	nulls[11] = m->palette < 0;
	values[11] = nulls[11] ? (Datum) 0 : CStringGetTextDatum(llm_butterfly_palette_names[m->palette]);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

PG_FUNCTION_INFO_V1(llm_butterfly_measure_sql);
Datum
llm_butterfly_measure_sql(PG_FUNCTION_ARGS)
{
	Tensor *images = PG_GETARG_TENSOR_SHAPE(0);
	int n = CheckShape(images);
	const LlmButterflyGallery *gallery = Gallery(fcinfo->flinfo);

	images = PG_GETARG_TENSOR_REST(0, images);
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < n; i++)
	{
		LlmButterflyMeasure m;

		CHECK_FOR_INTERRUPTS();
		llm_butterfly_measure(gallery, TENSOR_DATA(images) + (Size) i * LLM_BUTTERFLY_VALUES, &m);
		PutRow((ReturnSetInfo *) fcinfo->resultinfo, i, &m);
	}
	return (Datum) 0;
}
