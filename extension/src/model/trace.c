/*
 * Records an execution of the graph as rows: each node's value, under the graph's names; for attention also
 * the scores, the probabilities and each head's output.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "engine/parallel.h"
#include "engine/tape.h"
#include "src/base/arguments.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/model/forward.h"
#include "src/model/trace.h"
#include "src/tape/tape.h"
#include "src/tensor/tensor_value.h"

/* State while an execution is written. */
typedef struct Trace
{
	TapeRun *run;
	const LoadedModel *m;
	const LlmExec *exec;
	uint32 *numbers; /* numbers of the nodes' values in the tape */
	TapeParam *params;
	int n_params;
} Trace;

static uint32
WriteParam(Trace *trace, const char *name)
{
	for (int i = 0; i < trace->n_params; i++)
		if (strcmp(trace->params[i].name, name) == 0)
			return TapeParamLeaf(trace->run, trace->m->name, &trace->params[i]);
	elog(ERROR, "parameter \"%s\" of model \"%s\" is gone", name, trace->m->name);
}

static uint32
WriteNode(Trace *trace, int index)
{
	const LlmNode *node = &trace->m->model.graph.nodes[index];
	int tokens = llm_graph_find(&trace->m->model.graph, "tokens");
	uint32 *in = palloc(sizeof(uint32) * Max(1, node->n_inputs)), number;
	LlmTraced traced;
	bool wanted = false;
	TapeOp row = {.op = llm_op_name(node->op), .node = node->name, .n_inputs = node->n_inputs, .attrs = node};

	llm_exec_traced(trace->exec, index, &traced);
	if (!traced.ran)
		return 0;
	if (node->op == LLM_OP_PARAM)
		return WriteParam(trace, node->name);
	for (int i = 0; i < node->n_inputs; i++)
	{
		in[i] = trace->numbers[node->inputs[i]];
		wanted |= TapeWanted(trace->run, in[i]);
	}
	number = TapeWriteValue(trace->run, node->name, &traced.value, wanted);
	if (node->n_inputs == 0) /* an input, or a constant: the tape begins with it */
		return number;
	row.inputs = in;
	row.outputs = TapeWriteHeads(trace->run, node->name, number, &traced, &row.n_outputs);
	row.flops = traced.flops;
	row.bytes = traced.bytes;
	row.microseconds = traced.microseconds;
	if (node->op == LLM_OP_ATTENTION && tokens >= 0 && trace->numbers[tokens])
	{
		row.tokens = TapeId(trace->run, trace->numbers[tokens]);
		row.model = trace->m->name;
	}
	TapeWriteOp(trace->run, &row);
	return number;
}

uint32
TapeWriteExec(TapeRun *run, const LoadedModel *m, const LlmExec *exec, int target)
{
	const LlmGraph *graph = &m->model.graph;
	Trace trace = {.run = run, .m = m, .exec = exec};

	trace.numbers = palloc0(sizeof(uint32) * graph->count);
	trace.params = TapeParams(run, m->name, true, &trace.n_params);
	for (int i = 0; i < graph->count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		trace.numbers[graph->order[i]] = WriteNode(&trace, graph->order[i]);
	}
	return trace.numbers[target];
}

/* ---- forward passes in SQL ---- */

/* The traced value with that number; without its batch dimension it is another tensor. */
static Tensor *
TracedTensor(const LlmValue *value, bool drop_batch, uint32 number)
{
	Tensor *t = TensorOfValue(value, drop_batch);
	LlmAttr attr;

	t->tape_run = TapeCurrent()->key;
	t->tape_id = number;
	if (t->ndim == value->ndim)
		return t;
	attr = TapeAttrInts("shape", t->ndim, t->dims);
	TapeStart();
	TapeRecordNumbers(t, "reshape", 1, &number, t, TensorNumel(t), 1, &attr);
	return t;
}

Tensor *
TapeForward(const LoadedModel *m, int node, const LlmInput *in, int n, const char *kind, Datum tokens,
	bool drop_batch)
{
	LlmExec *exec;
	LlmValue value;
	LlmError err;
	uint32 number;

	if (!pg_llm_autograd)
		return RunTensor(m, node, in, n, drop_batch);
	LLM_CHECK(llm_exec_open(&m->model, node, false, 0, ContextAllocator(), &exec, &err), &err);
	llm_exec_trace(exec);
	LLM_CHECK(llm_exec_run(exec, in, n, &value, &err), &err);
	number = TapeWriteExec(TapeOpen(kind, m->name, tokens), m, exec, node);
	return TracedTensor(&value, drop_batch, number);
}

int64
TraceRun(const LoadedModel *m, int node, const LlmInput *in, int n, Datum tokens, const LlmDropout *draw)
{
	LlmExec *exec;
	LlmValue value;
	LlmError err;
	TapeRun *run;

	LLM_CHECK(llm_exec_open(&m->model, node, false, 0, ContextAllocator(), &exec, &err), &err);
	if (draw)
		llm_exec_draw(exec, draw);
	llm_exec_trace(exec);
	LLM_CHECK(llm_exec_run(exec, in, n, &value, &err), &err);
	run = TapeNew("trace", m->name, tokens);
	TapeWriteExec(run, m, exec, node);
	return run->run;
}

PG_FUNCTION_INFO_V1(llm_trace);
Datum
llm_trace(PG_FUNCTION_ARGS)
{
	bool loss = !PG_ARGISNULL(2);
	ForwardCall call = {fcinfo, .tokens = 1, .targets = loss ? 2 : -1, .positions = 3};
	LoadedModel *m = ForwardModel(&call, 0);

	PG_RETURN_INT64(TraceRun(
		m, loss ? TrainingLossOf(m) : OutputOf(m, "logits"), call.in, call.n, PG_GETARG_DATUM(1), NULL));
}
