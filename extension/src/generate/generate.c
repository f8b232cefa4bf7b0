/*
 * Generates text token by token with a KV cache. A graph that cannot be continued position by position is
 * computed over the whole sequence at each step, which is slower and gives the same bits.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "kernels/kernels.h"
#include "src/base/arguments.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/base/spi.h"
#include "src/generate/generate.h"
#include "src/generate/watch.h"
#include "src/ops/kernels_sql.h"

/* ---- opening ---- */

/* The model's option eos_token_id; `otherwise` if it has none. */
static int
OwnEndToken(const char *model, int otherwise)
{
	static SpiQuery read_eos = {
		.text = "SELECT options ->> 'eos_token_id' FROM %s.llm_model_config WHERE model = $1",
		.nargs = 1,
		.types = {TEXTOID},
		.columns = "s?"};
	Datum value = CStringGetTextDatum(model);
	char *text = NULL, *end;
	long id = otherwise;

	SPI_connect();
	SpiRun(&read_eos, &value, NULL, true, 1);
	if (SPI_processed == 1)
		text = SpiField(0, 1);
	errno = 0;
	if (text)
		id = strtol(text, &end, 10);
	if (text && (errno || end == text || *end || id < -1 || id > INT_MAX))
		ereport(
			ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					   errmsg("the option eos_token_id of model \"%s\" is no token id", model),
					   errhint("SELECT options FROM llm_model_config WHERE model = '%s'; -1 or null means no "
							   "end token.",
						   model)));
	SPI_finish();
	return (int) id;
}

/* Resolves an eos argument to the model's end token. */
static int
EndToken(const char *model, int V, const int *argument)
{
	int eos = argument ? *argument : -1;

	if (eos == -1)
		return -1;
	if (eos == GPT2_EOS)
	{
		eos = OwnEndToken(model, eos);
		return eos < V ? eos : -1;
	}
	if (eos < 0 || eos >= V)
		ereport(
			ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					   errmsg("eos is %d; the tokens of model \"%s\" run from 0 to %d", eos, model, V - 1),
					   errhint("NULL or -1 means no end token.")));
	return eos;
}

Prompt
PromptArgument(FunctionCallInfo fcinfo, int special)
{
	if (get_fn_expr_argtype(fcinfo->flinfo, 0) != INT4ARRAYOID)
		return (Prompt){.text = TextArgument(fcinfo, 0, "prompt"),
			.special = !PG_ARGISNULL(special) && PG_GETARG_BOOL(special)};
	if (PG_ARGISNULL(0))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("prompt must not be NULL")));
	return (Prompt){.ids = (ArrayType *) DetoastWhole(PG_GETARG_DATUM(0))};
}

/* The tokens of a prompt that is an array; each has logits, if not text. */
static int32 *
PromptIds(const Generation *g, ArrayType *array, Size *count)
{
	const int32 *ids = (const int32 *) ARR_DATA_PTR(array);
	int V = VocabularySize(g->m);

	*count = (Size) ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	if (ARR_NDIM(array) > 1 || array_contains_nulls(array))
		ereport(
			ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					   errmsg("a prompt of tokens is a one-dimensional array without NULL"),
					   errhint("llm_encode makes one of a text; array_remove(ids, NULL) leaves NULL out.")));
	for (Size i = 0; i < *count; i++)
		if (ids[i] < 0 || ids[i] >= V)
			ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("token %zu of the prompt is %d; the tokens of model \"%s\" run from 0 to %d",
						i + 1, ids[i], g->m->name, V - 1)));
	return memcpy(palloc(sizeof(int32) * (*count + 1)), ids, sizeof(int32) * *count);
}

static void
EncodePrompt(Generation *g, const Prompt *prompt)
{
	Size count;
	int32 *ids = prompt->text
					 ? TokenizerEncode(g->bpe, prompt->text, strlen(prompt->text), prompt->special, &count)
					 : PromptIds(g, prompt->ids, &count);

	if (count > INT_MAX / 2)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED), errmsg("the prompt is too long")));
	if (count == 0 && g->eos < 0)
		ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("the prompt is empty"),
				errhint("Model \"%s\" has no end token to start from; give it a first word.", g->m->name)));
	if (count == 0) /* documents in the training data follow an end token */
		ids = &g->eos;
	g->prompt = g->count = Max(1, (int) count);
	g->ids = ids;
	initStringInfo(&g->bytes);
	for (Size i = 0; i < count; i++)
		AppendToken(g->bpe, ids[i], &g->bytes);
	if (prompt->text && !prompt->special)
		TokenizerNoticeSpecial(g->bpe, prompt->text, strlen(prompt->text));
	g->prompt_bytes = g->bytes.len;
}

/* The maximum number of tokens of the sequence, prompt included. */
static int
Room(const Generation *g, const int *most)
{
	LlmDim P = {1, "P"};
	int64 positions = llm_dim_value(&P, &g->m->model.graph.sizes);

	if (positions < 0 || llm_graph_find(&g->m->model.graph, "positions") < 0)
		positions = MaxAllocSize / sizeof(int32) - 2;
	if (g->prompt > positions)
		CheckLength(g->m, g->prompt);
	if (most == NULL) /* the token after the last position needs no position of its own, so one more fits */
		return (int) Min((int64) g->prompt + DEFAULT_MAX_TOKENS, positions + 1);
	if (*most < 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("max_tokens is %d; it must be 0 or more", *most)));
	if ((int64) g->prompt + *most > positions + 1)
		ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				errmsg("a prompt of %d tokens and %d new ones do not fit the %lld positions of model \"%s\"",
					g->prompt, *most, (long long) positions, g->m->name),
				errhint("Ask for at most %lld tokens, or shorten the prompt.",
					(long long) (positions + 1 - g->prompt))));
	return g->prompt + *most;
}

LlmExec *
GenerationExec(LoadedModel *m, int most)
{
	LlmExec *exec;
	LlmError err;

	LLM_CHECK(
		llm_exec_open(&m->model, OutputOf(m, "logits"), true, most, ContextAllocator(), &exec, &err), &err);
	ExplainMark(EXPLAIN_PLANNING);
	return exec;
}

typedef struct Opening
{
	Generation *g;
	const Prompt *prompt;
	const int *most, *eos;
} Opening;

static void
Prepare(LoadedModel *m, void *argument)
{
	const Opening *o = argument;
	Generation *g = o->g;

	g->m = m;
	g->eos = EndToken(m->name, VocabularySize(m), o->eos);
	ExplainMark(EXPLAIN_LOADING);
	g->bpe = TokenizerOf(m->name, g->context);
	EncodePrompt(g, o->prompt);
	g->most = Room(g, o->most);
	ExplainMark(EXPLAIN_TOKENIZER);
}

Generation *
GenerationOpen(const char *model, const Prompt *prompt, const int *most, const int *eos)
{
	Generation *g = palloc0(sizeof(Generation));
	int32 *ids;

	g->context = CurrentMemoryContext;
	ModelChecked(model, Prepare, &(Opening){g, prompt, most, eos}, g->context);
	ExplainMark(EXPLAIN_LOADING);
	ReserveMemory(sizeof(int32) * (Size) g->most);
	ids = palloc(sizeof(int32) * (Size) Max(g->most, g->prompt));
	memcpy(ids, g->ids, sizeof(int32) * g->prompt);
	g->ids = ids;
	g->complete = g->count >= g->most;
	return g;
}

/* ---- tokens to text ---- */

bool
TextOfToken(const LlmBpe *bpe, int32 id, Datum *text)
{
	StringInfoData bytes;
	uint32 symbol;

	if (!llm_bpe_find(bpe, id, &symbol))
		return false;
	initStringInfo(&bytes);
	TokenizerAppend(bpe, id, 1, &bytes);
	*text = PointerGetDatum(TokenizerText(bytes.data, bytes.len));
	return true;
}

void
AppendToken(const LlmBpe *bpe, int32 id, StringInfo bytes)
{
	uint32 symbol;

	if (llm_bpe_find(bpe, id, &symbol))
		TokenizerAppend(bpe, id, 1, bytes);
	else
		appendStringInfoString(bytes, "\xef\xbf\xbd");
}

Datum
TokenArray(const Generation *g, const int32 *ids, int count)
{
	int start = g->prompt_bytes == 0;
	Datum *values = palloc(sizeof(Datum) * Max(1, count));

	for (int i = start; i < count; i++)
		values[i - start] = Int32GetDatum(ids[i]);
	return PointerGetDatum(
		construct_array(values, count - start, INT4OID, sizeof(int32), true, TYPALIGN_INT));
}

/* ---- stepping ---- */

const float *
LastLogits(const Generation *g, const LlmValue *value, int sequences, int sequence, int *V)
{
	Size rows = 0;

	*V = value->ndim > 0 ? value->dims[value->ndim - 1] : 0;
	if (*V > 0 && (sequences == 1 || (value->ndim > 1 && value->dims[0] == sequences)))
		rows = value->numel / *V / sequences;
	if (rows == 0)
		ereport(
			ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
					   errmsg("the node \"logits\" of model \"%s\" is %s for %d sequences", g->m->name,
						   ShapeToString(value->ndim, value->dims), sequences),
					   errhint("Its last dimension must be the vocabulary, its first one the sequences.")));
	return value->floats + ((Size) (sequence + 1) * rows - 1) * *V;
}

const float *
GenerationLogits(Generation *g, int *V)
{
	int first = llm_exec_length(g->exec), T = g->count - first;
	LlmInput in[2] = {{.name = "tokens", .ndim = 2, .dims = {1, T}, .integers = g->ids + first}};
	LlmValue value;
	LlmError err;

	in[1] = PositionsInput(first, T);
	ExplainBeforeRun(g->exec);
	LLM_CHECK(llm_exec_run(g->exec, in, 2, &value, &err), &err);
	ExplainRun(g->exec, &g->m->model, T);
	pfree((void *) in[1].integers);
	return LastLogits(g, &value, 1, 0, V);
}

void
GenerationAppend(Generation *g, int V, const float *logits)
{
	int before = g->bytes.len;
	float *penalized = NULL;
	int32 id;
	LlmError err;

	if (g->how.repetition_penalty != 1 || g->how.no_repeat_ngram > 0)
	{
		ReserveMemory(sizeof(float) * (Size) V);
		penalized = palloc(sizeof(float) * (Size) V);
		LLM_CHECK(llm_penalize(&g->how, g->count, g->ids, V, logits, penalized, &err), &err);
	}
	LLM_CHECK(llm_sample(&g->how, V, penalized ? penalized : logits,
				  llm_uniform(&g->stream, g->count - g->prompt), SessionAllocator(), &id, &err),
		&err);
	if (penalized)
		pfree(penalized);
	g->ids[g->count++] = id;
	g->logprob = -(double) llm_kernels->cross_entropy(V, logits, id);
	g->score += g->logprob;
	if (id != g->eos)
		AppendToken(g->bpe, id, &g->bytes);
	g->complete = id == g->eos || StopReached(g, before) || g->count == g->most;
	ExplainMark(EXPLAIN_SAMPLING);
}

bool
GenerationStep(Generation *g)
{
	int V;
	const float *logits;

	if (g->complete)
		return false;
	if (g->progress == NULL)
	{
		g->progress = ProgressBegin(g->context, "generate", g->m->name, "token", g->most - g->prompt);
		ProgressRange(g->progress, 0, g->most - g->prompt);
	}
	logits = GenerationLogits(g, &V);
	GenerationAppend(g, V, logits);
	ProgressStep(g->progress, g->count - g->prompt, 1);
	if (g->complete)
		ProgressEnd(g->progress);
	return true;
}

void
GenerationSeed(Generation *g, uint64 seed)
{
	g->seed = seed;
	g->stream = llm_stream(seed, "sample", 0, 0);
}

Generation *
GenerationFromArguments(FunctionCallInfo fcinfo, const Prompt *prompt)
{
	char *model = NameArgument(fcinfo, 5, "model");
	int most = PG_ARGISNULL(1) ? 0 : PG_GETARG_INT32(1);
	int eos = PG_ARGISNULL(6) ? -1 : PG_GETARG_INT32(6);
	LlmSampling how;
	Generation *g, stop = {0};
	LlmError err;

	ExplainMark(EXPLAIN_STATEMENT);
	how.temperature = PG_ARGISNULL(2) ? 1 : PG_GETARG_FLOAT8(2);
	how.topk = PG_ARGISNULL(3) ? 0 : PG_GETARG_INT32(3);
	how.topp = PG_ARGISNULL(4) ? 1 : PG_GETARG_FLOAT8(4);
	how.repetition_penalty = PG_ARGISNULL(9) ? 1 : PG_GETARG_FLOAT8(9);
	how.min_p = PG_ARGISNULL(10) ? 0 : PG_GETARG_FLOAT8(10);
	how.no_repeat_ngram = PG_ARGISNULL(11) ? 0 : PG_GETARG_INT32(11);
	LLM_CHECK(llm_sampling_check(&how, &err), &err);
	StopArgument(&stop, fcinfo, 8);
	g = GenerationOpen(model, prompt, PG_ARGISNULL(1) ? NULL : &most, &eos);
	g->how = how;
	g->stop = stop.stop;
	g->stops = stop.stops;
	GenerationSeed(g, SeedArgument(fcinfo, 7));
	return g;
}

PG_FUNCTION_INFO_V1(llm_generate);
Datum
llm_generate(PG_FUNCTION_ARGS)
{
	Prompt prompt = PromptArgument(fcinfo, 12);
	Generation *g = GenerationFromArguments(fcinfo, &prompt);

	g->exec = GenerationExec(g->m, g->most);
	while (GenerationStep(g))
		CHECK_FOR_INTERRUPTS();
	PG_RETURN_TEXT_P(TokenizerText(g->bytes.data, g->bytes.len));
}
