/*
 * See dataset_row.h.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "src/base/catalog.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/base/spi.h"
#include "src/model/inputs.h"
#include "src/tensor/tensor.h"
#include "src/training/dataset_row.h"

static SpiQuery read_row = {
	.text = "SELECT tokens, target, names, tensors, dataset FROM %s.llm_dataset WHERE id = $1",
	.nargs = 1,
	.types = {INT8OID},
	.columns = "I?I?S?T?s"};

bool
IsStacked(const LlmNode *node)
{
	return node->ndim > 0 && node->shape[0].times == 1 && strcmp(node->shape[0].name, "B") == 0;
}

const LlmInput *
DatasetRowInput(const DatasetRow *row, const char *name)
{
	for (int i = 0; i < row->n; i++)
		if (strcmp(row->in[i].name, name) == 0)
			return &row->in[i];
	return NULL;
}

/* ---- the columns tokens and target ---- */

/* True if the graph has an input of whole numbers of this name. */
static bool
TakesIds(const LoadedModel *m, const char *name)
{
	int index = llm_graph_find(&m->model.graph, name);

	return index >= 0 && m->model.graph.nodes[index].op == LLM_OP_INPUT &&
		   m->model.graph.nodes[index].integers;
}

static const int32 *
Column(Datum datum, int64 id, int *length)
{
	ArrayType *a = (ArrayType *) DetoastWhole(datum);

	if (ARR_NDIM(a) != 1 || array_contains_nulls(a))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("row %lld of llm_dataset has no one-dimensional arrays without NULL",
							   (long long) id)));
	*length = ARR_DIMS(a)[0];
	return (const int32 *) ARR_DATA_PTR(a);
}

static void
CheckIds(const int32 *x, int n, int vocab, bool negative, const char *what, int64 id)
{
	for (int i = 0; i < n; i++)
	{
		LLM_POLL(i);
		if (x[i] >= vocab || (x[i] < 0 && !negative))
			ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
					errmsg("row %lld of llm_dataset: %s %d at place %d is outside the vocabulary of %d",
						(long long) id, what, x[i], i + 1, vocab),
					errhint("Was the dataset made with this model's tokenizer?")));
	}
}

/* Adds a column for the graph's input of that name; a graph without such an input does not read the column.
 */
static void
AddColumn(DatasetRow *row, const LoadedModel *m, Datum datum, const char *input, const char *what)
{
	int vocab = llm_graph_find(&m->model.graph, "logits") < 0 ? INT_MAX : VocabularySize(m), length;
	const int32 *ids = Column(datum, row->id, &length);

	CheckIds(ids, length, vocab, strcmp(input, "targets") == 0, what, row->id);
	if (row->length >= 0 && length != row->length)
		ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
						   errmsg("row %lld of llm_dataset has %d tokens and %d targets", (long long) row->id,
							   row->length, length)));
	row->length = length;
	row->in[row->n++] = (LlmInput){.name = input, .ndim = 1, .dims = {length}, .integers = ids};
	row->n_columns = row->n;
}

/* ---- named tensors ---- */

static char *
InputList(const LoadedModel *m)
{
	const LlmGraph *graph = &m->model.graph;
	StringInfoData list;
	char shape[160];

	initStringInfo(&list);
	for (int i = 0; i < graph->count && list.len < 500; i++)
		if (graph->nodes[i].op == LLM_OP_INPUT)
		{
			llm_shape_print(graph->nodes[i].ndim, graph->nodes[i].shape, shape, sizeof(shape));
			appendStringInfo(&list, "%s%s %s", list.len > 0 ? ", " : "", graph->nodes[i].name, shape);
		}
	return list.len > 0 ? list.data : "none";
}

static void
AddNamed(DatasetRow *row, const LoadedModel *m, const char *name, const Tensor *t)
{
	const LlmGraph *graph = &m->model.graph;
	int index = llm_graph_find(graph, name);
	LlmInput *in = &row->in[row->n];

	if (index < 0 || graph->nodes[index].op != LLM_OP_INPUT)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
						   errmsg("row %lld of dataset \"%s\" has \"%s\", which is no input of model \"%s\"",
							   (long long) row->id, row->dataset, name, m->name),
						   errhint("The inputs are %s.", InputList(m))));
	if (DatasetRowInput(row, name))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("row %lld of dataset \"%s\" gives the input \"%s\" twice",
							   (long long) row->id, row->dataset, name),
						   errhint("The columns tokens and target are the inputs tokens and targets.")));
	*in = (LlmInput){.name = graph->nodes[index].name, .ndim = t->ndim};
	memcpy(in->dims, t->dims, sizeof(int32) * t->ndim);
	if (graph->nodes[index].integers)
		in->integers = WholeNumbers(
			psprintf("row %lld of dataset \"%s\": input \"%s\"", (long long) row->id, row->dataset, in->name),
			t);
	else
		in->floats = TENSOR_DATA(t);
	row->n++;
}

/* The elements of a one-dimensional array without NULL; their number is -1 if it is none. */
static Datum *
Elements(Datum datum, Oid type, int *n)
{
	ArrayType *a = (ArrayType *) DetoastWhole(datum);
	Datum *elements = NULL;

	*n = -1;
	if (ARR_NDIM(a) == 1 && !array_contains_nulls(a))
		deconstruct_array(a, type, -1, false, TYPALIGN_INT, &elements, NULL, n);
	return elements;
}

DatasetRow *
DatasetRowRead(int64 id, const LoadedModel *m)
{
	Datum value = Int64GetDatum(id), column[4], *names = NULL, *tensors = NULL;
	DatasetRow *row = palloc0(sizeof(DatasetRow));
	bool null[4];
	int n = 0, n_tensors = 0;

	SpiRun(&read_row, &value, NULL, true, 1);
	if (SPI_processed == 0)
		ereport(ERROR,
			(errcode(ERRCODE_NO_DATA), errmsg("llm_dataset has no row %lld (any more)", (long long) id),
				errhint("Rows that a training reads must stay until it has ended. Nothing since the last "
						"commit is kept: the weights are as before.")));
	for (int i = 0; i < 4; i++)
		column[i] = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, i + 1, &null[i]);
	*row = (DatasetRow){.id = id, .dataset = SpiField(0, 5), .length = -1};
	if (!null[2])
		names = Elements(column[2], TEXTOID, &n);
	if (!null[3])
		tensors = Elements(column[3], TensorTypeOid(), &n_tensors);
	if (n < 0 || n != n_tensors)
		ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("names and tensors of row %lld of llm_dataset are no one-dimensional arrays of the "
					   "same length without NULL",
					(long long) id)));
	row->in = palloc0(sizeof(LlmInput) * (n + 2));
	if (!null[0] && TakesIds(m, "tokens"))
		AddColumn(row, m, column[0], "tokens", "token");
	if (!null[1] && TakesIds(m, "targets"))
		AddColumn(row, m, column[1], "targets", "target");
	for (int i = 0; i < n; i++)
		AddNamed(row, m, TextDatumGetCString(names[i]), DatumGetTensor(tensors[i]));
	return row;
}

/* ---- what a batch demands ---- */

/* The shape of a row's part of an input, with numbers for all names that have one. */
static char *
RowShape(const LlmNode *node, const LlmSizes *sizes)
{
	LlmDim dims[LLM_MAX_DIMS];
	int first = IsStacked(node);
	char *text = palloc(160);

	for (int i = first; i < node->ndim; i++)
	{
		int64 known = llm_dim_value(&node->shape[i], sizes);

		dims[i - first] = known < 0 ? node->shape[i] : (LlmDim){.times = known};
	}
	llm_shape_print(node->ndim - first, dims, text, 160);
	return text;
}

static char *
DeclaredShape(const LlmNode *node)
{
	char *text = palloc(160);

	llm_shape_print(node->ndim, node->shape, text, 160);
	return text;
}

static void
CheckShape(const DatasetRow *row, BatchSizes *batch, const LlmInput *in, const LlmNode *node)
{
	int first = IsStacked(node);
	bool fits = in->ndim == node->ndim - first;

	if (!first && batch->rows > 1)
		ereport(ERROR,
			(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				errmsg("row %lld of dataset \"%s\": input \"%s\" %s does not begin with the dimension B, so "
					   "it cannot hold a batch of %d rows",
					(long long) row->id, row->dataset, node->name, DeclaredShape(node), batch->rows),
				errhint("Train with batch_size => 1; accumulation adds up the gradients of several rows.")));
	for (int i = first; fits && i < node->ndim; i++)
	{
		const LlmDim *dim = &node->shape[i];
		int64 known = llm_dim_value(dim, &batch->sizes);
		int given = in->dims[i - first];

		fits = known >= 0 ? known == given
						  : dim->times > 0 && given % dim->times == 0 &&
								llm_sizes_set(&batch->sizes, dim->name, given / dim->times);
	}
	if (!fits)
		ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
						   errmsg("row %lld of dataset \"%s\": input \"%s\" is %s, expected %s",
							   (long long) row->id, row->dataset, node->name,
							   ShapeToString(in->ndim, in->dims), RowShape(node, &batch->sizes)),
						   errdetail("Model \"%s\" declares it as %s.", batch->m->name, DeclaredShape(node)),
						   errhint("Rows of a batch have tensors of the same shapes; a tensor with the "
								   "dimension T is as long as the longest tokens.")));
}

void
DatasetRowFits(const DatasetRow *row, BatchSizes *batch)
{
	const LlmGraph *graph = &batch->m->model.graph;

	for (int i = row->n_columns; i < row->n; i++)
		CheckShape(row, batch, &row->in[i], &graph->nodes[llm_graph_find(graph, row->in[i].name)]);
}

void
DatasetRowComplete(const DatasetRow *row, const BatchSizes *batch, int loss)
{
	const LlmGraph *graph = &batch->m->model.graph;
	bool *read = palloc0(sizeof(bool) * graph->count);

	read[loss] = true;
	for (int i = graph->count - 1; i >= 0; i--) /* readers come after what they read */
	{
		const LlmNode *node = &graph->nodes[graph->order[i]];

		for (int j = 0; read[graph->order[i]] && j < node->n_inputs; j++)
			read[node->inputs[j]] = true;
		if (node->op != LLM_OP_INPUT || !read[graph->order[i]] || DatasetRowInput(row, node->name) ||
			(strcmp(node->name, "positions") == 0 && DatasetRowInput(row, "tokens")))
			continue;
		ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
				errmsg("row %lld of dataset \"%s\" has no \"%s\", expected %s", (long long) row->id,
					row->dataset, node->name, RowShape(node, &batch->sizes)),
				errdetail("Model \"%s\" reads %s %s.", batch->m->name, node->name, DeclaredShape(node)),
				errhint("The columns tokens and target are the inputs tokens and targets where "
						"these have dtype int; any other input is one of names and tensors.")));
	}
	pfree(read);
}
