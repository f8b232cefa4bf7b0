/*
 * llm_story and related functions: stories from extension/stories, as rows.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

#include "src/base/errors.h"
#include "src/base/spi.h"
#include "stories/story.h"

PG_FUNCTION_INFO_V1(llm_story_sql);
Datum
llm_story_sql(PG_FUNCTION_ARGS)
{
	LlmStory story;
	Size size = 0;
	text *result;
	Datum values[2];

	llm_story_tell((uint64) PG_GETARG_INT64(0), &story);
	for (int i = 0; i < story.count; i++)
		size += story.token[i].size;
	result = palloc(VARHDRSZ + size);
	SET_VARSIZE(result, VARHDRSZ + size);
	size = 0;
	for (int i = 0; i < story.count; size += story.token[i++].size)
		memcpy(VARDATA(result) + size, story.token[i].text, story.token[i].size);
	values[0] = PointerGetDatum(result);
	values[1] = Float8GetDatum(story.logprob);
	return RowResult(fcinfo, values, NULL);
}

static void
Follow(FunctionCallInfo fcinfo, LlmStory *story, LlmStoryNext *next)
{
	text *prefix = PG_GETARG_TEXT_PP(0);
	LlmError err;

	LLM_CHECK(llm_story_follow(VARDATA_ANY(prefix), VARSIZE_ANY_EXHDR(prefix), story, next, &err), &err);
}

static Datum
TokenText(const LlmStoryToken *token)
{
	return PointerGetDatum(cstring_to_text_with_len(token->text, token->size));
}

PG_FUNCTION_INFO_V1(llm_story_next_sql);
Datum
llm_story_next_sql(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	LlmStory story;
	LlmStoryNext next;

	Follow(fcinfo, &story, &next);
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < next.count; i++)
	{
		Datum values[2] = {TokenText(&next.token[i]), Float8GetDatum(next.token[i].probability)};
		bool nulls[2] = {0};

		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(llm_story_token_sql);
Datum
llm_story_token_sql(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	LlmStory story;
	LlmStoryNext next;

	Follow(fcinfo, &story, &next);
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < story.count; i++)
	{
		const LlmStoryToken *token = &story.token[i];
		Datum values[4] = {Int32GetDatum(i + 1), TokenText(token), Float8GetDatum(token->logprob),
			CStringGetTextDatum(llm_story_kind_names[token->kind])};
		bool nulls[4] = {0};

		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(llm_story_floor_sql);
Datum
llm_story_floor_sql(PG_FUNCTION_ARGS)
{
	uint64 from = (uint64) PG_GETARG_INT64(0);
	int n = PG_GETARG_INT32(1);
	LlmStorySums sums = {0};
	double nats, standard_error, bits;
	Datum values[3];

	if (n < 2)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("n is %d; a standard error needs 2 stories or more", n),
						   errhint("llm_story_floor(1, 20000) is right to the third decimal.")));
	for (int i = 0; i < n; i++)
	{
		LlmStory story;

		CHECK_FOR_INTERRUPTS();
		llm_story_tell(from + (uint64) i, &story);
		llm_story_add(&sums, &story);
	}
	llm_story_floor(&sums, &nats, &standard_error, &bits);
	values[0] = Float8GetDatum(nats);
	values[1] = Float8GetDatum(standard_error);
	values[2] = Float8GetDatum(bits);
	return RowResult(fcinfo, values, NULL);
}
